"""What a run says while it goes: losses of all ranks in the log, its pace now and then on the console."""

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.errors import TerrazzoError
from pipeline.train.board import Board
from pipeline.train.clock import Clock, shares
from pipeline.train.run_log import RunLog

logger = logging.getLogger(__name__)

EVERY_STEPS = 20
"""Losses are fetched from the device and from the other ranks so often: each time everybody waits."""

CONSOLE_EVERY_S = 60.0


class Teller:
    """Collects what steps give and tells it, the same on every rank; only the first has a log.

    Args:
        log: The run's log, or None on other ranks.
        board: The same for TensorBoard, or None where it is not installed.
        clock: Where the time went.
        world_size: Number of ranks.
    """

    def __init__(self, log: RunLog | None, board: Board | None, clock: Clock, *, world_size: int) -> None:
        self._log = log
        self._board = board
        self._clock = clock
        self._world_size = world_size
        self._waiting: list[tuple[Mapping[str, Any], Tensor]] = []
        self._samples = 0
        self._began_s = self._console_s = time.monotonic()
        self._beside_s = self._seconds_beside()
        self.last: dict[str, Any] = {}

    def add(self, record: Mapping[str, Any], loss: Tensor, samples: int) -> None:
        """A step was taken.

        Args:
            record: Its figures.
            loss: This rank's share of the loss, still on the device.
            samples: Samples of the step, of all ranks.
        """
        self._waiting.append((record, loss))
        self._samples += samples
        if len(self._waiting) == EVERY_STEPS:
            self.tell()

    def tell(self) -> None:
        """Log the steps since the last time.

        Raises:
            TerrazzoError: A loss is no longer a number.
        """
        if not self._waiting:
            return
        with self._clock.phase("all_reduce"):
            losses = torch.stack([loss for _, loss in self._waiting]).double()
            if self._world_size > 1:
                dist.all_reduce(losses)
            told = losses.tolist()
        for (record, _), loss in zip(self._waiting, told, strict=True):
            if not math.isfinite(loss):
                raise TerrazzoError(
                    f"the loss must stay finite, but became {loss} at step {record['step']}; lower train.lr, "
                    "lengthen train.warmup_steps or set train.clip_norm"
                )
            self.last = {"loss": loss, "lr": record["lr"], "samples_per_s": self.images_per_s}
            self.write({**record, "loss": loss})
        self._waiting.clear()
        if self._log is not None:
            self._log.flush(at_once=False)
            if time.monotonic() - self._console_s > CONSOLE_EVERY_S:
                self._console_s = time.monotonic()
                logger.info("step %d: loss %.4f; %s", record["step"], loss, self._pace())

    def write(self, record: Mapping[str, Any]) -> None:
        """Log any other record.

        Args:
            record: Plain figures with a ``step``.
        """
        if self._log is not None:
            self._log.write(record)
        if self._board is not None:
            self._board.add(record)

    def tell_pace(self, step: int, loading_images_per_s: float) -> None:
        """Log where the time went.

        Args:
            step: Steps done.
            loading_images_per_s: Images of all ranks that loading gives when nothing else is done.
        """
        if self._log is None:
            return
        logger.info("%s; loading alone %.1f images/s", self._pace(), loading_images_per_s)
        self.write(
            {
                "kind": "pace",
                "step": step,
                "images_per_s": self.images_per_s,
                "loading_images_per_s": loading_images_per_s,
                "time_shares": shares(self._clock.seconds),
                "phase_seconds": dict(self._clock.seconds),
            }
        )

    def flush(self) -> None:
        """Store the log."""
        if self._log is not None:
            self._log.flush()
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """Let go of what is written to."""
        if self._board is not None:
            self._board.close()

    @property
    def images_per_s(self) -> float:
        """Images of all ranks a second since this process began, apart from validation and saving."""
        beside_s = self._seconds_beside() - self._beside_s
        return self._samples / max(1e-9, time.monotonic() - self._began_s - beside_s)

    def _seconds_beside(self) -> float:
        return sum(self._clock.seconds.get(phase, 0.0) for phase in ("validation", "saving"))

    def _pace(self) -> str:
        told = ", ".join(f"{name} {share:.0%}" for name, share in shares(self._clock.seconds).items())
        return f"{self.images_per_s:.1f} images/s; {told}".replace("_", "-")
