"""The command line of jobs/tiles.py."""

import json
import re

import numpy as np
import pytest
import yaml

from jobs import tiles
from tests.pipeline.train.conftest import write_pair

VALUES = ["--set", "labels.values={0: soil, 1: water, 2: wood}"]
PATTERNS = ["--images", "images/*.tif", "--labels", "labels/*.png"]


def run(capsys, *arguments):
    code = tiles.main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_index_and_extend(tmp_path, capsys):
    for number in range(10):
        write_pair(tmp_path, f"t{number}", seed=number)
    code, report = run(capsys, "index", tmp_path, *PATTERNS, *VALUES)
    assert code == 0
    assert report["tiles"] == report["read"] == len(report["new"]) == 10
    assert report["manifest"] == f"{tmp_path}/tiles.json"
    assert sum(report["splits"].values()) == 10
    assert sum(report["class_pixels"].values()) == 10 * 37 * 53
    write_pair(tmp_path, "later", seed=99)
    (tmp_path / "images/t0.tif").unlink()
    (tmp_path / "labels/t0.png").unlink()
    code, report = run(capsys, "index", tmp_path)
    assert code == 0
    assert (report["new"], report["gone"], report["read"], report["tiles"]) == (["later"], ["t0"], 1, 10)


def test_words_for_people(tmp_path, capsys):
    for number in range(3):
        write_pair(tmp_path, f"t{number}", seed=number)
    write_pair(tmp_path, "bad", seed=9, labels=np.full((37, 53), 9, np.uint8))
    assert tiles.main(["index", str(tmp_path), *PATTERNS, *VALUES]) == 0
    told = capsys.readouterr().out
    assert re.search(
        r"complete: 3 tiles \(train [12], val [12], test 0\) in 3 groups, 3 new, 0 gone, 4 read", told
    )
    assert "1 left out:\n  bad: labels outside the classes: 9 (1961 px)" in told
    assert told.count("33.") == 3


def test_a_file_for_training_serves_as_it_is(tmp_path, capsys):
    write_pair(tmp_path / "data", "a", seed=1)
    training = {
        "tiles": {"url": "elsewhere", "images": "images/*.tif", "labels": "labels/*.png"},
        "labels": {"values": {1: "water"}},
        "model": {"classes": ["soil", "water", "wood"], "backbone": "resnet18"},
        "train": {"max_steps": 3},
        "output": {"url": "model"},
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(training))
    code, report = run(capsys, "index", tmp_path / "data", "--config", tmp_path / "train.yaml")
    assert code == 0
    assert list(report["class_pixels"]) == ["soil", "water", "wood"]


def test_import(tmp_path, capsys):
    for key in ("Train/Urban", "Val/Rural"):
        made = tmp_path / "LoveDA" / key
        write_pair(made, "1", seed=len(key), labels=np.full((37, 53), 4, np.uint8))
        (made / "images").rename(made / "images_png")
        (made / "images_png/1.tif").unlink()
        (made / "labels").rename(made / "masks_png")
        (made / "images_png/1.png").write_bytes((made / "masks_png/1.png").read_bytes())
    code, report = run(capsys, "import", "loveda", tmp_path, "--output", tmp_path / "set")
    assert code == 0
    assert report["splits"] == {"train": 1, "val": 1, "test": 0}
    assert report["class_pixels"]["water"] == 2 * 37 * 53
    assert (tmp_path / "set/tiles.json").exists()
    code, report = run(capsys, "index", tmp_path / "set")
    assert code == 2
    assert "made by importing loveda; import it again" in report["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "{}"], "tiles.images must match images"),
        (["index", "{}", "--images", "*.tif"], "tiles.images and tiles.labels must be given together"),
        (["index", "{}", "--images", "/abs/*.tif", "--labels", "*.png"], "must be relative to tiles.url"),
        (["index", "{}", "--set", "tiles.group=p[0-9]+"], "must hold one group in brackets"),
        (["index", "{}", "--set", "tiles.val_share=0.7", "--set", "tiles.test_share=0.4"], "leave something"),
        (["index", "{}", "--set", "tiles.imags=a"], "the nearest is 'tiles.images'"),
        (["import", "ade20k", "{}"], "ADE20K must be unpacked in"),
    ],
)
def test_refusals(tmp_path, capsys, arguments, message):
    code, report = run(capsys, *(argument.format(tmp_path) for argument in arguments))
    assert code == 2
    assert message in report["error"]
    assert not (tmp_path / "tiles.json").exists()


def test_nothing_good_is_incomplete(tmp_path, capsys):
    write_pair(tmp_path, "a", seed=1, labels=np.full((37, 53), 9, np.uint8))
    code, report = run(capsys, "index", tmp_path, *PATTERNS, *VALUES)
    assert code == 1
    assert report["bad"][0]["id"] == "a"


def test_help_lists_every_setting(capsys):
    for command in ("index", "import"):
        with pytest.raises(SystemExit) as stopped:
            tiles.main([command, "--help"])
        assert stopped.value.code == 0
        told = capsys.readouterr().out
        assert "tiles.max_bad_share = 0.1" in told
        assert ("labels.values = {}" in told) is (command == "index")


def test_what_is_imported_takes_no_meaning_of_labels(tmp_path, capsys):
    code, report = run(capsys, "import", "loveda", tmp_path, *VALUES)
    assert code == 2
    assert "labels" in report["error"]
