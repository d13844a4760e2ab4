"""What a raster behind HTTP is asked for: who it is, once a run; what it holds, by ranges."""

import numpy as np
import pytest
import requests
from affine import Affine

from pipeline import storage
from pipeline.config import SourceSettings
from pipeline.errors import SourceError
from pipeline.raster.window import Window
from pipeline.segment.find_source import find_source
from tests.pipeline.raster.file_server import served
from tests.pipeline.raster.zarrs import smooth, write_ome


def asked(address, who=None):
    log = requests.get(f"{address}/requests", timeout=10).json()
    return [f"{method} {path}" for method, path, by in log if who in (None, by)]


@pytest.fixture
def address(tmp_path):
    with served(tmp_path) as address:
        yield address


def test_whoever_opens_a_raster_does_not_ask_again_who_it_is(write, address):
    values = np.random.default_rng(0).integers(1, 255, (2, 300, 300), dtype=np.uint8)
    write(values, crs="EPSG:32633", tiled=True, blockxsize=64, blockysize=64)
    found = find_source(SourceSettings(urls=(f"{address}/a.tif",)))
    identity = found.info.identities[0]
    assert (identity.url, identity.etag is not None) == (f"{address}/a.tif", True)
    for _ in range(3):  # as the driver and every worker do
        source = found.spec((2, 1)).with_threads(2).open()
        np.testing.assert_array_equal(
            source.read(Window(10, 20, 90, 100)).samples_CHW, values[::-1, 10:100, 20:120]
        )
        assert source.info.identities == (identity,)
        source.close()
    assert asked(address, "obstore") == ["HEAD /a.tif"]


@pytest.mark.parametrize("kind", ["tif", "zarr"])
def test_readers_that_need_no_identity_do_not_ask_for_it(kind, write, address, tmp_path):
    """As training opens its tiles, again and again."""
    if kind == "tif":
        write(np.ones((1, 30, 40), np.uint8))
    else:
        write_ome(tmp_path / "a.zarr", smooth((1, 30, 40)), "cyx")
    url = f"{address}/a.{kind}"
    found = find_source(SourceSettings(urls=(url,)), identified=False)
    assert found.info.identities == ()
    source = found.spec((1,)).open()
    assert source.read(Window(0, 0, 30, 40)).valid_HW.all()
    source.close()
    heads = [request for request in asked(address, "obstore") if request.startswith("HEAD")]
    assert heads == []
    find_source(SourceSettings(urls=(url,)))
    assert [request for request in asked(address, "obstore") if request.startswith("HEAD")] != []


def test_the_end_of_a_png_is_looked_at_once(write, address):
    """Not again by every reader that it was found for; a signed address is spared even that."""
    values = np.random.default_rng(0).integers(0, 255, (1, 40, 40), dtype=np.uint8)
    write(values, "a.png", driver="PNG")
    found = find_source(SourceSettings(urls=(f"{address}/a.png",)), identified=False)
    for _ in range(2):
        source = found.spec((1,)).open()
        np.testing.assert_array_equal(source.read(Window(0, 0, 40, 40)).samples_CHW, values)
        source.close()
    assert asked(address, "obstore") == ["HEAD /a.png", "GET /a.png"]


def test_an_open_raster_is_opened_once_for_all_its_windows(write, address):
    write(np.ones((1, 600, 600), np.uint8), crs="EPSG:32633", tiled=True, blockxsize=64, blockysize=64)
    found = find_source(SourceSettings(urls=(f"{address}/a.tif",)))
    source = found.spec((1,)).open()
    source.read(Window(0, 0, 10, 10))
    opened = len([request for request in asked(address) if request.startswith("HEAD")])
    for row in range(0, 600, 100):
        source.read(Window(row, 0, 10, 10))
    source.close()
    assert len([request for request in asked(address) if request.startswith("HEAD")]) == opened


@pytest.mark.parametrize("name", ["a.tif", "a.TIFF", "a.odd", "a"])
def test_a_mask_beside_a_raster_is_seen_and_little_else_is_asked_for(write, address, name):
    """Whatever a raster is called: its own bytes, and the sidecars that there may be."""
    there = np.arange(40) < np.arange(40)[:, None]
    place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 500_000, 0, -10, 5_400_000)}
    write(np.full((1, 40, 40), 7, np.uint8), name, mask=there, internal_mask=False, **place)
    found = find_source(SourceSettings(urls=(f"{address}/{name}",)))
    source = found.spec((1,)).open()
    np.testing.assert_array_equal(source.read(Window(0, 0, 40, 40)).samples_CHW[0], 7 * there)
    source.close()
    others = {line.split()[1] for line in asked(address, "gdal")} - {f"/{name}"}
    sidecars = (".aux.xml", ".ovr", ".msk", ".msk.aux.xml", ".msk.ovr", ".wld")
    assert {other.lower() for other in others} <= {f"/{name}{end}".lower() for end in sidecars}


def test_a_signed_address_is_read(write, address):
    values = np.random.default_rng(0).integers(1, 255, (1, 40, 40), dtype=np.uint8)
    write(values, crs="EPSG:32633")
    found = find_source(SourceSettings(urls=(f"{address}/a.tif?X-Amz-Signature=hush",)))
    assert found.info.identities[0].etag is None, "it is good for reading only"
    source = found.spec((1,)).open()
    np.testing.assert_array_equal(source.read(Window(0, 0, 40, 40)).samples_CHW, values)
    source.close()


def test_a_mask_that_is_out_of_reach_is_not_taken_for_one_that_is_not_there(
    write, address, tmp_path, monkeypatch
):
    """GDAL would say nothing, and what the mask hides would be segmented."""
    monkeypatch.setattr(storage, "RETRIES", 1)
    there = np.arange(40) < np.arange(40)[:, None]
    write(np.full((1, 40, 40), 7, np.uint8), crs="EPSG:32633", mask=there, internal_mask=False)
    found = find_source(SourceSettings(urls=(f"{address}/a.tif",)))
    (tmp_path / "a.tif.msk.unavailable").touch()
    with pytest.raises(SourceError, match=r"a\.tif\.msk .* cannot be read"):
        found.spec((1,)).open()
    (tmp_path / "a.tif.msk.unavailable").unlink()
    source = found.spec((1,)).open()
    np.testing.assert_array_equal(source.read(Window(0, 0, 40, 40)).valid_HW, there)
    source.close()


def test_of_many_scenes_only_those_with_files_beside_them_are_asked_for_these(write, address):
    there = np.arange(40) < np.arange(40)[:, None]
    for number, mask in enumerate((None, there)):
        place = Affine(10, 0, 500_000 + 400 * number, 0, -10, 5_400_000)
        options = {"crs": "EPSG:32633", "transform": place, "mask": mask, "internal_mask": False}
        write(np.full((1, 40, 40), 7 + number, np.uint8), f"{number}.tif", **options)
    found = find_source(SourceSettings(urls=(f"{address}/0.tif", f"{address}/1.tif")))
    known = len(asked(address, "gdal"))
    source = found.spec((1,)).open()
    samples = source.read(Window(0, 0, 40, 80)).samples_CHW[0]
    source.close()
    np.testing.assert_array_equal(samples[:, :40], 7)
    np.testing.assert_array_equal(samples[:, 40:], 8 * there)
    paths = {line.split()[1] for line in asked(address, "gdal")[known:]}
    assert {path for path in paths if path.startswith("/0")} == {"/0.tif"}
    assert {"/1.tif", "/1.tif.msk"} <= paths
