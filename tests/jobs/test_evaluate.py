"""The command line of the evaluation: flags, exit codes, report, messages; and the same figures on Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jobs.evaluate import main
from tests.pipeline.train.evaluated import confusion_of, truth_of, without_time, write_labels, write_mosaic

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A mosaic and its labels."""
    place = tmp_path_factory.mktemp("pair")
    contents = write_mosaic(place / "mosaic.zarr", 1100, 1300)
    truth = truth_of(contents)
    write_labels(place / "truth.tif", truth)
    return place, confusion_of(contents.classes, truth)


def arguments(place, output, *more):
    return ["--mosaic", str(place / "mosaic.zarr"), "--labels", str(place / "truth.tif"), "--output",
            str(output), "--set", "labels.ignore=[255]", "--set", "block.size_px=1024", *more]  # fmt: skip


def test_flags_name_everything(pair, tmp_path, capsys):
    place, expected = pair
    cog = tmp_path / "errors.tif"
    flags = arguments(place, tmp_path / "out", "--executor", "local", "--error-cog", str(cog), "--json")
    assert main(flags) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    np.testing.assert_array_equal(report["confusion"], expected)
    for name in ("status", "miou", "iou", "dice", "pixel_accuracy", "confusion", "seconds"):
        assert report[name] is not None
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    assert stored == report
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    assert cog.is_file()


def test_a_file_of_settings_serves_as_well(pair, tmp_path, capsys):
    place, expected = pair
    (tmp_path / "e.yaml").write_text(
        f"mosaic: {place / 'mosaic.zarr'}\n"
        f"labels: {{urls: {place / 'truth.tif'}, ignore: [255]}}\n"
        f"output: {tmp_path / 'out'}\ncompute: {{executor: local, workers: 2}}\n"
    )
    assert main(["--config", str(tmp_path / "e.yaml")]) == 0
    said = capsys.readouterr().out
    accuracy = np.trace(expected[:, :3]) / expected.sum()
    assert f"pixel accuracy {accuracy:.4f} on {expected.sum()} labelled pixels; 1 of 1 blocks" in said


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--labels", "x.tif", "--output", "o"], "mosaic must be given"),
        (["--mosaic", "/absent/m", "--labels", "x", "--output", "o"], "there must be a mosaic at /absent/m"),
        (["--mosaic", "m", "--output", "o"], "labels.urls must be given"),
        (["--mosaic", "m", "--labels", "l", "--set", "labels.valeus={1: a}"], "'labels.values'"),
        (
            ["--mosaic", "m", "--labels", "l", "--output", "o", "--set", "area.cluster_px=100"],
            "a power of two from 16 on",
        ),
    ],
)  # fmt: skip
def test_refusals_are_one_sentence_and_exit_code_2(more, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(more) == 2
    said = capsys.readouterr()
    assert said.err.startswith("refused: ")
    assert sentence in said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_it_runs_as_a_script_from_anywhere(pair, tmp_path):
    place, _ = pair
    command = [sys.executable, str(ROOT / "jobs" / "evaluate.py")]
    flags = arguments(place, "out", "--executor", "local")
    done = subprocess.run([*command, *flags], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.json").is_file()


def test_help_lists_flags_and_settings(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    for words in ("--split", "--regions", "labels.values", "area.cluster_px = auto", "exit codes"):
        assert words in told


@pytest.mark.slow
def test_on_ray_the_figures_and_the_error_map_are_the_same(pair, tmp_path, capsys):
    place, _ = pair
    reports = {}
    for executor in ("local", "ray"):
        flags = arguments(place, tmp_path / executor, "--executor", executor, "--workers", "2", "--json")
        assert main(flags) == 0
        reports[executor] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert without_time(reports["ray"]) == without_time(reports["local"])
    objects = [
        {
            str(path.relative_to(tmp_path / executor)): path.read_bytes()
            for path in (tmp_path / executor / "errors.zarr" / "classes").rglob("*")
            if path.is_file()
        }
        for executor in ("local", "ray")
    ]
    assert objects[0] == objects[1]


@pytest.mark.slow
def test_killed_and_started_again_it_goes_on(pair, tmp_path):
    """The driver dies after its first block; what it had stored is not compared again."""
    place, expected = pair
    output = tmp_path / "out"
    flags = arguments(place, output, "--executor", "local", "--workers", "1", "--json")
    command = [sys.executable, "jobs/evaluate.py", *flags]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as job:
        assert job.stderr is not None
        assert '"block"' in job.stderr.readline()
        job.kill()
    kept = {path.name: path.stat().st_mtime_ns for path in (output / "blocks").iterdir()}
    assert kept
    assert not (output / "report.json").exists()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    np.testing.assert_array_equal(json.loads(done.stdout.splitlines()[-1])["confusion"], expected)
    assert (
        kept.items() <= {path.name: path.stat().st_mtime_ns for path in (output / "blocks").iterdir()}.items()
    )


@pytest.mark.slow
def test_memory_is_that_of_blocks_not_of_the_mosaic(tmp_path):
    """30 000 px a side, written here and there: 900 Mpx of classes, of which a process may hold no more."""
    from pipeline.raster.grid import Grid
    from pipeline.raster.mosaic import BlockArrays, MosaicLayout, MosaicWriter, create_mosaic
    from pipeline.raster.window import Window
    from pipeline.storage import Folder
    from pipeline.train.evaluate.memory import project_memory_bytes
    from pipeline.train.evaluate.plan import plan_evaluation
    from tests.pipeline.raster.mosaics import UPRIGHT, UTM, make_contents
    from tests.pipeline.train.evaluated import config

    small = make_contents(1024, 1024)
    layout = MosaicLayout(
        Grid(30_000, 30_000, UPRIGHT, UTM), small.layout.class_names, small.layout.class_colors, "none", 4, {}
    )
    folder = Folder.at(tmp_path / "mosaic.zarr")
    create_mosaic(folder, layout)
    writer = MosaicWriter(folder, layout)
    truth = truth_of(small)
    import rasterio

    with rasterio.open(
        tmp_path / "truth.tif", "w", driver="GTiff", height=30_000, width=30_000, count=1, dtype="uint8",
        tiled=True, SPARSE_OK=True, nodata=255, crs="EPSG:32633", transform=UPRIGHT,
    ) as target:  # fmt: skip
        for row in range(0, 29_000, 4096):
            for col in range(0, 29_000, 4096):
                writer.write(Window(row, col, 1024, 1024), BlockArrays(small.classes, small.confidence, None))
                target.write(truth, 1, window=((row, row + 1024), (col, col + 1024)))
    flags = arguments(tmp_path, tmp_path / "out", "--executor", "local", "--workers", "1", "--json")
    flags[flags.index("block.size_px=1024")] = "block.size_px=2048"
    code = (
        "import resource, sys; from jobs.evaluate import main; code = main(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, text=True, timeout=560,
        check=False, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *_, told, peak = done.stdout.splitlines()
    report = json.loads(told)
    np.testing.assert_array_equal(report["confusion"], 64 * confusion_of(small.classes, truth))
    settings = config(
        tmp_path / "mosaic.zarr", tmp_path / "truth.tif", tmp_path / "p", block={"size_px": 2048}
    )
    promised = project_memory_bytes(plan_evaluation(settings).spec)
    assert int(peak) <= promised
    assert int(peak) >= promised / 4, "a promise so loose that it says nothing"
