"""Fractal noise and number hashing: where every shape of the landscape begins. Pure numpy, by seed."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def fractal(side: int, *, roughness: float, largest: float, rng: np.random.Generator) -> Floats:
    """A square of noise whose power falls with frequency, as land does; mean 0, standard deviation 1.

    Args:
        side: Cells along an edge.
        roughness: Exponent of the fall: 1 is rough, 2 is hilly, 3 is smooth.
        largest: Size of the largest shapes, as a share of the side.
        rng: Where chance comes from.
    """
    rows, cols = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    frequency = np.hypot(rows, cols)
    lowest = 1 / (largest * side)
    amplitude = np.where(frequency < lowest / 2, 0.0, np.maximum(frequency, lowest) ** -roughness)
    white = np.fft.rfft2(rng.standard_normal((side, side), dtype=np.float32))
    noise = np.fft.irfft2(white * amplitude, s=(side, side))
    return np.asarray((noise - noise.mean()) / noise.std(), np.float32)


def enlarge(coarse: Floats, side: int, rows: slice | None = None) -> Floats:
    """A coarse square at a finer resolution, bilinearly; edges are repeated.

    Args:
        coarse: The square.
        side: Pixels along an edge of the fine one.
        rows: Which of its rows to give; all if left out.
    """
    cells, pixels = len(coarse), np.arange(side, dtype=np.int64)
    low, share = _between(cells, side, pixels)
    low_rows, share_rows = _between(cells, side, pixels[rows or slice(None)])
    lines = coarse[low_rows] + (coarse[low_rows + 1] - coarse[low_rows]) * share_rows[:, None]
    return np.asarray(lines[:, low] + (lines[:, low + 1] - lines[:, low]) * share, np.float32)


def _between(cells: int, side: int, pixels: NDArray[np.int64]) -> tuple[NDArray[np.int64], Floats]:
    """The cell before each pixel's middle, and how far it is on the way to the next."""
    place = np.clip((pixels + 0.5) * cells / side - 0.5, 0, cells - 1)
    low = np.minimum(place.astype(np.int64), cells - 2)
    return low, (place - low).astype(np.float32)


def strips(side: int, height: int = 128) -> list[slice]:
    """Rows to be made at once: small arrays stay in the cache, large ones cost a page fault every 4 KiB."""
    return [slice(first, min(first + height, side)) for first in range(0, side, height)]


def hashed(*keys: NDArray[np.int64] | int, seed: int) -> Floats:
    """A number from 0 to 1 for each tuple of whole numbers, always the same one."""
    with np.errstate(over="ignore"):
        state = np.asarray(np.uint64(seed) * _GOLDEN)
        for key in keys:
            state = (state ^ np.asarray(key).astype(np.uint64)) + _GOLDEN
            state = (state ^ (state >> np.uint64(30))) * _MIX_1
            state = (state ^ (state >> np.uint64(27))) * _MIX_2
            state ^= state >> np.uint64(31)
    return np.asarray((state >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24))


def blurred(values: Floats) -> Floats:
    """Each value mixed with its neighbours (1-2-1 along both axes), as optics do."""
    for axis in (0, 1):
        values = np.swapaxes(values, 0, axis)
        mixed = 2 * values
        mixed[1:] += values[:-1]
        mixed[:-1] += values[1:]
        mixed[0] += values[0]
        mixed[-1] += values[-1]
        values = np.swapaxes(mixed, 0, axis) / np.float32(4)
    return values
