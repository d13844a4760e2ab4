"""What "auto" means: decided once from plan and machine, kept in ``plan.json``, reused on resume."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from deeplab_core.prepared import FloatPrecision, Precision
from pipeline.config import BLOCK_MULTIPLE_PX, RunConfig
from pipeline.errors import SettingsError
from pipeline.raster.region import Region
from pipeline.segment.cost import Memory, NetworkCost, Numbers, project_memory
from pipeline.segment.lattice import Lattice
from pipeline.segment.plan import Plan

GIB = 1 << 30

LARGEST_BLOCK_PX = {"cpu": 4096, "cuda": 16384}
"""A crash loses a block at most: about a minute's work on either."""

BATCH = {"cpu": 2, "cuda": 16}

COMPILE_CROPS_PER_WORKER = 4000
"""Crops after which compiling for CUDA has paid for itself."""

MEMORY_SHARE = 0.85
"""Of a machine's memory, what workers may plan with; the system and Ray take the rest."""

PIPELINE_FILL = 0.25
"""Share of a block's time that the first read and the last write add, with nothing beside them."""

VALUE_BYTES: Mapping[FloatPrecision, int] = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class Machine:
    """What there is to compute on.

    Attributes:
        nodes: Machines that compute.
        cores: CPU cores of each.
        gpus: GPUs of all of them.
        memory_bytes: Host memory of each.
        cpu_bf16: Whether its processors compute in bf16.
        cpu_int8: Whether they multiply bytes.
        gpu_bf16: Whether its GPUs do.
        can_compile: Whether torch.compile has what it needs.
    """

    nodes: int
    cores: int
    gpus: float
    memory_bytes: int
    cpu_bf16: bool
    cpu_int8: bool
    gpu_bf16: bool
    can_compile: bool


@dataclass(frozen=True)
class Workers:
    """How the work is shared out; except the threads, it does not change the result.

    Attributes:
        count: Workers.
        grow: Whether more are started when the cluster grows.
        threads: CPU threads of each network.
        gpus: GPUs of each worker.
        memory_bytes: The most memory each may take.
    """

    count: int
    grow: bool
    threads: int
    gpus: float
    memory_bytes: int


@dataclass(frozen=True)
class Choices:
    """What was left to choose and changes bytes or speed: stored with the plan, taken again on resume."""

    device: str
    threads: int
    precision: Precision
    compile: bool
    batch: int
    block_px: int


