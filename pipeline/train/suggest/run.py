"""Tiles worth labelling: where the mosaic is least sure, far apart and showing different things.

Chosen greedily: each next tile has the highest score of those far enough from all chosen before, less what
``variety`` takes from tiles that show the same mix of classes as one of them.
"""

import functools
import heapq
import json
import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon, Polygon, mapping
from shapely.geometry.polygon import orient

from pipeline.errors import Interrupted, SettingsError, StorageError
from pipeline.raster.grid import Grid
from pipeline.raster.mosaic import Mosaic
from pipeline.raster.window import Window
from pipeline.segment.executor import TASKS_IN_FLIGHT, Event, Finished, GivenUp
from pipeline.segment.progress import Progress
from pipeline.signals import stop_on_signals
from pipeline.storage import normalise_url, redact, write_url
from pipeline.train.evaluate.executors import executor_for
from pipeline.train.suggest.doubt import (
    TASK_PX,
    Candidate,
    DoubtSpec,
    DoubtWorker,
    centre_px,
    check_doubt,
    tasks,
)
from pipeline.train.suggest.settings import SuggestConfig

logger = logging.getLogger(__name__)

POOL_PER_TILE = 200
"""Candidates kept for each tile wanted: the driver's memory does not grow with the mosaic."""

PROCESS_BYTES = 820 << 20
"""Python with torch."""
BYTES_PER_PX = 64
EDGE_POINTS = 8
"""Points along a tile's side in longitude and latitude, where straight lines of pixels are none."""


def suggest(config: SuggestConfig) -> dict[str, Any]:
    """Write the GeoJSON; gives a report."""
    began = time.monotonic()
    mosaic = Mosaic.open(config.mosaic)
    apart_px = 2 * config.size_px if config.min_distance_px == "auto" else config.min_distance_px
    by_margin = check_doubt(mosaic, config.doubt)
    spec = DoubtSpec(
        normalise_url(config.mosaic), config.size_px, apart_px // 2, config.max_nodata, by_margin
    )
    candidates, failures = _gather(config, spec, mosaic)
    if not candidates and failures:
        raise StorageError(f"no tile could be looked at: {next(iter(failures.values()))}")
    if not candidates:
        raise SettingsError(
            f"tiles of {config.size_px} px must have data on all but {config.max_nodata:.0%} of their "
            f"pixels; {redact(config.mosaic)} has no such place. Ask for smaller ones, or raise max_nodata"
        )
    chosen = choose_diverse(candidates, config.count, apart_px=apart_px, variety=config.variety)
    if len(chosen) < config.count:
        logger.warning("%d tiles wanted, %d found that lie far enough apart", config.count, len(chosen))
    document = to_geojson(mosaic, redact(spec.mosaic_url), chosen, by_margin=by_margin)
    write_url(config.output, json.dumps(document, ensure_ascii=False, indent=1).encode() + b"\n")
    return {
        "status": "incomplete" if failures else "complete",
        "tiles": len(chosen),
        "wanted": config.count,
        "candidates": len(candidates),
        "doubt": "margin" if by_margin else "confidence",
        "output": redact(normalise_url(config.output)),
        "failures": [{"square": task, "reason": reason} for task, reason in failures.items()],
        "seconds": round(time.monotonic() - began, 3),
    }


def _gather(config: SuggestConfig, spec: DoubtSpec, mosaic: Mosaic) -> tuple[list[Candidate], dict[str, str]]:
    """The best candidates of the whole mosaic, and the squares that could not be looked at."""
    squares = tasks(*mosaic.grid.window.shape)
    most = POOL_PER_TILE * config.count
    pool: list[tuple[float, int, int, Candidate]] = []
    failures: dict[str, str] = {}
    progress = Progress(len(squares))

    def on_event(event: Event) -> None:
        progress.on_event(event)
        if isinstance(event, GivenUp):
            failures[event.task] = event.reason
        elif isinstance(event, Finished):
            for found in event.record["candidates"]:
                one = Candidate.from_json(found)
                # The order of tasks must not matter: equal scores are told apart by their place.
                heapq.heappush(pool, (one.score, -one.window.row, -one.window.col, one))
                if len(pool) > most:
                    heapq.heappop(pool)

    side_px = TASK_PX + config.size_px
    memory_bytes = PROCESS_BYTES + TASKS_IN_FLIGHT * BYTES_PER_PX * side_px**2
    with executor_for(config.compute, memory_bytes) as executor, stop_on_signals() as stop:
        try:
            executor.run(functools.partial(DoubtWorker, spec), squares, on_event, stop)
        finally:
            progress.close()
        if stop.is_set():
            raise Interrupted("stopped before the whole mosaic was looked at; nothing was written")
    return [one for *_, one in sorted(pool, key=lambda entry: entry[:3], reverse=True)], failures


