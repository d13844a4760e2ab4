"""The command line of the export: exit codes, report, messages."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

from jobs.export_cog import main
from pipeline.storage import Folder
from tests.pipeline.raster.mosaics import make_contents

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def mosaic(tmp_path):
    contents = make_contents(300, 500)
    contents.write(Folder.at(tmp_path / "mosaic.zarr"))
    return str(tmp_path / "mosaic.zarr"), contents


@pytest.mark.parametrize("array", ["classes", "confidence"])
def test_flags_name_everything(mosaic, tmp_path, capsys, array):
    url, contents = mosaic
    output = str(tmp_path / "a.tif")
    assert main(["--mosaic", url, "--array", array, "--output", output, "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["status"], report["array"], report["output"]) == ("complete", array, output)
    assert report["size_bytes"] == Path(output).stat().st_size
    with rasterio.open(output) as dataset:
        np.testing.assert_array_equal(dataset.read(1), getattr(contents, array))


@pytest.mark.parametrize("region", ["window=10,20,100,200", "bbox=300200,4998900,302200,4999900"])
def test_a_region_by_one_flag(mosaic, tmp_path, capsys, region):
    url, contents = mosaic
    output = str(tmp_path / "a.tif")
    assert main(["--mosaic", url, "--region", region, "--output", output]) == 0
    with rasterio.open(output) as dataset:
        np.testing.assert_array_equal(dataset.read(1), contents.classes[10:110, 20:220])
    assert main(["--mosaic", url, "--region", "window=1,2,x", "--output", output]) == 2
    assert "--region must be window=ROW,COLUMN,HEIGHT,WIDTH" in capsys.readouterr().err


def test_a_file_of_settings_serves_as_well(mosaic, tmp_path, capsys):
    url, _ = mosaic
    config = tmp_path / "export.yaml"
    config.write_text(f"mosaic: {url}\narray: confidence\noutput: {tmp_path / 'b.tif'}\n")
    assert main(["--config", str(config)]) == 0
    assert f"{tmp_path / 'b.tif'}: " in capsys.readouterr().out
    with rasterio.open(tmp_path / "b.tif") as dataset:
        assert dataset.descriptions == ("probability of the class",)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--output", "x.tif"], "mosaic must be given"),
        (["--mosaic", "m", "--output", ""], "output: "),
        (
            ["--mosaic", "/absent/m", "--output", "x.tif"],
            "there must be a mosaic at /absent/m; there is none",
        ),
        (["--mosaic", "m", "--output", "x.tif", "--set", "arry=classes"], "the nearest is 'array'"),
        (["--mosaic", "m", "--output", "x.tif", "--set", "array=logit"], "array: "),
    ],
)
def test_refusals_are_one_sentence_and_exit_code_2(arguments, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith("refused: ")
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_array_is_refused_by_the_parser(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--mosaic", "m", "--array", "logit", "--output", "x.tif"])
    assert caught.value.code == 2
    assert "classes" in capsys.readouterr().err


def test_a_damaged_mosaic_is_told_and_leaves_no_file(mosaic, tmp_path, capsys):
    url, _ = mosaic
    (Path(url) / "classes" / "c" / "0" / "0").write_bytes(b"no chunk at all")
    assert main(["--mosaic", url, "--output", str(tmp_path / "a.tif"), "--json"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"refused: an object of 'classes' in the mosaic at {url} is damaged: ")
    assert json.loads(said.out)["status"] == "refused"
    assert [path.name for path in tmp_path.iterdir()] == ["mosaic.zarr"]


def test_it_runs_as_a_script_from_anywhere(mosaic, tmp_path):
    url, _ = mosaic
    command = [sys.executable, str(ROOT / "jobs" / "export_cog.py"), "--mosaic", url, "--output", "c.tif"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "c.tif").is_file()
    told = subprocess.run([*command[:2], "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    for words in ("--mosaic", "--array", "--output", "array = classes", "exit codes"):
        assert words in told.stdout
