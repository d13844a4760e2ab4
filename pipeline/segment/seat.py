"""A place in a run for one worker: the process that holds it now, and how often one could not take it."""

from dataclasses import dataclass, field
from typing import Any

Reference = Any
"""Ray's handle on a result to come; its types do not say more."""

MAX_FAILED_STARTS = 3


@dataclass
class Seat:
    """One worker, and what it is busy with. Where its process dies, another takes the seat.

    Attributes:
        actor: The handle of its process.
        is_first: Whether the run began with it; false for one that joined later, or was ready before.
        becoming_ready: Its answer to ``ready``, while that is awaited.
        is_ready: Whether it has answered, and has not failed since.
        was_ready: Whether this process ever has.
        ask_again_at: When to ask once more a worker that failed, or could not be reached.
        failed_starts: How often in a row a process could not be made ready.
        node_id: The node it runs on.
        tasks: What it was given.
        died_with: How many tasks it had when it died.
    """

    actor: Any
    is_first: bool
    becoming_ready: Reference | None = None
    is_ready: bool = False
    was_ready: bool = False
    ask_again_at: float = 0.0
    failed_starts: int = 0
    node_id: str | None = None
    tasks: dict[Reference, str] = field(default_factory=dict)
    died_with: int = 0

    def take_up_work(self, node_id: str) -> None:
        """Its worker is ready."""
        self.node_id = node_id
        self.is_ready = self.was_ready = True
        self.is_first, self.failed_starts, self.died_with = False, 0, 0

    def change_hands(self, actor: Any) -> None:  # noqa: ANN401 - Ray's handle has no type
        """Its process died, and another shall take its place."""
        self.actor, self.node_id = actor, None
        self.is_ready = self.was_ready = False

    def count_failed_start(self, now: float, wait_s: float) -> bool:
        """Its worker could not be made ready; whether that was once too often. Each time it waits longer."""
        self.failed_starts += 1
        self.ask_again_at = now + wait_s * 2**self.failed_starts
        return self.failed_starts >= MAX_FAILED_STARTS
