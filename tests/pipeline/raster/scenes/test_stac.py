"""STAC items as scenes: from files and from an API with pages; what items say is used, and checked."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import requests
from rasterio.warp import transform_bounds

from pipeline.errors import BlockError, SettingsError, SourceError
from pipeline.raster.scenes import look
from tests.pipeline.raster.scenes.scene_files import PLACE, UTM33, find, moved, read, write_scene
from tests.pipeline.raster.scenes.stac_api import served

NUM_ITEMS = 11
SIDE = 16


def item_of(folder, number, *, version="1.0", href=str, **changes):
    """An item for a scene with a red and a nir asset; every second one is cloudy."""
    transform = moved(0, number * SIDE)
    files = {}
    for key, value in (("B04", number + 1), ("B08", 100 + number)):
        path = folder / f"item{number:02d}_{key}.tif"
        files[key] = write_scene(path, np.full((SIDE, SIDE), value, np.uint16), transform=transform, nodata=0)
    with rasterio.open(files["B04"]) as dataset:
        box = transform_bounds(dataset.crs, "OGC:CRS84", *dataset.bounds)
    common = {"B04": "red", "B08": "nir"}
    assets = {
        key: {"href": href(path), "proj:shape": [SIDE, SIDE], "proj:transform": list(transform)[:6]}
        for key, path in files.items()
    }
    for key, asset in assets.items():
        if version == "1.0":
            asset["eo:bands"] = [{"name": key, "common_name": common[key]}]
            asset["raster:bands"] = [{"data_type": "uint16", "nodata": 0, "scale": 0.5, "offset": -1.0}]
        else:
            asset["bands"] = [{"name": key, "eo:common_name": common[key]}]
            asset |= {"data_type": "uint16", "nodata": 0, "raster:scale": 0.5, "raster:offset": -1.0}
    code = {"proj:epsg": 32633} if version == "1.0" else {"proj:code": UTM33}
    return {
        "type": "Feature", "stac_version": f"{version}.0", "id": f"item{number:02d}",
        "collection": "even" if number % 2 == 0 else "odd", "bbox": list(box), "geometry": None, "links": [],
        "properties": {
            "datetime": f"2024-05-{number + 1:02d}T10:00:00Z",
            "eo:cloud_cover": 60.0 if number % 2 else 5.0,
            **code,
        },
        "assets": assets,
    } | changes  # fmt: skip


@pytest.fixture(params=["1.0", "1.1"])
def items(tmp_path, request):
    return [item_of(tmp_path, number, version=request.param) for number in range(NUM_ITEMS)]


def write_items(path: Path, items) -> str:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return str(path)


def stac(source, **conditions):
    return {"stac": {"assets": ["red", "nir"], **source, **conditions}}


def numbers(found):
    return [int(identity.url[-10:-8]) for identity in found.info.identities[::2]]


class TestFiles:
    def test_items_become_scenes_and_no_file_is_opened_for_it(self, items, tmp_path, monkeypatch):
        def refuse(url):
            raise AssertionError(f"{url} was opened, though its item says all there is to know")

        monkeypatch.setattr(look, "describe_raster", refuse)
        found = find(**stac({"file": write_items(tmp_path / "items.json", items)}))
        assert [band.name for band in found.info.bands] == ["red", "nir"]
        assert found.info.grid.window.shape == (SIDE, SIDE * NUM_ITEMS)
        pixels = read(found)
        np.testing.assert_array_equal(pixels.samples_CHW[0, 0], np.repeat(np.arange(NUM_ITEMS) + 1, SIDE))
        np.testing.assert_array_equal(pixels.samples_CHW[1, 0], np.repeat(np.arange(NUM_ITEMS) + 100, SIDE))

    @pytest.mark.parametrize("assets", [["B04", "B08"], ["red", "B08"], ["b04", "NIR"]])
    def test_assets_by_key_or_common_name(self, items, tmp_path, assets):
        found = find(stac={"file": write_items(tmp_path / "items.json", items), "assets": assets})
        assert read(found).samples_CHW[:, 0, 0].tolist() == [1, 100]

    def test_scale_and_offset_of_items(self, items, tmp_path):
        found = find(**stac({"file": write_items(tmp_path / "items.json", items)}), scale="metadata")
        assert read(found).samples_CHW[:, 0, 0].tolist() == [-0.5, 49.0]

    @pytest.mark.parametrize(
        ("conditions", "kept"),
        [
            ({"collections": ["odd"]}, [1, 3, 5, 7, 9]),
            ({"cloud_cover_max": 20}, [0, 2, 4, 6, 8, 10]),
            ({"datetime": "2024-05-03/2024-05-05"}, [2, 3, 4]),
            ({"datetime": "2024-05-09/.."}, [8, 9, 10]),
            ({"datetime": "../2024-05-02T11:00:00Z"}, [0, 1]),
            ({"datetime": "2024-05-04"}, [3]),
            ({"datetime": "2024-05"}, list(range(NUM_ITEMS))),
            ({"limit": 3}, [0, 1, 2]),
        ],
    )
    def test_conditions(self, items, tmp_path, conditions, kept):
        file = write_items(tmp_path / "items.json", items)
        assert numbers(find(**stac({"file": file}, **conditions))) == kept

    def test_bbox(self, items, tmp_path):
        file = write_items(tmp_path / "items.json", items)
        west, south, east, north = items[4]["bbox"]
        middle = [(west + east) / 2, (south + north) / 2]
        assert numbers(find(**stac({"file": file}, bbox=[*middle, *middle]))) == [4]

    def test_newest_lies_on_top(self, items, tmp_path):
        file = write_items(tmp_path / "items.json", items[:3])
        assert numbers(find(**stac({"file": file}), order="newest")) == [2, 1, 0]

    def test_relative_addresses_count_from_the_items_file(self, tmp_path):
        items = [item_of(tmp_path / "data", 0, href=lambda path: f"./data/{Path(path).name}")]
        assert read(find(**stac({"file": write_items(tmp_path / "items.json", items)}))).valid_HW.all()

    def test_a_geoparquet_of_items(self, tmp_path):
        arrow = pytest.importorskip("pyarrow")
        rows = []
        for number in range(3):
            item = item_of(tmp_path, number)
            west, south, east, north = item["bbox"]
            box = {"xmin": west, "ymin": south, "xmax": east, "ymax": north}
            own = {name: item[name] for name in ("id", "collection", "assets", "stac_version")}
            rows.append(own | {"bbox": box, "geometry": b"\x01"} | item["properties"])
        table = arrow.Table.from_pylist(rows)
        pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "items.parquet")
        found = find(**stac({"file": str(tmp_path / "items.parquet")}, cloud_cover_max=50))
        assert numbers(found) == [0, 2]
        assert read(found).valid_HW[0, 0]

    def test_an_item_without_the_asset_is_named(self, tmp_path):
        items = [item_of(tmp_path, number) for number in range(3)]
        del items[1]["assets"]["B08"]
        with pytest.raises(SourceError, match=r"the asset 'nir', but item01 of 3 have none; item01 has B04"):
            find(**stac({"file": write_items(tmp_path / "items.json", items)}))

    def test_a_word_for_a_number_is_named(self, tmp_path):
        items = [item_of(tmp_path, 0)]
        items[0]["properties"]["eo:cloud_cover"] = "some"
        with pytest.raises(SourceError, match=r"eo:cloud_cover of item00 must be a number .*, got 'some'"):
            find(**stac({"file": write_items(tmp_path / "items.json", items)}, cloud_cover_max=50))

    def test_a_file_that_is_not_as_its_item_says_fails_by_name(self, tmp_path):
        items = [item_of(tmp_path, 0)]
        items[0]["assets"]["B08"]["proj:shape"] = [SIDE, SIDE * 2]
        found = find(**stac({"file": write_items(tmp_path / "items.json", items)}))
        with pytest.raises(BlockError, match=r"item00_B08\.tif must have 16 × 32 px"):
            read(found)

    def test_files_are_opened_where_items_say_too_little(self, tmp_path):
        items = [item_of(tmp_path, number) for number in range(2)]
        for asset in items[0]["assets"].values():
            del asset["proj:transform"]
        pixels = read(find(**stac({"file": write_items(tmp_path / "items.json", items)})))
        np.testing.assert_array_equal(pixels.samples_CHW[1, 0], np.repeat([100, 101], SIDE))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("[]", "must hold items as JSON"),
            ('{"type": "Catalog", "links": []}', r"got type 'Catalog' .*source\.stac\.url"),
            ('{"type": "FeatureCollection", "features": []}', "none in .* fits"),
        ],
    )
    def test_other_files_are_refused(self, tmp_path, content, message):
        (tmp_path / "items.json").write_text(content)
        with pytest.raises(SourceError, match=message):
            find(**stac({"file": str(tmp_path / "items.json")}))

    @pytest.mark.parametrize(
        "wrong",
        [{"file": "a.json"}, {"assets": ["red"]}, {"url": "https://x", "file": "a", "assets": ["red"]}],
    )
    def test_settings_that_say_too_little_or_too_much(self, wrong):
        with pytest.raises(ValueError, match=r"assets must name|need a url or a file|not from both"):
            find(stac=wrong)


class TestApi:
    @pytest.fixture
    def api(self, tmp_path):
        pytest.importorskip("pystac_client", reason="pystac-client (the extra 'stac') is not installed")
        (tmp_path / "items").mkdir()
        for number in range(NUM_ITEMS):
            text = json.dumps(item_of(tmp_path, number))
            (tmp_path / "items" / f"{number:02d}.json").write_text(text)
        with served(tmp_path / "items", page=4) as address:
            yield address

    def test_all_pages_are_read(self, api):
        found = find(**stac({"url": api}))
        assert numbers(found) == list(range(NUM_ITEMS))
        searches = [line for line in requests.get(f"{api}/requests", timeout=10).json() if "/search" in line]
        assert len(searches) == 3
        np.testing.assert_array_equal(
            read(found).samples_CHW[0, 0], np.repeat(np.arange(NUM_ITEMS) + 1, SIDE)
        )

    def test_conditions_are_the_apis_and_hold(self, api):
        conditions = {"collections": ["even"], "cloud_cover_max": 20, "datetime": "2024-05-02/2024-05-08"}
        assert numbers(find(**stac({"url": api}, **conditions))) == [2, 4, 6]
        sent = requests.get(f"{api}/requests", timeout=10).json()[-1]
        assert all(name in sent for name in ("collections", "datetime", "query"))

    def test_a_limit_stops_paging(self, api):
        assert numbers(find(**stac({"url": api}, limit=3))) == [0, 1, 2]
        searches = [line for line in requests.get(f"{api}/requests", timeout=10).json() if "/search" in line]
        assert len(searches) == 1

    def test_an_api_that_fails_is_named_without_secrets(self, api):
        with pytest.raises(SourceError, match=r"cannot search http://127\.0\.0\.1:\d+/nowhere") as caught:
            find(**stac({"url": f"{api}/nowhere?token=hush"}))
        assert "hush" not in str(caught.value)


def test_without_the_client_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pystac_client", None)
    with pytest.raises(SettingsError, match=r"needs pystac-client.*terrazzo\[stac\]"):
        find(**stac({"url": "http://127.0.0.1:9"}))


def test_signed_addresses_are_never_said(tmp_path):
    items = [item_of(tmp_path, 0, href=lambda path: f"http://127.0.0.1:9/{Path(path).name}?sig=hush")]
    found = find(**stac({"file": write_items(tmp_path / "items.json", items)}))
    assert "hush" not in repr(found.info)
    with pytest.raises(SourceError) as caught:
        read(found)
    assert "item00_B04.tif" in str(caught.value)
    assert "hush" not in str(caught.value)
    assert found.info.grid.transform == PLACE
