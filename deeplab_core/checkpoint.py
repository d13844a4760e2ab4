"""Models as a directory of two files: `model.safetensors` and `model.json`.

No pickle, no download: the graph is rebuilt from its config and loaded strictly. Readers and writers of bytes
can be passed in, so that a prefix in a bucket serves as well as a directory; `model.json` is written last and
holds the digest of the weights, so that a half-written or mixed checkpoint is always found out. What 8-bit
inference must know of a model, if it was calibrated, lies beside its weights and under the same digest.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_weights
from safetensors.torch import save as serialise_weights
from torch import Tensor

from deeplab_core.calibration import split_calibration
from deeplab_core.class_colors import class_colors
from deeplab_core.metadata import (
    METADATA_NAME,
    WEIGHTS_NAME,
    CheckpointError,
    CheckpointMetadata,
)
from deeplab_core.model import build_model
from deeplab_core.segmenter import Segmenter

ReadBytes = Callable[[str], bytes]
WriteBytes = Callable[[str, bytes], object]


def save_checkpoint(  # noqa: PLR0913 - a checkpoint says many things, all by name
    model: Segmenter,
    url_or_path: str | Path,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    bands: Sequence[str],
    colors: Sequence[str | Sequence[int]] | None = None,
    lineage: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    write_bytes: WriteBytes | None = None,
) -> CheckpointMetadata:
    """Writes a model, and its calibration if it has one, as `model.safetensors` and `model.json`.

    On a local disk each file appears whole or not at all, `model.json` after the weights.

    Args:
        model: The model. Its config is stored with `pretrained=False`: the weights are here.
        url_or_path: Directory to write to, made if missing; with `write_bytes` only a name for messages.
        mean: Mean of each band, subtracted from the raster's values before the network.
        std: Standard deviation of each band.
        bands: Names of the bands in order.
        colors: `#rrggbb` or three numbers for each class; left out, calm distinct ones.
        lineage: `parent`, `data` and `metrics`, each optional; see `deeplab_core.metadata.Lineage`.
        metrics: Metrics to add to the lineage's.
        write_bytes: Writes an object of a name, whole or not at all, instead of a local file.

    Returns:
        What `model.json` says. `model.metadata` is left as it was.

    Raises:
        CheckpointError: Something does not fit the model; nothing was written.
    """
    where = f"checkpoint {url_or_path}"
    calibration = {} if model.calibration is None else model.calibration.to_tensors()
    weights = serialise_weights(_finite_weights(model, where) | calibration, metadata={"format": "pt"})
    told = dict(lineage or {})
    told["metrics"] = {**(told.get("metrics") or {}), **(metrics or {})}
    metadata = CheckpointMetadata.of(
        {
            "config": model.config.model_copy(update={"pretrained": False}),
            "colors": class_colors(model.config.classes) if colors is None else tuple(colors),
            "bands": tuple(bands),
            "mean": tuple(float(value) for value in mean),
            "std": tuple(float(value) for value in std),
            "sha256": hashlib.sha256(weights).hexdigest(),
            "calibrated": bool(calibration),
            "lineage": told,
        },
        where=where,
    )
    files = {WEIGHTS_NAME: weights, METADATA_NAME: metadata.to_json()}
    if write_bytes is None:
        _write_local(Path(url_or_path), files)
    else:
        for name, data in files.items():
            write_bytes(name, data)
    return metadata


def load_metadata(path: str | Path, *, read_bytes: ReadBytes | None = None) -> CheckpointMetadata:
    """Reads `model.json` alone.

    Args:
        path: The checkpoint's directory; with `read_bytes` only a name for messages.
        read_bytes: Gives the bytes of an object by name, raising FileNotFoundError where there is none.

    Returns:
        What it says.

    Raises:
        CheckpointError: It is missing or not what it must be.
    """
    data = _read(METADATA_NAME, path, read_bytes)
    return CheckpointMetadata.from_json(data, where=f"{METADATA_NAME} of checkpoint {path}")


def load_checkpoint(
    path: str | Path, *, read_bytes: ReadBytes | None = None, device: str | torch.device = "cpu"
) -> Segmenter:
    """Rebuilds a model from a checkpoint, on its graph's own weights and nothing from elsewhere.

    Args:
        path: The checkpoint's directory; with `read_bytes` only a name for messages.
        read_bytes: Gives the bytes of an object by name, raising FileNotFoundError where there is none.
        device: Where the model shall live.

    Returns:
        The model in eval mode, with `metadata` set.

    Raises:
        CheckpointError: A file is missing, damaged or does not fit.
    """
    metadata = load_metadata(path, read_bytes=read_bytes)
    data = _read(WEIGHTS_NAME, path, read_bytes)
    digest = hashlib.sha256(data).hexdigest()
    if digest != metadata.sha256:
        raise CheckpointError(
            f"{WEIGHTS_NAME} of checkpoint {path} must have the sha256 that {METADATA_NAME} states, "
            f"{metadata.sha256}, got {digest}; the files are damaged or of two different models: copy or "
            "save the checkpoint again"
        )
    try:
        weights, calibration = split_calibration(parse_weights(data))
    except SafetensorError as error:
        raise CheckpointError(f"{WEIGHTS_NAME} of checkpoint {path} must be safetensors: {error}") from error
    except ValueError as error:
        raise CheckpointError(f"{WEIGHTS_NAME} of checkpoint {path}: {error}") from error
    if metadata.calibrated is not (calibration is not None):
        raise CheckpointError(
            f"{METADATA_NAME} of checkpoint {path} must say whether {WEIGHTS_NAME} holds a calibration, "
            f"{calibration is not None}, got calibrated={metadata.calibrated}; save the checkpoint again"
        )
    # Building initialises weights at random; a caller's seed must not notice.
    with torch.random.fork_rng(devices=[]):
        model = build_model(metadata.config.model_copy(update={"pretrained": False}))
    _check_weights(model.state_dict(), weights, where=f"checkpoint {path}")
    model.load_state_dict(weights)
    model.metadata, model.calibration = metadata, calibration
    return model.to(device).eval()


def _finite_weights(model: Segmenter, where: str) -> dict[str, Tensor]:
    weights = {}
    for name, value in model.state_dict().items():
        # Tensors that share memory are refused by safetensors; a clone each makes the file self-contained.
        weights[name] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        if not torch.isfinite(weights[name]).all():
            raise CheckpointError(
                f"weights of {where} must be finite, got NaN or infinity in {name}; not saved"
            )
    return weights


def _check_weights(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], *, where: str) -> None:
    missing = sorted(expected.keys() - weights.keys())
    unknown = sorted(weights.keys() - expected.keys())
    misshapen = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & weights.keys())
        if weights[name].shape != expected[name].shape
    ]
    faults = [
        f"{len(names)} {fault}: {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
        for fault, names in (("missing", missing), ("unknown", unknown), ("of another shape", misshapen))
        if names
    ]
    if faults:
        raise CheckpointError(
            f"weights of {where} must be exactly those of its config's graph, got {'; '.join(faults)}"
        )


def _read(name: str, path: str | Path, read_bytes: ReadBytes | None) -> bytes:
    try:
        return (Path(path) / name).read_bytes() if read_bytes is None else read_bytes(name)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(
            f"checkpoint {path} must hold {METADATA_NAME} and {WEIGHTS_NAME}, got no {name}; check the path, "
            "or save the checkpoint again if it was interrupted"
        ) from error


def _write_local(directory: Path, files: Mapping[str, bytes]) -> None:
    """Writes every file beside its place first and then renames them in order.

    So a failure while writing changes nothing, and one between the renames leaves a pair whose digest tells.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=directory) as temporary:
        for name, data in files.items():
            with (Path(temporary) / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for name in files:
            (Path(temporary) / name).replace(directory / name)
