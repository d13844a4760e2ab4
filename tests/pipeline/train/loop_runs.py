"""Runs of the training loop on a few tiles, and what they leave."""

import threading
from pathlib import Path
from typing import Any

import torch

from pipeline.train.job import TrainJob
from pipeline.train.run_log import read_log
from pipeline.train.state import Position, StateStore, read_position, read_tensors
from pipeline.train.workers.context import LocalContext
from pipeline.train.workers.local_workers import train_here, train_in_processes
from tests.pipeline.train.small_tiles import job_of, settings

CPU = torch.device("cpu")
State = dict[str, torch.Tensor]


def make_job(tiles: Path, output: Path, **groups: dict[str, Any]) -> TrainJob:
    return job_of(settings(tiles, output, **groups))


def run(job: TrainJob, workers: int = 1) -> None:
    if workers == 1:
        train_here(job, threading.Event())
    else:
        train_in_processes(job, workers, threading.Event())


def end_of(job: TrainJob) -> tuple[dict[str, State], Position]:
    state = StateStore(job.run_folder, keep=1).newest()
    assert state is not None
    return read_tensors(state, CPU), read_position(state)


def differences(one: State, two: State) -> float:
    assert one.keys() == two.keys()
    return max(float((one[name].double() - two[name].double()).abs().max()) for name in one)


def steps_of(job: TrainJob) -> list[dict[str, Any]]:
    return [record for record in read_log(job.run_folder) if record["kind"] == "step"]


def losses_of(job: TrainJob) -> list[float]:
    return [record["loss"] for record in steps_of(job)]


class Undisturbed(LocalContext):
    """Counts the questions whether to stop, one a step, and says yes after so many."""

    def __init__(self, job: TrainJob, stop_after: int | None = None) -> None:
        super().__init__(job.states, CPU, threading.Event())
        self.asked, self._stop_after = 0, stop_after

    def stop_soon(self) -> bool:
        self.asked += 1
        return self._stop_after is not None and self.asked > self._stop_after


# A network at its random start amplifies the last bit, in which sums over workers differ, some tenfold a step
# at usual rates. At this one the parameters move by 5e-4 in ten steps and differ by 5e-6.
TEN_STEPS = {"max_steps": 10, "batch": 8, "lr": 0.0001, "warmup_steps": 0, "seed": 5}
CALM = {"image_pooling": "none"}
