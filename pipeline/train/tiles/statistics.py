"""Mean and deviation of each band, and pixels of each class, over the tiles that a network learns from.

Every tile's share is measured once, when it is indexed, and kept in ``tiles.json``; here shares are added up.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from pipeline.errors import SettingsError
from pipeline.raster.source import Pixels, SourceInfo
from pipeline.raster.window import Window
from pipeline.storage import redact
from pipeline.train.tiles.tile_reader import open_image
from pipeline.train.tiles.tile_set import BandMoments, Tile, TileSet

SAMPLES_AT_ONCE = 1 << 23
"""Of all bands together: what a window that is looked at holds at most."""

SMALLEST_STD = 1e-6
"""Of a band that is the same everywhere: what is divided by must not be 0."""

NOTHING = BandMoments(0, 0.0, 0.0)


@dataclass(frozen=True)
class TileStatistics:
    """What the training split is like.

    Attributes:
        mean: Of each band, over its samples that are data.
        std: Of each band.
        class_pixels: Pixels of each class.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_pixels: tuple[int, ...]


def training_statistics(tiles: TileSet) -> TileStatistics:
    """What the training split is like; a tile that nobody measured is read by the window.

    Args:
        tiles: The set.
    """
    training = tiles.of("train")
    totals = [NOTHING] * len(tiles.bands)
    class_pixels = np.zeros(len(tiles.classes), np.int64)
    for tile in training:
        shares = tile.moments or measure_image(tile)
        totals = [total.merge(share) for total, share in zip(totals, shares, strict=True)]
        class_pixels += np.array(tile.class_pixels, np.int64)
    if not training or not class_pixels.any() or not all(total.count for total in totals):
        raise SettingsError(
            f"the training split must hold labelled pixels and data in every band, but the {len(training)} "
            f"training tiles of {redact(tiles.url)} hold {class_pixels.sum()} labelled pixels and "
            f"{[total.count for total in totals]} samples in bands {', '.join(tiles.bands)}"
        )
    stds = [float(np.sqrt(total.squares / total.count)) for total in totals]
    return TileStatistics(
        tuple(total.mean for total in totals),
        tuple(max(std, SMALLEST_STD) for std in stds),
        tuple(class_pixels.tolist()),
    )


def measure_image(tile: Tile) -> tuple[BandMoments, ...]:
    """Count, mean and squares of each band of a tile's image, by the window."""
    totals = [NOTHING] * len(tile.bands)
    with closing(open_image(tile.image, tile.bands)) as image:
        for window in cheap_windows(image.info, len(tile.bands)):
            shares = measure_pixels(image.read(window))
            totals = [total.merge(share) for total, share in zip(totals, shares, strict=True)]
    return tuple(totals)


def measure_pixels(pixels: Pixels) -> Sequence[BandMoments]:
    """Count, mean and squares of each band, where it has data."""
    moments = []
    for channel, samples_HW in enumerate(pixels.samples_CHW):
        present_HW = pixels.valid_HW
        if pixels.missing_CHW is not None:
            present_HW = present_HW & ~pixels.missing_CHW[channel]
        values = samples_HW[present_HW].astype(np.float64)
        mean = float(values.mean()) if values.size else 0.0
        moments.append(BandMoments(values.size, mean, float(((values - mean) ** 2).sum())))
    return moments


def cheap_windows(info: SourceInfo, num_bands: int) -> Iterator[Window]:
    """Windows that cover a raster along its stored blocks, each of bounded size."""
    height, width = info.grid.window.shape
    rows, cols = min(info.block_shape[0], height), min(info.block_shape[1], width)
    most_px = max(1, SAMPLES_AT_ONCE // num_bands)
    wide = min(width, max(cols, most_px // rows // cols * cols))
    high = min(height, max(rows, most_px // wide // rows * rows))
    for row in range(0, height, high):
        for col in range(0, width, wide):
            yield Window.from_bounds(row, col, min(row + high, height), min(col + wide, width))
