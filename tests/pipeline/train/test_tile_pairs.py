"""Which files are images and labels of one tile."""

import pytest

from pipeline.errors import SettingsError
from pipeline.storage import Folder
from pipeline.train.tiles.catalog import find_pairs


def make(root, *keys):
    for key in keys:
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(key.encode())
    return Folder.at(root)


def paired(folder, images, labels):
    pairs, bad = find_pairs(folder, images, labels)
    return {pair.id: (pair.image.key, pair.labels.key) for pair in pairs}, {one.id: one.reason for one in bad}


@pytest.mark.parametrize(
    ("images", "labels", "keys", "expected"),
    [
        ("images/*.tif", "labels/*.png", ("images/a.b.tif", "labels/a.b.png"), "a.b"),
        ("images/*", "labels/*", ("images/a.b.tif", "labels/a.b.png"), "a.b"),
        ("images/*.*", "labels/*.*", ("images/a.b.tif", "labels/a.b.png"), "a.b"),
        ("*.{jpg,jpeg}", "av/*_AVmanual.png", ("01_dr.jpeg", "av/01_dr_AVmanual.png"), "01_dr"),
        (
            "im/*/*/*_im.png",
            "gt/*/*/*_gt.png",
            ("im/train/ulm/7_im.png", "gt/train/ulm/7_gt.png"),
            "train/ulm/7",
        ),
        ("**/im_*.tif", "**/gt_*.tif", ("x/y/im_1.tif", "x/y/gt_1.tif"), "x/y/1"),
        ("**/im_*.tif", "**/gt_*.tif", ("im_1.tif", "gt_1.tif"), "1"),
        ("a/**/*.tif", "b/*.tif", ("a/x/y/1.tif", "b/1.tif"), "1"),
        ("t?/im.tif", "t?/gt.tif", ("t4/im.tif", "t4/gt.tif"), "4"),
        ("a (1)/*.tif", "b+c/*.tif", ("a (1)/x.tif", "b+c/x.tif"), "x"),
    ],
)
def test_what_the_wildcards_stand_for_is_the_name(tmp_path, images, labels, keys, expected):
    assert paired(make(tmp_path, *keys), images, labels) == ({expected: keys}, {})


def test_what_is_alone_or_twice_is_named_with_its_reason(tmp_path):
    folder = make(
        tmp_path, "images/a.tif", "images/b.tif", "images/d.tif", "images/d.png",
        "labels/a.png", "labels/c.png", "labels/d.png",
    )  # fmt: skip
    pairs, bad = paired(folder, "images/*", "labels/*")
    assert set(pairs) == {"a"}
    assert bad["b"] == "no labels found for the image"
    assert bad["c"] == "no image found for the labels"
    assert bad["d"].startswith("duplicate: several files of one name")


def test_files_beside_rasters_are_passed_over_unless_asked_for(tmp_path):
    folder = make(
        tmp_path, "images/a.tif", "images/a.tif.aux.xml", "images/a.tfw", "images/.DS_Store",
        "images/SOURCES.md", "labels/a.png", "labels/a.png.aux.xml",
    )  # fmt: skip
    assert paired(folder, "images/*", "labels/*") == ({"a": ("images/a.tif", "labels/a.png")}, {})


def test_one_file_of_polygons_serves_every_image(tmp_path):
    folder = make(tmp_path, "images/a.tif", "images/b.tif", "fields.geojson", "tiles.json")
    pairs, bad = paired(folder, "images/*.tif", "fields.geojson")
    assert pairs == {"a": ("images/a.tif", "fields.geojson"), "b": ("images/b.tif", "fields.geojson")}
    assert not bad


def test_a_zarr_store_is_its_arrays_and_groups(tmp_path):
    folder = make(
        tmp_path, "a.zarr/zarr.json", "a.zarr/0/zarr.json", "a.zarr/0/c/0/0", "a.zarr/labels/cells/.zattrs",
        "a.zarr/labels/cells/.zgroup", "a.zarr/labels/cells/0/.zarray", "a.zarr/labels/cells/0/0.0",
    )  # fmt: skip
    assert paired(folder, "*.zarr", "*.zarr/labels/cells") == ({"a": ("a.zarr", "a.zarr/labels/cells")}, {})
    (pair,), _ = find_pairs(folder, "*.zarr", "*.zarr/labels/cells")
    before = pair.labels.stamp, pair.labels.sha256(), pair.image.sha256()
    (tmp_path / "a.zarr/labels/cells/0/0.0").write_bytes(b"other")
    (pair,), _ = find_pairs(folder, "*.zarr", "*.zarr/labels/cells")
    after = pair.labels.stamp, pair.labels.sha256(), pair.image.sha256()
    assert all(one != other for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize(("images", "labels"), [("imgs/*", "labels/*"), ("images/*", "masks/*")])
def test_a_pattern_without_a_match_is_refused(tmp_path, images, labels):
    with pytest.raises(
        SettingsError, match=r"tiles\.(images|labels) must match .*(imgs|masks)/\*' matches none"
    ):
        find_pairs(make(tmp_path, "images/a.tif", "labels/a.png"), images, labels)
