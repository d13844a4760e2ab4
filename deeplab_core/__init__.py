"""DeepLab for rasters: models, losses, metrics and checkpoints. Knows tensors; nothing of files or clusters.

Reading order:

* `config`      what a model is, as plain data; imports no torch
* `backbone`    encoders by output stride
* `aspp`        the atrous pyramid
* `heads`       v1, v2, v3 and v3+ side by side
* `model`       encoder + head: `lattice` and `forward`
* `adapters`    networks of other libraries behind the same two methods
* `foreign`     other libraries' weights mapped into ours
* `multiscale`  scales × flips → probabilities on the lattice
* `prepare`     a model made ready to infer
* `checkpoint`  weights and everything needed to use them again
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deeplab_core.checkpoint import load_checkpoint, save_checkpoint
    from deeplab_core.config import ModelConfig
    from deeplab_core.model import build_model

__all__ = ["ModelConfig", "build_model", "load_checkpoint", "save_checkpoint"]

_HOME = {
    "ModelConfig": "deeplab_core.config",
    "build_model": "deeplab_core.model",
    "load_checkpoint": "deeplab_core.checkpoint",
    "save_checkpoint": "deeplab_core.checkpoint",
}


def __getattr__(name: str) -> object:
    """Resolves the public names on first use, so that `import deeplab_core.config` imports no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
