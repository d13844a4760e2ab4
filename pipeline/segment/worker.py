"""A worker: reads a block, computes it, writes it, records it. The same in this process and in a Ray actor.

Several threads may call a worker at once: while one block computes, another is read or written. The device
and its model belong to one thread alone.
"""

import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from deeplab_core.multiscale import Fuse, MultiScale
from deeplab_core.prepare import prepare_for_inference
from deeplab_core.prepared import Precision, Preparation
from pipeline.errors import Interrupted, StorageError
from pipeline.raster.mosaic import MosaicLayout, MosaicWriter
from pipeline.raster.polygons import mask
from pipeline.raster.source import RasterSource, SourceSpec, StackSource
from pipeline.segment.engine import BlockEngine, EngineSettings
from pipeline.segment.ledger import Ledger, PlanMark, started_over
from pipeline.segment.measure import count_classes, seam_sums
from pipeline.segment.plan import Block, Plan
from pipeline.segment.spare_model import SpareModel, load_model
from pipeline.storage import Folder, redact


@dataclass(frozen=True)
class NetworkSpec:
    """How the network is loaded and run: plain values, resolved.

    Attributes:
        folder: Where the checkpoint lies.
        precision: fp32, bf16, fp16 or int8.
        compile: Whether it is compiled.
        scales: Sizes at which each crop is seen.
        flips: Mirrorings.
        fuse: What is averaged.
        device: cpu or cuda.
        threads: CPU threads of the network.
    """

    folder: Folder
    precision: Precision
    compile: bool
    scales: tuple[float, ...]
    flips: tuple[str, ...]
    fuse: Fuse
    device: str
    threads: int


@dataclass(frozen=True)
class SegmentSpec:
    """Everything a worker needs; it travels to other processes and holds no secret."""

    source: SourceSpec
    network: NetworkSpec
    engine: EngineSettings
    plan: Plan
    output: Folder
    ledger: Ledger
    layout: MosaicLayout


class BlockWorker:
    """Computes blocks by name."""

    def __init__(self, spec: SegmentSpec, spare: SpareModel | None = None) -> None:
        self._spec = spec
        self._mark = _check_that_the_run_is_here(spec)
        self._source = spec.source.open()
        self._writer = MosaicWriter(spec.output, spec.layout)
        self._device_thread = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._engine, self.preparation = self._device_thread.submit(build_engine, spec, spare).result()
        self._name = f"{socket.gethostname()}:{os.getpid()}"

    def __call__(self, task: str) -> dict[str, Any]:
        """Compute a block and tell what it took."""
        spec, plan, block = self._spec, self._spec.plan, Block.from_id(task)
        started, clock = time.time(), _Stopwatch()
        served, halo = plan.served_window(block), plan.halo(block)
        pixels = self._source_of(block).read(halo)
        wanted = mask(plan.region, halo) & pixels.valid_HW
        if pixels.wanted_HW is not None:
            wanted &= pixels.wanted_HW
        clock.lap("read")
        own = plan.source_window(block).intersect(served).relative_to(halo).slices
        record: dict[str, Any] = {"block": task, "state": "empty", "worker": self._name, "started": started}
        if wanted[served.relative_to(halo).slices].any():
            window = plan.source_window(block)
            arrays, crops = self._on_device(
                clock, lambda: self._engine.compute(window, served, pixels, wanted)
            )
            clock.lap("wait_and_compute")
            self._check_that_it_is_still_ours()
            with _no_fault_of_the_block():
                objects = self._writer.write(plan.window(block), arrays, block.plane)
            record |= {
                "state": "done" if wanted[own].any() else "empty",
                "objects": objects,
                "crops": crops,
                "pixels": int(wanted[own].sum()),
                "class_pixels": count_classes(arrays.classes_HW, spec.layout.num_classes),
                "seam": seam_sums(arrays.confidence_HW, window, plan.lattice),
            }
            clock.lap("write")
        record |= {"seconds": clock.seconds, "peak_rss_bytes": peak_rss_bytes(), "batch": self._engine.batch}
        self._check_that_it_is_still_ours()  # after the arrays: a record vouches for them
        with _no_fault_of_the_block():
            spec.ledger.record_finished(task, record)
        return record

    def turn_to(self, spec: SegmentSpec) -> None:
        """Write to another mosaic of the same source and network; what is loaded stays loaded."""
        self._spec = spec
        self._mark = _check_that_the_run_is_here(spec)
        self._writer = MosaicWriter(spec.output, spec.layout)

    def time_network(self, images_NCHW: torch.Tensor, *, seconds: float) -> float:
        """Crops a second of the network alone, on the thread and with the preparation that blocks have."""
        return self._device_thread.submit(self._engine.time_network, images_NCHW, seconds).result()

    def close(self) -> None:
        """Let go of the source and the device."""
        self._device_thread.shutdown()
        self._source.close()

    def _check_that_it_is_still_ours(self) -> None:
        """Who starts over deletes: blocks of the run before would stand among new ones, and be believed."""
        if self._spec.ledger.plan_mark() != self._mark:
            raise started_over(self._spec.output.url)

    def _source_of(self, block: Block) -> RasterSource:
        if block.plane is None:
            return self._source
        if not isinstance(self._source, StackSource):
            raise TypeError(f"block {block.id} is one of a stack, but its source has one plane")
        return self._source.at(block.plane)

    def _on_device(self, clock: "_Stopwatch", compute: Callable[[], Any]) -> Any:  # noqa: ANN401
        def timed() -> Any:  # noqa: ANN401
            begun = time.perf_counter()
            result = compute()
            clock.seconds["compute"] = time.perf_counter() - begun
            return result

        return self._device_thread.submit(timed).result()


