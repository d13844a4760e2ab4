"""Batches in the order of the run, loaded ahead so that the network need not wait.

The global batch of a step is cut into parts (gradient accumulation) and each part among the ranks, in order:
whatever the number of ranks, a part holds the same samples. A rank may get fewer than others, or none.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.train.samples.loading_processes import ProcessSource
from pipeline.train.samples.sample import Sample, SampleSource, SampleSpec

AHEAD_BYTES = 512 << 20
"""Memory for samples that wait for the network."""


@dataclass(frozen=True)
class Batch:
    """The samples that one rank sees in one forward pass."""

    images_NCHW: Tensor
    labels_NHW: Tensor


class Source(Protocol):
    """Whatever gives samples by number."""

    @property
    def cpu_s(self) -> float:
        """Seconds of processor time of other processes that load."""

    def load(self, number: int) -> Sample:
        """The n-th sample of the run."""

    def close(self) -> None:
        """Let go of files."""


def parts_of_step(first: int, batch: int, parts: int, *, rank: int, world_size: int) -> list[range]:
    """The samples of one rank in one step, by part.

    Args:
        first: The step's first sample.
        batch: Samples of the step, of all ranks and parts.
        parts: Parts it is cut into.
        rank: Which rank.
        world_size: Number of ranks.
    """
    return [
        _cut(part, rank, world_size)
        for part in (_cut(range(first, first + batch), i, parts) for i in range(parts))
    ]


def _cut(whole: range, piece: int, pieces: int) -> range:
    return whole[len(whole) * piece // pieces : len(whole) * (piece + 1) // pieces]


class BatchLoader:
    """Loads the batches of one rank ahead, in threads or processes.

    Args:
        spec: What samples depend on.
        kind: Whether threads of this process load, or processes.
        loaders: Samples loaded at once.
        first: Sample to begin at.
        batch: Samples of a step, of all ranks.
        parts: Parts of a step.
        rank: Which rank.
        world_size: Number of ranks.
        pin: Whether batches lie where a GPU copies from directly.
    """

    def __init__(  # noqa: PLR0913 - all by name
        self,
        spec: SampleSpec,
        *,
        kind: Literal["threads", "processes"],
        loaders: int,
        first: int,
        batch: int,
        parts: int,
        rank: int,
        world_size: int,
        pin: bool,
    ) -> None:  # fmt: skip
        self._shape = (len(spec.tiles.bands), spec.crop_px, spec.crop_px)
        self._pin = pin
        self._source = _open(spec, kind, loaders)
        self._threads = _one_torch_thread_each(loaders)
        self._steps = _steps(first, batch, parts, rank, world_size)
        bytes_of_step = 5 * (batch // world_size + parts) * int(np.prod(self._shape))
        samples_of_step = max(1, batch // world_size)
        wanted = max(2, -(-2 * loaders // samples_of_step))
        self._steps_ahead = max(1, min(wanted, AHEAD_BYTES // bytes_of_step))
        self._queue: deque[list[list[Future[Sample]]]] = deque()

    def next_step(self) -> list[Batch]:
        """The parts of the next step, waiting for them if need be."""
        while len(self._queue) <= self._steps_ahead:
            self._submit()
        return [self._collect(samples) for samples in self._queue.popleft()]

    def samples_per_s_alone(self, seconds: float) -> float:
        """How many samples a second are loaded while nothing else is done. What was loaded ahead is dropped.

        Args:
            seconds: How long to try.
        """
        for step in self._queue:
            for part in step:
                for sample in part:
                    sample.result()
        self._queue.clear()
        began, count = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            count += sum(len(batch.labels_NHW) for batch in self.next_step())
        return count / (time.monotonic() - began)

    def loaders_cpu_s(self) -> float:
        """Seconds of processor time that other processes have taken to load."""
        return self._source.cpu_s

    def close(self) -> None:
        """Stop loading."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._source.close()

    def _submit(self) -> None:
        step = next(self._steps)
        self._queue.append(
            [[self._threads.submit(self._source.load, number) for number in part] for part in step]
        )

    def _collect(self, waited_for: Sequence[Future[Sample]]) -> Batch:
        samples = [future.result() for future in waited_for]
        images_NCHW = torch.empty((len(samples), *self._shape), pin_memory=self._pin)
        labels_NHW = torch.empty((len(samples), *self._shape[1:]), dtype=torch.uint8, pin_memory=self._pin)
        for index, sample in enumerate(samples):
            images_NCHW[index] = torch.from_numpy(sample.image_CHW)
            labels_NHW[index] = torch.from_numpy(sample.labels_HW)
        return Batch(images_NCHW, labels_NHW)


def _steps(first: int, batch: int, parts: int, rank: int, world_size: int) -> Iterator[list[range]]:
    while True:
        yield parts_of_step(first, batch, parts, rank=rank, world_size=world_size)
        first += batch


def _open(spec: SampleSpec, kind: str, loaders: int) -> Source:
    if kind == "threads":
        return SampleSource(spec)
    return ProcessSource(replace(spec, cache_bytes=spec.cache_bytes // loaders), loaders)


def _one_torch_thread_each(loaders: int) -> ThreadPoolExecutor:
    """A pool whose threads compute alone: the processors belong to the network.

    torch takes the number for threads to come from whoever set it last, hence the word at the end; all the
    pool's threads are made to start before.
    """
    threads = torch.get_num_threads()
    started = threading.Barrier(loaders + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(loaders, thread_name_prefix="loader", initializer=begin)
    for _ in range(loaders):
        pool.submit(_nothing)
    started.wait()
    torch.set_num_threads(threads)
    return pool


def _nothing() -> None:
    """Makes a pool start a thread."""
