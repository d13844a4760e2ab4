"""What this machine does with a model and a raster, ours and the peers', measured in one run.

Absolute times differ from day to day; ratios within a run hold. Both sides are warm, and the better of two
passes counts. Cold costs (loading, preparing, compiling) stand apart.
"""

import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config import RunConfig
from pipeline.errors import Interrupted, TerrazzoError
from pipeline.raster.mosaic import Mosaic, create_mosaic
from pipeline.segment import overviews
from pipeline.segment.audit import audit
from pipeline.segment.executor import Event, Finished, GivenUp, LocalExecutor, Record
from pipeline.segment.find_source import single_raster
from pipeline.segment.machine import this_machine
from pipeline.segment.peers import PEERS, PeerTask, eager_model
from pipeline.segment.planned import PlannedRun, make_planned_run, plan_document
from pipeline.segment.worker import BlockWorker
from pipeline.signals import stop_on_signals

PASSES = 2
BARE_SECONDS = 4.0
EAGER_BATCHES = (1, 4)


def benchmark(config: RunConfig, folder: Path, *, with_peers: bool = True) -> dict[str, Any]:
    """Measure; mosaics go below ``folder``.

    Args:
        config: Source, model and settings; its output is not used.
        folder: An empty directory.
        with_peers: Whether the same raster also goes through a plain loop and, where installed, MONAI.
    """
    outputs = [_into(config, folder / f"pass{index}.zarr") for index in range(PASSES)]
    planned = make_planned_run(outputs[0], this_machine())
    began = time.perf_counter()
    worker = _prepare(planned)
    cold_seconds = time.perf_counter() - began
    bare, passes = [], []
    try:
        for output in outputs:
            bare.append(_bare_crops_per_s(worker, planned))
            passes.append(_end_to_end(worker, make_planned_run(output, this_machine())))
    finally:
        worker.close()
    best = min(passes, key=lambda one: one["seconds"])
    bare_crops_per_s = max(bare)
    classes = Mosaic.open(outputs[0].output.url).classes()
    report = {
        "status": "complete",
        "efficiency": round(best["crops"] / best["seconds"] / bare_crops_per_s, 4),
        "bare_crops_per_s": round(bare_crops_per_s, 3),
        "mpx_per_s": round(best["pixels"] / 1e6 / best["seconds"], 4),
        "seconds": round(best["seconds"], 3),
        "cold_seconds": round(cold_seconds, 3),
        "crops": best["crops"],
        "pixels": best["pixels"],
        "stages": best["stages"],
        "preparation": worker.preparation,
        "eager_fp32_crops_per_s": _eager_crops_per_s(planned) if with_peers else {},
        "peers": _measure_peers(planned, classes, best, folder) if with_peers else {},
        "machine": {"cores": planned.workers.threads, "torch": torch.__version__},
        "plan": plan_document(planned),
    }
    report["preparation"]["unfolded"] = list(worker.preparation["unfolded"])
    return report


def _into(config: RunConfig, path: Path) -> RunConfig:
    output = config.output.model_copy(update={"url": str(path)})
    compute = config.compute.model_copy(update={"executor": "local", "workers": 1})
    return config.model_copy(update={"output": output, "compute": compute})


def _prepare(planned: PlannedRun) -> BlockWorker:
    planned.ledger.write_plan(plan_document(planned))
    create_mosaic(planned.output, planned.layout)
    return BlockWorker(planned.spec)


def _bare_crops_per_s(worker: BlockWorker, planned: PlannedRun) -> float:
    """The network alone, on crops that lie in memory: what no pipeline around it can exceed."""
    crop_px, bands = planned.config.crop.size_px, planned.numbers.num_bands
    images_NCHW = torch.randn((planned.choices.batch, bands, crop_px, crop_px))
    return worker.time_network(images_NCHW, seconds=BARE_SECONDS)


def _eager_crops_per_s(planned: PlannedRun) -> dict[str, float]:
    """The same network as its library gives it: float32, full-size output, by crops given at a time."""
    model, crop_px = eager_model(planned), planned.config.crop.size_px
    pace = {}
    for batch in EAGER_BATCHES:
        images_NCHW = torch.randn((batch, planned.numbers.num_bands, crop_px, crop_px))
        with torch.inference_mode():
            model(images_NCHW)
            began, crops = time.perf_counter(), 0
            while time.perf_counter() - began < BARE_SECONDS:
                model(images_NCHW)
                crops += batch
        pace[f"batch_{batch}"] = round(crops / (time.perf_counter() - began), 3)
    return pace


