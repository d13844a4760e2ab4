"""What a network must be measured against: each pixel by its bands alone, and the commonest class.

The first is a multinomial logistic regression on the standardised bands, fitted to the very tiles that the
network learns from: whatever a network gains over it, it gains by looking around.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window as RasterioWindow
from rasterio.windows import from_bounds

from deeplab_core.metrics import ConfusionMatrix
from pipeline.errors import TerrazzoError
from pipeline.train.baselines.pixel_model import fit

SAMPLE_PX = 100_000
"""Pixels to fit 25 numbers to; more would not move the third digit."""

STRIP_PX = 512


def compare(tiles: Path, scene: Path, held_out: Path, *, num_classes: int, ignored: int) -> dict[str, Any]:
    """Fit on tiles, test on the part held out; gives accuracy and IoU of both baselines.

    Args:
        tiles: Folder with ``images`` and ``labels``.
        scene: The raster that the labels to test on lie in.
        held_out: Labels to test on.
        num_classes: Number of classes.
        ignored: Label of pixels that do not count.
    """
    model = fit(*sample(tiles, ignored=ignored), num_classes=num_classes)
    commonest = int(model.class_pixels_K.argmax())
    by_bands = ConfusionMatrix(num_classes, ignored)
    by_majority = ConfusionMatrix(num_classes, ignored)
    for bands_CHW, labels_HW in _strips(scene, held_out):
        predicted_P = model.predict(bands_CHW.reshape(len(bands_CHW), -1))
        by_bands.update(predicted_P.reshape(labels_HW.shape), labels_HW)
        by_majority.update(np.full_like(labels_HW, commonest), labels_HW)
    return {
        "logistic_regression": _figures(by_bands),
        "majority_class": _figures(by_majority) | {"class": commonest},
        "fitted_pixels": int(model.class_pixels_K.sum()),
    }


def sample(tiles: Path, *, ignored: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Labelled pixels of all tiles, evenly spread: bands (C, P) and labels (P,).

    Args:
        tiles: Folder with ``images`` and ``labels``.
        ignored: Label of pixels that do not count.
    """
    images = sorted((tiles / "images").glob("*.tif"))
    if not images:
        raise TerrazzoError(f"{tiles / 'images'} must hold tiles to fit the baseline to, but holds none")
    bands, labels = [], []
    for image in images:
        with rasterio.open(tiles / "labels" / image.name) as opened:
            labels_P = opened.read(1).ravel()
        with rasterio.open(image) as opened:
            bands_CP = opened.read().reshape(opened.count, -1)
        known = np.flatnonzero(labels_P != ignored)
        chosen = known[:: max(1, len(known) * len(images) // SAMPLE_PX)]
        bands.append(bands_CP[:, chosen])
        labels.append(labels_P[chosen])
    return np.concatenate(bands, axis=1), np.concatenate(labels)


def _strips(scene: Path, held_out: Path) -> Iterator[tuple[NDArray[Any], NDArray[np.uint8]]]:
    """Bands and labels of the part held out, a strip of rows at a time."""
    with rasterio.open(scene) as image, rasterio.open(held_out) as labels:
        place = from_bounds(*labels.bounds, transform=image.transform).round_offsets().round_lengths()
        for row in range(0, labels.height, STRIP_PX):
            height = min(STRIP_PX, labels.height - row)
            window = RasterioWindow(place.col_off, place.row_off + row, labels.width, height)
            yield image.read(window=window), labels.read(1, window=((row, row + height), (0, labels.width)))


def _figures(matrix: ConfusionMatrix) -> dict[str, Any]:
    return {
        "miou": float(matrix.miou),
        "pixel_accuracy": float(matrix.pixel_accuracy),
        "iou": [None if np.isnan(iou) else float(iou) for iou in matrix.iou],
        "confusion": matrix.counts.tolist(),
    }
