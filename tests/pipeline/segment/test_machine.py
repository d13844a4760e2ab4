"""What this machine is said to have, in a container and out of one."""

import os
import shutil

import pytest
import torch

from pipeline.segment import machine as subject
from pipeline.segment.machine import this_machine

REAL_MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
REAL_CORES = len(os.sched_getaffinity(0))


@pytest.fixture
def container(monkeypatch, tmp_path):
    """Writes the kernel's files as a container would see them."""
    memory, old_memory, quota = tmp_path / "memory.max", tmp_path / "limit_in_bytes", tmp_path / "cpu.max"
    monkeypatch.setattr(subject, "CGROUP_LIMITS", (str(memory), str(old_memory)))
    monkeypatch.setattr(subject, "CGROUP_QUOTA", str(quota))

    def write(**files):
        for name, text in files.items():
            {"memory": memory, "old_memory": old_memory, "quota": quota}[name].write_text(f"{text}\n")
        return this_machine()

    return write


def test_out_of_a_container_all_there_is_counts(container):
    machine = container()
    assert machine.nodes == 1
    assert machine.cores == REAL_CORES
    assert machine.memory_bytes == REAL_MEMORY
    assert machine.gpus == torch.cuda.device_count()


@pytest.mark.parametrize("name", ["memory", "old_memory"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [("max", REAL_MEMORY), (64 << 20, 64 << 20), (9223372036854771712, REAL_MEMORY), ("", REAL_MEMORY)],
)
def test_a_containers_memory_limit_counts_where_it_is_less(container, name, text, expected):
    assert container(**{name: text}).memory_bytes == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max 100000", REAL_CORES),
        ("100000 100000", 1),
        ("50000 100000", 1),
        (f"{(REAL_CORES - 1) * 100000 + 1} 100000", REAL_CORES),
        ("99900000 100000", min(REAL_CORES, 999)),
        ("", REAL_CORES),
    ],
)
def test_a_containers_share_of_the_cores_counts_where_it_is_less(container, text, expected):
    """A pod of 2 CPUs on a node of 64 that started 64 threads would crawl."""
    assert container(quota=text).cores == expected


def test_without_a_compiler_nothing_is_compiled(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not this_machine().can_compile
    compiler = tmp_path / "my-compiler"
    shutil.copy("/bin/true", compiler)
    monkeypatch.setenv("CXX", "my-compiler")
    assert this_machine().can_compile
