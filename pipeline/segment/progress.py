"""How a run tells where it stands: a bar on a terminal, a JSON line a block elsewhere."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

from pipeline.segment.executor import Event, Finished, GivenUp, Retried

BAR_WIDTH = 30


@dataclass
class Progress:
    """Counts events and shows them.

    Attributes:
        total: Blocks to do in this run.
        stream: Where it is shown; never stdout, which belongs to the result.
        clock: Seconds that only go forward.
    """

    total: int
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic
    done: int = 0
    failed: int = 0
    pixels: int = 0

    def __post_init__(self) -> None:
        self._began = self.clock()

    def on_event(self, event: Event) -> None:
        """Count an event and show it."""
        if isinstance(event, Finished):
            self.done += 1
            self.pixels += event.record.get("pixels", 0)
        elif isinstance(event, GivenUp):
            self.failed += 1
        if self.stream.isatty():
            self._draw(event)
        else:
            self.stream.write(json.dumps(self._line(event)) + "\n")
        self.stream.flush()

    def close(self) -> None:
        """End the bar's line."""
        if self.stream.isatty():
            self.stream.write("\n")

    @property
    def mpx_per_s(self) -> float:
        """Valid pixels a second since the start, in millions."""
        return self.pixels / 1e6 / max(self.clock() - self._began, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far; None before the first block."""
        ended = self.done + self.failed
        if not ended:
            return None
        return (self.clock() - self._began) / ended * (self.total - ended)

    def _draw(self, event: Event) -> None:
        if isinstance(event, Retried | GivenUp):
            kind = "will be tried again" if isinstance(event, Retried) else "is given up"
            self.stream.write(f"\r\033[Kblock {event.task} {kind}: {event.reason}\n")
        ended = self.done + self.failed
        filled = BAR_WIDTH * ended // max(1, self.total)
        left = self.seconds_left
        remaining = "" if left is None else f", {_clock(left)} left"
        failed = f", {self.failed} failed" if self.failed else ""
        self.stream.write(
            f"\r\033[K[{'█' * filled}{'·' * (BAR_WIDTH - filled)}] {ended}/{self.total} blocks{failed}, "
            f"{self.mpx_per_s:.2f} Mpx/s{remaining}"
        )

    def _line(self, event: Event) -> dict[str, object]:
        line: dict[str, object] = {"event": "block", "block": event.task}
        if isinstance(event, Finished):
            seconds = event.record.get("seconds", {})
            line |= {"state": event.record.get("state", "done"), "pixels": event.record.get("pixels", 0)}
            line["seconds"] = {stage: round(value, 3) for stage, value in seconds.items()}
        else:
            line |= {
                "state": "failed" if isinstance(event, GivenUp) else "requeued",
                "reason": event.reason,
            }
        left = self.seconds_left
        return line | {
            "ended": self.done + self.failed,
            "total": self.total,
            "mpx_per_s": round(self.mpx_per_s, 3),
            "seconds_left": None if left is None else round(left, 1),
        }


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
