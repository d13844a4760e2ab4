"""Training on this machine without Ray: in this process, or in several that share its processors or GPUs."""

import functools
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import multiprocessing
from torch.multiprocessing.spawn import (
    ProcessContext,
    ProcessException,
    ProcessExitedException,
    start_processes,
)

from pipeline import errors
from pipeline.errors import Interrupted, TerrazzoError
from pipeline.train.job import TrainJob
from pipeline.train.loop import train_loop
from pipeline.train.workers.context import LocalContext, Stop

POLL_S = 0.5
COLLECTIVE_TIMEOUT_S = 1800


def train_here(job: TrainJob, stop: threading.Event) -> None:
    """Train in this process.

    Args:
        job: What is trained.
        stop: Set to end early.
    """
    train_loop(job, LocalContext(job.states, _device(job, 0), stop))


def train_in_processes(job: TrainJob, num_workers: int, stop: threading.Event) -> None:
    """Train in several processes of this machine, joined by gloo, or by nccl where each has a GPU.

    Args:
        job: What is trained.
        num_workers: How many.
        stop: Set to end early: it is passed on, and every process stores its state.

    Raises:
        Interrupted: It was asked to stop, or a process died.
        TerrazzoError: Whatever a process was refused for.
    """
    with tempfile.TemporaryDirectory(prefix="terrazzo-workers-") as folder:
        shared_stop = multiprocessing.get_context("spawn").Event()
        entry = functools.partial(
            _work, job=job, num_workers=num_workers, folder=Path(folder), stop=shared_stop
        )
        workers = start_processes(entry, nprocs=num_workers, join=False, start_method="spawn")
        assert workers is not None  # noqa: S101 - it is, where nobody joins
        try:
            while not workers.join(timeout=POLL_S):
                if stop.is_set():
                    shared_stop.set()
        except ProcessException as error:
            # A process that was refused says why; the others lose their connection to it, one way or other.
            _raise_refusal(Path(folder))
            lost = _lost(workers, error)
            if lost is None:
                raise
            raise Interrupted(
                f"worker {lost[0]} of {num_workers} died ({lost[1]}); start again to go on from "
                "the last state"
            ) from error
        _raise_refusal(Path(folder))


def _work(rank: int, *, job: TrainJob, num_workers: int, folder: Path, stop: Stop) -> None:
    """One process: what it is refused for is left in a file, since errors do not travel between processes."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    device = _device(job, rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.set_num_threads(job.threads)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=num_workers,
        timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S),
    )
    try:
        train_loop(job, LocalContext(job.states, device, stop, rank=rank, world_size=num_workers))
    except TerrazzoError as error:
        told = {"kind": type(error).__name__, "message": str(error), "time": time.time()}
        (folder / f"refusal-{rank}.json").write_text(json.dumps(told))
        if not isinstance(error, Interrupted):
            os._exit(1)  # the others may wait in a collective: they end when this process is gone
    with suppress(Exception):  # peers may have left already
        dist.destroy_process_group()


def _lost(workers: ProcessContext, error: ProcessException) -> tuple[int, str] | None:
    """Which process died and of what; None where one raised an error of its own.

    Of several that ended before anybody looked torch names the one of the lowest rank, and that may only have
    lost its connection. SIGTERM is what torch itself ends those with that are left.
    """
    if isinstance(error, ProcessExitedException):
        return error.error_index, str(error.signal_name or error.exit_code)
    for rank, process in enumerate(workers.processes):
        code = process.exitcode or 0
        if code < 0 and code != -signal.SIGTERM:
            return rank, signal.Signals(-code).name
    return None


def _raise_refusal(folder: Path) -> None:
    refusals = [json.loads(file.read_text()) for file in folder.glob("refusal-*.json")]
    for refusal in sorted(refusals, key=lambda refusal: refusal["time"]):
        kind = getattr(errors, refusal["kind"])
        raise kind(refusal["message"])


def _device(job: TrainJob, rank: int) -> torch.device:
    return torch.device("cuda", rank) if job.gpus_per_worker else torch.device("cpu")
