"""The log of a run: one JSON line a step or validation, in ``log.jsonl``.

A run that was killed wrote lines beyond the state it goes on from: they are dropped when it does, so that the
log reads as that of a run that never stopped.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.storage import Folder, is_local, join_url
from pipeline.train.holding import Holding

LOG_KEY = "log.jsonl"
REMOTE_EVERY_S = 60.0
"""Objects in a bucket cannot grow: the whole log is written again, not for every line."""


class RunLog:
    """Writes the log; only one process of a run may.

    Args:
        run: The run's folder, ``<output>.run``.
        step: Step that the run goes on from.
        holding: What whoever writes must still hold; None for nothing.

    Raises:
        MismatchError: Here and whenever it is flushed: another training has taken over.
    """

    def __init__(self, run: Folder, step: int, holding: Holding | None = None) -> None:
        self._holding = holding or Holding(run)
        self._holding.check()
        self._run = run
        self._lines = [_line(record) for record in read_log(run) if record["step"] <= step]
        self._run.write(LOG_KEY, "".join(self._lines).encode())
        self._local = Path(join_url(run.url, LOG_KEY)) if is_local(run.url) else None
        self._pending: list[str] = []
        self._written = time.monotonic()

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a record; `flush` stores it.

        Args:
            record: Plain figures with a ``step``.
        """
        self._pending.append(_line(record))

    def flush(self, *, at_once: bool = True) -> None:
        """Store what was added.

        Args:
            at_once: Also where that means writing the whole log again, to a bucket.
        """
        if self._local is not None:
            self._holding.check()
            with self._local.open("a") as file:
                file.writelines(self._pending)
        elif at_once or time.monotonic() - self._written > REMOTE_EVERY_S:
            self._holding.check()
            self._lines += self._pending
            self._run.write(LOG_KEY, "".join(self._lines).encode())
            self._written = time.monotonic()
        else:
            return
        self._pending.clear()


def read_log(run: Folder) -> list[dict[str, Any]]:
    """All records of a run's log; none before it began.

    Args:
        run: The run's folder.
    """
    try:
        text = run.read(LOG_KEY).decode()
    except FileNotFoundError:
        return []
    # A kill may have cut the last line short.
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("}\n")]


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record) + "\n"
