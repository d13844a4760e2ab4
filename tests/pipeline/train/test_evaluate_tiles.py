"""A mosaic against a tile set: only the split asked for, each tile where it lies."""

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from pipeline.errors import Refused, SettingsError
from pipeline.storage import Folder
from pipeline.train.tiles.index import load_tile_set
from pipeline.train.tiles.settings import LabelsSettings, TilesSettings
from tests.pipeline.raster.mosaics import UPRIGHT, UTM
from tests.pipeline.train.evaluated import (
    NAMES,
    UNLABELLED,
    confusion_of,
    geojson,
    run,
    truth_of,
    write_labels,
    write_mosaic,
)

SIDE = 150
CODES = {10: "class 2", 20: "class 0", 30: "class 1"}
CORNERS = {
    "a": (0, 0),
    "b": (130, 500),
    "c": (900, 1010),
    "d": (990, 60),
    "e": (1090, 1290),
    "far": (9000, 0),
}


def write_image(path, *, transform=None, shape=(SIDE, SIDE)):
    place = {"transform": transform, "crs": UTM} if transform is not None else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", height=shape[0], width=shape[1], count=1, dtype="uint8", **place
    ) as target:
        target.write(np.random.default_rng(len(path.name)).integers(1, 255, (1, *shape), dtype=np.uint8))


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """Five tiles on a mosaic, one of them over its edge, and one elsewhere; raw values of their own."""
    place = tmp_path_factory.mktemp("tiles")
    contents = write_mosaic(place / "mosaic.zarr", 1150, 1350)
    truth = np.full((9200, 1500), UNLABELLED, np.uint8)
    truth[:1150, :1350] = truth_of(contents)
    raw_of = np.full(256, 99, np.uint8)
    raw_of[:3] = [20, 30, 10]
    (place / "set" / "labels").mkdir(parents=True)
    for name, (row, col) in CORNERS.items():
        transform = UPRIGHT @ Affine.translation(col, row)
        write_image(place / "set" / "images" / f"{name}.tif", transform=transform)
        labels = raw_of[truth[row : row + SIDE, col : col + SIDE]]
        labels[:3] = 10
        write_labels(place / "set" / "labels" / f"{name}.tif", labels, transform=transform)
    (place / "set" / "index.csv").write_text("id,split\na,train\nb,train\nc,val\nd,val\ne,val\nfar,val\n")
    settings = TilesSettings(url=str(place / "set"), images="images/*.tif", labels="labels/*.tif")
    load_tile_set(settings, LabelsSettings(values=CODES, ignore=(99,)), ("class 2", "class 0", "class 1"))
    return place, contents, truth


def expected_of(contents, truth, names):
    """Labels of some tiles on the mosaic, in its classes."""
    labels = np.full(contents.classes.shape, UNLABELLED, np.uint8)
    for name in names:
        row, col = CORNERS[name]
        tile = truth[row : row + SIDE, col : col + SIDE].copy()
        tile[:3] = 2
        part = labels[row : row + SIDE, col : col + SIDE]
        part[:] = tile[: part.shape[0], : part.shape[1]]
    return confusion_of(contents.classes, labels)


@pytest.mark.parametrize(
    ("split", "names"), [("train", ("a", "b")), ("val", ("c", "d", "e")), (None, ("a", "b", "c", "d", "e"))]
)
def test_a_split_counts_its_tiles_alone(tiles, tmp_path, split, names):
    place, contents, truth = tiles
    labels = {"urls": str(place / "set"), "split": split, "ignore": []}
    found = run(place / "mosaic.zarr", labels, tmp_path / "out")
    np.testing.assert_array_equal(found["confusion"], expected_of(contents, truth, names))
    assert found["split"] == split
    assert [part["name"] for part in found["sources"]] == list(names)
    for part in found["sources"]:
        assert part["pixels"] == expected_of(contents, truth, [part["name"]]).sum()


def test_the_manifest_itself_may_be_named(tiles, tmp_path):
    place, contents, truth = tiles
    labels = {"urls": str(place / "set" / "tiles.json"), "split": "train", "ignore": []}
    found = run(place / "mosaic.zarr", labels, tmp_path / "out")
    np.testing.assert_array_equal(found["confusion"], expected_of(contents, truth, ("a", "b")))


def test_a_split_without_tiles_is_refused(tiles, tmp_path):
    place, _, _ = tiles
    labels = {"urls": str(place / "set"), "split": "test", "ignore": []}
    with pytest.raises(SettingsError, match="has no tile in split test"):
        run(place / "mosaic.zarr", labels, tmp_path / "out")


