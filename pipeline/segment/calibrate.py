"""A model made ready for 8 bits: run once on crops of the kind of raster that it will see."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deeplab_core.calibrate import calibrate
from deeplab_core.checkpoint import load_checkpoint, save_checkpoint
from deeplab_core.int8 import computes_in_int8
from deeplab_core.metadata import CheckpointError
from deeplab_core.multiscale import MultiScale
from deeplab_core.prepare import PrecisionChoice, prepare_for_inference
from deeplab_core.segmenter import Segmenter
from pipeline.config import RunConfig
from pipeline.errors import ModelError, SettingsError, SourceError
from pipeline.raster.polygons import mask
from pipeline.raster.window import Window
from pipeline.segment.inspect import Inspection, inspect
from pipeline.segment.normalise import Normaliser
from pipeline.storage import Folder, redact

NUM_CHECKED = 8
"""Crops on which labels are compared; of those that were calibrated on only where there are no others."""

TRIES_PER_CROP = 20
WELL_FILLED = 0.5

CPU = torch.device("cpu")

# Steps of the most even sequence of points in a square: whatever its length, no two lie close together.
_PLASTIC = 1.32471795724474602596
_STEP_DOWN, _STEP_RIGHT = 1 / _PLASTIC, 1 / _PLASTIC**2


def calibrate_model(config: RunConfig, output_url: str, *, num_crops: int) -> dict[str, Any]:
    """Measure a model on a source, write it anew with what was found, and tell what 8 bits cost.

    Args:
        config: Source, region, model, crops and scales, as a run has them.
        output_url: Where the checkpoint goes.
        num_crops: Crops to measure on.
    """
    if num_crops < 1:
        raise SettingsError(f"--crops must be at least 1, got {num_crops}")
    inspection = inspect(config)
    folder = inspection.model_folder
    try:
        model = load_checkpoint(redact(folder.url), read_bytes=folder.read)
        crops = list(_crops(inspection, config.crop.size_px, num_crops + NUM_CHECKED))
        measured, checked = crops[:num_crops], crops[num_crops:] or crops[:NUM_CHECKED]
        model.calibration = calibrate(model, measured, scales=config.inference.scales)
        sha256 = _save(model, inspection, Folder.at(output_url))
    except (CheckpointError, ValueError) as error:
        raise ModelError(f"{redact(folder.url)} cannot be calibrated: {error}") from error
    return {
        "status": "complete",
        "model": redact(output_url),
        "sha256": sha256,
        "crops": len(measured),
        "convolutions": len(model.calibration.inputs),
        "precisions": _compare(model, checked, config) if computes_in_int8(CPU) else {},
    }


def _crops(inspection: Inspection, crop_px: int, wanted: int) -> Iterator[Tensor]:
    """Crops from all over the region, half of each at least valid; emptier ones only where there are none."""
    source = inspection.spec.open()
    normalise = Normaliser(inspection.gain, inspection.bias, device=CPU, dtype=torch.float32)
    spare: list[Tensor] = []
    found = 0
    try:
        for window in _windows(inspection.region.box, crop_px, wanted * TRIES_PER_CROP):
            pixels = source.read(window)
            filled = float((pixels.valid_HW & mask(inspection.region, window)).mean())
            if filled >= WELL_FILLED:
                found += 1
                yield normalise(pixels)[None]
            elif filled > 0 and len(spare) < wanted:
                spare.append(normalise(pixels)[None])
            if found == wanted:
                return
    finally:
        source.close()
    if not found and not spare:
        raise SourceError(
            "the source must have valid pixels in the region to calibrate on, and none were found in "
            f"{wanted * TRIES_PER_CROP} places; check source.nodata and region"
        )
    yield from spare[: wanted - found]


def _windows(box: Window, crop_px: int, count: int) -> Iterator[Window]:
    room_down, room_right = max(0, box.height - crop_px), max(0, box.width - crop_px)
    seen = set()
    for index in range(1, count + 1):
        row = box.row + round(room_down * (index * _STEP_DOWN % 1.0))
        col = box.col + round(room_right * (index * _STEP_RIGHT % 1.0))
        if (row, col) not in seen:  # a small region has few places
            seen.add((row, col))
            yield Window(row, col, crop_px, crop_px)


def _save(model: Segmenter, inspection: Inspection, output: Folder) -> str:
    told = inspection.model
    lineage = told.lineage.model_dump(mode="json") | {"parent": f"sha256:{told.sha256}"}
    metadata = save_checkpoint(
        model,
        redact(output.url),
        mean=told.mean,
        std=told.std,
        bands=told.bands,
        colors=told.colors,
        lineage=lineage,
        write_bytes=output.write,
    )
    return metadata.sha256


def _compare(model: Segmenter, crops: list[Tensor], config: RunConfig) -> dict[str, dict[str, float]]:
    """Labels and pace of the precisions that there are to choose from, against float32."""
    choices: tuple[PrecisionChoice, ...] = ("fp32", "auto", "int8")
    inference, size_px = config.inference, config.crop.size_px
    told: dict[str, dict[str, float]] = {}
    expected: Tensor | None = None
    for choice in choices:
        prepared = prepare_for_inference(
            model, precision=choice, compile=False, size_px=size_px, scales=inference.scales
        )
        run = MultiScale(prepared, scales=inference.scales, flips=inference.flips, fuse=inference.fuse)
        run(crops[0])  # not timed: the first call allocates
        began = time.perf_counter()
        labels = torch.cat([run(crop).argmax(dim=1) for crop in crops])
        seconds = time.perf_counter() - began
        expected = labels if expected is None else expected
        told[prepared.preparation.precision] = {
            "crops_per_s": round(len(crops) / seconds, 3),
            "label_agreement": round(float((labels == expected).float().mean()), 6),
        }
    return told