@contextmanager
def _no_fault_of_the_block() -> Iterator[None]:
    """A store that takes nothing, as a full disk, would take nothing of any other block either."""
    try:
        yield
    except StorageError as error:
        raise Interrupted(
            f"{error}; what is finished stays finished: make room, or let the store answer, and start again"
        ) from error


def _check_that_the_run_is_here(spec: SegmentSpec) -> PlanMark:
    """The driver wrote the plan before any worker began: who cannot see it would write into nowhere.

    Gives what tells this plan from one that takes its place later.
    """
    mark = spec.ledger.plan_mark()
    plan = spec.ledger.read_plan()
    if plan is None or plan.get("run_id") != spec.layout.attributes["run_id"]:
        found = "no plan" if plan is None else "the plan of another run"
        raise StorageError(
            f"every node must see the output, but {socket.gethostname()} finds {found} in "
            f"{redact(spec.ledger.folder.url)}; give --output a URL or a path that all nodes share"
        )
    return mark


def build_engine(spec: SegmentSpec, spare: SpareModel | None = None) -> tuple[BlockEngine, dict[str, Any]]:
    """The network on its device, and how it was prepared; to be called on the thread that will use it.

    Args:
        spec: The run.
        spare: Its model, if this process has loaded it already.
    """
    network, engine = spec.network, spec.engine
    torch.set_num_threads(network.threads)
    device = torch.device(network.device)
    taken = spare.take() if spare is not None else None
    model = load_model(network.folder) if taken is None else taken

    def prepare(batch: int) -> tuple[MultiScale, Preparation]:
        prepared = prepare_for_inference(
            model,
            precision=network.precision,
            compile=network.compile,
            device=device,
            batch=batch,
            size_px=engine.lattice.crop_px,
            scales=network.scales,
        )
        multiscale = MultiScale(prepared, scales=network.scales, flips=network.flips, fuse=network.fuse)
        return multiscale, prepared.preparation

    multiscale, preparation = prepare(engine.batch)
    # A processor takes crops one by one, whatever the batch: there is nothing to make smaller.
    smaller = (lambda batch: prepare(batch)[0]) if device.type == "cuda" else None
    made = BlockEngine(multiscale, engine, device=device, dtype=preparation.dtype, smaller=smaller)
    return made, asdict(preparation)


def peak_rss_bytes() -> int:
    """The most memory this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class _Stopwatch:
    """Seconds by stage of one block."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = now - self._last
        self._last = now
