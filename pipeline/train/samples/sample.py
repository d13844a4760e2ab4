"""The n-th sample of a run, from storage to what the network takes: placed, read, normalised, changed."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from pipeline.raster.window import Window
from pipeline.train.config import AugmentSettings
from pipeline.train.samples.augment import Crop, apply_change, draw_change, draw_scale, resize_crop
from pipeline.train.samples.sampler import Sampler
from pipeline.train.samples.tile_cache import TileCache
from pipeline.train.tiles.tile_reader import IGNORE, LabelledPixels, TileReader
from pipeline.train.tiles.tile_set import TileSet


@dataclass(frozen=True)
class SampleSpec:
    """Everything that samples depend on, as plain data: it travels to other processes.

    Attributes:
        tiles: The set; its training split is drawn from.
        mean: Of each band, in raw units.
        std: Of each band.
        crop_px: Side of a crop.
        seed: Of the run.
        rare_share: Share of samples drawn for a class by inverse frequency.
        tile_weights: Factors on how often tiles are drawn, by id; None for none.
        augment: How crops are changed.
        cache_bytes: Memory for decoded tiles.
    """

    tiles: TileSet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_px: int
    seed: int
    rare_share: float
    tile_weights: Mapping[str, float] | None
    augment: AugmentSettings
    cache_bytes: int


@dataclass(frozen=True)
class Sample:
    """One crop and its labels: float32, 0 where there is no data, and class indices, 255 without label."""

    image_CHW: NDArray[np.float32]
    labels_HW: NDArray[np.uint8]


class SampleSource:
    """Gives the samples of a run by number, in any order and by several threads at once.

    Args:
        spec: What they depend on.
    """

    def __init__(self, spec: SampleSpec) -> None:
        self._spec = spec
        self._tiles = spec.tiles.of("train")
        self._sampler = make_sampler(spec)
        self._cache = TileCache(
            TileReader(spec.tiles), num_classes=len(spec.tiles.classes), num_bytes=spec.cache_bytes
        )
        self._mean_C = np.array(spec.mean, np.float32)
        self._std_C = np.array(spec.std, np.float32)

    @property
    def cpu_s(self) -> float:
        """Of other processes: none, this one loads."""
        return 0.0

    def load(self, number: int) -> Sample:
        """The n-th sample.

        Args:
            number: n, counted from 0 over all epochs.
        """
        spec = self._spec
        draw = self._sampler.draw(number)
        tile = self._tiles[draw.tile]
        side_px = max(1, round(spec.crop_px / draw_scale(draw.rng, spec.augment)))
        place = self._cache.positions(tile).pick(draw.target, draw.rng)
        window = place_window(tile.grid.window, side_px, place, draw.rng)
        crop = resize_crop(normalise(self._cache.read(tile, window), self._mean_C, self._std_C), spec.crop_px)
        change = draw_change(draw.rng, spec.augment, num_bands=len(spec.tiles.bands), crop_px=spec.crop_px)
        changed = apply_change(crop, change)
        return Sample(changed.image.numpy(), changed.labels[0].numpy())

    def close(self) -> None:
        """Let go of files."""
        self._cache.close()


def make_sampler(spec: SampleSpec) -> Sampler:
    """What decides which tile each sample is of.

    Args:
        spec: What samples depend on.
    """
    return Sampler(
        spec.tiles.of("train"),
        crop_px=spec.crop_px,
        seed=spec.seed,
        rare_share=spec.rare_share,
        weights=spec.tile_weights,
    )


def place_window(
    tile: Window, side_px: int, place: tuple[int, int] | None, rng: np.random.Generator
) -> Window:
    """A square window that holds a place, anywhere in it, and as much of the tile as it can.

    Args:
        tile: All of the tile.
        side_px: Side of the window.
        place: Row and column of a pixel that shall lie inside; None for anywhere.
        rng: Where the choice is drawn from.
    """
    row_place, col_place = place or (None, None)
    row = _place_along(tile.height, side_px, row_place, rng)
    col = _place_along(tile.width, side_px, col_place, rng)
    return Window(row, col, side_px, side_px)


def _place_along(length: int, side_px: int, place: int | None, rng: np.random.Generator) -> int:
    # A tile smaller than the window lies anywhere within it; in a larger one the window stays inside.
    first, last = min(0, length - side_px), max(0, length - side_px)
    if place is not None:
        inside = min(place, length - 1)  # a cell at the edge reaches beyond it
        first, last = max(first, inside - side_px + 1), min(last, inside)
    return int(rng.integers(first, last + 1))


def normalise(read: LabelledPixels, mean_C: NDArray[np.float32], std_C: NDArray[np.float32]) -> Crop:
    """Raw samples in standard deviations from the mean; 0 and without label where there is no data.

    Args:
        read: A window of a tile.
        mean_C: Mean of each band.
        std_C: Standard deviation of each band.
    """
    pixels = read.pixels
    image_CHW = pixels.samples_CHW.astype(np.float32)
    image_CHW -= mean_C[:, None, None]
    image_CHW /= std_C[:, None, None]
    image_CHW[:, ~pixels.valid_HW] = 0
    if pixels.missing_CHW is not None:
        image_CHW[pixels.missing_CHW] = 0
    labels_HW = np.where(pixels.valid_HW, read.labels_HW, np.uint8(IGNORE))
    return Crop(
        tv_tensors.Image(torch.from_numpy(image_CHW)),
        tv_tensors.Mask(torch.from_numpy(labels_HW)[None]),
        tv_tensors.Mask(torch.from_numpy(pixels.valid_HW)[None]),
    )
