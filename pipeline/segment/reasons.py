"""Why a run is as it is: for what "auto" became, a sentence each, in the plan and its table."""

from collections.abc import Mapping
from typing import Any

from pipeline.config import RunConfig
from pipeline.raster.region import Region
from pipeline.segment.lattice import Lattice
from pipeline.segment.resolve import (
    COMPILE_CROPS_PER_WORKER,
    Choices,
    Machine,
    Workers,
    crops_per_worker,
)

GIVEN = "as the settings say"
STORED = "as this run was begun"


def reasons(
    config: RunConfig,
    *,
    machine: Machine,
    workers: Workers,
    lattice: Lattice,
    region: Region,
    choices: Choices,
    stored: Mapping[str, Any] | None,
) -> dict[str, str]:
    """Why the network has this precision, and why it is compiled or is not."""
    crops = crops_per_worker(workers, lattice, region)
    told = {
        "precision": _why_this_precision(machine, choices.device),
        "compile": _why_compiled(machine, choices, crops),
    }
    for name, wish in (("precision", config.inference.precision), ("compile", config.inference.compile)):
        if wish != "auto":
            told[name] = GIVEN
        elif stored:
            told[name] = STORED
    return told


def _why_this_precision(machine: Machine, device: str) -> str:
    has_bf16, who = (
        (machine.gpu_bf16, "the GPUs") if device == "cuda" else (machine.cpu_bf16, "the processors")
    )
    return f"auto: {who} here {'compute' if has_bf16 else 'do not compute'} in bf16"


def _why_compiled(machine: Machine, choices: Choices, crops: float) -> str:
    if choices.device == "cpu":
        return "auto: packed convolutions are faster on processors, and at once"
    if not machine.can_compile:
        return "auto: there is no C++ compiler here"
    pays = f"{COMPILE_CROPS_PER_WORKER:,} crops a worker pay for it"
    if crops < COMPILE_CROPS_PER_WORKER:
        return f"auto: {pays}, and there are {crops:,.0f}"
    if not choices.compile:
        return "auto: the compiler's own memory would not fit"
    return f"auto: {pays}, and there are {crops:,.0f}"
