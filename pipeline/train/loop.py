"""The training loop: plain torch, the same in this process, in several over gloo or nccl, and under Ray.

What happens at a step depends on the job and the step alone. Samples, augmentation and dropout are keyed by
seed and position, so a run that is taken up from a state goes on bit by bit as if it had never stopped; and
whatever ranks decide (a state is due, the time is over, somebody must leave) they decide from values that all
of them have agreed on, so that none waits for another in vain.
"""

import logging
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from deeplab_core.freeze_bn import freeze_batchnorm
from deeplab_core.losses import build_loss
from deeplab_core.segmenter import Segmenter
from deeplab_core.sync_bn import convert_sync_batchnorm
from pipeline.errors import Interrupted
from pipeline.train.board import open_board
from pipeline.train.clock import Clock, CpuTime
from pipeline.train.initial import initial_model
from pipeline.train.job import TrainJob
from pipeline.train.run_log import RunLog
from pipeline.train.samples.batches import BatchLoader
from pipeline.train.state import Position, read_position, read_tensors, write_state
from pipeline.train.steps.ema import MovingAverage
from pipeline.train.steps.optimizer import build_optimizer, rate_factor, rate_growth, set_rates, warmup_of
from pipeline.train.steps.precision import choose_precision
from pipeline.train.steps.step import TrainingStep
from pipeline.train.telling import Teller
from pipeline.train.validation.validate import gathered, validate
from pipeline.train.workers.context import TrainContext

logger = logging.getLogger(__name__)

LOADING_ALONE_S = 2.0
"""How long loading alone is measured, at the end."""


def train_loop(job: TrainJob, context: TrainContext) -> None:
    """Train from the start, or from the newest state, to the end.

    Args:
        job: What is trained.
        context: This process and its surroundings; with more than one rank the default process group exists.

    Raises:
        Interrupted: The context asked to leave; the state is stored.
        TerrazzoError: The loss is no longer a number.
    """
    device = context.device
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            torch.set_num_threads(job.threads)
            with closing(_Run(job, context)) as run:
                run.train()
        finally:
            torch.set_num_threads(threads)


@dataclass(frozen=True)
class _Agreed:
    """What all ranks take for true at a step."""

    elapsed_s: float
    stop: bool


