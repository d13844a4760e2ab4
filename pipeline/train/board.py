"""The run's log for TensorBoard: the scalars of every step and validation, below ``tensorboard/``.

Optional: where the package is not installed, that is said once and the log alone is written.
"""

import importlib
import importlib.util
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.storage import Folder, is_local, join_url

logger = logging.getLogger(__name__)

FOLDER = "tensorboard"
PLACES = {"step": "training", "validation": "validation", "pace": "pace"}
"""Kinds of records, and what their scalars are grouped under."""

SILENT = ("step", "elapsed_s", "progress")
"""Figures that say where a record belongs, rather than anything of their own."""


class Board:
    """Writes scalars; only one process of a run may.

    On a disk they can be watched as they come. Objects in a bucket cannot grow: there they are stored when
    the board is closed.

    Args:
        run: The run's folder, ``<output>.run``.
        step: Step that the run goes on from: what was told beyond it, by a run that was killed, is hidden.
    """

    def __init__(self, run: Folder, step: int) -> None:
        self._folder = run.child(FOLDER)
        self._temporary = None if is_local(run.url) else tempfile.TemporaryDirectory(prefix="terrazzo-board-")
        place = join_url(run.url, FOLDER) if self._temporary is None else self._temporary.name
        self._place = Path(place)
        # Not imported at the top: it takes a second, and is not everywhere.
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self._writer = writer(place, purge_step=step + 1 if step else None)

    def add(self, record: Mapping[str, Any]) -> None:
        """Tell a record of the log.

        Args:
            record: Plain figures with a ``kind`` and a ``step``.
        """
        for name, value in scalars(record):
            self._writer.add_scalar(name, value, int(record["step"]))

    def flush(self) -> None:
        """Let those who watch see what was added."""
        self._writer.flush()

    def close(self) -> None:
        """Store what is not stored yet."""
        self._writer.close()
        if self._temporary is not None:
            for file in sorted(self._place.iterdir()):
                self._folder.upload(file.name, file)
            self._temporary.cleanup()


def open_board(run: Folder, step: int) -> Board | None:
    """A board, or None where TensorBoard is not installed.

    Args:
        run: The run's folder.
        step: Step that the run goes on from.
    """
    if importlib.util.find_spec("tensorboard") is None:
        logger.info(
            "TensorBoard is not installed: log.jsonl alone is written; install terrazzo[train] for it"
        )
        return None
    return Board(run, step)


def scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The figures of a record by name; those by class, such as IoU, each by itself.

    Args:
        record: Of the log.
    """
    group = PLACES.get(str(record.get("kind")))
    if group is None:
        return
    for name, value in record.items():
        if name in SILENT:
            continue
        if isinstance(value, Mapping):
            yield from (
                (f"{group}/{name}/{inner}", float(figure))
                for inner, figure in value.items()
                if isinstance(figure, int | float)
            )
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{group}/{name}", float(value)
