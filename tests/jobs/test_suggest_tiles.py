"""The command line of the suggestions."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.suggest_tiles import main
from pipeline.storage import Folder
from tests.pipeline.raster.mosaics import make_contents

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory):
    path = tmp_path_factory.mktemp("suggest") / "mosaic.zarr"
    make_contents(600, 900).write(Folder.at(path))
    return str(path)


def test_flags_name_everything(mosaic, tmp_path, capsys):
    output = tmp_path / "tiles.geojson"
    flags = [
        "--mosaic",
        mosaic,
        "--output",
        str(output),
        "--count",
        "3",
        "--size",
        "128",
        "--min-distance",
        "200",
    ]
    assert main([*flags, "--max-nodata", "0.5", "--variety", "0", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["status"] == "complete"
    assert (report["tiles"], report["wanted"], report["output"]) == (3, 3, str(output))
    document = json.loads(output.read_text())
    assert [one["properties"]["rank"] for one in document["features"]] == [1, 2, 3]
    assert {tuple(one["properties"]["window"][2:]) for one in document["features"]} == {(128, 128)}


def test_a_damaged_square_is_told_and_the_rest_is_suggested(tmp_path, capsys, monkeypatch):
    from pipeline.segment import executor

    monkeypatch.setattr(executor, "RETRY_DELAY_S", 0.01)
    make_contents(300, 4400).write(Folder.at(tmp_path / "m.zarr"))
    (tmp_path / "m.zarr" / "classes" / "c" / "0" / "4").write_bytes(b"no chunk at all")
    output = tmp_path / "tiles.geojson"
    flags = ["--mosaic", str(tmp_path / "m.zarr"), "--output", str(output), "--size", "128", "--count", "2"]
    assert main(flags) == 1
    assert len(json.loads(output.read_text())["features"]) == 2
    said = capsys.readouterr()
    assert "square 0/2 failed: StorageError: an object of 'classes'" in said.err


def test_where_nothing_can_be_read_no_file_is_written(tmp_path, capsys, monkeypatch):
    from pipeline.segment import executor

    monkeypatch.setattr(executor, "RETRY_DELAY_S", 0.01)
    make_contents(300, 300).write(Folder.at(tmp_path / "m.zarr"))
    (tmp_path / "m.zarr" / "classes" / "c" / "0" / "0").write_bytes(b"no chunk at all")
    output = tmp_path / "tiles.geojson"
    assert main(["--mosaic", str(tmp_path / "m.zarr"), "--output", str(output)]) == 2
    assert "no tile could be looked at: StorageError: an object of 'classes'" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--output", "t.geojson"], "mosaic must be given"),
        (["--mosaic", "/absent/m", "--output", "t.geojson"], "there must be a mosaic at /absent/m"),
        (["--mosaic", "m", "--output", "t.geojson", "--size", "8"], "size_px"),
        (["--mosaic", "m", "--output", "t.geojson", "--variety", "2"], "variety"),
        (["--mosaic", "m", "--output", "t.geojson", "--min-distance", "-1"], "min_distance_px"),
    ],
)
def test_refusals_are_one_sentence_and_exit_code_2(flags, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(flags) == 2
    said = capsys.readouterr()
    assert said.err.startswith("refused: ")
    assert sentence in said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_it_runs_as_a_script_from_anywhere(mosaic, tmp_path):
    command = [
        sys.executable,
        str(ROOT / "jobs" / "suggest_tiles.py"),
        "--mosaic",
        mosaic,
        "--output",
        "t.geojson",
    ]
    done = subprocess.run(
        [*command, "--size", "200"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "t.geojson").read_text())["features"]


@pytest.mark.slow
def test_on_ray_the_same_tiles_are_suggested(mosaic, tmp_path):
    files = []
    for executor in ("local", "ray"):
        output = tmp_path / f"{executor}.geojson"
        assert (
            main(["--mosaic", mosaic, "--output", str(output), "--size", "128", "--executor", executor]) == 0
        )
        files.append(output.read_bytes())
    assert files[0] == files[1]
