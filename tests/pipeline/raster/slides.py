"""Slides as scanners write them: pink blobs on bright glass, in levels, by tifffile."""

import numpy as np
import pytest

GLASS = 242
UM = 0.5
FACTOR = 4


def tissue_of(height, width, *, seed=0, blobs=3):
    """Where tissue is: discs, none at the edges."""
    random = np.random.default_rng(seed)
    rows, cols = np.ogrid[:height, :width]
    found = np.zeros((height, width), bool)
    radius = min(height, width) // 12
    for _ in range(blobs):
        row, col = (random.integers(2 * radius, size - 2 * radius) for size in (height, width))
        found |= (rows - row) ** 2 + (cols - col) ** 2 < radius**2
    return found


def slide_of(tissue, seed=0):
    """Colours: glass with grain, tissue in shades of pink and violet."""
    random = np.random.default_rng(seed)
    image = np.full((*tissue.shape, 3), GLASS, np.int16)
    image += random.integers(-2, 3, (*tissue.shape, 1))
    shade = random.integers(0, 60, (tissue.shape[0] // 16 + 1, tissue.shape[1] // 16 + 1))
    shade = shade.repeat(16, 0).repeat(16, 1)[: tissue.shape[0], : tissue.shape[1]]
    image[tissue] = np.stack([190 + shade // 3, 90 + shade, 160 + shade // 2], axis=-1)[tissue]
    return image.clip(0, 255).astype(np.uint8)


def shrink(image, factor=FACTOR):
    """Means of squares, whatever hangs over left out: as scanners do."""
    height, width = (size // factor * factor for size in image.shape[:2])
    parts = image[:height, :width].reshape(height // factor, factor, width // factor, factor, -1)
    return parts.mean(axis=(1, 3)).round().astype(np.uint8)


def levels_of(image, count=3):
    levels = [image]
    while len(levels) < count:
        levels.append(shrink(levels[-1]))
    return levels


def tiles_of(side, tile, step, discs):
    """Tiles of a level of a slide too large to hold: glass with grain, violet discs (row, col, radius)."""
    grain = np.random.default_rng(0).integers(-3, 4, (tile, tile, 1))
    for top in range(0, side, tile):
        for left in range(0, side, tile):
            rows = (np.arange(top, top + tile)[:, None] + 0.5) * step
            cols = (np.arange(left, left + tile) + 0.5) * step
            inside = np.zeros((tile, tile), bool)
            for row, col, radius in discs:
                inside |= (rows - row) ** 2 + (cols - col) ** 2 < radius**2
            colors = np.where(inside[..., None], (170, 80, 160), GLASS) + grain
            yield colors.astype(np.uint8)


def write_large_slide(path, side, discs, *, style, count=4, tile=512):
    """JPEG tiles, one at a time."""
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed: it writes the slides")
    pytest.importorskip("imagecodecs", reason="imagecodecs is not installed: tifffile needs it for JPEG")
    kind = {"photometric": "rgb", "compression": "jpeg", "metadata": None, "tile": (tile, tile)}
    tags = {"resolution": (1e4 / UM, 1e4 / UM), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for number in range(count):
            size = side // FACTOR**number
            tiles = tiles_of(size, tile, FACTOR**number, discs)
            subifds = {"subifds": count - 1} if style == "subifd" and not number else {}
            reduced = {"subfiletype": 1} if style == "subifd" and number else {}
            tiff.write(
                tiles,
                shape=(size, size, 3),
                dtype="uint8",
                **kind,
                **subifds,
                **reduced,
                **({} if number else tags),
            )
    return str(path)


def write_slide(path, levels, *, style, compression="deflate", description=None, um=UM, tile=128, extras=()):
    """A pyramid with its levels as SubIFDs ("subifd"), or as pages after extras ("pages", as SVS has it).

    ``extras`` are further pages that are no levels.
    """
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed: it writes the slides")
    if compression == "jpeg":
        pytest.importorskip("imagecodecs", reason="imagecodecs is not installed: tifffile needs it for JPEG")
    common = {"photometric": "rgb", "compression": compression, "metadata": None}
    tiled = common | {"tile": (tile, tile)}
    tags = {} if um is None else {"resolution": (1e4 / um, 1e4 / um), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as tiff:
        if style == "subifd":
            tiff.write(levels[0], subifds=len(levels) - 1, description=description, **tiled, **tags)
            for level in levels[1:]:
                tiff.write(level, subfiletype=1, **tiled)
        else:
            tiff.write(levels[0], description=description, **tiled, **tags)
            for extra in extras:
                tiff.write(extra, rowsperstrip=16, **common)
            for level in levels[1:]:
                tiff.write(level, **tiled)
    return str(path)
