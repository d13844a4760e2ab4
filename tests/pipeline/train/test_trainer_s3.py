"""Tiles, states and checkpoint in a bucket, under two workers of Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from deeplab_core import load_checkpoint
from pipeline.storage import Folder
from pipeline.train.run import train
from tests.pipeline.segment.processes import make_bucket
from tests.pipeline.train.small_tiles import config_of, settings, write_tiles

pytestmark = pytest.mark.timeout(1800)

REPOSITORY = Path(__file__).resolve().parents[3]
TRAIN = {
    "max_steps": 4, "checkpoint_steps": 2, "checkpoint_minutes": None, "keep": 1,
    "lr": 0.0001, "warmup_steps": 0,
}  # fmt: skip
CALM = {"image_pooling": "none"}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("tiles") / "set", count=4)


@pytest.fixture(scope="module")
def on_disk(tiles, tmp_path_factory) -> Path:
    """What one process makes of the same tiles on a disk."""
    output = tmp_path_factory.mktemp("disk") / "model"
    train(config_of(settings(tiles, output, train=TRAIN, model=CALM)))
    return output


def train_in_a_bucket(bucket: str, tiles: Path) -> subprocess.CompletedProcess[str]:
    """The job, with its config in the bucket too."""
    for file in tiles.rglob("*.tif"):
        Folder(f"{bucket}/tiles").write(str(file.relative_to(tiles)), file.read_bytes())
    document = settings(Path("unused"), f"{bucket}/models/small", train=TRAIN | {"workers": 2}, model=CALM)
    document["tiles"]["url"] = f"{bucket}/tiles"
    document["compute"]["executor"] = "ray"
    Folder(bucket).write("train.yaml", yaml.safe_dump(json.loads(json.dumps(document))).encode())
    return subprocess.run(
        [sys.executable, "jobs/train.py", "--config", f"{bucket}/train.yaml", "--json"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip


@pytest.fixture(
    params=[pytest.param("moto", marks=pytest.mark.slow), pytest.param("ceph", marks=pytest.mark.s3)]
)
def bucket(request) -> str:
    """An empty bucket, on the quick server or on the real one."""
    if request.param == "moto":
        return request.getfixturevalue("s3_bucket").url
    request.getfixturevalue("ceph")
    return make_bucket("training")


def test_in_a_bucket_as_on_a_disk(bucket, tiles, on_disk):
    done = train_in_a_bucket(bucket, tiles)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["status"] == "complete"
    assert report["output"] == f"{bucket}/models/small"
    folder = Folder(f"{bucket}/models/small")
    ours = load_checkpoint("small", read_bytes=folder.read)
    theirs = load_checkpoint(on_disk)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, atol=1e-4, rtol=0)
    assert ours.metadata is not None
    assert theirs.metadata is not None
    assert ours.metadata.mean == pytest.approx(theirs.metadata.mean)
    run = Folder(f"{bucket}/models/small.run")
    # Ray marks its folder by an object without content, whose name ends in a slash: nobody else can name it.
    kept = {found.key for found in run.listing() if found.size_bytes}
    assert {"report.json", "report.html", "log.jsonl", "validation/pictures.json"} <= kept
    assert {key for key in kept if key.startswith("states/")} == {
        "states/step-00000004/state.json", "states/step-00000004/state.pt"
    }  # fmt: skip
    assert not [key for key in kept if key.startswith("ray/")], "nothing of Ray's own is left"
    assert Folder(f"{bucket}/tiles").exists("tiles.json")
    everything = b"".join(run.read(key) for key in kept) + (done.stdout + done.stderr).encode()
    assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in everything
