"""The command line of the comparison: a table for people, one line of JSON for programs."""

import json

from jobs.baselines import main
from tests.pipeline.train.small_tiles import CLASSES, write_tiles

TILES = (
    "--set",
    "tiles.images=images/*.tif",
    "--set",
    "tiles.labels=labels/*.tif",
    "--set",
    "tiles.val_share=0.34",
    "--set",
    "labels={values: {1: water, 2: forest, 3: field}, ignore: [0, 9]}",
)


def test_the_table_and_the_report_agree(tmp_path, capsys):
    arguments = ["--tiles", str(write_tiles(tmp_path / "tiles", count=4)), *TILES]
    arguments += ["--set", "rows=[majority, logistic]"]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["status"] == "complete"
    assert report["classes"] == list(CLASSES)
    assert len(report["judged_on"]) >= 1
    assert main(arguments) == 0
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in head.split("|")[2:5]] == ["mIoU", "IoU water", "IoU forest"]
    assert len({line.count("|") for line in (head, rule, *rows)}) == 1
    for line, row in zip(rows, report["rows"], strict=True):
        assert line.startswith(f"| {row['name']} | {row['miou']:.3f} | {row['iou']['water']:.3f} |")


def test_a_script_without_an_end_is_refused(tmp_path, capsys):
    tiles = write_tiles(tmp_path / "tiles", count=4)
    assert main(["--tiles", str(tiles), *TILES, "--json"]) == 2
    assert "script needs an end" in json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
