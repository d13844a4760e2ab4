"""``train.compile`` changes how fast a step is, and nothing else that could be seen."""

import shutil
import threading
from pathlib import Path

import pytest
import torch

from pipeline.train.state import StateStore, read_tensors
from pipeline.train.workers.local_workers import train_here, train_in_processes
from tests.pipeline.train.small_tiles import job_of, settings, write_tiles

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("brief_loading"),
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not any(map(shutil.which, ("g++", "clang++"))), reason="NOT RUN: needs a C++ compiler"
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]

# A batch of three on two workers: their parts differ in size, so that shapes do.
TRAIN = {"max_steps": 4, "batch": 3, "lr": 0.0001, "warmup_steps": 0, "loss": {"auxiliary": 0.4}}
CALM = {"image_pooling": "none", "aux_head": True}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("tiles") / "set", count=4)


def weights_of(tiles, output, *, workers, compile_network):
    train = TRAIN | {"compile": compile_network}
    job = job_of(settings(tiles, output, train=train, model=CALM))
    if workers == 1:
        train_here(job, threading.Event())
    else:
        train_in_processes(job, workers, threading.Event())
    store = StateStore(job.run_folder, keep=1)
    return read_tensors(store.newest(), torch.device("cpu"))["model"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_compiled_network_learns_the_same(tiles, tmp_path, workers):
    plain = weights_of(tiles, tmp_path / "plain", workers=workers, compile_network=False)
    compiled = weights_of(tiles, tmp_path / "compiled", workers=workers, compile_network=True)
    assert plain.keys() == compiled.keys(), "names of a compiled network's weights are those of its own"
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, atol=1e-4, rtol=0)
    moved = max(float((compiled[name] - value).abs().max()) for name, value in plain.items())
    assert workers > 1 or moved > 0, "was it compiled?"
