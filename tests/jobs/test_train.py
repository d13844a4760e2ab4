"""The command line of training as its users type it: exit codes, messages, JSON, signals."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.train import main, parse
from pipeline.settings import load_settings, setting_names
from pipeline.train import loop
from pipeline.train.config import TrainConfig
from tests.pipeline.train.small_tiles import settings, write_config, write_tiles

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "jobs" / "configs").glob("train_*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def _measure_loading_briefly():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOADING_ALONE_S", 0.05)
        yield


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("tiles") / "set", count=4)


@pytest.fixture
def config(tiles, tmp_path) -> Path:
    return write_config(tmp_path / "run.yaml", settings(tiles, tmp_path / "model", train={"max_steps": 2}))


def test_a_run_from_a_config_file(config, tmp_path, capsys):
    assert main(["--config", str(config), "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {
        "status", "miou", "iou", "dice", "pixel_accuracy", "confusion", "steps", "seconds", "cpu_seconds",
        "output",
    } <= set(report)  # fmt: skip
    assert (tmp_path / "model" / "model.json").is_file()
    assert main(["--config", str(config)]) == 0
    out = capsys.readouterr().out
    assert "complete: 2 steps" in out
    assert "of processor time)" in out
    assert "loading alone" in out


def test_flags_win_over_the_file(config, tiles, tmp_path, capsys):
    output = tmp_path / "elsewhere"
    arguments = [
        "--tiles",
        str(tiles),
        "--output",
        str(output),
        "--workers",
        "1",
        "--set",
        "train.max_steps=1",
    ]
    assert main(["--config", str(config), *arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["steps"], report["output"]) == (1, str(output))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tiles", "/no/such/tiles"], "/no/such/tiles"),
        (["--set", "train.max_step=5"], "'train.max_step'; the nearest is 'train.max_steps'"),
        (["--set", "train.crop_px=100"], "take 97 or 113"),
        (["--set", "train.init=/no/such/model"], "/no/such/model"),
        (["--set", "model.arch=unet"], "arch must be one of"),
        (["--config", "/no/such/run.yaml"], "there must be a file at /no/such/run.yaml"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_sentence(arguments, message, config, tmp_path, capsys):
    assert main(["--config", str(config), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "model.run").exists()


def test_help_names_every_setting(capsys):
    with pytest.raises(SystemExit) as ended:
        parse(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for name, field in setting_names(TrainConfig):
        assert name in text
        assert field.description in text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_example_configs_are_complete_and_valid(path):
    loaded = load_settings(TrainConfig, config_url=str(path), assignments=[], flags={})
    assert loaded.train.max_minutes == 20


@pytest.mark.slow
def test_a_terminated_run_saves_its_state_and_goes_on(tiles, tmp_path):
    train = {"max_steps": 100_000, "checkpoint_minutes": None}
    config = write_config(tmp_path / "run.yaml", settings(tiles, tmp_path / "model", train=train))
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), "--config", str(config), "--json"]
    log, states = tmp_path / "model.run" / "log.jsonl", tmp_path / "model.run" / "states"
    steps = []
    for _ in range(2):
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 300
        before = log.stat().st_size if log.exists() else 0
        while not log.exists() or log.stat().st_size <= before:  # twenty steps are logged at once
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=180)
        assert process.returncode == 3, err
        assert json.loads(out.splitlines()[-1])["status"] == "interrupted"
        assert "start again to go on" in err
        steps.append(max(int(path.name[5:]) for path in states.iterdir()))
    assert 0 < steps[0] < steps[1]


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_two_workers_by_the_flag(tiles, tmp_path, executor):
    """Plainly, as a script: the shares of loading, forward, backward and exchange are told."""
    document = settings(tiles, tmp_path / "model", train={"max_steps": 4, "batch": 8})
    config = write_config(tmp_path / "run.yaml", document)
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), "--config", str(config)]
    done = subprocess.run(
        [*command, "--workers", "2", "--executor", executor],
        cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = re.search(
        r"([\d.]+) images/s, ([\d.]+) of loading alone; "
        r"loading (\d+)%, forward (\d+)%, backward (\d+)%, all-reduce (\d+)%, optimizer (\d+)%",
        done.stdout,
    )
    assert told, done.stdout
    images_per_s, loading_per_s, *shares = map(float, told.groups())
    assert loading_per_s > images_per_s > 0, "loading keeps up with the network"
    assert sum(shares) == pytest.approx(100, abs=3)
    assert min(shares[1:3]) > 1
