"""Pictures of the tiles that went worst and best: imagery, truth and prediction of one place each.

Of a tile too large for a page, a part is shown: where the most is wrong of the worst, where the most is
labelled of the best. Whatever does not count in validation is transparent in truth and prediction alike.
"""

import json
import re
from collections.abc import Sequence
from contextlib import closing
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.window import Window
from pipeline.report.pictures import encode_png, safe_color
from pipeline.report.source_picture import COLOR_NAMES, stretched
from pipeline.storage import Folder
from pipeline.train.tiles.tile_reader import IGNORE, LabelledPixels, TileReader
from pipeline.train.tiles.tile_set import Tile, TileSet
from pipeline.train.validation.figures import TileScore, Validation
from pipeline.train.validation.tile_segmenter import Judged, TileSegmenter, on_lattice

PICTURE_PX = 384
"""Longest side of a picture; pixels are shown as they are, one by one."""

STEP_PX = 16
"""How finely the place to show is looked for."""

TILES_SHOWN = 3
"""So many of the worst, and so many of the best."""

INDEX_KEY = "validation/pictures.json"

Kind = Literal["worst", "best"]


def write_tile_pictures(
    folder: Folder, segmenter: TileSegmenter, tiles: TileSet, validation: Validation, *, threads: int
) -> list[dict[str, Any]]:
    """Draw the worst and the best tiles of a validation into a run's folder.

    Args:
        folder: The run's folder; pictures and their index go to ``validation/`` in it.
        segmenter: The network that was validated.
        tiles: The tile set.
        validation: What was found.
        threads: CPU threads for decoding.

    Returns:
        The index, as stored: which tile, how it went, where its pictures are.
    """
    by_id = {tile.id: tile for tile in tiles.tiles}
    palette_RGBA = _palette(tiles.colors)
    entries = []
    with closing(TileReader(tiles, num_threads=threads)) as reader:
        for kind, number, score in _chosen(validation):
            tile = by_id[score.id]
            window = on_lattice(score.worst, tile.grid)
            read = segmenter.read(reader, tile, window)
            judged = segmenter.judge(tile, window, read)
            place = _place(judged, kind)
            own = place.relative_to(window).slices
            halo = segmenter.lattice(tile.grid).halo(window)
            images = {
                "image": _image(read, place.relative_to(halo), tiles.bands),
                "truth": encode_png(judged.labels_HW[own][None], palette_RGBA),
                "prediction": encode_png(judged.classes_HW[own][None], palette_RGBA),
            }
            keys = {name: f"validation/{kind}-{number}-{name}.png" for name in images}
            for name, png in images.items():
                folder.write(keys[name], png)
            entries.append(_entry(kind, tile, score, place, keys))
    folder.write(INDEX_KEY, json.dumps(entries).encode())
    return entries


def _chosen(validation: Validation) -> list[tuple[Kind, int, TileScore]]:
    """Of few tiles each is shown once, half of them as the worst."""
    ranked = validation.ranked()
    num_worst = min(TILES_SHOWN, (len(ranked) + 1) // 2)
    worst, best = ranked[:num_worst], ranked[num_worst:][::-1][:TILES_SHOWN]
    chosen: list[tuple[Kind, int, TileScore]] = [("worst", i + 1, score) for i, score in enumerate(worst)]
    return [*chosen, *(("best", i + 1, score) for i, score in enumerate(best))]


def _entry(kind: Kind, tile: Tile, score: TileScore, place: Window, keys: dict[str, str]) -> dict[str, Any]:
    return {
        "kind": kind,
        "id": tile.id,
        "miou": None if np.isnan(score.miou) else score.miou,
        "pixel_accuracy": score.pixel_accuracy,
        "pixels": score.pixels,
        "window": [place.row, place.col, place.height, place.width],
        "tile_px": [tile.grid.height, tile.grid.width],
        "pictures": keys,
    }


def _place(judged: Judged, kind: Kind) -> Window:
    """The part of a window that a picture shows."""
    frame = judged.window
    height, width = min(PICTURE_PX, frame.height), min(PICTURE_PX, frame.width)
    labelled_HW = judged.labels_HW != IGNORE
    wanted_HW = labelled_HW & (judged.labels_HW != judged.classes_HW) if kind == "worst" else labelled_HW
    totals = np.pad(wanted_HW.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    rows = np.unique([*range(0, frame.height - height + 1, STEP_PX), frame.height - height])
    cols = np.unique([*range(0, frame.width - width + 1, STEP_PX), frame.width - width])
    sums = (
        totals[np.ix_(rows + height, cols + width)]
        - totals[np.ix_(rows, cols + width)]
        - totals[np.ix_(rows + height, cols)]
        + totals[np.ix_(rows, cols)]
    )
    row, col = np.unravel_index(int(sums.argmax()), sums.shape)
    return Window(frame.row + int(rows[row]), frame.col + int(cols[col]), height, width)


def _palette(colors: Sequence[str]) -> NDArray[np.uint8]:
    palette_RGBA: NDArray[np.uint8] = np.zeros((256, 4), np.uint8)
    for index, color in enumerate(colors):
        palette_RGBA[index] = (*bytes.fromhex(safe_color(color)[1:]), 255)
    return palette_RGBA


def _image(read: LabelledPixels, at: Window, bands: Sequence[str]) -> bytes:
    """The imagery, three bands or one, stretched for the eye over the whole block: as dark as it is there."""
    pixels, chosen = read.pixels, color_bands(bands)
    samples_CHW = pixels.samples_CHW[chosen]
    has_data_CHW = pixels.valid_HW & np.isfinite(samples_CHW)
    if pixels.missing_CHW is not None:
        has_data_CHW &= ~pixels.missing_CHW[chosen]
    alike = samples_CHW.dtype == np.uint8
    return encode_png(stretched(samples_CHW.astype(np.float32), has_data_CHW, alike=alike)[:, *at.slices])


def color_bands(bands: Sequence[str]) -> list[int]:
    """Which bands, from 0, to show as red, green and blue: by their names, else the first three, or one."""
    names = [re.sub(r"[^a-z0-9]", "", band.lower()) for band in bands]
    found = [
        next((index for index, name in enumerate(names) if name in known), None) for known in COLOR_NAMES
    ]
    if None not in found:
        return [index for index in found if index is not None]
    return [0, 1, 2] if len(bands) >= 3 else [0]
