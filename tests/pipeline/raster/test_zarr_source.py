"""Reading OME-Zarr: against plain slices of what was written, in both versions, from any thread."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BlockError, SettingsError, SourceError
from pipeline.raster.levels import LevelWish
from pipeline.raster.plane import Plane
from pipeline.raster.source import StackSource
from pipeline.raster.window import Window
from pipeline.raster.zarrs.find import find_zarr
from pipeline.raster.zarrs.image import ZarrWish
from pipeline.raster.zarrs.store import is_zarr
from pipeline.storage import Folder
from tests.pipeline.raster.zarrs import smooth, write_ome

HEIGHT, WIDTH = 90, 130
VALUES = np.random.default_rng(0).integers(0, 60_000, (2, 3, 4, HEIGHT, WIDTH)).astype(np.uint16)
KINDS = {
    "0.4": {"version": "0.4"},
    "0.5": {"version": "0.5"},
    "sharded": {"version": "0.5", "shards": (1, 3, 2, 64, 128), "chunks": (1, 1, 1, 32, 64)},
    "chunks of all channels and depths": {"version": "0.5", "chunks": (1, 3, 4, 50, 50)},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return {
        name: write_ome(folder / f"{index}.zarr", VALUES, "tczyx", labels=["a", "b", "c"], levels=2, **kind)
        for index, (name, kind) in enumerate(KINDS.items())
    }


def expected(values, window, bands):
    """What a window holds, with nothing beyond the edges."""
    frame = np.zeros((len(bands), *window.shape), values.dtype)
    valid = np.zeros(window.shape, bool)
    inside = window.intersect(Window(0, 0, *values.shape[-2:]))
    part = inside.relative_to(window).slices
    frame[:, *part] = values[[band - 1 for band in bands]][:, *inside.slices]
    valid[part] = True
    return frame, valid


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=12)
@given(
    window=st.builds(
        Window, st.integers(-40, 100), st.integers(-40, 140), st.integers(0, 80), st.integers(0, 90)
    ),
    bands=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    t=st.integers(0, 1),
    z=st.integers(0, 3),
)
def test_any_window_of_any_plane(images, kind, window, bands, t, z):
    source = find_zarr(images[kind], ZarrWish()).spec(tuple(bands)).open()
    assert isinstance(source, StackSource)
    pixels = source.at(Plane(t, z)).read(window)
    samples, valid = expected(VALUES[t, :, z], window, bands)
    np.testing.assert_array_equal(pixels.samples_CHW, samples)
    np.testing.assert_array_equal(pixels.valid_HW, valid)
    assert pixels.missing_CHW is None
    assert pixels.samples_CHW.dtype == np.uint16


@pytest.mark.parametrize("axes", ["yx", "cyx", "zyx", "xy", "yxc"])
def test_axes_in_any_order_and_number(axes, tmp_path):
    shape = {"c": 2, "z": 1, "y": 40, "x": 30}
    values = smooth([shape[axis] for axis in axes])
    found = find_zarr(write_ome(tmp_path / "a.zarr", values, axes), ZarrWish())
    bands = tuple(band.number for band in found.info.bands)
    pixels = found.spec(bands).open().read(found.info.grid.window)
    for gone in "z":
        values = values[0] if gone in axes else values
    left = [axis for axis in axes if axis != "z"]
    order = [left.index(axis) for axis in "cyx" if axis in left]
    wanted = values.transpose(order).reshape(-1, 40, 30)
    np.testing.assert_array_equal(pixels.samples_CHW, wanted)
    assert found.info.stack is None


def test_threads_read_side_by_side(images):
    source = find_zarr(images["sharded"], ZarrWish()).spec((3, 1)).open()
    windows = [Window(row, col, 60, 70) for row in range(0, 60, 20) for col in range(0, 90, 30)]
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(lambda window: source.at(Plane(1, 2)).read(window), windows * 3))
    for window, pixels in zip(windows * 3, read, strict=True):
        np.testing.assert_array_equal(pixels.samples_CHW, expected(VALUES[1, :, 2], window, (3, 1))[0])


def test_chosen_planes_are_counted_anew(images):
    found = find_zarr(images["0.5"], ZarrWish(t=(1,), z=(3, 0)))
    assert found.info.stack.shape == (1, 2)
    assert found.info.stack.z.positions == (4.5, 0.0)
    source = pickle.loads(pickle.dumps(found.spec((1,)))).open()  # noqa: S301 - as Ray sends it
    np.testing.assert_array_equal(
        source.at(Plane(0, 0)).read(Window(0, 0, 5, 5)).samples_CHW[0], VALUES[1, 0, 3, :5, :5]
    )
    np.testing.assert_array_equal(
        source.at(Plane(0, 1)).read(Window(0, 0, 5, 5)).samples_CHW[0], VALUES[1, 0, 0, :5, :5]
    )
    assert found.spec((1,)).result_fields() == {
        "bands": [1],
        "nodata": None,
        "level": "0",
        "t": [1],
        "z": [3, 0],
    }


def test_one_plane_is_a_plain_raster(images):
    found = find_zarr(images["0.4"], ZarrWish(t=(1,), z=(2,)))
    assert found.info.stack is None
    pixels = found.spec((2,)).open().read(Window(0, 0, 9, 9))
    np.testing.assert_array_equal(pixels.samples_CHW[0], VALUES[1, 1, 2, :9, :9])


def test_without_a_plane_the_one_in_the_middle_is_read(images):
    pixels = find_zarr(images["0.5"], ZarrWish()).spec((1,)).open().read(Window(0, 0, 9, 9))
    np.testing.assert_array_equal(pixels.samples_CHW[0], VALUES[1, 0, 2, :9, :9])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_levels_by_number_size_and_url(version, images):
    url = images[version]
    for wish in (LevelWish(number=1), LevelWish(resolution=1.0), LevelWish(um_per_px=1.05)):
        found = find_zarr(url, ZarrWish(wish))
        assert (found.level, found.info.grid.window.shape) == ("1", (45, 65))
    assert find_zarr(f"{url}/1", ZarrWish()).info == find_zarr(url, ZarrWish(LevelWish(number=1))).info
    with pytest.raises(SettingsError, match=r"pixels of 0\.1 micrometer or finer"):
        find_zarr(url, ZarrWish(LevelWish(um_per_px=0.1)))


def test_pixels_lie_where_ome_says(tmp_path):
    url = write_ome(tmp_path / "a.zarr", smooth((40, 30)), "yx", translation=[100.0, 7.0])
    grid = find_zarr(url, ZarrWish()).info.grid
    assert grid.transform @ (0.5, 0.5) == (7.0, 100.0), "the centre of the first pixel"
    assert grid.transform @ (10.5, 20.5) == (12.0, 110.0)
    assert (grid.unit, grid.crs_wkt) == ("micrometer", None)


@pytest.mark.parametrize(
    ("dtype", "kept"), [(">u2", "uint16"), ("bool", "uint8"), ("float16", "float32"), ("int64", "float32")]
)
def test_types_become_what_torch_takes(dtype, kept, tmp_path):
    values = (smooth((20, 30)) % 2).astype(dtype)
    url = write_ome(tmp_path / "a.zarr", values, "yx", version="0.4")
    pixels = find_zarr(url, ZarrWish()).spec((1,)).open().read(Window(0, 0, 20, 30))
    assert pixels.samples_CHW.dtype == np.dtype(kept)
    np.testing.assert_array_equal(pixels.samples_CHW[0], values.astype(kept))


def test_dark_is_no_absence_but_the_setting_may_say_so(tmp_path):
    values = smooth((2, 20, 30))
    values[:, :5], values[0, 5:10] = 0, 0
    url = write_ome(tmp_path / "a.zarr", values, "cyx")
    assert find_zarr(url, ZarrWish()).spec((1, 2)).open().read(Window(0, 0, 20, 30)).valid_HW.all()
    pixels = find_zarr(url, ZarrWish(nodata=0.0)).spec((1, 2)).open().read(Window(0, 0, 20, 30))
    np.testing.assert_array_equal(pixels.valid_HW, np.broadcast_to(np.arange(20)[:, None] >= 5, (20, 30)))
    assert pixels.missing_CHW[0, 5:10].all()
    assert not pixels.missing_CHW[1].any()


def test_a_damaged_chunk_is_named(tmp_path):
    url = write_ome(tmp_path / "a.zarr", smooth((20, 30)), "yx")
    chunk = Path(url, "0", "c", "0", "0")
    chunk.write_bytes(b"\x02\x01\xff" + chunk.read_bytes()[3:20])
    source = find_zarr(url, ZarrWish()).spec((1,)).open()
    with pytest.raises(BlockError, match=r"cannot read .*a\.zarr/0: a chunk is damaged"):
        source.read(Window(0, 0, 20, 30))


def test_a_chunk_that_was_rewritten_is_another_version(tmp_path):
    url = write_ome(tmp_path / "a.zarr", smooth((90, 90)), "yx", levels=2)
    before = find_zarr(url, ZarrWish()).info.identities
    assert find_zarr(url, ZarrWish()).info.identities == before
    zarr.open_group(url)["1"][0, 0] = 77
    assert find_zarr(url, ZarrWish()).info.identities == before, "another level is not read"
    zarr.open_group(url)["0"][80, 80] = 77
    assert find_zarr(url, ZarrWish()).info.identities != before


def test_memory_is_bounded_by_the_chunks_there_are(images):
    spec = find_zarr(images["0.5"], ZarrWish()).spec((1,))
    chunk_bytes = 2 * 3 * 4 * 64 * 64 * 2
    assert spec.chunk_bytes == chunk_bytes
    assert spec.memory_bytes(Window(0, 0, 10, 10)) == 2 * 3 * 4 * chunk_bytes
    assert spec.memory_bytes(Window(0, 0, 9000, 9000)) == 2 * 3 * 6 * chunk_bytes


@pytest.mark.parametrize("kind", ["plate", "well"])
def test_plates_are_refused_with_their_images(kind, tmp_path):
    members = {"plate": "wells", "well": "images"}[kind]
    zarr.create_group(str(tmp_path / "p.zarr"), attributes={"ome": {kind: {members: [{"path": "B/03"}]}}})
    with pytest.raises(SourceError, match=f"is a {kind}; give one of the images in it: B/03"):
        find_zarr(str(tmp_path / "p.zarr"), ZarrWish())


def test_the_only_image_of_a_collection_is_taken(tmp_path):
    zarr.create_group(str(tmp_path / "c.zarr"), attributes={"ome": {"bioformats2raw.layout": 3}})
    write_ome(tmp_path / "c.zarr" / "0", smooth((20, 30)), "yx")
    assert find_zarr(str(tmp_path / "c.zarr"), ZarrWish()).info.grid.window.shape == (20, 30)
    write_ome(tmp_path / "c.zarr" / "1", smooth((20, 30)), "yx")
    with pytest.raises(SourceError, match="is a collection; give one of the images"):
        find_zarr(str(tmp_path / "c.zarr"), ZarrWish())


def test_what_is_zarr(tmp_path, images, shared_data):
    assert is_zarr(images["0.4"])
    assert is_zarr(f"{images['0.5']}/0")
    (tmp_path / "plain").mkdir()
    assert not is_zarr(str(tmp_path / "plain"))
    assert not is_zarr(str(tmp_path / "absent.zarr"))
    zarr.create_group(str(tmp_path / "plain" / "inner"))
    assert is_zarr(str(tmp_path / "plain" / "inner"))
    assert not is_zarr(str(next(shared_data.rglob("*.tif"))))


def test_from_a_bucket(s3_bucket, images):
    folder = Folder(f"{s3_bucket.url}/images/a.zarr")
    for file in Path(images["sharded"]).rglob("*"):
        if file.is_file():
            folder.write(str(file.relative_to(images["sharded"])), file.read_bytes())
    assert is_zarr(folder.url)
    found = find_zarr(folder.url, ZarrWish())
    assert found.info.identities[0].etag != find_zarr(images["sharded"], ZarrWish()).info.identities[0].etag
    window = Window(-3, 60, 70, 90)
    pixels = found.spec((3, 2)).open().at(Plane(1, 3)).read(window)
    np.testing.assert_array_equal(pixels.samples_CHW, expected(VALUES[1, :, 3], window, (3, 2))[0])
    assert not is_zarr(f"{s3_bucket.url}/images/b")


def test_a_real_image(shared_data):
    url = str(shared_data / "omezarr_cardio" / "cardio_B03_mip.zarr")
    found = find_zarr(url, ZarrWish())
    assert [band.name for band in found.info.bands] == ["DAPI", "nanog", "Lamin B1"]
    assert found.info.grid.window.shape == (1080, 1280)
    pixels = found.spec((2,)).open().read(Window(300, 500, 400, 420))
    np.testing.assert_array_equal(
        pixels.samples_CHW[0], zarr.open_group(url, mode="r")["1"][1, 0, 300:700, 500:920]
    )