def test_another_meaning_than_the_sets_is_refused(tiles, tmp_path):
    place, _, _ = tiles
    labels = {"urls": str(place / "set"), "values": {10: "class 1"}, "ignore": []}
    with pytest.raises(Refused, match="10: class 1"):
        run(place / "mosaic.zarr", labels, tmp_path / "out")


def test_tiles_of_classes_that_the_mosaic_lacks_are_refused(tiles, tmp_path):
    place, _, _ = tiles
    write_mosaic(tmp_path / "two.zarr", 300, 300, num_classes=2)
    with pytest.raises(SettingsError, match="class 2"):
        run(tmp_path / "two.zarr", {"urls": str(place / "set"), "ignore": []}, tmp_path / "out")


def test_of_images_without_a_place_only_the_mosaics_own_counts(tmp_path):
    """Photographs are all of one size; the labels of another one must not be laid on this mosaic."""
    images, labels = tmp_path / "set" / "images", tmp_path / "set" / "labels"
    attributes = {"source_origin": [0, 0], "sources": [{"url": str(images / "mine.tif")}]}
    contents = write_mosaic(
        tmp_path / "m.zarr", 300, 250, transform=Affine.identity(), crs_wkt=None, attributes=attributes
    )
    truth = truth_of(contents, unlabelled=False)
    labels.mkdir(parents=True)
    for name in ("mine", "other"):
        write_image(images / f"{name}.tif", shape=(300, 250))
        right = truth if name == "mine" else (truth + 1) % 3
        write_labels(labels / f"{name}.tif", right.astype(np.uint8), transform=None)
    values = dict(enumerate(NAMES))
    settings = TilesSettings(url=str(tmp_path / "set"), images="images/*.tif", labels="labels/*.tif")
    load_tile_set(settings, LabelsSettings(values=values), None)
    found = run(tmp_path / "m.zarr", {"urls": str(tmp_path / "set"), "ignore": []}, tmp_path / "out")
    np.testing.assert_array_equal(found["confusion"], confusion_of(contents.classes, truth))


def test_polygons_of_a_tile_are_burnt_within_it(tmp_path):
    contents = write_mosaic(tmp_path / "m.zarr", 600, 700)
    transform = UPRIGHT @ Affine.translation(200, 100)
    write_image(tmp_path / "set" / "images" / "t.tif", transform=transform)
    (tmp_path / "set" / "labels").mkdir()
    box = shapely.box(*(transform @ (20, 90)), *(transform @ (400, 30)))  # reaches beyond the tile
    geojson(tmp_path / "set" / "labels" / "t.geojson", [(box, {"class": "class 1"})])
    settings = TilesSettings(url=str(tmp_path / "set"), images="images/*.tif", labels="labels/*.geojson")
    load_tile_set(settings, LabelsSettings(values=dict(enumerate(NAMES)), outside="class 0"), None)
    found = run(tmp_path / "m.zarr", {"urls": str(tmp_path / "set"), "ignore": []}, tmp_path / "out")
    labels = np.full(contents.classes.shape, UNLABELLED, np.uint8)
    labels[100 : 100 + SIDE, 200 : 200 + SIDE] = 0
    labels[130:190, 220 : 200 + SIDE] = 1
    np.testing.assert_array_equal(found["confusion"], confusion_of(contents.classes, labels))


def test_mosaic_labels_and_output_may_lie_in_a_bucket(s3_bucket, tmp_path):
    contents = write_mosaic(tmp_path / "m.zarr", 300, 350)
    truth = truth_of(contents)
    write_labels(tmp_path / "truth.tif", truth)
    bucket = Folder.at(s3_bucket.url)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            bucket.write(str(path.relative_to(tmp_path)), path.read_bytes())
    output, cog = f"{s3_bucket.url}/out", f"{s3_bucket.url}/errors.tif"
    found = run(f"{s3_bucket.url}/m.zarr", f"{s3_bucket.url}/truth.tif", output, error_cog=cog)
    np.testing.assert_array_equal(found["confusion"], confusion_of(contents.classes, truth))
    again = run(f"{s3_bucket.url}/m.zarr", f"{s3_bucket.url}/truth.tif", output, error_cog=cog)
    assert again["confusion"] == found["confusion"]
    for key in ("out/report.json", "out/report.html", "out/errors.zarr/zarr.json", "errors.tif"):
        assert bucket.exists(key), key
