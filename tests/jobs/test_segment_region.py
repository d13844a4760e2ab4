"""The command line as its users type it: exit codes, messages, JSON."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.audit import main as audit
from jobs.segment_region import main, parse
from pipeline.config import RunConfig
from pipeline.settings import load_settings, setting_names
from tests.pipeline.segment.scene import settings, write_config, write_model, write_scene

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "jobs" / "configs").glob("segment_*.yaml"))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "checkpoint")


@pytest.fixture
def config(model, tmp_path) -> Path:
    scene = write_scene(tmp_path / "scene.tif", 230, 300)
    return write_config(tmp_path / "run.yaml", settings(scene, model, tmp_path / "out.zarr"))


def test_a_run_from_a_config_file(config, tmp_path, capsys):
    assert main(["--config", str(config), "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["status"] == "complete"
    assert {
        "blocks",
        "crops",
        "pixels",
        "seconds",
        "mpx_per_s",
        "peak_rss_bytes",
        "fingerprint",
        "output",
    } <= set(report)
    assert set(report["blocks"]) == {"total", "done", "empty", "failed", "skipped"}
    assert json.loads((tmp_path / "out.zarr.run" / "report.json").read_text())["pixels"] == report["pixels"]
    assert audit(["--mosaic", str(tmp_path / "out.zarr")]) == 0
    (tmp_path / "out.zarr/classes/c/0/0").write_bytes(b"not what was written")
    assert audit(["--mosaic", str(tmp_path / "out.zarr")]) == 1
    assert "classes/c/0/0 is not what was written" in capsys.readouterr().err


def test_the_plan_as_table_and_as_json(config, tmp_path, capsys):
    assert main(["--config", str(config), "--plan"]) == 0
    assert "crops" in capsys.readouterr().out
    assert main(["--config", str(config), "--plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["blocks"] == 1
    assert plan["crops"]["unique"] == 6
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "/no/such/raster.tif"], "there must be a raster at /no/such/raster.tif"),
        (["--model", "/no/such/model"], "there is no model.json in /no/such/model"),
        (["--set", "crop.sise_px=513"], "there is no setting 'crop.sise_px'; the nearest is 'crop.size_px'"),
        (["--set", "crop.size_px=512"], "take 497 or 513"),
        (["--set", "inference.scales=[0.8]"], "use 0.75 or 0.875"),
        (["--set", "source.urls=[a.tif, b.tif]"], "of 2 files 2 cannot be: there must be a raster"),
        (["--set", "block.size_px=1000"], "multiple of 1024"),
        (["--config", "/no/such/run.yaml"], "there must be a file at /no/such/run.yaml"),
        (["--set", "region.window=[900, 0, 10, 10]"], "must meet the source's 230 × 300 px"),
        (
            ["--set", "region.polygon=/no/such/region.parquet"],
            "there must be a file at /no/such/region.parquet",
        ),
        (
            ["--set", "source.bands=[red, blurple, nir]"],
            "there is no band 'blurple'; the source has 1 (red), 2",
        ),
        (
            ["--set", "source.grid.crs=nonsense"],
            "source.grid.crs must be a CRS as EPSG:32633, got 'nonsense'",
        ),
        (["--set", "source.level=7"], "source.level must be below 1, got 7"),
        (["--set", "source.urls=[/no/such/*.tif]"], "nothing matches /no/such/*.tif"),
        (["--source", "ftp://host/scene.tif"], "must be a local path or begin with s3://"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(arguments, message, config, capsys):
    assert main(["--config", str(config), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_one_mosaic_for_each_source(model, tmp_path, capsys):
    for name in ("north", "south"):
        write_scene(tmp_path / f"{name}.tif", 140, 150)
    document = settings(tmp_path / "north.tif", model, tmp_path / "unused")
    config = write_config(tmp_path / "run.yaml", document)
    sources = ["--source", str(tmp_path / "north.tif"), "--source", str(tmp_path / "south.tif")]
    output = ["--output", str(tmp_path / "{stem}.zarr")]
    assert main(["--config", str(config), *sources, *output, "--each", "--json"]) == 0
    assert (tmp_path / "north.zarr").is_dir()
    assert (tmp_path / "south.zarr").is_dir()
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [one["status"] for one in report["reports"]] == ["complete", "complete"]
    assert main(["--config", str(config), *sources, "--each"]) == 2
    assert "{stem}" in capsys.readouterr().err


def test_a_fault_of_ours_is_kept_beside_the_output(config, tmp_path, capsys, monkeypatch):
    def broken(*_arguments, **_options):
        raise ZeroDivisionError("a slip")

    monkeypatch.setattr("jobs.segment_region.segment", broken)
    assert main(["--config", str(config)]) == 70
    error = capsys.readouterr().err
    assert "a fault of ours (ZeroDivisionError): a slip" in error
    assert "Traceback" not in error
    kept = list((tmp_path / "out.zarr.run").glob("fault-*.txt"))
    assert "ZeroDivisionError" in kept[0].read_text()


def test_sigterm_before_the_first_block_is_an_interruption_too(config, capsys, monkeypatch):
    def terminated(*_arguments, **_options):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal came and nobody heard it")

    monkeypatch.setattr("jobs.segment_region.segment", terminated)
    assert main(["--config", str(config)]) == 3
    assert "start again to go on" in capsys.readouterr().err


def test_help_names_every_setting(capsys):
    with pytest.raises(SystemExit) as ended:
        parse(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for name, field in setting_names(RunConfig):
        assert name in text
        assert field.description in text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_example_configs_are_complete_and_valid(path):
    loaded = load_settings(RunConfig, config_url=str(path), assignments=[], flags={})
    assert loaded.output.url


def test_the_script_runs_from_any_directory(config, tmp_path):
    script = Path(__file__).resolve().parents[2] / "jobs" / "segment_region.py"
    done = subprocess.run(
        [sys.executable, str(script), "--config", str(config), "--plan"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "blocks" in done.stdout
