"""The demo as a whole: its settings, and all of it for real."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml

from deeplab_core import ModelConfig, build_model
from jobs.demo import _summary, main
from pipeline.config import RunConfig
from pipeline.demo import processes
from pipeline.demo.config import DemoConfig
from pipeline.synthetic.cover import CLASSES, COLORS
from pipeline.train.config import TrainConfig
from tests.pipeline.report.browser import CHROMIUM, opened

REPOSITORY = Path(__file__).resolve().parents[2]


def recipe():
    return TrainConfig.model_validate(
        yaml.safe_load((REPOSITORY / "jobs/configs/demo_train.yaml").read_text())
    )


def test_the_settings_fit_the_landscape():
    labels = recipe().labels
    assert tuple(labels.values.values()) == CLASSES
    assert tuple(labels.colors[name] for name in CLASSES) == COLORS
    segmentation = yaml.safe_load((REPOSITORY / "jobs/configs/demo_segment.yaml").read_text())
    assert RunConfig.model_validate(segmentation).inference.compile == "off"


def test_steps_and_not_minutes_decide_what_is_learnt():
    train = recipe().train
    assert DemoConfig().steps == train.max_steps
    assert train.max_minutes is DemoConfig().minutes is None  # time in the learning rate: no two runs alike


def test_no_weight_stays_as_chance_made_it():
    """A tap that no training crop reaches learns nothing, and disturbs the larger crops of inference."""
    train, given = recipe().train, recipe().model
    torch.manual_seed(0)
    model = build_model(ModelConfig.model_validate(given | {"classes": CLASSES, "in_channels": 4})).train()
    model(torch.randn(2, 4, train.crop_px, train.crop_px)).square().mean().backward()
    for name, weight in model.named_parameters():
        if weight.ndim == 4:
            learns_HW = weight.grad.abs().amax(dim=(0, 1)) > 0
            assert learns_HW.all(), (name, learns_HW)
    features_px = (train.crop_px - 1) // given["output_stride"] + 1
    assert 2 * max(given["rates"]) < features_px  # somewhere in a crop all taps of a filter lie within


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--side", "2049"], "multiple of 8"),
        (["--side", "512"], "2048"),
        (["--minutes", "0"], "minutes"),
        (["--set", "steps=null"], "needs an end"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(flags, words, tmp_path, capsys):
    assert main(["--folder", str(tmp_path / "demo"), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(("miou", "says_so"), [(0.85, False), (0.79, True), (None, True)])
def test_a_poor_map_is_told_with_its_remedy(miou, says_so):
    report = {
        "iou": {"water": miou}, "miou": miou, "baseline_iou": {"water": 0.7}, "baseline_miou": 0.7,
        "majority_miou": 0.1, "steps": {"training": 130.0}, "seconds": 140.0, "train_steps": 41,
        "page": "r.html",
    }  # fmt: skip
    told = "\n".join(_summary(report))
    assert ("--steps" in told) == says_so
    assert ("41 steps" in told) == says_so


@contextmanager
def nothing_left_behind():
    """Orphans of what is started within come to this process, so none can hide."""
    before = set(processes.descendants(os.getpid()))
    processes._control(processes.PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
        assert set(processes.descendants(os.getpid())) <= before
    finally:
        processes._control(processes.PR_SET_CHILD_SUBREAPER, 0)


def demo_command(folder, *more):
    size = ["--side", "2048", "--steps", "4", "--folder", str(folder)]
    return [sys.executable, "jobs/demo.py", *size, *more]


@pytest.mark.slow
def test_a_small_demo_is_interrupted_goes_on_and_is_whole(tmp_path):
    folder = tmp_path / "demo"
    with nothing_left_behind():
        demo = subprocess.Popen(demo_command(folder), cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        for line in demo.stdout:
            if "jobs/train.py" in line:
                break
        time.sleep(5)
        demo.send_signal(signal.SIGTERM)
        demo.communicate(timeout=120)
        assert demo.returncode == 3
    with nothing_left_behind():
        done = subprocess.run(
            demo_command(folder, "--json"),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "finished earlier" in done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert 0 < report["miou"] < 1
    assert 0.2 < report["baseline_miou"] < 1
    assert report["majority_miou"] < 0.2
    assert (folder / "classes.tif").stat().st_size > 10_000
    began = time.monotonic()
    again = subprocess.run(
        demo_command(folder), cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True
    )
    assert again.stdout.count("finished earlier") == 7
    assert time.monotonic() - began < 60
    if CHROMIUM is None:
        pytest.skip("no chromium here to open the page")
    with opened((folder / "report.html").as_uri(), tmp_path / "profile") as tab:
        tab.wait_for("document.readyState === 'complete'")
        assert tab.run("[...document.images].every(image => image.naturalWidth > 100)")
        hrefs = tab.run("[...document.querySelectorAll('#reports a')].map(a => a.getAttribute('href'))")
        assert tab.complaints == []
    assert len(hrefs) == 3
    assert all((folder / href).exists() for href in hrefs)
