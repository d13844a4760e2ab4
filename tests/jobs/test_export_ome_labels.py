"""The command line of labels: flags, exit codes, report, messages."""

import json
from dataclasses import replace

import pytest
import zarr
from affine import Affine

from jobs.export_ome_labels import main
from pipeline.raster.grid import Grid
from pipeline.storage import Folder
from tests.pipeline.raster.mosaics import make_contents


@pytest.fixture
def mosaic(tmp_path):
    contents = make_contents(100, 150)
    grid = Grid(100, 150, Affine(0.5, 0, 0, 0, 0.5, 0), None, "micrometer")
    replace(contents, layout=replace(contents.layout, grid=grid)).write(Folder.at(tmp_path / "m"))
    return str(tmp_path / "m")


def test_a_group_of_its_own(mosaic, tmp_path, capsys):
    output = str(tmp_path / "labels.zarr")
    assert main(["--mosaic", mosaic, "--output", output, "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["status"], report["output"], report["version"]) == ("complete", output, "0.5")
    assert zarr.open_group(output, mode="r")["0"].shape == (100, 150)
    assert main(["--mosaic", mosaic, "--output", output]) == 0  # ours is replaced
    assert f"{output}: 1 levels of OME-NGFF 0.5 written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "image or output must be given"),
        (["--image", "absent.zarr"], "--image must be an OME-Zarr image; there is none"),
        (["--image", "i.zarr", "--name", "a/b"], "name: "),
    ],
)
def test_refusals(mosaic, tmp_path, capsys, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    assert main(["--mosaic", mosaic, *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("refused: ")
    assert sentence in said
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
