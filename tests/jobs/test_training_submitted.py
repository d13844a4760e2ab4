"""Training, evaluation and retraining as ``ray job submit`` runs them, on a head that takes jobs."""

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.demo.head import ray_head
from pipeline.registry import Registry
from tests.pipeline.train.evaluated import confusion_of, truth_of, write_labels, write_mosaic
from tests.pipeline.train.small_tiles import settings, write_config, write_tiles

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def submit(tmp_path_factory):
    """Submits a job to a head of its own and gives the report, which is the last JSON of what it said."""
    with ray_head(2, tmp_path_factory.mktemp("logs"), os.environ) as head:

        def run(*arguments):
            done = subprocess.run(
                head.submission([*arguments, "--json"], ROOT), env=dict(head.environment),
                cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            report = next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{"))
            return json.loads(report), done.stdout

        yield run


def test_two_workers_train_and_the_driver_tells_where_the_time_went(submit, tmp_path):
    tiles = write_tiles(tmp_path / "tiles", count=4)
    train = {"max_steps": 3, "workers": 2, "validate_steps": 2}
    document = settings(tiles, tmp_path / "model", train=train, compute={"executor": "auto"})
    report, said = submit("jobs/train.py", "--config", str(write_config(tmp_path / "run.yaml", document)))
    assert report["status"] == "complete"
    assert report["steps"] == 3
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert "step 2: validation mIoU" in said, "workers are heard where the job's log is read"
    told = re.search(r"loading (\d+)%, forward (\d+)%, backward (\d+)%, all-reduce (\d+)%", said)
    assert told, said
    assert 90 <= sum(map(int, told.groups())) <= 102
    assert int(told[4]) >= 1, "two workers exchange gradients"
    assert report["time_shares"]["all_reduce"] > 0


def test_a_mosaic_is_compared_with_its_labels(submit, tmp_path):
    contents = write_mosaic(tmp_path / "mosaic.zarr", 1100, 1300)
    truth = truth_of(contents)
    labels = write_labels(tmp_path / "truth.tif", truth)
    report, _ = submit(
        *("jobs/evaluate.py", "--mosaic", str(tmp_path / "mosaic.zarr"), "--labels", str(labels)),
        *("--output", str(tmp_path / "out"), "--executor", "ray", "--workers", "2"),
        *("--set", "labels.ignore=[255]", "--set", "block.size_px=1024"),
    )
    np.testing.assert_array_equal(report["confusion"], confusion_of(contents.classes, truth))


def test_a_first_champion_is_made_and_the_second_time_nothing(submit, tmp_path):
    tiles = write_tiles(tmp_path / "tiles", count=4)
    document = settings(tiles, "unused", train={"max_steps": 2}, compute={"executor": "ray"})
    del document["output"]
    registry = str(tmp_path / "registry")
    (tmp_path / "retrain.yaml").write_text(json.dumps(document))
    arguments = ("jobs/retrain.py", "--config", str(tmp_path / "retrain.yaml"), "--registry", registry)
    report, _ = submit(*arguments)
    assert report["promoted"]
    holder = Registry.at(registry).holder()
    assert holder is not None
    assert holder.champion.version == report["challenger"]
    again, _ = submit(*arguments)
    assert again["action"] == "nothing"
