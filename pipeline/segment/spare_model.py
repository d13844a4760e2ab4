"""A model read whole before anything is written: a damaged one must cost nobody a mosaic, or an old one.

What was loaded for that is not loaded again by a worker of this process. Those elsewhere load for themselves.
"""

from deeplab_core.checkpoint import load_checkpoint
from deeplab_core.metadata import CheckpointError
from deeplab_core.segmenter import Segmenter
from pipeline.errors import ModelError
from pipeline.storage import Folder, redact


class SpareModel:
    """A loaded model until somebody takes it; the first who does needs no other."""

    def __init__(self, model: Segmenter | None = None) -> None:
        self._model = model

    def take(self) -> Segmenter | None:
        """The model, once; from then on, and where none was kept, None."""
        model, self._model = self._model, None
        return model


def load_model(folder: Folder) -> Segmenter:
    """The model of a checkpoint, its weights compared with what its metadata says of them."""
    try:
        return load_checkpoint(redact(folder.url), read_bytes=folder.read)
    except CheckpointError as error:
        raise ModelError(str(error)) from error


def check_model(folder: Folder, *, is_kept: bool) -> SpareModel:
    """Refuse a model that no worker could load.

    Args:
        folder: Its checkpoint.
        is_kept: Whether a worker of this process will want it.
    """
    model = load_model(folder)
    return SpareModel(model if is_kept else None)
