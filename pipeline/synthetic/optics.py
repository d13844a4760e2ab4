"""What a satellite makes of it: colours, sun and shade, haze, clouds with shadows, blur and noise."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.synthetic.cover import BUILT_UP, CROPLAND, FOREST, MEADOW, WATER, Cover
from pipeline.synthetic.noise import Floats, blurred, enlarge, fractal, strips
from pipeline.synthetic.terrain import LAKE_DEPTH_M, Terrain

BANDS = ("blue", "green", "red", "nir")
NODATA = 0
"""No surface is so dark: reflectances are at least 1."""

OPAQUE = 0.35
"""A pixel whose surface shines through less than this is labelled by nobody."""

SUN_AZIMUTH, SUN_HEIGHT = np.deg2rad(150.0), np.deg2rad(42.0)
LOT_PX = 3
SHADOW_PX = (-34, -20)
"""From a cloud to its shadow, rows and columns."""

# Reflectance in ten-thousandths: blue, green, red, near infrared.
_SURFACES = {
    "water": (620, 560, 380, 210),
    "deep water": (480, 380, 240, 130),
    "forest": (290, 440, 290, 2500),
    "young corn": (420, 720, 470, 3500),
    "bare soil": (880, 1180, 1580, 2250),
    "ripe corn": (760, 1240, 1620, 2700),
    "rape": (520, 1180, 980, 3300),
    "meadow": (430, 720, 560, 2950),
    "roofs": (1150, 1230, 1480, 1900),
    "gardens": (520, 760, 640, 2300),
    "halls": (2300, 2350, 2450, 2700),
    "road": (980, 1010, 1060, 1350),
}
_NAMES = list(_SURFACES)
_PALETTE = np.array(list(_SURFACES.values()), np.float32)
_FIELDS = ("young corn", "bare soil", "ripe corn", "rape", "young corn", "bare soil")
_CROPS = np.array([_NAMES.index(crop) for crop in _FIELDS], np.uint8)
_ROUGHNESS = np.array((0.08, 0.42, 0.06, 0.1, 0.3), np.float32)
"""By label: how much neighbouring pixels differ in brightness, as a share."""

_HAZE = np.array((620, 430, 290, 90), np.float32)
_CLOUD = np.array((6200, 6100, 6000, 6300), np.float32)


@dataclass(frozen=True)
class Sky:
    """What lies between, from 0 to 1.

    Attributes:
        clouds_HW: How much they hide, at full size.
        haze: How thick it is, on the coarse grid.
    """

    clouds_HW: Floats
    haze: Floats


def make_sky(side: int, coarse: int, rng: np.random.Generator, *, cloud_share: float = 0.03) -> Sky:
    """Scattered clouds and thin haze."""
    shapes = fractal(coarse, roughness=1.7, largest=0.08, rng=rng)
    clouds = (shapes - np.quantile(shapes, 1 - cloud_share)) / np.float32(0.35)
    haze = 0.35 + 0.25 * fractal(coarse, roughness=2.4, largest=0.5, rng=rng)
    clouds_HW = np.empty((side, side), np.float32)
    for rows in strips(side):
        clouds_HW[rows] = np.clip(enlarge(clouds, side, rows), 0, 1)
    return Sky(clouds_HW, np.clip(haze, 0, 1).astype(np.float32))


def photograph(cover: Cover, terrain: Terrain, sky: Sky, rng: np.random.Generator) -> NDArray[np.uint16]:
    """The bands of ``BANDS`` as they are delivered, in ten-thousandths."""
    side = len(cover.labels_HW)
    image_CHW = np.empty((len(BANDS), side, side), np.uint16)
    lots = rng.random((-(-side // LOT_PX),) * 2, np.float32)
    stripes = rng.normal(0, 6, (len(BANDS), 1, side)).astype(np.float32)  # detectors stand in columns

    def expose(rows: slice, chance: np.random.Generator) -> None:
        around = slice(max(0, rows.start - 1), min(side, rows.stop + 1))  # what blur mixes in
        here = slice(rows.start - around.start, rows.stop - around.start)
        surface, grain = _surfaces(cover, terrain, lots, around, chance)
        shadow_rows = np.arange(around.start, around.stop) - SHADOW_PX[0]
        shadows = np.roll(sky.clouds_HW[shadow_rows % side], SHADOW_PX[1], axis=1)
        light = grain * _sunlight(terrain, side, around) * (1 - np.float32(0.55) * shadows)
        haze, clouds = enlarge(sky.haze, side, rows), sky.clouds_HW[rows]
        for band in range(len(BANDS)):
            seen = blurred(_PALETTE[surface, band] * light)[here]
            seen += haze * (_HAZE[band] - np.float32(0.12) * seen)
            seen += clouds * (_CLOUD[band] - seen)
            seen += chance.standard_normal(seen.shape, np.float32) * (14 + np.float32(0.012) * seen)
            image_CHW[band, rows] = np.clip(seen + stripes[band], 1, 10_000)

    with ThreadPoolExecutor() as threads:
        list(threads.map(expose, strips(side), rng.spawn(len(strips(side)))))
    return image_CHW


def _surfaces(
    cover: Cover, terrain: Terrain, lots: Floats, rows: slice, chance: np.random.Generator
) -> tuple[NDArray[np.uint8], Floats]:
    """Every pixel's surface as an index, and how much brighter or darker it is than usual."""
    labels, parcel = cover.labels_HW[rows], cover.parcel_HW[rows]
    side = labels.shape[1]
    is_field, is_water = labels == CROPLAND, labels == WATER
    surface = np.full(labels.shape, _NAMES.index("meadow"), np.uint8)
    surface[is_field] = _CROPS[(parcel[is_field] * 997 % 1 * len(_CROPS)).astype(np.int64)]
    surface[labels == FOREST] = _NAMES.index("forest")
    deep = enlarge(terrain.hollows_m, side, rows) > 1.6 * LAKE_DEPTH_M
    surface[is_water] = np.where(deep, _NAMES.index("deep water"), _NAMES.index("water"))[is_water]
    lot = lots[np.arange(rows.start, rows.stop) // LOT_PX].repeat(LOT_PX, 1)[:, :side]
    _build(surface, labels == BUILT_UP, cover, rows, lot)
    grain = 1 + _ROUGHNESS[labels] * (chance.random(labels.shape, np.float32) - np.float32(0.5))
    grain += np.where(is_field, np.float32(0.06) * np.sin(cover.furrow_HW[rows] * np.float32(2.1)), 0)
    grain *= np.where(is_field | (labels == MEADOW), 0.88 + 0.24 * (parcel * 89 % 1), 1)
    return surface, grain.astype(np.float32)


def _build(
    surface: NDArray[np.uint8], is_built: NDArray[np.bool_], cover: Cover, rows: slice, lot: Floats
) -> None:
    """Houses stand closer towards the middle of a town; large halls at its edge."""
    built = cover.built_HW[rows]
    houses = is_built & (lot < 0.35 + 0.5 * np.clip(built, 0, 1))
    surface[is_built] = _NAMES.index("gardens")
    surface[houses] = _NAMES.index("roofs")
    surface[houses & (built < 0.25) & (cover.parcel_HW[rows] > 0.8)] = _NAMES.index("halls")
    surface[cover.road_HW[rows]] = _NAMES.index("road")


def _sunlight(terrain: Terrain, side: int, rows: slice) -> Floats:
    """Light on the slopes, 1 on level ground."""
    cell_m = 10.0 * side / len(terrain.heights_m)
    down, across = np.gradient(terrain.heights_m, cell_m)
    towards_sun = across * np.sin(SUN_AZIMUTH) - down * np.cos(SUN_AZIMUTH)
    lit = (np.sin(SUN_HEIGHT) - towards_sun * np.cos(SUN_HEIGHT)) / np.sqrt(1 + down**2 + across**2)
    return np.clip(enlarge((lit / np.sin(SUN_HEIGHT)).astype(np.float32), side, rows), 0.5, 1.4)
