"""Files beside scenes in a bucket: whatever lies there counts, and what does not is not asked for."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from affine import Affine

from pipeline.errors import BlockError, StorageError
from pipeline.raster.scenes import beside
from pipeline.raster.scenes.beside import Beside, look_beside
from pipeline.raster.scenes.patterns import Listings
from pipeline.storage import Folder
from tests.pipeline.raster.scenes.scene_files import PLACE, find, moved, present, read, write_scene

SIDE = 24
NODATA_5 = '<PAMDataset><PAMRasterBand band="1"><NoDataValue>5</NoDataValue></PAMRasterBand></PAMDataset>'
LONE = ("0.tif", "1.tif")
NAMES = (*LONE, "masked.tif", "described.tif", "placed.TIF", "coarse.tif")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Six scenes in a row: two by themselves, the others each with another kind of file beside it."""
    values = np.arange(1, 1 + SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) % 9 + 1
    for number, name in enumerate(NAMES):
        there = {"transform": moved(0, SIDE * number)} if name != "placed.TIF" else {"transform": None}
        write_scene(tmp_path / "in" / name, values, **there)
    inside = tmp_path / "in"
    hole = np.full((SIDE, SIDE), 255, np.uint8)
    hole[3:9, 4:15] = 0
    write_scene(inside / "masked.tif.msk.tif", hole)
    (inside / "masked.tif.msk.tif").rename(inside / "masked.tif.msk")
    (inside / "described.tif.aux.xml").write_text(NODATA_5)
    corner = moved(0, SIDE * NAMES.index("placed.TIF")) @ Affine.translation(0.5, 0.5)
    (inside / "placed.TFW").write_text("\n".join(map(repr, (PLACE.a, 0.0, 0.0, PLACE.e, corner.c, corner.f))))
    write_scene(inside / "coarse.tif.ovr.tif", values[::2, ::2])
    (inside / "coarse.tif.ovr.tif").rename(inside / "coarse.tif.ovr")
    return inside


@pytest.fixture
def in_bucket(folder, s3_bucket):
    target = Folder(f"{s3_bucket.url}/in")
    for file in folder.iterdir():
        target.write(file.name, file.read_bytes())
    return target.url


def urls(url):
    return tuple(f"{url}/{name}" for name in NAMES)


@pytest.mark.parametrize("by", ["pattern", "names"])
def test_a_bucket_shows_what_the_folder_shows_and_is_asked_for_nothing_that_is_not_there(
    by, folder, in_bucket, s3_bucket
):
    expected = read(find(urls(folder)))
    before = len(s3_bucket.requests())
    found = find((f"{in_bucket}/*.[tT][iI][fF]",) if by == "pattern" else urls(in_bucket))
    pixels = read(found)
    log = s3_bucket.requests()[before:]
    np.testing.assert_array_equal(pixels.samples_CHW, expected.samples_CHW)
    np.testing.assert_array_equal(present(pixels), present(expected))
    assert 0 < (~present(expected)).sum() < SIDE * SIDE, "neither mask nor value without data was seen"
    about_lone = Counter(key.removeprefix("in/") for _, key in log if key.startswith(("in/0.", "in/1.")))
    assert set(about_lone) == set(LONE)


@pytest.mark.parametrize("by", ["pattern", "names"])
def test_of_many_scenes_the_first_look_takes_two_requests_each(by, tmp_path, s3_bucket):
    path = Path(write_scene(tmp_path / "scene.tif", np.ones((4, 4), np.uint8)))
    names = [f"{number}.tif" for number in range(30)]
    for name in names:
        Folder(f"{s3_bucket.url}/in").write(name, path.read_bytes())
    before = len(s3_bucket.requests())
    folder = f"{s3_bucket.url}/in"
    find([f"{folder}/*.tif"] if by == "pattern" else [f"{folder}/{name}" for name in names])
    log = Counter(s3_bucket.requests()[before:])
    assert sum(log.values()) == 2 * len(names) + 1
    assert log["GET", ""] == 1


def lone_names(url, listings=None):
    found = look_beside(urls(url), listings or Listings())
    assert found.masked <= {f"{url}/masked.tif"}
    return {name.rpartition("/")[2] for name in found.lone}


def test_a_folder_with_too_many_objects_is_asked_for_names_instead(in_bucket, s3_bucket, monkeypatch):
    monkeypatch.setattr(beside, "FEW_OBJECTS", 0)
    monkeypatch.setattr(beside, "OBJECTS_PER_FILE", 1)
    before = len(s3_bucket.requests())
    Folder(in_bucket).write("placed.tfw", Folder(in_bucket).read("placed.TFW"))  # by name, the case counts
    assert lone_names(in_bucket) == set(LONE)
    assert ("HEAD", "in/0.tif.msk") in s3_bucket.requests()[before:]


def test_who_may_not_list_is_answered_by_name(in_bucket, monkeypatch):
    def forbidden(*_):
        raise StorageError("403")

    Folder(in_bucket).write("placed.tfw", Folder(in_bucket).read("placed.TFW"))
    monkeypatch.setattr(Folder, "listing", forbidden)
    assert lone_names(in_bucket) == set(LONE)
    monkeypatch.setattr(Folder, "head", forbidden)
    assert lone_names(in_bucket) == set(), "of which nothing is known, GDAL has to look"


def test_what_was_listed_is_not_listed_again(in_bucket, s3_bucket):
    listings = Listings()
    listings.matching(f"{s3_bucket.url}/**/*.tif")  # a folder above
    before = len(s3_bucket.requests())
    assert lone_names(in_bucket, listings) == set(LONE)
    assert len(s3_bucket.requests()) == before


def test_files_of_this_machine_of_other_formats_and_signed_are_left_to_gdal(folder):
    files = [f"{folder}/0.tif", "https://example.test/a.jp2", "https://example.test/a.tif?X-Amz-Signature=s"]
    assert look_beside(files, Listings()) == Beside()
    masked = f"{folder}/masked.tif"
    assert look_beside([*files, masked], Listings()) == Beside(masked=frozenset({masked}))


@pytest.mark.parametrize("few", [5_000, 0], ids=["listed", "asked_by_name"])
def test_a_mask_is_known_and_part_of_who_a_scene_is(few, in_bucket, folder, monkeypatch):
    monkeypatch.setattr(beside, "FEW_OBJECTS", few)
    monkeypatch.setattr(beside, "OBJECTS_PER_FILE", few)
    for where in (in_bucket, str(folder)):
        plain, masked = find((f"{where}/0.tif", f"{where}/masked.tif")).identities
        assert [identity.url for identity in plain] == [f"{where}/0.tif"]
        assert [identity.url for identity in masked] == [f"{where}/masked.tif", f"{where}/masked.tif.msk"]


def test_a_mask_that_is_gone_or_out_of_reach_is_not_read_past(in_bucket):
    """GDAL says nothing, and what the mask hides would be segmented."""
    found = find((f"{in_bucket}/0.tif", f"{in_bucket}/masked.tif"))
    Folder(in_bucket).delete(["masked.tif.msk"])
    with pytest.raises(BlockError, match=r"the mask beside .*masked\.tif was there"):
        read(found)
