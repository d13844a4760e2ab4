"""Trainings on Ray as processes that can be watched and struck, and clusters for them on this machine."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ray.cluster_utils import Cluster

from pipeline.storage import Folder
from pipeline.train.state import StateStore, read_position
from tests.pipeline.train.ray_job import STEPS

REPOSITORY = Path(__file__).resolve().parents[3]
PATIENCE_S = 400
Weights = dict[str, torch.Tensor]


def start_cluster(nodes: int = 2, **of_each: Any) -> Cluster:
    """A head without CPUs, and nodes with one each, as processes of this machine."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(nodes):
        cluster.add_node(num_cpus=1, **of_each)
    return cluster


def start(tiles: Path, output: Path, **train: Any) -> subprocess.Popen[bytes]:
    """A training of a few slow steps in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "tests.pipeline.train.ray_job",
        str(tiles),
        str(output),
        json.dumps(train),
    ]
    with said_by(output).open("ab") as said:
        return subprocess.Popen(command, cwd=REPOSITORY, stderr=said)


def said_by(output: Path) -> Path:
    """Where its words go."""
    return output.with_name(f"{output.name}.said")


def finish(job: subprocess.Popen[bytes], output: Path) -> None:
    """It ends, and well."""
    assert job.wait(timeout=500) == 0, said_by(output).read_text()


def wait_until(job: subprocess.Popen[bytes], output: Path, condition: Callable[[], bool]) -> None:
    """Until something has happened, while the training goes on."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert job.poll() is None, said_by(output).read_text()
        assert time.monotonic() < deadline, f"waited in vain\n{said_by(output).read_text()}"
        time.sleep(0.05)


def wait_for_a_state(job: subprocess.Popen[bytes], output: Path) -> None:
    """Until the first state is complete; training must not be at its end by then."""
    store = StateStore(Folder.at(f"{output}.run"), keep=2)
    wait_until(job, output, lambda: store.position() is not None)
    assert stored_step(output) < STEPS, "it was over before it could be disturbed"


def stored_step(output: Path) -> int:
    """The step of the newest state that is whole."""
    state = StateStore(Folder.at(f"{output}.run"), keep=2).newest()
    assert state is not None
    return read_position(state).step


def steps_begun(output: Path) -> list[int]:
    """For every step that was begun, those taken twice included, the number of workers."""
    trace = output.with_name(f"{output.name}.steps")
    return [int(line) for line in trace.read_text().split()] if trace.exists() else []


def processes_below(ancestor: int, *words: str) -> list[int]:
    """Processes that one of ours began, or theirs, whose command holds one of the words."""
    parents, names = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat, command = (folder / "stat").read_text(), (folder / "cmdline").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(folder.name)] = int(stat.rsplit(")", 1)[1].split()[1])
            names[int(folder.name)] = command
    below = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return sorted(pid for pid in below - {ancestor} if any(word in names.get(pid, "") for word in words))


def assert_equal(found: Weights, expected: Weights) -> None:
    """To the last bit."""
    assert found.keys() == expected.keys()
    different = [name for name, value in expected.items() if not torch.equal(found[name], value)]
    assert not different


def assert_near(found: Weights, expected: Weights) -> None:
    """Up to what sums over another number of workers may differ by."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, atol=1e-4, rtol=0, msg=lambda told, name=name: f"{name}: {told}"
        )
