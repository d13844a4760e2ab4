"""Which tile the n-th crop of a run is taken from, and which class it is taken for.

A run is one endless sequence of samples, numbered from 0 across epochs. What sample n is depends on the seed
and n alone: neither on the number of workers nor on what was loaded before, so that a run can be cut among
any number of processes and taken up at any sample.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SettingsError
from pipeline.train.tiles.tile_set import Tile

MOST_VISITS = 4
"""Of a pixel in an epoch for the sake of its class, on average: a class of a few pixels, often a slip in the
labels, would else have every crop that is drawn for a class."""

_ORDER, _SAMPLE = 0, 1
"""What a generator is for: the two never share a stream."""


@dataclass(frozen=True)
class Draw:
    """One sample's tile and, unless any labelled place will do, the class that its crop shall hold.

    Attributes:
        tile: Index into the sampler's tiles.
        target: Class, or None.
        rng: Where everything else about the sample is drawn from.
    """

    tile: int
    target: int | None
    rng: np.random.Generator


class Sampler:
    """Draws samples: in an epoch every tile as often as its labelled area asks for, in shuffled order.

    Args:
        tiles: Training tiles.
        crop_px: Side of a crop: an epoch has as many samples as crops would cover the labelled area.
        seed: Of the run.
        rare_share: Share of samples that leave the order, for a class drawn by inverse frequency.
        weights: Factors on the area of tiles by id; None for none. A tile of weight 0 is never drawn.

    Raises:
        SettingsError: No tile with labels is left.
    """

    def __init__(
        self,
        tiles: Sequence[Tile],
        *,
        crop_px: int,
        seed: int,
        rare_share: float,
        weights: Mapping[str, float] | None,
    ) -> None:
        pixels_TK = np.array([tile.class_pixels for tile in tiles], np.float64)
        weights_T = np.array([1.0 if weights is None else weights.get(tile.id, 1.0) for tile in tiles])
        if not tiles or not (pixels_TK.sum(axis=1) * weights_T).any():
            raise SettingsError(
                f"training needs labelled tiles of a weight above 0, got none among {len(tiles)} tiles of "
                "the training split; check labels.values, labels.ignore, the split and sampling.weights"
            )
        self._seed = seed
        self._rare_share = rare_share
        self._slots_S = _slots(pixels_TK.sum(axis=1), weights_T, crop_px)
        self._class_shares_K = _class_shares(
            pixels_TK[weights_T > 0].sum(axis=0), rare_share * len(self._slots_S)
        )
        # By the square root: many tiles are seen, though most pixels of a rare class often lie in one.
        self._tile_shares_KT = _shares(np.sqrt(pixels_TK.T) * weights_T)
        self._order = functools.lru_cache(maxsize=2)(self._shuffled)  # a batch may straddle two epochs

    @property
    def epoch_length(self) -> int:
        """Samples of an epoch."""
        return len(self._slots_S)

    def draw(self, number: int) -> Draw:
        """The n-th sample of the run.

        Args:
            number: n, counted from 0 over all epochs.
        """
        epoch, place = divmod(number, self.epoch_length)
        rng = np.random.default_rng([self._seed, _SAMPLE, epoch, place])
        if rng.random() < self._rare_share:
            target = int(rng.choice(len(self._class_shares_K), p=self._class_shares_K))
            tile = int(rng.choice(self._tile_shares_KT.shape[1], p=self._tile_shares_KT[target]))
            return Draw(tile, target, rng)
        return Draw(int(self._order(epoch)[place]), None, rng)

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self._seed, _ORDER, epoch]).permutation(self._slots_S)


def _slots(pixels_T: NDArray[np.float64], weights_T: NDArray[np.float64], crop_px: int) -> NDArray[np.int64]:
    """Tiles by index, each as often as an epoch sees it: at least once, if it may be drawn at all."""
    area_T = pixels_T * weights_T
    crops = max(np.count_nonzero(area_T), math.ceil(pixels_T[area_T > 0].sum() / crop_px**2))
    counts_T = np.where(area_T > 0, np.maximum(1, np.rint(crops * area_T / area_T.sum())), 0)
    return np.repeat(np.arange(len(area_T)), counts_T.astype(np.int64))


def _class_shares(pixels_K: NDArray[np.float64], rare_samples: float) -> NDArray[np.float64]:
    """Shares in inverse proportion to the classes' pixels; 0 for a class without.

    What a class of few pixels may not have goes to the others.

    Args:
        pixels_K: Pixels of each class.
        rare_samples: Samples of an epoch that are drawn for a class.
    """
    present_K = pixels_K > 0
    inverse_K = np.where(present_K, 1.0 / np.where(present_K, pixels_K, 1.0), 0.0)
    largest_K = MOST_VISITS * pixels_K / max(rare_samples, 1.0)
    capped_K = np.zeros_like(present_K)
    while True:
        free_K = inverse_K * ~capped_K
        left = 1.0 - largest_K[capped_K].sum()
        shares_K = np.where(capped_K, largest_K, left * free_K / max(free_K.sum(), np.finfo(float).tiny))
        over_K = ~capped_K & (shares_K > largest_K)
        if not over_K.any():
            return shares_K / shares_K.sum()
        capped_K |= over_K


def _shares(values_KT: NDArray[np.float64]) -> NDArray[np.float64]:
    sums_K1 = values_KT.sum(axis=1, keepdims=True)
    return values_KT / np.where(sums_K1 > 0, sums_K1, 1.0)
