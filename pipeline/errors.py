"""Every error the pipeline raises on purpose.

    TerrazzoError
    ├── Refused             the run cannot start; nothing was changed (exit code 2)
    │   ├── SettingsError   a setting is unknown, malformed or contradicts another
    │   ├── SourceError     a raster cannot be opened or does not say what it must
    │   ├── ModelError      a model is missing, damaged or does not fit the raster
    │   ├── StorageError    a place cannot be reached, read or written
    │   └── MismatchError   the output belongs to another run
    ├── BlockError          one block cannot be computed; the run goes on without it
    └── Interrupted         asked to stop; what is finished stays finished (exit code 3)

Messages say what must hold, what was got, where, and what to do.
"""


class TerrazzoError(Exception):
    """Base of every error raised on purpose."""


class Refused(TerrazzoError):
    """The run cannot start as asked; nothing was changed."""


class SettingsError(Refused):
    """A setting is unknown, malformed or contradicts another."""


class SourceError(Refused):
    """A raster cannot be opened or does not say what it must."""


class ModelError(Refused):
    """A model is missing, damaged or does not fit the raster."""


class StorageError(Refused):
    """A place cannot be reached, read or written."""


class MismatchError(Refused):
    """The output belongs to another run."""


class BlockError(TerrazzoError):
    """One block cannot be computed; trying again would not help."""


class Interrupted(TerrazzoError):
    """The run was asked to stop; what is finished stays finished."""