class _Run:
    def __init__(self, job: TrainJob, context: TrainContext) -> None:
        train = job.train
        self._job, self._context = job, context
        self._clock = Clock(context.device)
        growth = context.world_size if train.batch_of == "worker" else 1
        self._batch = train.batch * growth
        self._lr = job.optimizer.lr * rate_growth(job.optimizer, growth)
        self._warmup_steps = warmup_of(train)
        self._model = self._prepared_model()
        self._optimizer = build_optimizer(self._model, job.optimizer, batch_growth=growth)
        self._average = MovingAverage(self._model, train.ema) if train.ema else None
        state = context.resume_from()
        self._position = read_position(state) if state else Position()
        self._step = self._make_step()
        if state:
            self._restore(state)
        self._stored_step = self._position.step
        self._loader = BatchLoader(
            job.samples,
            kind="processes" if job.loader_kind == "processes" else "threads",
            loaders=job.loaders,
            first=self._position.sample,
            batch=self._batch,
            parts=train.accumulate,
            rank=context.rank,
            world_size=context.world_size,
            pin=context.device.type == "cuda",
        )
        self._began_s = time.monotonic() - self._position.elapsed_s
        self._cpu_time, self._cpu_before_s = CpuTime(self._loader.loaders_cpu_s), self._position.cpu_s
        self._teller = self._make_teller()

    def train(self) -> None:
        """Step until the end of the run, or until somebody must leave."""
        agreed = self._agree()
        self._catch_up(agreed)
        while (progress := self._progress(agreed)) < 1 and not agreed.stop:
            self._take_step(progress, agreed)
            agreed = self._agree()
            if self._progress(agreed) < 1 and not agreed.stop:
                self._look_after(agreed)
        if agreed.stop and self._progress(agreed) < 1:
            if self._position.step != self._stored_step:
                self._save(agreed, score=None, finished=False)
            raise Interrupted(
                f"training was asked to stop after step {self._position.step}; its state is stored, start "
                "again to go on"
            )
        if not self._position.finished:
            score = self._validate() if self._job.validates else None
            self._teller.tell()
            self._teller.tell_pace(self._position.step, self._loading_alone())
            self._save(agreed, score=score, finished=True)

    def _catch_up(self, agreed: _Agreed) -> None:
        """Validate a state that was stored when there was no time to: it might be the best."""
        position = self._position
        owed = position.step > 0 and position.score is None and self._validates_after(position.step)
        if owed and not agreed.stop and self._progress(agreed) < 1:
            score = self._validate()
            self._position = _moved(position, validation_s=agreed.elapsed_s)
            self._save(agreed, score=score, finished=False)

    def close(self) -> None:
        self._loader.close()
        self._teller.close()

    def _prepared_model(self) -> Segmenter:
        train = self._job.train
        model = initial_model(self._job).to(self._context.device).train()
        if train.freeze_bn:
            freeze_batchnorm(model, train_affine=True)
        if train.sync_bn and self._context.world_size > 1:
            convert_sync_batchnorm(model)
        if train.channels_last:
            model.to(memory_format=torch.channels_last)
        return model

    def _make_step(self) -> TrainingStep:
        train, device = self._job.train, self._context.device
        loss = build_loss(
            train.loss.config(),
            num_classes=self._job.model.num_classes,
            class_counts=self._job.statistics.class_pixels,
        )
        return TrainingStep(
            self._model,
            loss,
            self._optimizer,
            device=device,
            precision=choose_precision(train.precision, device),
            clip_norm=train.clip_norm,
            channels_last=train.channels_last,
            world_size=self._context.world_size,
            compile_model=train.compile,
            clock=self._clock,
        )

    def _make_teller(self) -> Teller:
        """Rank 0 writes, the others only help to add up."""
        log = board = None
        if self._context.rank == 0:
            log = RunLog(self._job.run_folder, self._position.step, self._job.holding)
            board = open_board(self._job.run_folder, self._position.step)
        return Teller(log, board, self._clock, world_size=self._context.world_size)

    def _restore(self, state: Path) -> None:
        """Take everything from a state but the base rates, which follow the batch of the workers now here."""
        tensors = read_tensors(state, self._context.device)
        base_rates = [group["base_lr"] for group in self._optimizer.param_groups]
        self._model.load_state_dict(tensors["model"])
        self._optimizer.load_state_dict(tensors["optimizer"])
        for group, rate in zip(self._optimizer.param_groups, base_rates, strict=True):
            group["base_lr"] = rate
        self._step.scaler.load_state_dict(tensors["scaler"])
        if self._average is not None:
            self._average.model.load_state_dict(tensors["average"])
        self._clock.seconds |= self._position.phase_s or {}

    def _agree(self) -> _Agreed:
        """The time of rank 0, and whether any rank must leave."""
        elapsed_s = time.monotonic() - self._began_s
        stop = self._context.stop_soon()
        if self._context.world_size == 1:
            return _Agreed(elapsed_s, stop)
        with self._clock.phase("all_reduce"):
            own = [elapsed_s if self._context.rank == 0 else 0.0, float(stop)]
            told = torch.tensor(own, dtype=torch.float64, device=self._context.device)
            dist.all_reduce(told, op=dist.ReduceOp.MAX)
        return _Agreed(float(told[0]), bool(told[1]))

    def _progress(self, agreed: _Agreed) -> float:
        """Share of the run that is done, by whichever limit is nearer."""
        if self._position.finished:
            return 1.0
        train = self._job.train
        by_steps = self._position.step / train.max_steps if train.max_steps is not None else 0.0
        by_time = agreed.elapsed_s / (60 * train.max_minutes) if train.max_minutes is not None else 0.0
        return max(by_steps, by_time)

    def _take_step(self, progress: float, agreed: _Agreed) -> None:
        position, train = self._position, self._job.train
        self._clock.begin_step(position.step)
        factor = rate_factor(progress, position.step, power=train.power, warmup_steps=self._warmup_steps)
        set_rates(self._optimizer, factor)
        torch.manual_seed(_dropout_seed(train.seed, position.step, self._context.rank))
        with self._clock.phase("loading"):
            parts = self._loader.next_step()
        loss = self._step.run(parts, position.step)
        self._position = _moved(position, step=position.step + 1, sample=position.sample + self._batch)
        if self._average is not None:
            with self._clock.phase("optimizer"):
                self._average.update(self._model, position.step)
        record = {
            "kind": "step",
            "step": self._position.step,
            "lr": self._lr * factor,
            "batch": self._batch,
            "progress": progress,
            "elapsed_s": agreed.elapsed_s,
        }
        self._teller.add(record, loss, self._batch)

    def _look_after(self, agreed: _Agreed) -> None:
        """Validate and store the state where that is due; what is validated is stored, it may be the best."""
        position, train = self._position, self._job.train
        since_s = agreed.elapsed_s - position.validation_s
        validation_due = self._validates_after(position.step) or (
            self._job.validates and _is_over(since_s, train.validate_minutes)
        )
        since_s = agreed.elapsed_s - position.checkpoint_s
        checkpoint_due = _is_at(position.step, train.checkpoint_steps) or _is_over(
            since_s, train.checkpoint_minutes
        )
        score = self._validate() if validation_due else None
        if validation_due:
            self._position = _moved(self._position, validation_s=agreed.elapsed_s)
        if validation_due or checkpoint_due:
            self._save(agreed, score=score, finished=False)

    def _validates_after(self, step: int) -> bool:
        return self._job.validates and _is_at(step, self._job.train.validate_steps)

    def _validate(self) -> float:
        job = self._job
        with self._clock.phase("validation"):
            found = gathered(
                validate(
                    self._average.model if self._average else self._model,
                    job.tiles,
                    "val",
                    job.inference(self._context.device),
                    threads=job.threads,
                    rank=self._context.rank,
                    world_size=self._context.world_size,
                    max_tiles=job.validation.max_tiles,
                )
            )
        self._teller.tell()
        miou = found.confusion.miou
        if self._context.rank == 0:
            logger.info("step %d: validation mIoU %.4f", self._position.step, miou)
        self._teller.write({"kind": "validation", "step": self._position.step} | found.to_json())
        return miou

    def _loading_alone(self) -> float:
        """Images a second that all ranks' loading gives while nothing else is done."""
        return self._sum_of_ranks(self._loader.samples_per_s_alone(LOADING_ALONE_S))

    def _sum_of_ranks(self, own: float) -> float:
        if self._context.world_size == 1:
            return own
        total = torch.tensor(own, dtype=torch.float64, device=self._context.device)
        dist.all_reduce(total)
        return float(total)

    def _save(self, agreed: _Agreed, *, score: float | None, finished: bool) -> None:
        self._teller.tell()  # first: a state after which the loss was no number must not be kept
        self._position = _moved(
            self._position,
            elapsed_s=agreed.elapsed_s,
            cpu_s=self._cpu_before_s + self._sum_of_ranks(self._cpu_time.seconds),
            checkpoint_s=agreed.elapsed_s,
            score=score,
            finished=finished,
            phase_s=dict(self._clock.seconds),
        )
        self._stored_step = self._position.step
        self._teller.flush()
        record = {"step": self._position.step, "elapsed_s": agreed.elapsed_s} | self._teller.last
        if score is not None:
            record["miou"] = score
        with self._clock.phase("saving"):
            if self._context.rank:
                self._context.report(record, None)
                return
            tensors = {
                "model": self._model.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "scaler": self._step.scaler.state_dict(),
                "average": self._average.model.state_dict() if self._average else {},
            }
            with tempfile.TemporaryDirectory(prefix="terrazzo-state-") as folder:
                write_state(Path(folder), tensors, self._position)
                self._context.report(record, Path(folder))


def _moved(position: Position, **changes: Any) -> Position:  # noqa: ANN401 - fields of a position
    return Position(**(vars(position) | changes))


def _is_at(step: int, every_steps: int | None) -> bool:
    return every_steps is not None and step % every_steps == 0


def _is_over(since_s: float, every_minutes: float | None) -> bool:
    return every_minutes is not None and since_s >= 60 * every_minutes


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint32)[0])
