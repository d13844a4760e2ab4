"""What "auto" becomes, for machines and rasters of every size."""

import heapq
import math
from dataclasses import replace

import pytest

from pipeline.config import RunConfig
from pipeline.errors import SettingsError
from pipeline.raster.region import Region
from pipeline.raster.window import Window
from pipeline.segment.cost import NetworkCost, Numbers, project_memory
from pipeline.segment.lattice import Lattice
from pipeline.segment.plan import Plan
from pipeline.segment.reasons import GIVEN, STORED, reasons
from pipeline.segment.resolve import (
    COMPILE_CROPS_PER_WORKER,
    GIB,
    MEMORY_SHARE,
    PIPELINE_FILL,
    Machine,
    check_memory,
    choices_to_json,
    choose,
    share_out,
)

NETWORK = NetworkCost(72_200_000_000, 40_350_000, 5_000_000, 4, 16)
NUMBERS = Numbers(
    num_bands=3,
    sample_bytes=1,
    value_bytes=4,
    num_classes=5,
    logits="lattice",
    reading_bytes=lambda _: 256 << 20,
)
LAPTOP = Machine(
    nodes=1,
    cores=8,
    gpus=0.0,
    memory_bytes=64 * GIB,
    cpu_bf16=False,
    cpu_int8=False,
    gpu_bf16=False,
    can_compile=True,
)
GPU_BOX = replace(LAPTOP, cores=16, gpus=4.0, memory_bytes=256 * GIB, gpu_bf16=True)
CLUSTER = replace(LAPTOP, nodes=3, cores=8)


def config_of(**groups):
    required = {"source": {"urls": "a.tif"}, "model": {"url": "m"}, "output": {"url": "o"}}
    return RunConfig.model_validate(required | groups)


def shared(machine, stored=None, **compute):
    return share_out(config_of(compute=compute), machine, stored)


def chosen(height, width, *, machine=LAPTOP, stored=None, network=NETWORK, numbers=NUMBERS, **groups):
    config = config_of(**groups)
    workers = share_out(config, machine, stored)
    lattice = Lattice.over(height, width, crop_px=513, stride_px=384, node_px=4)
    region = Region(Window(0, 0, height, width))
    choices, plan, memory = choose(
        config,
        machine=machine,
        workers=workers,
        lattice=lattice,
        region=region,
        network=network,
        numbers=numbers,
        stored=stored,
    )
    return choices, plan, memory, workers


# Sharing out


@pytest.mark.parametrize(
    ("machine", "compute", "count", "threads", "gpus"),
    [
        (LAPTOP, {}, 1, 8, 0.0),
        (LAPTOP, {"workers": 3}, 3, 2, 0.0),
        (LAPTOP, {"workers": 20}, 20, 1, 0.0),
        (LAPTOP, {"workers": 2, "threads_per_worker": 3}, 2, 3, 0.0),
        (GPU_BOX, {}, 4, 4, 1.0),
        (GPU_BOX, {"gpus_per_worker": 0.25}, 16, 1, 0.25),
        (GPU_BOX, {"gpus_per_worker": 0.1}, 40, 1, 0.1),
        (GPU_BOX, {"gpus_per_worker": 2}, 2, 8, 2.0),
        (GPU_BOX, {"gpus_per_worker": 0}, 1, 16, 0.0),
        (GPU_BOX, {"workers": 2}, 2, 8, 1.0),
        (CLUSTER, {}, 3, 8, 0.0),
        (CLUSTER, {"workers": 4}, 4, 4, 0.0),
        (replace(GPU_BOX, nodes=2, gpus=8.0), {}, 8, 4, 1.0),
    ],
)
def test_workers_take_their_share_of_cores_and_gpus(machine, compute, count, threads, gpus):
    workers = shared(machine, **compute)
    assert (workers.count, workers.threads, workers.gpus) == (count, threads, gpus)
    assert workers.grow == ("workers" not in compute)
    on_a_node = math.ceil(count / machine.nodes)
    assert workers.memory_bytes == pytest.approx(MEMORY_SHARE * machine.memory_bytes / on_a_node, abs=1)