def choose_diverse(
    candidates: Sequence[Candidate], count: int, *, apart_px: float, variety: float
) -> list[Candidate]:
    """Choose tiles greedily; candidates come best first, and the first wins among equals."""
    if not candidates:
        return []
    scores = np.array([one.score for one in candidates])
    centres = np.array([centre_px(one.window) for one in candidates])
    mixes = np.array([one.mix for one in candidates])
    alike = np.zeros(len(candidates))
    free = np.ones(len(candidates), np.bool_)
    chosen: list[Candidate] = []
    while len(chosen) < count and free.any():
        values = np.where(free, scores * (1 - variety * alike), -1.0)
        best = int(values.argmax())
        chosen.append(candidates[best])
        free[best] = False
        free &= np.hypot(*(centres - centres[best]).T) >= apart_px
        alike = np.maximum(alike, np.minimum(mixes, mixes[best]).sum(axis=1))
    return chosen


def to_geojson(
    mosaic: Mosaic, mosaic_url: str, chosen: Sequence[Candidate], *, by_margin: bool
) -> dict[str, Any]:
    """The tiles as RFC 7946 wants them; in pixels of the scene where the mosaic has no CRS."""
    names = mosaic.layout.class_names
    row, col = mosaic.attributes.get("source_origin", (0, 0))
    features = []
    for rank, one in enumerate(chosen, start=1):
        window = one.window
        in_scene = window.shift(row, col)
        outline = _on_the_ground(mosaic.grid.crop(window)) if mosaic.grid.crs_wkt else _in_pixels(in_scene)
        shares = sorted(zip(names, one.mix, strict=True), key=lambda pair: -pair[1])
        features.append(
            {
                "type": "Feature",
                "id": rank,
                "geometry": mapping(outline),
                "properties": {
                    "rank": rank,
                    "score": round(one.score, 6),
                    "mean_confidence": round(one.mean_confidence, 6),
                    "border_share": round(one.border_share, 6),
                    "nodata_share": round(one.nodata_share, 6),
                    "window": [window.row, window.col, window.height, window.width],
                    "source_window": [in_scene.row, in_scene.col, window.height, window.width],
                    "classes": {name: round(share, 4) for name, share in shares if share},
                },
            }
        )
    return {
        "type": "FeatureCollection",
        "mosaic": mosaic_url,
        "coordinates": "CRS84" if mosaic.grid.crs_wkt else "pixels",
        "doubt": "margin" if by_margin else "confidence",
        "features": features,
    }


def _in_pixels(window: Window) -> Polygon:
    return shapely.box(window.col, window.row, window.col_stop, window.row_stop)


def _on_the_ground(grid: Grid) -> Polygon | MultiPolygon:
    """A tile's outline, anticlockwise as RFC 7946 wants it, cut where it crosses the antimeridian."""
    height, width = grid.window.shape
    box = shapely.segmentize(shapely.box(0, 0, width, height), max(height, width) / EDGE_POINTS)
    transform = grid.transform

    def to_world(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = xy[:, 0], xy[:, 1]
        return np.column_stack(
            (transform.a * x + transform.b * y + transform.c, transform.d * x + transform.e * y + transform.f)
        )

    outline: Polygon = shapely.transform(box, to_world)
    to_degrees = pyproj.Transformer.from_crs(
        pyproj.CRS.from_wkt(str(grid.crs_wkt)), "OGC:CRS84", always_xy=True
    )
    degrees: Polygon = shapely.transform(
        outline, lambda xy: np.column_stack(to_degrees.transform(xy[:, 0], xy[:, 1]))
    )
    if not np.isfinite(degrees.bounds).all():
        raise SettingsError(f"no longitude and latitude for the mosaic's CRS at {list(outline.bounds)}")
    west, _, east, _ = degrees.bounds
    return orient(degrees) if east - west <= 180 else _cut_at_antimeridian(degrees)


def _cut_at_antimeridian(degrees: Polygon) -> MultiPolygon:
    eastward = shapely.transform(
        degrees, lambda xy: np.column_stack((np.where(xy[:, 0] < 0, xy[:, 0] + 360, xy[:, 0]), xy[:, 1]))
    )
    west = shapely.intersection(eastward, shapely.box(0, -90, 180, 90))
    east = shapely.intersection(eastward, shapely.box(180, -90, 360, 90))
    back = shapely.transform(east, lambda xy: xy - np.array([360.0, 0.0]))
    parts = [part for part in shapely.get_parts([west, back]) if isinstance(part, Polygon)]
    return MultiPolygon([orient(part) for part in parts])
