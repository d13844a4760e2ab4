"""What ``labels.urls`` names, looked at and laid on a mosaic: rasters, GeoJSON, tile sets."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from pipeline.errors import SettingsError
from pipeline.raster.window import Window
from pipeline.storage import Folder, normalise_url, redact
from pipeline.train.evaluate.placement import share_ground
from pipeline.train.evaluate.raster_labels import RasterLabels, inspect_labels, nodata_is_mapped
from pipeline.train.evaluate.scene import Scene
from pipeline.train.evaluate.settings import EvaluatedLabels, RegionsSettings
from pipeline.train.evaluate.worker import LabelSource
from pipeline.train.tiles.drawn_labels import Drawn, DrawnLabels, class_of_feature, property_of, read_drawn
from pipeline.train.tiles.index import load_tile_set
from pipeline.train.tiles.label_values import LabelValues, by_names, class_index
from pipeline.train.tiles.settings import MANIFEST_NAME, LabelsSettings, TilesSettings, is_drawn
from pipeline.train.tiles.tile_labels import label_values
from pipeline.train.tiles.tile_set import IGNORE


def find_labels(settings: EvaluatedLabels, scene: Scene) -> tuple[LabelSource, ...]:
    """Every source of labels that meets the mosaic, in the order in which they count."""
    found = [labels for url in settings.urls for labels in _find(normalise_url(url), settings, scene)]
    there = tuple(labels for labels in found if labels.footprint.num_pixels)
    if not there:
        where = ", ".join(redact(url) for url in settings.urls)
        raise SettingsError(
            f"labels must lie on the mosaic, whose bounds are {list(scene.grid.bounds())}; "
            f"nothing of {where} does"
        )
    return there


def find_regions(settings: RegionsSettings, scene: Scene) -> tuple[Drawn | None, tuple[str, ...]]:
    """The polygons of ``regions``, and their names by number."""
    if settings.url is None:
        return None, ()
    names: dict[str, int] = {}

    def key_of(number: int, properties: Mapping[str, Any]) -> int:
        name = property_of(properties, settings.property)
        return names.setdefault(str(number if name is None else name), len(names))

    drawn = read_drawn(settings.url, scene.grid, origin=scene.origin, key_of=key_of)
    if not drawn.wkb:
        raise SettingsError(f"regions must meet the mosaic; those of {redact(settings.url)} do not")
    return drawn, tuple(names)


def _find(url: str, settings: EvaluatedLabels, scene: Scene) -> Iterator[LabelSource]:
    folder = _tile_set_of(url)
    if folder is not None:
        yield from _of_tile_set(folder, settings, scene)
        return
    if settings.split is not None:
        raise SettingsError(
            f"--split needs a tile set, a folder with {MANIFEST_NAME}, but {redact(url)} is none"
        )
    values = by_names(settings, scene.class_names, scene.unlabelled)
    name = PurePosixPath(redact(url)).name
    if is_drawn(url):
        outside = scene.unlabelled
        if settings.outside is not None:
            outside = class_index("labels.outside", settings.outside, scene.class_names)
        yield _drawn(name, url, settings.property, outside, values, scene, scene.grid.window)
        return
    placement, footprint = scene.place(inspect_labels(url), redact(url))
    yield RasterLabels(name, url, nodata_is_mapped(url, values), placement, footprint, values)


def _tile_set_of(url: str) -> str | None:
    """The folder of a tile set that a URL names, if it names one."""
    if url.endswith(f"/{MANIFEST_NAME}"):
        return url.removesuffix(f"/{MANIFEST_NAME}")
    return url if not PurePosixPath(url).suffix and Folder(url).exists(MANIFEST_NAME) else None


def _of_tile_set(url: str, settings: EvaluatedLabels, scene: Scene) -> Iterator[LabelSource]:
    """The labels of every tile of a split; tiles that lie elsewhere meet nothing and are left out later."""
    labels = LabelsSettings(**settings.model_dump(exclude={"urls", "split"}))
    tiles = load_tile_set(TilesSettings(url=url), labels, scene.class_names)
    values = replace(label_values(tiles), unlabelled=scene.unlabelled)
    outside = scene.unlabelled if tiles.outside == IGNORE else tiles.outside
    chosen = tiles.tiles if settings.split is None else tiles.of(settings.split)
    if not chosen:
        raise SettingsError(f"the tile set {redact(url)} has no tile in split {settings.split}")
    for tile in chosen:
        # Tiles without a place on the ground are often all of one size: only the mosaic's own image counts.
        if not (share_ground(scene.grid, tile.grid) or redact(tile.image) in scene.sources):
            continue
        placement, footprint = scene.place(tile.grid, redact(tile.labels))
        if is_drawn(tile.labels):
            yield _drawn(tile.id, tile.labels, tiles.property, outside, values, scene, footprint)
        else:
            keep = tile.nodata_is_class
            yield RasterLabels(tile.id, tile.labels, keep, placement, footprint, values)


def _drawn(
    name: str, url: str, property_name: str, outside: int, values: LabelValues, scene: Scene, within: Window
) -> DrawnLabels:
    key_of = class_of_feature(url, property_name, scene.class_names, values, wanted="a class of the mosaic")
    drawn = read_drawn(url, scene.grid, origin=scene.origin, key_of=key_of)
    footprint = drawn.footprint.intersect(within) if outside == scene.unlabelled else within
    return DrawnLabels(name, url, drawn, outside, footprint)