@pytest.mark.parametrize(("share", "count"), [(0.4, 8), (0.3, 12), (0.5, 8), (0.6, 4), (0.9, 4), (1.0, 4)])
def test_a_share_of_a_gpu_lies_on_one_gpu(share, count):
    assert shared(GPU_BOX, gpus_per_worker=share).count == count


def test_a_memory_limit_given_is_the_limit():
    assert shared(GPU_BOX, memory_gib=2.5, workers=7).memory_bytes == 2.5 * GIB


def test_gpus_that_this_machine_lacks_are_refused():
    with pytest.raises(SettingsError, match=r"compute\.gpus_per_worker is 1\.0, but .* 0 GPUs"):
        shared(LAPTOP, executor="local", gpus_per_worker=1)
    assert shared(LAPTOP, executor="ray", gpus_per_worker=1).count == 1  # a cluster may bring them later


def test_threads_of_a_run_that_is_continued_are_taken_again_unless_given():
    stored = {"threads": 5}
    assert shared(LAPTOP, stored).threads == 5
    assert shared(LAPTOP, stored, threads_per_worker=2).threads == 2
    assert shared(LAPTOP, stored, workers=4).threads == 5


# Choosing


@pytest.mark.parametrize(
    ("machine", "settings", "device", "precision", "batch"),
    [
        (LAPTOP, {}, "cpu", "fp32", 2),
        (replace(LAPTOP, cpu_bf16=True), {}, "cpu", "bf16", 2),
        (GPU_BOX, {}, "cuda", "bf16", 16),
        (replace(GPU_BOX, gpu_bf16=False), {}, "cuda", "fp32", 16),
        (GPU_BOX, {"precision": "fp16", "batch": 5}, "cuda", "fp16", 5),
        (LAPTOP, {"precision": "bf16", "batch": 1}, "cpu", "bf16", 1),
    ],
)
def test_precision_and_batch_follow_the_machine_unless_given(machine, settings, device, precision, batch):
    choices, *_ = chosen(3000, 3000, machine=machine, inference=settings)
    assert (choices.device, choices.precision, choices.batch) == (device, precision, batch)


LONG = 4 * COMPILE_CROPS_PER_WORKER


def side_with(crops):
    """The side of a square with at least so many crops, and few more."""
    return 384 * (math.isqrt(crops - 1)) + 513


@pytest.mark.parametrize(
    ("machine", "wish", "crops", "expected"),
    [
        (LAPTOP, "on", 4, True),
        (LAPTOP, "off", LONG, False),
        (LAPTOP, True, 4, True),
        (LAPTOP, False, LONG, False),
        (LAPTOP, "auto", 4, False),
        (LAPTOP, "auto", LONG, False),
        (GPU_BOX, "auto", 4, False),
        (GPU_BOX, "auto", GPU_BOX.gpus * LONG, True),
        (replace(GPU_BOX, can_compile=False), "auto", GPU_BOX.gpus * LONG, False),
        (replace(LAPTOP, cpu_bf16=True), "auto", LONG, False),
        (replace(LAPTOP, cpu_bf16=True), "on", LONG, True),
    ],
)
def test_compilation_is_chosen_where_it_pays(machine, wish, crops, expected):
    side = side_with(int(crops))
    choices, *_ = chosen(side, side, machine=machine, inference={"compile": wish})
    assert choices.compile is expected


def test_compilation_pays_by_the_crops_of_one_worker():
    side = side_with(int(2.5 * COMPILE_CROPS_PER_WORKER))
    assert chosen(side, side, machine=GPU_BOX, compute={"workers": 2})[0].compile
    assert not chosen(side, side, machine=GPU_BOX, compute={"workers": 3})[0].compile


def makespan(plan, num_workers):
    """Crops until the last worker ends, each taking the next block when free; filling the pipeline costs."""
    ends = [0.0] * num_workers
    longest = 0
    for block in plan.blocks():
        rows, cols = plan.lattice.crops(plan.served_window(block))
        longest = max(longest, len(rows) * len(cols))
        heapq.heappush(ends, heapq.heappop(ends) + len(rows) * len(cols))
    return max(ends) + PIPELINE_FILL * longest


