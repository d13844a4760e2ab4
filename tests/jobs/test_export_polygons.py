"""The command line of polygons: flags, exit codes, report, messages."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jobs.export_polygons import main
from pipeline.storage import Folder
from tests.pipeline.raster.mosaics import make_contents

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def mosaic(tmp_path):
    contents = make_contents(300, 500)
    contents.write(Folder.at(tmp_path / "mosaic.zarr"))
    return str(tmp_path / "mosaic.zarr"), contents


def features(path):
    return json.loads(Path(path).read_text())["features"]


def test_flags_name_everything(mosaic, tmp_path, capsys):
    url, contents = mosaic
    output = str(tmp_path / "a.geojson")
    flags = "--region window=10,20,200,300 --min-area 30000 --simplify 1 --connectivity 8 --units px"
    arguments = ["--classes", "class 2,0", *flags.split()]
    assert main(["--mosaic", url, *arguments, "--output", output, "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = features(output)
    assert (report["status"], report["output"], report["format"]) == ("complete", output, "GeoJSON")
    assert report["area_unit"] == "px²"
    assert report["features"] == len(found) == 0  # nothing has 30 000 px
    assert main(["--mosaic", url, *arguments, "--min-area", "50", "--output", output]) == 0
    found = features(output)
    assert {each["properties"]["class"] for each in found} == {0, 2}
    assert {each["geometry"]["type"] for each in found} == {"MultiPolygon"}
    assert min(each["properties"]["area"] for each in found) >= 50
    corners = np.concatenate(
        [np.array(part[0]) for each in found for part in each["geometry"]["coordinates"]]
    )
    assert (corners.min(0) >= [20, 10]).all()
    assert (corners.max(0) <= [320, 210]).all()
    assert (contents.classes[10:210, 20:320] == 1).any()


def test_a_file_of_settings_serves_as_well(mosaic, tmp_path, capsys):
    url, contents = mosaic
    config = tmp_path / "p.yaml"
    config.write_text(f"mosaic: {url}\nclasses: class 1\noutput: {tmp_path / 'b.geojson'}\n")
    assert main(["--config", str(config)]) == 0
    assert f"{tmp_path / 'b.geojson'}: " in capsys.readouterr().out
    found = features(tmp_path / "b.geojson")
    assert sum(each["properties"]["pixels"] for each in found) == (contents.classes == 1).sum()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--output", "x.geojson"], "mosaic must be given"),
        (["--mosaic", "m", "--output", "x.shp"], "--output must end in .geojson"),
        (["--mosaic", "/absent/m", "--output", "x.geojson"], "there must be a mosaic at /absent/m"),
        (["--mosaic", "m", "--output", "x.geojson", "--simplify", "-1"], "simplify: "),
        (["--mosaic", "m", "--output", "x.geojson", "--set", "connectivity=6"], "connectivity: "),
        (["--mosaic", "m", "--output", "x.geojson", "--set", "min_aera=6"], "the nearest is 'min_area'"),
    ],
)
def test_refusals_are_one_sentence_and_exit_code_2(arguments, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith("refused: ")
    assert sentence in said.err
    assert list(tmp_path.iterdir()) == []


def test_it_runs_as_a_script_from_anywhere(mosaic, tmp_path):
    url, _ = mosaic
    command = [sys.executable, str(ROOT / "jobs" / "export_polygons.py")]
    done = subprocess.run(
        [*command, "--mosaic", url, "--output", "c.geojson"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "c.geojson").is_file()
    told = subprocess.run([*command, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    for words in ("--classes", "--min-area", "--simplify", "--connectivity", "--units", "exit codes"):
        assert words in told.stdout