def share_out(config: RunConfig, machine: Machine, stored: Mapping[str, Any] | None) -> Workers:
    """Workers, their threads, GPUs and memory."""
    compute = config.compute
    gpus = compute.gpus_per_worker
    if gpus == "auto":
        gpus = 1.0 if machine.gpus else 0.0
    if gpus > machine.gpus and compute.executor == "local":
        raise SettingsError(f"compute.gpus_per_worker is {gpus}, but this machine has {machine.gpus:g} GPUs")
    grow = compute.workers == "auto"
    if compute.workers == "auto":
        count = max(1, workers_on_gpus(machine.gpus, gpus)) if gpus else machine.nodes
    else:
        count = compute.workers
    per_node = math.ceil(count / machine.nodes)
    threads: int | str = compute.threads_per_worker
    if threads == "auto":
        threads = stored["threads"] if stored else max(1, machine.cores // per_node)
    memory = compute.memory_gib
    share = MEMORY_SHARE * machine.memory_bytes / per_node
    memory_bytes = int(share if memory == "auto" else memory * GIB)
    return Workers(count, grow, int(threads), gpus, memory_bytes)


def workers_on_gpus(gpus: float, gpus_per_worker: float) -> int:
    """Workers that fit; a share lies on one GPU, so four GPUs at 0.4 take eight workers and not ten."""
    if gpus_per_worker < 1:
        return int(gpus) * int(1 / gpus_per_worker)
    return int(gpus / gpus_per_worker)


def choose(
    config: RunConfig,
    *,
    machine: Machine,
    workers: Workers,
    lattice: Lattice,
    region: Region,
    network: NetworkCost,
    numbers: Numbers,
    stored: Mapping[str, Any] | None,
) -> tuple[Choices, Plan, Memory]:
    """Everything "auto", the plan that follows, and the memory it takes."""
    inference = config.inference
    device = "cuda" if workers.gpus else "cpu"
    native_bf16 = machine.gpu_bf16 if workers.gpus else machine.cpu_bf16
    native: FloatPrecision = "bf16" if native_bf16 else "fp32"
    precision: Precision = native
    if inference.precision != "auto":
        precision = inference.precision
    elif stored:
        precision = stored["precision"]
    batch = inference.batch
    if batch == "auto":
        batch = stored["batch"] if stored else BATCH[device]
    floats = native if precision == "int8" else precision  # crops and logits are never bytes
    sizes = replace(numbers, value_bytes=VALUE_BYTES[floats])

    def plan_of(block_px: int) -> Plan:
        return Plan(lattice, region, block_px, keeps_nodes=numbers.logits == "lattice")

    def decide(compiled: bool) -> tuple[Choices, Plan, Memory]:
        def memory_of(plan: Plan) -> Memory:
            return project_memory(plan, network, sizes, batch=batch, compiled=compiled, device=device)

        block_px = config.block.size_px
        if block_px == "auto" and stored:
            block_px = int(stored["block_px"])
        elif block_px == "auto":
            block_px = _choose_block_px(plan_of, memory_of, workers, LARGEST_BLOCK_PX[device])
        plan = plan_of(block_px)
        return Choices(device, workers.threads, precision, compiled, batch, block_px), plan, memory_of(plan)

    will_compile = _whether_to_compile(config, machine, workers, lattice, region, device, stored)
    decided = decide(will_compile)
    too_much = decided[2].total > workers.memory_bytes
    if too_much and decided[0].compile and config.inference.compile == "auto" and not stored:
        return decide(compiled=False)  # the compiler itself takes memory: slower beats refused
    return decided


def check_int8(config: RunConfig, machine: Machine, workers: Workers, *, is_calibrated: bool) -> None:
    """Refuse 8 bits where they cannot be computed, or where nobody measured the model for them."""
    if config.inference.precision != "int8":
        return
    if workers.gpus or not machine.cpu_int8:
        where = "GPUs" if workers.gpus else "this processor"
        raise SettingsError(
            f"inference.precision int8 must run on processors that multiply bytes (AVX-512 VNNI and later), "
            f"got {where}; use auto"
        )
    if not is_calibrated:
        raise SettingsError(
            "inference.precision int8 must be given a calibrated model, and this one is not; make one by "
            "jobs/calibrate_model.py --model URL --source URL --output URL, or use auto"
        )
    if config.inference.compile == "on":
        raise SettingsError("inference.compile must be auto or off with inference.precision int8, got on")


def check_memory(memory: Memory, workers: Workers, choices: Choices, num_classes: int) -> None:
    """Refuse a plan that would not fit."""
    if memory.total > workers.memory_bytes:
        if choices.block_px > BLOCK_MULTIPLE_PX:
            smaller = f"lower block.size_px (now {choices.block_px}), "
        elif memory.activations and choices.batch > 1:
            smaller = f"lower inference.batch (now {choices.batch}), "
        else:
            smaller = ""
        raise SettingsError(
            f"a worker must fit into {workers.memory_bytes / GIB:.2f} GiB, but is projected to take "
            f"{memory.total / GIB:.2f} GiB (block {choices.block_px} px, {num_classes} classes, "
            f"batch {choices.batch}); {smaller}run fewer compute.workers, or raise compute.memory_gib"
        )


def choices_to_json(choices: Choices) -> dict[str, Any]:
    """As ``plan.json`` keeps them."""
    return asdict(choices)


def _whether_to_compile(
    config: RunConfig,
    machine: Machine,
    workers: Workers,
    lattice: Lattice,
    region: Region,
    device: str,
    stored: Mapping[str, Any] | None,
) -> bool:
    wish = config.inference.compile
    if wish != "auto":
        return wish == "on"
    if stored:
        return bool(stored["compile"])
    if device == "cpu":
        return False  # packed convolutions are faster, and at once
    return machine.can_compile and crops_per_worker(workers, lattice, region) >= COMPILE_CROPS_PER_WORKER


def crops_per_worker(workers: Workers, lattice: Lattice, region: Region) -> float:
    """Crops that each worker has to compute, without those computed twice."""
    rows, cols = lattice.crops(region.box)
    return math.prod((*(region.stack or ()), len(rows), len(cols))) / workers.count


def _choose_block_px(
    plan_of: Callable[[int], Plan], memory_of: Callable[[Plan], Memory], workers: Workers, largest_px: int
) -> int:
    """The block size that ends soonest: little overlap, and a share for every worker; within memory."""
    best, best_time = BLOCK_MULTIPLE_PX, math.inf
    block_px = BLOCK_MULTIPLE_PX
    while block_px <= largest_px:
        plan = plan_of(block_px)
        counts = plan.counts
        turns = math.ceil(counts.blocks / workers.count) + PIPELINE_FILL
        time = turns * counts.crops_computed / max(1, counts.blocks)
        if time < best_time and (memory_of(plan).total <= workers.memory_bytes or block_px == best):
            best, best_time = block_px, time
        block_px *= 2
    return best