@pytest.mark.parametrize("num_workers", [1, 2, 5, 16, 64])
@pytest.mark.parametrize("size", [(900, 1000), (4096, 4096), (10_000, 9_000), (30_000, 20_000)])
def test_the_block_size_is_near_the_best_of_all(size, num_workers):
    choices, plan, _, workers = chosen(*size, compute={"workers": num_workers, "memory_gib": 100})
    candidates = {
        px: makespan(Plan(plan.lattice, plan.region, px), workers.count) for px in (1024, 2048, 4096)
    }
    assert choices.block_px in candidates
    assert candidates[choices.block_px] <= 1.25 * min(candidates.values())


def test_few_workers_take_large_blocks_and_many_leave_none_idle():
    lone, alone, *_ = chosen(16_384, 16_384, compute={"workers": 1, "memory_gib": 100})
    many, crowded, *_ = chosen(16_384, 16_384, compute={"workers": 64, "memory_gib": 100})
    assert lone.block_px == 4096
    assert many.block_px < lone.block_px
    assert crowded.counts.blocks >= 64
    assert alone.counts.overlap_ratio < crowded.counts.overlap_ratio


def test_gpus_take_larger_blocks_than_processors():
    assert chosen(60_000, 60_000, machine=replace(GPU_BOX, gpus=1.0))[0].block_px > 4096
    assert chosen(60_000, 60_000, machine=LAPTOP)[0].block_px == 4096


@pytest.mark.parametrize("limit_gib", [3.0, 3.5, 4.0, 6.0])
def test_the_block_size_keeps_to_the_memory_limit(limit_gib):
    choices, plan, memory, workers = chosen(
        30_000, 30_000, compute={"memory_gib": limit_gib}, numbers=replace(NUMBERS, num_classes=40)
    )
    assert memory.total <= workers.memory_bytes
    check_memory(memory, workers, choices, 40)
    if choices.block_px < 4096:
        larger = project_memory(
            Plan(plan.lattice, plan.region, 2 * choices.block_px),
            NETWORK,
            replace(NUMBERS, num_classes=40),
            batch=choices.batch,
            compiled=choices.compile,
            device="cpu",
        )
        assert larger.total > workers.memory_bytes


def test_limits_of_that_test_do_force_smaller_blocks():
    sizes = {
        chosen(30_000, 30_000, compute={"memory_gib": gib}, numbers=replace(NUMBERS, num_classes=40))[
            0
        ].block_px
        for gib in (3.0, 3.5, 4.0, 6.0)
    }
    assert len(sizes) >= 2


def refusal(**groups):
    choices, _, memory, workers = chosen(30_000, 30_000, **groups)
    with pytest.raises(SettingsError) as refused:
        check_memory(memory, workers, choices, 5)
    message = str(refused.value)
    assert f"{workers.memory_bytes / GIB:.2f} GiB" in message
    assert f"{memory.total / GIB:.2f} GiB" in message
    assert "compute.memory_gib" in message
    return message


def test_too_little_memory_is_refused_with_both_numbers_and_what_to_change():
    message = refusal(block={"size_px": 8192}, compute={"memory_gib": 1.5})
    assert "lower block.size_px (now 8192)" in message


def test_advice_is_given_only_where_it_can_be_followed():
    """Auto has tried the smallest block already, and a batch of one cannot be halved."""
    message = refusal(compute={"memory_gib": 1}, inference={"batch": 4})
    assert "block.size_px" not in message
    assert "lower inference.batch (now 4)" in message
    assert "inference.batch" not in refusal(compute={"memory_gib": 1}, inference={"batch": 1})
    assert "inference.batch" not in refusal(machine=GPU_BOX, compute={"memory_gib": 1})


def test_what_fits_exactly_is_not_refused():
    choices, _, memory, workers = chosen(3000, 3000)
    check_memory(memory, replace(workers, memory_bytes=memory.total), choices, 5)
    with pytest.raises(SettingsError):
        check_memory(memory, replace(workers, memory_bytes=memory.total - 1), choices, 5)


