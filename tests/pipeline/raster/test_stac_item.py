"""The mosaic's STAC item: valid by others' schemas, in the right place, kept when written again."""

import json
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import CRS, Transformer

from pipeline.raster.export.cog import export_cog
from pipeline.raster.export.stac_item import EXTENSIONS, footprint, write_stac_item
from pipeline.raster.grid import Grid
from pipeline.storage import Folder
from tests.pipeline.raster.mosaics import ROTATED, make_contents
from tests.pipeline.raster.stac_schemas import check_extensions

MODEL = {
    "url": "s3://models/one",
    "sha256": "ab" * 32,
    "arch": "deeplabv3plus",
    "backbone": "resnet50",
    "bands": ["red", "green"],
    "mean": [80.0, 90.0],
    "std": [40.0, 38.0],
}


def written(tmp_path, *, model=MODEL, **changes):
    contents = make_contents(300, 410, logits="lattice")
    attributes = {
        "model": model,
        "run_id": "run-1",
        "sources": [{"url": "s3://scenes/a.tif"}],
        "settings": {"crop": {"size_px": 513}, "inference": {"scales": [1.0]}},
    }
    contents = replace(contents, layout=replace(contents.layout, attributes=attributes, **changes))
    contents.write(Folder.at(tmp_path / "m"))
    return contents


def item_of(tmp_path):
    return json.loads((tmp_path / "m.run" / "item.json").read_text())


def test_it_says_what_the_mosaic_is(tmp_path):
    contents = written(tmp_path)
    assert write_stac_item(str(tmp_path / "m")) == str(tmp_path / "m.run" / "item.json")
    item = item_of(tmp_path)
    properties = item["properties"]
    assert (item["id"], item["stac_version"], properties["proj:code"]) == ("run-1", "1.1.0", "EPSG:32633")
    assert properties["proj:shape"] == [300, 410]
    assert Affine(*properties["proj:transform"]) == contents.layout.grid.transform
    assert set(item["stac_extensions"]) == set(EXTENSIONS.values())
    mosaic = item["assets"]["mosaic"]
    assert (tmp_path / "m.run" / mosaic["href"]).resolve() == tmp_path / "m"
    classes, confidence, logits = mosaic["bands"]
    assert [each["title"] for each in classes["classification:classes"]] == ["class 0", "class 1", "class 2"]
    assert [each["name"] for each in classes["classification:classes"]] == ["class-0", "class-1", "class-2"]
    assert (classes["nodata"], confidence["raster:scale"]) == (255, 1 / 254)
    assert logits["raster:spatial_resolution"] == 40.0
    assert properties["mlm:input"][0]["input"]["shape"] == [-1, 2, 513, 513]
    assert item["assets"]["model"]["href"] == "s3://models/one/model.safetensors"
    assert item["links"] == [{"rel": "derived_from", "href": "s3://scenes/a.tif"}]


MODELS = [
    MODEL,
    MODEL | {"arch": "smp/Unet", "backbone": "timm-efficientnet-b0"},
    MODEL | {"backbone": "timm/xception65", "bands": [], "mean": [], "std": []},
    {"sha256": "ab" * 32, "arch": "deeplabv3", "bands": ["red"]},
    {},
]
GRIDS = [
    {},
    {"grid": Grid(300, 410)},
    {"grid": Grid(300, 410, Affine.scale(0.5), None, "micrometer")},
    {"grid": Grid(300, 410, Affine(0.01, 0, 10, 0, -0.01, 61), CRS.from_epsg(4326).to_wkt())},
]

PLACES = ["utm", "nowhere", "slide", "degrees"]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.get('arch')}-{model.get('backbone')}")
@pytest.mark.parametrize("changes", GRIDS, ids=PLACES)
def test_stac_and_its_extensions_find_no_fault_with_it(model, changes, tmp_path):
    pystac = pytest.importorskip("pystac", reason="STAC items are validated with pystac: install pystac-core")
    validation = pytest.importorskip("pystac.validation")
    written(tmp_path, model=model, **changes)
    write_stac_item(str(tmp_path / "m"))
    export_cog(str(tmp_path / "m"), "classes", str(tmp_path / "map.tif"))
    item = item_of(tmp_path)
    assert pystac.Item.from_dict(item).bbox == item.get("bbox")
    core = item | {"stac_extensions": []}  # extensions' schemas lie in the net
    validation.validate_dict(core, pystac.STACObjectType.ITEM)
    check_extensions(item)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("properties", "datetime"), None),
        (("properties", "proj:shape"), [300]),
        (("properties", "proj:epsg"), 32633),
        (("properties", "mlm:name"), "smp/Unet"),
        (("assets", "model", "roles"), ["data"]),
        (("assets", "mosaic", "bands", 0, "classification:classes", 0, "name"), "class 0"),
        (("assets", "mosaic", "bands", 1, "raster:scale"), "1/254"),
        (("stac_extensions",), [EXTENSIONS["proj"], EXTENSIONS["raster"], EXTENSIONS["mlm"]]),
    ],
    ids=str,
)
def test_the_check_above_finds_faults(place, value, tmp_path):
    pystac = pytest.importorskip("pystac", reason="STAC items are validated with pystac: install pystac-core")
    validation = pytest.importorskip("pystac.validation")
    written(tmp_path)
    write_stac_item(str(tmp_path / "m"))
    item = item_of(tmp_path)
    inner = item
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value

    def check():
        validation.validate_dict(item | {"stac_extensions": []}, pystac.STACObjectType.ITEM)
        check_extensions(item)

    with pytest.raises((pystac.errors.STACValidationError, jsonschema.ValidationError, AssertionError)):
        check()


