"""Look before running: the raster, the model, and whether they fit each other. Nothing is written."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeplab_core.metadata import METADATA_NAME, CheckpointError, CheckpointMetadata
from pipeline.config import RegionSettings, RunConfig, SourceSettings
from pipeline.errors import BlockError, ModelError, SettingsError, SourceError
from pipeline.raster.bands import choose_bands
from pipeline.raster.export.region import RegionWish, find_region
from pipeline.raster.grid import Grid
from pipeline.raster.region import Region
from pipeline.raster.source import FoundSource, Pixels, RasterSource, SourceInfo, SourceSpec
from pipeline.raster.window import Window
from pipeline.registry import find_model
from pipeline.remedies import where_to_look
from pipeline.segment.find_source import find_source
from pipeline.segment.lattice import LATTICE_MULTIPLE_PX
from pipeline.storage import Folder, redact

logger = logging.getLogger(__name__)

WIDE_IN_STD = 10.0
PROBE_PX = 256
PROBES_PER_AXIS = 3
FAR_IN_STD = 3.0
"""A band whose mean lies further from the model's than this, in the model's std, is worth a warning."""

FAR_AND_NARROW_IN_STD = 1.0
"""So is one nearer, if it hardly varies: values from 0 to 1 where the model expects 0 to 255."""


@dataclass(frozen=True)
class Inspection:
    """What is known before a plan is made.

    Attributes:
        source: What the raster says of itself.
        found: The source as it was found; it knows which files show where.
        spec: How it will be opened.
        dtype: Type of its samples as they will be kept.
        model_folder: Where the checkpoint lies.
        model: What the checkpoint says of itself.
        model_version: Its name, where it is a registry's champion.
        region: What is wanted of the source.
        gain: Factor a band from raw values to the network's.
        bias: Added after the factor.
    """

    source: SourceInfo
    found: FoundSource
    spec: SourceSpec
    dtype: np.dtype[np.generic]
    model_folder: Folder
    model: CheckpointMetadata
    model_version: str | None
    region: Region
    gain: tuple[float, ...]
    bias: tuple[float, ...]


def inspect(config: RunConfig) -> Inspection:
    """Open source and model; refuse what does not fit, warn of what looks odd."""
    model_url, champion = find_model(config.model.url)
    model_folder = Folder.at(model_url)
    model = read_model(model_folder)
    if champion is not None and champion.sha256 != model.sha256:
        raise ModelError(
            f"the champion of {redact(config.model.url)} must be the model that was promoted, "
            f"{champion.sha256}, but version {champion.version} holds {model.sha256} by now; put its files "
            "back or retrain"
        )
    version = champion.version if champion is not None else None
    found = find_source(config.source)
    source = found.info
    bands = choose_bands(
        source.bands,
        wanted=config.source.bands,
        model_bands=model.bands,
        in_channels=model.config.in_channels,
    )
    spec = found.spec(bands)
    scale, offset = _scale_and_offset(source, spec, config.source)
    gain, bias = _normalisation(model, scale, offset)
    dtype = _warn_of_strange_statistics(spec, model, scale, offset)
    region = choose_region(source.grid, config.region)
    if source.stack is not None:
        region = replace(region, stack=source.stack.shape)
    return Inspection(source, found, spec, dtype, model_folder, model, version, region, gain, bias)


def read_model(folder: Folder) -> CheckpointMetadata:
    """What a checkpoint says of itself, without its weights."""
    try:
        return CheckpointMetadata.from_json(folder.read(METADATA_NAME), where=redact(folder.url))
    except FileNotFoundError as error:
        raise ModelError(
            f"--model must be a checkpoint with {METADATA_NAME} and model.safetensors; "
            f"there is no {METADATA_NAME} in {redact(folder.url)}; {where_to_look(redact(folder.url))}"
        ) from error
    except CheckpointError as error:
        raise ModelError(str(error)) from error


def choose_region(grid: Grid, settings: RegionSettings) -> Region:
    """The region that the settings name, in the source's pixels."""
    return find_region(grid, RegionWish(settings.polygon, settings.bbox, settings.window))


def check_crops(crop_px: int, stride_px: int, *, input_multiple_px: int, node_px: int) -> None:
    """Refuse crops whose features would not fall on the lattice of this model."""
    if (crop_px - 1) % input_multiple_px:
        below = (crop_px - 1) // input_multiple_px * input_multiple_px + 1
        raise SettingsError(
            f"crop.size_px must be a multiple of {input_multiple_px} plus 1 for this model, got {crop_px}; "
            f"take {below} or {below + input_multiple_px}"
        )
    if LATTICE_MULTIPLE_PX % node_px or stride_px % node_px:
        raise SettingsError(f"crop.stride_px must be a multiple of {node_px} for this model, got {stride_px}")