def test_memory_is_projected_in_the_chosen_precision():
    half = chosen(9000, 9000, inference={"precision": "bf16"}, block={"size_px": 4096})[2]
    full = chosen(9000, 9000, inference={"precision": "fp32"}, block={"size_px": 4096})[2]
    assert half.pixels < full.pixels
    assert half.network < full.network


# Continuing


def test_a_run_that_is_continued_chooses_as_it_did_on_any_machine():
    side = side_with(LONG)
    first = chosen(side, side, compute={"workers": 1, "memory_gib": 100})[0]
    stored = choices_to_json(first)
    other = replace(LAPTOP, cores=2, memory_bytes=8 * GIB, cpu_bf16=True, can_compile=False)
    again = chosen(side, side, machine=other, stored=stored, compute={"workers": 4})[0]
    assert again == first
    fresh = chosen(side, side, machine=other, compute={"workers": 4})[0]
    assert (fresh.compile, fresh.precision) != (first.compile, first.precision)


@pytest.mark.parametrize(
    ("group", "setting", "value", "name"),
    [
        ("inference", "precision", "bf16", "precision"),
        ("inference", "batch", 7, "batch"),
        ("inference", "compile", "on", "compile"),
        ("block", "size_px", 3072, "block_px"),
        ("compute", "threads_per_worker", 3, "threads"),
    ],
)
def test_what_is_given_counts_more_than_what_is_stored(group, setting, value, name):
    """The fingerprint then names the difference; silently keeping the old value would hide it."""
    side = side_with(LONG)
    stored = choices_to_json(chosen(side, side)[0])
    again = choices_to_json(chosen(side, side, stored=stored, **{group: {setting: value}})[0])
    changed = {key for key in stored if stored[key] != again[key]}
    assert changed == {name}
    assert again[name] == (True if value == "on" else value)


# Telling why


def why(crops, *, machine=LAPTOP, stored=None, **groups):
    side, config = side_with(crops), config_of(**groups)
    choices, plan, _, workers = chosen(side, side, machine=machine, stored=stored, **groups)
    told = reasons(
        config, machine=machine, workers=workers, lattice=plan.lattice, region=plan.region,
        choices=choices, stored=stored,
    )  # fmt: skip
    return told["precision"], told["compile"]


def test_what_auto_became_is_told_with_its_reason():
    faster = "auto: packed convolutions are faster on processors, and at once"
    assert why(4) == ("auto: the processors here do not compute in bf16", faster)
    assert why(4, machine=replace(LAPTOP, cpu_bf16=True))[0] == "auto: the processors here compute in bf16"
    one_gpu = {"machine": GPU_BOX, "compute": {"workers": 1}}
    precision, compiled = why(2 * COMPILE_CROPS_PER_WORKER, **one_gpu)
    assert precision == "auto: the GPUs here compute in bf16"
    assert compiled.startswith("auto: 4,000 crops a worker pay for it, and there are 8,")
    few = "auto: 4,000 crops a worker pay for it, and there are 4"
    assert why(4, **one_gpu)[1] == few
    bare = {"machine": replace(GPU_BOX, can_compile=False), "compute": {"workers": 1}}
    assert why(LONG, **bare)[1] == "auto: there is no C++ compiler here"


def test_a_compiler_without_room_is_told_of():
    limits = [number / 16 for number in range(40, 160)]
    told = []
    for gib in limits:
        groups = {"compute": {"workers": 1, "memory_gib": gib}, "block": {"size_px": 1024}}
        told.append(why(LONG, machine=GPU_BOX, **groups)[1])
    assert "auto: the compiler's own memory would not fit" in told
    assert "pay for it" in told[-1]


def test_what_was_given_or_is_gone_on_with_is_said_to_be():
    assert why(4, inference={"precision": "fp32", "compile": "on"}) == (GIVEN, GIVEN)
    stored = choices_to_json(chosen(600, 600)[0])
    assert why(4, stored=stored) == (STORED, STORED)
    assert why(4, stored=stored, inference={"precision": "fp32"}) == (GIVEN, STORED)
