"""What covers the ground: the exact labels, and what is needed to paint them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from shapely import LineString

from pipeline.synthetic.noise import Floats, enlarge, fractal, hashed, strips
from pipeline.synthetic.settlement import density, found_towns, lay_roads
from pipeline.synthetic.terrain import LAKE_DEPTH_M, Terrain

CLASSES = ("water", "forest", "cropland", "meadow", "built-up")
COLORS = ("#2b6cb0", "#22603a", "#e3b04b", "#9bc46a", "#c0392b")
WATER, FOREST, CROPLAND, MEADOW, BUILT_UP = range(len(CLASSES))

COMMUNE_PX = 160
"""Parcels of one commune lie parallel."""

PARCEL_PX = ((9, 22), (22, 60))
"""Narrowest and widest, shortest and longest parcels."""

STEP_PX = 4
TOWN_EVERY_PX = 420
FOREST_SHARE, MEADOW_SHARE = 0.34, 0.35


@dataclass(frozen=True)
class Cover:
    """The ground at full size.

    Attributes:
        labels_HW: Index into ``CLASSES``.
        parcel_HW: A number from 0 to 1 that is one parcel's own.
        furrow_HW: Pixels across the direction in which a parcel is worked.
        built_HW: How densely towns are built.
        road_HW: Where roads run.
    """

    labels_HW: NDArray[np.uint8]
    parcel_HW: Floats
    furrow_HW: Floats
    built_HW: Floats
    road_HW: NDArray[np.bool_]


def cover_land(terrain: Terrain, side: int, seed: int, rng: np.random.Generator) -> Cover:
    """Cover a square of ``side`` pixels."""
    coarse = len(terrain.heights_m)
    wild = fractal(coarse, roughness=1.5, largest=0.06, rng=rng)
    woods = wild + np.float32(0.25) * (terrain.slopes - terrain.slopes.mean()) / terrain.slopes.std()
    edge_of_woods = np.quantile(woods, 1 - FOREST_SHARE)
    meadows = MEADOW_SHARE + np.float32(0.2) * fractal(coarse, roughness=2.0, largest=0.15, rng=rng)
    ripples = fractal(coarse, roughness=1.2, largest=0.03, rng=rng)
    towns = found_towns(terrain, max(2, (side // TOWN_EVERY_PX) ** 2), rng)
    built_HW = density(towns, ripples, side)
    road_HW, river_HW = _burn_roads(lay_roads(towns, rng), side, coarse), _burn_rivers(terrain, side, coarse)
    parcel_HW, furrow_HW = lay_parcels(side, seed)
    labels_HW = np.full((side, side), CROPLAND, np.uint8)

    def cover(rows: slice) -> None:
        labels = labels_HW[rows]
        labels[parcel_HW[rows] < enlarge(meadows, side, rows)] = MEADOW
        labels[enlarge(woods, side, rows) > edge_of_woods] = FOREST
        labels[built_HW[rows] > 0] = BUILT_UP
        shore = enlarge(terrain.hollows_m + np.float32(0.4) * wild, side, rows)
        labels[river_HW[rows] | (shore > LAKE_DEPTH_M)] = WATER
        labels[road_HW[rows]] = BUILT_UP  # over bridges

    with ThreadPoolExecutor() as threads:
        list(threads.map(cover, strips(side)))
    return Cover(labels_HW, parcel_HW, furrow_HW, built_HW, road_HW)


def lay_parcels(side: int, seed: int) -> tuple[Floats, Floats]:
    """Every pixel's parcel as a number from 0 to 1, and its place across the furrows, in pixels."""
    parcel_HW = np.empty((side, side), np.float32)
    furrow_HW = np.empty((side, side), np.float32)
    commune_HW = _communes(side, seed)
    numbers = np.arange(commune_HW.max() + 1)
    angles = np.pi * hashed(numbers, 1, seed=seed)
    widths, lengths = (
        low + (high - low) * hashed(numbers, key, seed=seed)
        for key, (low, high) in zip((2, 3), PARCEL_PX, strict=True)
    )
    x = np.arange(side, dtype=np.float32)[None]

    def lay(rows: slice) -> None:
        y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
        commune = commune_HW[rows]
        sine, cosine = np.sin(angles)[commune], np.cos(angles)[commune]
        across = x * cosine + y * sine
        strip = np.floor(across / widths[commune]).astype(np.int64)
        along = (y * cosine - x * sine) / lengths[commune] + hashed(commune, strip, 4, seed=seed)
        parcel_HW[rows] = hashed(commune, strip, np.floor(along).astype(np.int64), seed=seed)
        furrow_HW[rows] = across

    with ThreadPoolExecutor() as threads:
        list(threads.map(lay, strips(side)))
    return parcel_HW, furrow_HW


def _communes(side: int, seed: int) -> NDArray[np.int64]:
    """The nearest of scattered middles, one in every square of a grid; known on every fourth pixel."""
    across = -(-side // COMMUNE_PX) + 2
    place = np.arange(0, side, STEP_PX, dtype=np.float32)
    y, x = np.meshgrid(place, place, indexing="ij")
    row, col = (np.floor(v / COMMUNE_PX).astype(np.int64) + 1 for v in (y, x))
    nearest = np.full(y.shape, np.inf, np.float32)
    commune = np.zeros(y.shape, np.int64)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            number = (row + down) * across + col + right
            distance = np.hypot(
                (row + down - 1 + hashed(number, 5, seed=seed)) * COMMUNE_PX - y,
                (col + right - 1 + hashed(number, 6, seed=seed)) * COMMUNE_PX - x,
            ).astype(np.float32)
            closer = distance < nearest
            nearest[closer] = distance[closer]
            commune[closer] = number[closer]
    return commune.repeat(STEP_PX, 0).repeat(STEP_PX, 1)[:side, :side]


def _burn_roads(roads: Sequence[LineString], side: int, coarse: int) -> NDArray[np.bool_]:
    """Every third road is a wide one."""
    return _burn([(road, 3.0 if i % 3 == 0 else 1.5) for i, road in enumerate(roads)], side, coarse)


def _burn_rivers(terrain: Terrain, side: int, coarse: int) -> NDArray[np.bool_]:
    """The more land drains into a river, the wider it is."""
    widest = max((drained for _, drained in terrain.rivers), default=1.0)
    widths = ((course, 1.5 + 13 * (drained / widest) ** 0.5) for course, drained in terrain.rivers)
    return _burn(list(widths), side, coarse)


def _burn(lines: Sequence[tuple[LineString, float]], side: int, coarse: int) -> NDArray[np.bool_]:
    """Lines in coarse cells with their widths in pixels, drawn."""
    scale = side / coarse
    shapes = [line.buffer(width / 2 / scale) for line, width in lines]
    if not shapes:
        return np.zeros((side, side), np.bool_)
    burnt = rasterize(shapes, (side, side), transform=Affine.scale(1 / scale), dtype="uint8")
    return np.asarray(burnt, np.bool_)
