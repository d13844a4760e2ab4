"""Where the time of training goes."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch

Phase = Literal["loading", "forward", "backward", "all_reduce", "optimizer", "validation", "saving"]

STEP_PHASES: tuple[Phase, ...] = ("loading", "forward", "backward", "all_reduce", "optimizer")
MEASURED_EVERY = 10
"""On a GPU, every which step is measured: measuring waits for the device, and waiting costs time."""


class CpuTime:
    """Seconds of processor time that this process takes, with those that it started to load for it.

    Args:
        of_loaders: Gives the seconds of the latter, from their start.
    """

    def __init__(self, of_loaders: Callable[[], float]) -> None:
        self._of_loaders = of_loaders
        self._began_s = time.process_time()

    @property
    def seconds(self) -> float:
        """So far, by all threads."""
        return time.process_time() - self._began_s + self._of_loaders()


class Clock:
    """Adds up the seconds of each phase.

    ``all_reduce`` is what the exchange between workers adds: what is hidden behind the backward pass, and the
    exchange of batch statistics within the network, count as the passes they lie in.

    Args:
        device: Where the network runs.
        now: Seconds that only go forward.
    """

    def __init__(self, device: torch.device, now: Callable[[], float] = time.monotonic) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STEP_PHASES, 0.0)
        self._device = device
        self._now = now
        self._is_measured = True
        self._exchange_began: float | None = None

    def begin_step(self, step: int) -> None:
        """Decide whether a step is measured.

        Args:
            step: Steps done.
        """
        self._is_measured = self._device.type == "cpu" or step % MEASURED_EVERY == 0

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Measure what is done within.

        Args:
            name: What it is.
        """
        if not self._is_measured and name in STEP_PHASES:
            yield
            return
        began = self._time()
        self._exchange_began = None
        yield
        ended = self._time()
        if self._exchange_began is not None:  # from here on the backward pass only waited for the others
            self._add("all_reduce", ended - self._exchange_began)
            ended = self._exchange_began
        self._add(name, ended - began)

    def exchange_begins(self) -> None:
        """The last gradients of a backward pass are on their way."""
        if self._is_measured:
            self._exchange_began = self._time()

    def _time(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._now()

    def _add(self, name: Phase, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """The share of each phase of a step, all of them together 1.

    Args:
        seconds: What a clock added up.
    """
    total = sum(seconds[phase] for phase in STEP_PHASES)
    return {phase: seconds[phase] / total if total else 0.0 for phase in STEP_PHASES}