@pytest.mark.parametrize(
    ("changes", "metres"), list(zip(GRIDS, [10.0, None, 0.5e-6, 794.4], strict=True)), ids=PLACES
)
def test_resolution_is_told_in_metres(changes, metres, tmp_path):
    written(tmp_path, **changes)
    write_stac_item(str(tmp_path / "m"))
    bands = {band["name"]: band for band in item_of(tmp_path)["assets"]["mosaic"]["bands"]}
    expected = [metres and pytest.approx(factor * metres, rel=1e-3) for factor in (1, 4)]
    assert [bands[name].get("raster:spatial_resolution") for name in ("classes", "logits")] == expected


def test_exports_and_reports_are_named_and_kept(tmp_path):
    written(tmp_path)
    write_stac_item(str(tmp_path / "m"))
    created = item_of(tmp_path)["properties"]["created"]
    export_cog(str(tmp_path / "m"), "classes", str(tmp_path / "map.tif"))
    export_cog(str(tmp_path / "m"), "logits", str(tmp_path / "doubt.tif"))
    Folder.at(tmp_path / "m.run").write("report.html", b"<html>")
    write_stac_item(str(tmp_path / "m"))
    item = item_of(tmp_path)
    assert {"mosaic", "model", "report", "cog_map", "cog_doubt"} == set(item["assets"])
    assert item["assets"]["cog_map"]["href"] == str(tmp_path / "map.tif")
    assert [band["name"] for band in item["assets"]["cog_doubt"]["bands"]] == [
        "class 0",
        "class 1",
        "class 2",
    ]
    assert item["properties"]["created"] == created


def test_an_export_makes_no_item_where_there_is_none(tmp_path):
    written(tmp_path)
    export_cog(str(tmp_path / "m"), "classes", str(tmp_path / "map.tif"))
    assert not (tmp_path / "m.run").exists()


def test_without_a_crs_there_is_no_place(tmp_path):
    written(tmp_path, grid=Grid(300, 410))
    write_stac_item(str(tmp_path / "m"))
    item = item_of(tmp_path)
    assert item["geometry"] is None
    assert "bbox" not in item
    assert item["properties"]["proj:code"] is None


def test_without_a_model_the_extension_is_not_claimed(tmp_path):
    contents = make_contents(60, 60)
    contents.write(Folder.at(tmp_path / "m"))
    write_stac_item(str(tmp_path / "m"))
    item = item_of(tmp_path)
    assert EXTENSIONS["mlm"] not in item["stac_extensions"]
    assert not any(name.startswith("mlm:") for name in item["properties"])


class TestFootprint:
    @pytest.mark.parametrize("grid", [
        Grid(3000, 4100, ROTATED, CRS.from_epsg(32633).to_wkt()),
        Grid(90, 180, Affine(2, 0, -180, 0, -2, 90), CRS.from_epsg(4326).to_wkt()),
    ])  # fmt: skip
    def test_every_pixel_lies_inside(self, grid):
        geometry, box = footprint(grid)
        outline = shapely.buffer(shapely.geometry.shape(geometry), 1e-4)
        to_lon_lat = Transformer.from_crs(CRS.from_wkt(grid.crs_wkt), "OGC:CRS84", always_xy=True)
        rng = np.random.default_rng(0)
        x, y = grid.transform @ (rng.uniform(0, grid.width, 500), rng.uniform(0, grid.height, 500))
        points = shapely.points(*to_lon_lat.transform(x, y))
        assert shapely.covers(outline, points).all()
        assert shapely.covers(shapely.buffer(shapely.box(*box), 1e-4), points).all()

    def test_across_the_antimeridian_west_is_the_larger(self):
        grid = Grid(40, 60, Affine(10_000, 0, 100_000, 0, -10_000, 8_000_000), CRS.from_epsg(32701).to_wkt())
        geometry, (west, south, east, north) = footprint(grid)
        assert geometry["type"] == "MultiPolygon"
        assert 170 < west < 180
        assert -180 < east < -170
        assert south < north
        for part in shapely.geometry.shape(geometry).geoms:
            assert part.bounds[2] - part.bounds[0] < 10

    def test_around_a_pole_it_is_the_cap(self):
        grid = Grid(100, 100, Affine(10_000, 0, -500_000, 0, -10_000, 500_000), CRS.from_epsg(3031).to_wkt())
        geometry, box = footprint(grid)
        assert box == pytest.approx([-180, -90, 180, -83.5], abs=0.5)
        assert shapely.geometry.shape(geometry).is_valid
