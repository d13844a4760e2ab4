"""What this machine has to compute on."""

import math
import os
import shutil
from pathlib import Path

import torch

from deeplab_core.int8 import computes_in_int8
from pipeline.segment.resolve import Machine

CGROUP_QUOTA = "/sys/fs/cgroup/cpu.max"
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def this_machine() -> Machine:
    """Cores, GPUs and memory that this process may use."""
    gpus = torch.cuda.device_count()
    return Machine(
        nodes=1,
        cores=_cores(),
        gpus=float(gpus),
        memory_bytes=_memory_bytes(),
        cpu_bf16=bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),  # noqa: SLF001 - no public question
        cpu_int8=computes_in_int8(torch.device("cpu")),
        gpu_bf16=gpus > 0 and torch.cuda.is_bf16_supported(including_emulation=False),
        can_compile=any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++")),
    )


def _cores() -> int:
    """Cores of the machine, or what a container may use where that is less: more threads would only wait."""
    cores = len(os.sched_getaffinity(0))
    file = Path(CGROUP_QUOTA)
    quota, _, period = (file.read_text() if file.is_file() else "max").strip().partition(" ")
    return min(cores, max(1, math.ceil(int(quota) / int(period)))) if quota.isdigit() else cores


def _memory_bytes() -> int:
    """Memory of the machine, or of the container where that is less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CGROUP_LIMITS:
        file = Path(path)
        text = file.read_text().strip() if file.is_file() else "max"
        if text.isdigit():
            limits.append(int(text))
    return min(limits)
