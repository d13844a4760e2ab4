"""Which scenes a list names: patterns, folders, buckets, index files; and what is refused, by name."""

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import SettingsError, SourceError
from pipeline.storage import Folder
from tests.pipeline.raster.scenes.scene_files import find, moved, read, write_scene


@pytest.fixture
def four(tmp_path):
    """Four scenes in a row, each of its own value."""
    for number in range(4):
        values = np.full((8, 8), number + 1, np.uint8)
        write_scene(tmp_path / "x" / f"scene{number}" / "image.tif", values, transform=moved(0, 8 * number))
    return tmp_path / "x"


def names(found):
    return [identity.url.split("/")[-2] for identity in found.info.identities]


@pytest.mark.parametrize(
    ("pattern", "numbers"),
    [
        ("scene*/image.tif", "0123"),
        ("scene[0-2]/*.tif", "012"),
        ("scene[!0-2]/*.tif", "3"),
        ("scene?/image.tif", "0123"),
        ("**/image.tif", "0123"),
        ("*/*.t*f", "0123"),
    ],
)
def test_patterns(four, pattern, numbers):
    assert names(find([f"{four}/{pattern}"])) == [f"scene{number}" for number in numbers]


def test_the_given_order_stays_and_patterns_are_sorted(four):
    found = find([f"{four}/scene3/image.tif", f"{four}/scene[01]/*.tif"])
    assert names(found) == ["scene3", "scene0", "scene1"]


def test_a_name_that_only_looks_like_a_pattern_is_a_file(tmp_path):
    path = write_scene(tmp_path / "a[1].tif", np.ones((8, 8), np.uint8))
    other = write_scene(tmp_path / "b.tif", np.ones((8, 8), np.uint8), transform=moved(8, 0))
    assert len(find([path, other]).scenes) == 2


@pytest.mark.parametrize("url", ["nothing*.tif", "https://example.org/a*.tif"])
def test_patterns_that_name_nothing_are_refused(tmp_path, url):
    with pytest.raises((SourceError, SettingsError), match=r"nothing matches|a web server does not list"):
        find([url if "://" in url else f"{tmp_path}/{url}"])


def test_all_unreadable_scenes_are_listed(four):
    (four / "scene1" / "image.tif").write_bytes(b"not a raster")
    (four / "scene2" / "image.tif").unlink()
    urls = [f"{four}/scene{number}/image.tif" for number in range(4)]
    with pytest.raises(SourceError, match=r"of 4 files 2 cannot be: .*scene1/image\.tif.*scene2/image\.tif"):
        find(urls)


ROWS = [
    {
        "url": f"scene{number}/image.tif",
        "datetime": f"2024-05-0{number + 1}T00:00:00Z",
        "cloud_cover": 9 - number,
    }
    for number in range(4)
]


def write_index(folder, kind):
    path = folder / f"index.{kind}"
    if kind == "csv":
        path.write_text("id,URL,datetime,cloud_cover\n" + "".join(
            f"{i},{row['url']},{row['datetime']},{row['cloud_cover']}\n" for i, row in enumerate(ROWS)
        ))  # fmt: skip
    elif kind == "geojson":
        features = [{"type": "Feature", "geometry": None, "properties": row} for row in ROWS]
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    elif kind == "parquet":
        arrow = pytest.importorskip("pyarrow")
        table = arrow.Table.from_pylist([row | {"geometry": b"\x01"} for row in ROWS])
        pytest.importorskip("pyarrow.parquet").write_table(table, path)
    else:
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE gpkg_contents (table_name TEXT, data_type TEXT)")
            database.execute("INSERT INTO gpkg_contents VALUES ('tiles of mine', 'features')")
            database.execute(
                'CREATE TABLE "tiles of mine" (fid INTEGER, location TEXT, datetime TEXT, cloud_cover REAL)'
            )
            for number, row in enumerate(ROWS):
                database.execute('INSERT INTO "tiles of mine" VALUES (?, ?, ?, ?)', (number, *row.values()))
        database.close()
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "geojson", "parquet", "gpkg"])
def test_index_files(four, kind):
    index = write_index(four, kind)
    assert names(find(index=index)) == ["scene0", "scene1", "scene2", "scene3"]
    assert names(find(index=index, order="least_cloud")) == ["scene3", "scene2", "scene1", "scene0"]
    np.testing.assert_array_equal(read(find(index=index)).samples_CHW[0, 0], np.repeat([1, 2, 3, 4], 8))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "place,time\nx,y\n", r"a column url or location.*got columns place, time"),
        ("a.csv", "url\n", "must list scenes, got none"),
        ("a.csv", "url,cloud_cover\nb.tif,cloudy\n", "cloud_cover must be a percentage, got 'cloudy'"),
        (
            "a.csv",
            "url,datetime\nscene0/image.tif,last week\n",
            "a scene's time must be ISO 8601, got 'last week'",
        ),
        ("a.geojson", "{", r"must be a \.geojson file, .*a\.geojson: JSONDecodeError"),
        ("a.parquet", "no", r"must be a \.parquet file"),
        ("a.gpkg", "no", r"must be a \.gpkg file"),
        ("a.shp", "no", r"must end in \.csv"),
        ("a.json", '{"type": "Feature", "assets": {}}', "give it as source.stac.file"),
    ],
)
def test_indexes_that_are_none_are_refused(four, name, content, message):
    (four / name).write_text(content)
    with pytest.raises((SourceError, SettingsError), match=message):
        find(index=str(four / name), order="newest")


def test_scenes_and_their_index_in_a_bucket(four, s3_bucket):
    for number in range(4):
        data = (four / f"scene{number}" / "image.tif").read_bytes()
        Folder(f"{s3_bucket.url}/in/scene{number}").write("image.tif", data)
    Folder(f"{s3_bucket.url}/in").write("index.csv", Path(write_index(four, "csv")).read_bytes())
    by_index = find(index=f"{s3_bucket.url}/in/index.csv")
    by_pattern = find([f"{s3_bucket.url}/in/*/image.tif"])
    assert by_index.info.identities == by_pattern.info.identities
    assert all(identity.etag and identity.size_bytes for identity in by_index.info.identities)
    np.testing.assert_array_equal(read(by_pattern).samples_CHW[0, 0], np.repeat([1, 2, 3, 4], 8))
    with pytest.raises(SourceError, match=r"there is no file s3://terrazzo-tests/in/none\.tif|cannot open"):
        find([f"{s3_bucket.url}/in/scene0/image.tif", f"{s3_bucket.url}/in/none.tif"])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"urls": ["a.tif"], "index": "b.csv"},
        {"index": "b.csv", "stac": {"file": "c.json", "assets": ["x"]}},
    ],
)
def test_one_list_is_given(settings):
    with pytest.raises(
        ValueError, match=r"one of source\.urls, source\.index and source\.stac must be given"
    ):
        find(**settings)
