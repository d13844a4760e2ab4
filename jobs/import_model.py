"""Bring a model of another library into a checkpoint of ours.

python jobs/import_model.py --from torchvision --weights FILE --config FILE --output URL
"""

import argparse
import hashlib
import io
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where nothing is installed

from deeplab_core.checkpoint import save_checkpoint
from deeplab_core.config import ModelConfig
from deeplab_core.foreign import from_smp, from_torchvision, from_vainf
from deeplab_core.segmenter import Segmenter
from jobs.command_line import make_parser, run_with_config
from pipeline.errors import ModelError, SettingsError
from pipeline.settings import Settings, load_settings
from pipeline.storage import Folder, read_url, redact

IMPORTERS: Mapping[str, Callable[[Mapping[str, Tensor], ModelConfig], Segmenter]] = {
    "torchvision": from_torchvision,
    "smp": from_smp,
    "vainf": from_vainf,
}

# What training scripts wrap a state dict in.
_WRAPPERS = ("model_state", "state_dict", "model")

_RGB = ("red", "green", "blue")
# ImageNet's, in the units of 8-bit imagery: what all three libraries train with.
_RGB_STATISTICS = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}


class ImportConfig(ModelConfig, Settings):
    """The graph, and what a checkpoint says beside it."""

    mean: tuple[float, ...] | None = Field(
        default=None, description="mean of each band; left out for red, green, blue: ImageNet's, 0 to 255"
    )
    std: tuple[float, ...] | None = Field(default=None, description="standard deviation of each band")
    colors: tuple[str | tuple[int, ...], ...] | None = Field(
        default=None, description="#rrggbb of each class; left out: calm distinct ones"
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("Bring a model of another library into a checkpoint of ours.", ImportConfig)
    parser.add_argument(
        "--from", dest="provider", choices=sorted(IMPORTERS), required=True, help="whose weights they are"
    )
    parser.add_argument(
        "--weights", required=True, metavar="URL", help="state dict: .safetensors, or .pth without code"
    )
    parser.add_argument("--output", required=True, metavar="URL", help="directory or prefix to write to")
    return parser.parse_args(arguments)


def load(options: argparse.Namespace) -> ImportConfig:
    """Settings from a file and ``--set``."""
    return load_settings(ImportConfig, config_url=options.config, assignments=options.set, flags={})


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, import, tell."""
    options = parse(arguments)

    def work(config: ImportConfig) -> dict[str, Any]:
        sha256 = import_model(options.provider, options.weights, config, options.output)
        return {"status": "complete", "model": redact(options.output), "sha256": sha256}

    tell = "imported into {model}: sha256 {sha256}\n".format_map
    return run_with_config(options, load, work, tell=tell, traceback_folder=lambda _: None)


def import_model(library: str, weights_url: str, config: ImportConfig, output_url: str) -> str:
    """Map foreign weights into our graph, write a checkpoint and give its sha256.

    Args:
        library: Whose weights they are.
        weights_url: The state dict.
        config: The graph, and what the checkpoint says beside it.
        output_url: Where the checkpoint goes.
    """
    beside = _statistics(config) | {"colors": config.colors}
    graph = ModelConfig.model_validate(config.model_dump(exclude={"mean", "std", "colors"}))
    data = read_url(weights_url)
    weights = redact(weights_url)
    state_dict = _state_dict(data, weights)
    folder = Folder.at(output_url)
    lineage = {
        "parent": f"sha256:{hashlib.sha256(data).hexdigest()}",
        "data": {"imported_from": library, "weights": weights.rpartition("/")[2]},
    }
    try:
        model = IMPORTERS[library](state_dict, graph)
        metadata = save_checkpoint(model, folder.url, **beside, lineage=lineage, write_bytes=folder.write)
    except (ValueError, ImportError) as error:
        raise ModelError(f"{weights} cannot be imported into {graph.arch}: {error}") from error
    return metadata.sha256


def _statistics(config: ImportConfig) -> dict[str, Any]:
    """Bands, mean and std; nothing is assumed of imagery that is not red, green, blue."""
    numbers = range(1, config.in_channels + 1)
    is_rgb = config.in_channels == 3 and config.bands in (None, _RGB)
    bands = config.bands or (_RGB if is_rgb else tuple(f"band_{number}" for number in numbers))
    if config.mean is not None and config.std is not None:
        return {"bands": bands, "mean": config.mean, "std": config.std}
    if config.mean is None and config.std is None and is_rgb:
        sys.stdout.write("mean and std: ImageNet's, for red, green and blue from 0 to 255\n")
        return {"bands": bands} | _RGB_STATISTICS
    raise SettingsError(
        f"mean and std must both be given for each of the {config.in_channels} bands (for red, green, blue "
        f"neither need be), got mean={config.mean} and std={config.std}"
    )


def _state_dict(data: bytes, url: str) -> Mapping[str, Tensor]:
    content: Any
    try:
        if url.endswith(".safetensors"):
            content = load_safetensors(data)
        else:
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"weights must be a plain state dict, but {url} holds other pickled objects, such as a whole "
            "model, which could run any code; where it was made, save model.state_dict(), and import that"
        ) from error
    except (SafetensorError, RuntimeError, EOFError) as error:
        cause = str(error).split("\n", 1)[0]
        raise ModelError(
            f"weights must be a state dict of torch.save or safetensors, {url}: {cause}"
        ) from error
    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not _is_state_dict(content):
        raise ModelError(
            f"weights must be named tensors, alone or as {', '.join(_WRAPPERS)}, got a "
            f"{type(content).__name__} of something else in {url}"
        )
    return content


def _is_state_dict(content: object) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )


if __name__ == "__main__":
    sys.exit(main())
