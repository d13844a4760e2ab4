"""What this machine has to compute on."""

import os
import shutil
from pathlib import Path

import torch

from pipeline.segment.resolve import Machine

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def this_machine() -> Machine:
    """Cores, GPUs and memory that this process may use."""
    gpus = torch.cuda.device_count()
    return Machine(
        nodes=1,
        cores=len(os.sched_getaffinity(0)),
        gpus=float(gpus),
        memory_bytes=_memory_bytes(),
        native_bf16=_native_bf16(gpus),
        can_compile=any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++")),
    )


def _memory_bytes() -> int:
    """Memory of the machine, or of the container where that is less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CGROUP_LIMITS:
        file = Path(path)
        text = file.read_text().strip() if file.is_file() else "max"
        if text.isdigit():
            limits.append(int(text))
    return min(limits)


def _native_bf16(gpus: int) -> bool:
    if gpus:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 - torch has no public question
