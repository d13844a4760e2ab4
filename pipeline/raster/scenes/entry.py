"""What a list says of a scene before any of its files is opened."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pipeline.errors import SourceError
from pipeline.raster.grid import Grid
from pipeline.raster.source import BandInfo, Identity
from pipeline.storage import redact

SINGLE_FILE = ""
"""Key of the only file of a scene that is one file."""


@dataclass(frozen=True)
class Facts:
    """What is known of a raster file: by opening it, or because a STAC item says so.

    Attributes:
        grid: Its pixels on the ground.
        bands: Its bands.
        nodata: Value without data, where the item says one.
    """

    grid: Grid
    bands: tuple[BandInfo, ...]
    nodata: float | None = None


@dataclass(frozen=True)
class Asset:
    """One file of a scene.

    Attributes:
        url: Where it lies, normalised.
        facts: What the list says of it, complete, or None: the file must be opened.
        said: What the list says of its bands, in part at least; empty: nothing.
        identity: Who it is, where the list says enough to tell.
        modified: When the list says it changed last, for files whose store cannot be asked.
    """

    url: str
    facts: Facts | None = None
    said: tuple[BandInfo, ...] = ()
    identity: Identity | None = None
    modified: str | None = None


@dataclass(frozen=True)
class Entry:
    """One scene as a list names it.

    Attributes:
        name: What to call it in messages.
        assets: Its files by key, in the order of their bands; one file alone has the key ``SINGLE_FILE``.
        mask: The file of its quality layer, where that is a file of its own.
        time: When it was taken, ISO 8601.
        cloud_cover: Share of clouds in percent.
        platform: Satellite, where the list says so.
    """

    name: str
    assets: Mapping[str, Asset]
    mask: Asset | None = None
    time: str | None = None
    cloud_cover: float | None = None
    platform: str = ""
    files: tuple[Asset, ...] = field(init=False)

    def __post_init__(self) -> None:
        masks = () if self.mask is None else (self.mask,)
        object.__setattr__(self, "files", (*self.assets.values(), *masks))

    def described(self, time: str | None, cloud_cover: float | None) -> "Entry":
        """The same scene with what else a list says of it."""
        return Entry(self.name, self.assets, self.mask, time, cloud_cover, self.platform)

    @property
    def taken(self) -> datetime | None:
        """When it was taken, by the list, else by a date in its name as satellites' products have it."""
        if self.time is not None:
            return parse_time(self.time, self.name)
        found = re.search(r"(?<!\d)((?:19|20)\d{6})(?:T(\d{6}))?(?!\d)", self.name)
        if not found:
            return None
        try:
            return datetime.strptime(f"{found[1]}{found[2] or '000000'}", "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        except ValueError:
            return None  # eight digits that are no date


def parse_time(text: str, where: str) -> datetime:
    """A time as lists have it, in UTC where it names no zone."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise SourceError(f"a scene's time must be ISO 8601, got {text!r} of {redact(where)}") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