def _normalisation(
    model: CheckpointMetadata, scale: Sequence[float], offset: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Scale, offset, mean and std as one factor and one summand a band."""
    gain = tuple(s / std for s, std in zip(scale, model.std, strict=True))
    bias = tuple((o - mean) / std for o, mean, std in zip(offset, model.mean, model.std, strict=True))
    return gain, bias


def _scale_and_offset(
    source: SourceInfo, spec: SourceSpec, settings: SourceSettings
) -> tuple[list[float], list[float]]:
    """A factor and a summand for each band: the settings', the files' where they are asked for, else none."""
    if settings.scale == "metadata":
        declared = {band.number: (band.scale, band.offset) for band in source.bands}
        return [declared[band][0] for band in spec.bands], [declared[band][1] for band in spec.bands]
    count = len(spec.bands)
    scale = _per_band("source.scale", settings.scale, 1.0, count)
    return scale, _per_band("source.offset", settings.offset, 0.0, count)


def _per_band(name: str, value: float | Sequence[float] | None, default: float, count: int) -> list[float]:
    if value is None:
        return [default] * count
    if isinstance(value, int | float):
        return [float(value)] * count
    if len(value) != count:
        raise SettingsError(f"{name} must be one number or one for each of {count} bands, got {len(value)}")
    return [float(number) for number in value]


def _warn_of_strange_statistics(
    spec: SourceSpec, model: CheckpointMetadata, scale: Sequence[float], offset: Sequence[float]
) -> np.dtype[np.generic]:
    """Compare a few windows with the model's statistics; gives the samples' type."""
    source = spec.open()
    try:
        read = _read_probes(source)
    finally:
        source.close()
    for channel, band in enumerate(spec.bands):
        samples = np.concatenate([_samples(pixels, channel) for pixels in read])
        if samples.size:
            _compare(band, samples.astype(np.float64) * scale[channel] + offset[channel], model, channel)
    return np.dtype(read[0].samples_CHW.dtype)


def _read_probes(source: RasterSource) -> list[Pixels]:
    """A few windows; a damaged one costs its blocks later on, but a source damaged everywhere is refused."""
    grid, read, failures = source.info.grid.window, [], []
    for i, j in np.ndindex(PROBES_PER_AXIS, PROBES_PER_AXIS):
        window = Window(_probe(grid.height, i), _probe(grid.width, j), PROBE_PX, PROBE_PX)
        try:
            read.append(source.read(window.intersect(grid)))
        except BlockError as error:
            failures.append(error)
    if not read:
        raise SourceError(str(failures[0])) from failures[0]
    if failures:
        logger.warning("%s; blocks that need what cannot be read will fail", failures[0])
    return read


def _samples(pixels: Pixels, channel: int) -> NDArray[Any]:
    """A band's samples that hold data; where only other bands do, a 0 stands that means nothing."""
    known = pixels.valid_HW if pixels.missing_CHW is None else pixels.valid_HW & ~pixels.missing_CHW[channel]
    return np.asarray(pixels.samples_CHW[channel][known])


def _compare(band: int, values: NDArray[np.float64], model: CheckpointMetadata, channel: int) -> None:
    mean, std = float(values.mean()), float(values.std())
    expected_mean, expected_std = model.mean[channel], model.std[channel]
    is_narrow = std * WIDE_IN_STD < expected_std
    far = (FAR_AND_NARROW_IN_STD if is_narrow else FAR_IN_STD) * expected_std
    if abs(mean - expected_mean) > far or std > WIDE_IN_STD * expected_std:
        logger.warning(
            "band %d has mean %.4g and std %.4g where it was looked at, but the model expects mean %.4g and "
            "std %.4g (%s); check source.scale, source.offset and the band order",
            band, mean, std, expected_mean, expected_std, model.bands[channel],
        )  # fmt: skip


def _probe(length: int, index: int) -> int:
    """Start of one of the windows looked at, spread over an axis; aligned as the cells of scenes are."""
    spread = max(0, (length - PROBE_PX) * (2 * index + 1) // (2 * PROBES_PER_AXIS))
    return spread // PROBE_PX * PROBE_PX