def _end_to_end(worker: BlockWorker, planned: PlannedRun) -> dict[str, Any]:
    """File in, audited mosaic with overviews on disk, by a worker that is warm."""
    began = time.perf_counter()
    planned.ledger.write_plan(plan_document(planned))
    create_mosaic(planned.output, planned.layout)
    overviews.create_overviews(planned.output, planned.layout)
    records: list[Record] = []

    def on_event(event: Event) -> None:
        if isinstance(event, GivenUp):  # fewer blocks would be done sooner, and look faster
            raise TerrazzoError(f"every block must be done to be measured, but {event.task}: {event.reason}")
        if isinstance(event, Finished):
            records.append(event.record)

    worker.turn_to(planned.spec)
    with stop_on_signals() as stop:
        blocks = [block.id for block in planned.plan.tasks()]
        LocalExecutor().run(lambda: _Warm(worker), blocks, on_event, stop)
        found = audit(planned.output, planned.ledger, planned.plan, planned.layout, stop)
        _write_overviews(planned, stop)
        if stop.is_set():
            raise Interrupted("the benchmark was stopped; a part of it measures nothing")
    if not found.is_complete:
        raise TerrazzoError(f"a mosaic must be whole to be measured, but {next(found.lines())}")
    seconds = time.perf_counter() - began
    stages = {
        stage: round(sum(record["seconds"].get(stage, 0.0) for record in records), 3)
        for stage in ("read", "compute", "write")
    }
    return {
        "seconds": seconds,
        "crops": sum(record.get("crops", 0) for record in records),
        "pixels": sum(record.get("pixels", 0) for record in records),
        "stages": stages,
    }


def _write_overviews(planned: PlannedRun, stop: threading.Event) -> None:
    height, width = planned.layout.grid.window.shape
    for base in overviews.rounds(height, width):
        reduce = functools.partial(overviews.OverviewWorker, planned.output, planned.layout)
        tasks = overviews.tasks(height, width, base, planned.layout.stack_shape)
        LocalExecutor(planned.workers.threads).run(reduce, tasks, _ignore, stop)


class _Warm:
    """A worker that outlives the executor: it has no ``close``."""

    def __init__(self, worker: BlockWorker) -> None:
        self._worker = worker

    def __call__(self, task: str) -> Record:
        return self._worker(task)


def _ignore(_event: Event) -> None:
    """Overviews tell nothing that is measured."""


def _measure_peers(
    planned: PlannedRun, ours: NDArray[Any], best: dict[str, Any], folder: Path
) -> dict[str, Any]:
    if single_raster(planned.config.source) is None:
        return {name: {"skipped": "takes a single raster on its own grid"} for name in PEERS}
    task = PeerTask.of(planned)
    ours_mpx_per_s = best["pixels"] / 1e6 / best["seconds"]
    results = {}
    for name, peer in PEERS.items():
        results[name] = _measure_peer(peer, task, ours, folder / f"{name}.tif", ours_mpx_per_s)
    return results


def _measure_peer(
    peer: Callable[[PeerTask, Path], NDArray[Any] | None],
    task: PeerTask,
    ours: NDArray[Any],
    path: Path,
    ours_mpx_per_s: float,
) -> dict[str, Any]:
    seconds = []
    for _ in range(PASSES):
        began = time.perf_counter()
        answer = peer(task, path)
        seconds.append(time.perf_counter() - began)
        if answer is None:
            return {"skipped": "not installed"}
        labels = answer
    known: NDArray[np.bool_] = np.not_equal(ours, np.iinfo(ours.dtype).max)
    mpx_per_s = known.sum() / 1e6 / min(seconds)
    return {
        "mpx_per_s": round(float(mpx_per_s), 4),
        "seconds": round(min(seconds), 3),
        "times_faster_ours": round(float(ours_mpx_per_s / mpx_per_s), 3),
        "label_agreement": round(float((labels == ours)[known].mean()), 5),
    }
