"""What a training process knows of its surroundings: the loop is the same in all of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from pipeline.train.state import StateStore


class TrainContext(Protocol):
    """One of ``world_size`` processes that train together."""

    @property
    def rank(self) -> int:
        """Which of them; 0 writes."""

    @property
    def world_size(self) -> int:
        """How many they are."""

    @property
    def device(self) -> torch.device:
        """Where this one computes."""

    def report(self, record: Mapping[str, Any], state: Path | None) -> None:
        """Tell figures and, if given, persist a training state.

        Every rank calls it equally often.

        Args:
            record: Plain figures.
            state: A local folder that is to outlive this process; rank 0's, the others give None.
        """

    def resume_from(self) -> Path | None:
        """A local copy of the newest complete state, the same on every rank; None at the start."""

    def stop_soon(self) -> bool:
        """Whether this process will have to leave: the loop then saves its state and ends."""


class Stop(Protocol):
    """Whether training shall end early: an event of threads or of processes."""

    def is_set(self) -> bool:
        """Whether it shall."""


class LocalContext:
    """A process of this machine: the only one, or one of several in a process group.

    Args:
        store: Where states go.
        device: Where it computes.
        stop: Set by whoever wants it to end early.
        rank: Which process.
        world_size: How many.
    """

    def __init__(
        self,
        store: StateStore,
        device: torch.device,
        stop: Stop,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.device = device
        self._store = store
        self._stop = stop

    def report(self, record: Mapping[str, Any], state: Path | None) -> None:  # noqa: ARG002 - nobody listens
        """Persist a state, if given; figures are in the run's log already."""
        if state is not None:
            self._store.put(state)

    def resume_from(self) -> Path | None:
        """A local copy of the newest complete state."""
        return self._store.newest()

    def stop_soon(self) -> bool:
        """Whether the event was set."""
        return self._stop.is_set()
