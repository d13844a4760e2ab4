"""Training states: everything that a run needs to go on as if it had never stopped.

A state is a folder of two files, ``state.pt`` (tensors) and ``state.json`` (where the run stands, and the
digest of the tensors). ``state.json`` is written last: a folder without it, or with another digest, is what a
kill left behind, and does not count. Random numbers need no place in it: they are keyed by seed and position.
"""

import hashlib
import json
import logging
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.storage import Folder, is_local, redact
from pipeline.train.holding import Holding

logger = logging.getLogger(__name__)

STATES = "states"
TENSORS_NAME = "state.pt"
FACTS_NAME = "state.json"
STATE_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class Position:
    """Where a run stands.

    Attributes:
        step: Optimiser steps done.
        sample: Samples seen, which is the next sample.
        elapsed_s: Seconds of training, over all resumes.
        cpu_s: Seconds of processor time in them, of all workers together.
        finished: Whether it is at its end.
        score: Mean IoU of the validation at this step, or None without one.
        checkpoint_s: Seconds of training when the last state was stored.
        validation_s: Seconds of training when it was last validated.
        phase_s: Seconds by phase, as the clock added them up.
    """

    step: int = 0
    sample: int = 0
    elapsed_s: float = 0.0
    cpu_s: float = 0.0
    finished: bool = False
    score: float | None = None
    checkpoint_s: float = 0.0
    validation_s: float = 0.0
    phase_s: Mapping[str, float] | None = None


def write_state(folder: Path, tensors: Mapping[str, Any], position: Position) -> None:
    """Write a state to a local folder, the facts last.

    Args:
        folder: An existing empty folder.
        tensors: State dicts by name.
        position: Where the run stands.
    """
    with (folder / TENSORS_NAME).open("wb") as file:
        torch.save(dict(tensors), file)
    facts = {"position": asdict(position), "sha256": _digest(folder / TENSORS_NAME)}
    (folder / FACTS_NAME).write_text(json.dumps(facts, indent=1) + "\n")


def read_position(folder: Path) -> Position:
    """Where the run of a state stood.

    Args:
        folder: A local folder.
    """
    return Position(**json.loads((folder / FACTS_NAME).read_text())["position"])


def read_tensors(folder: Path, device: torch.device) -> dict[str, Any]:
    """The state dicts of a state, without running any code that may stand in the file.

    Args:
        folder: A local folder.
        device: Where the tensors shall lie.
    """
    tensors: dict[str, Any] = torch.load(folder / TENSORS_NAME, map_location=device, weights_only=True)
    return tensors


class StateStore:
    """The states of a run: the last few and the best. Local copies of remote ones last as long as it does.

    Args:
        run: The run's folder, ``<output>.run``.
        keep: How many of the last states are kept.
        holding: What whoever stores states here must still hold; None for those who only read.
    """

    def __init__(self, run: Folder, keep: int, holding: Holding | None = None) -> None:
        self._folder = run.child(STATES)
        self._keep = keep
        self._holding = holding or Holding(run)
        self._downloads: list[Path] = []
        weakref.finalize(self, _remove, self._downloads)

    def put(self, state: Path) -> None:
        """Store a state and let go of those that are no longer wanted.

        Args:
            state: A local folder that `write_state` filled.

        Raises:
            MismatchError: Another training has taken over.
        """
        self._holding.check()
        name = f"step-{read_position(state).step:08d}"
        known = self._folder.child(name)
        known.delete([FACTS_NAME])  # a state of the same step is replaced, and is incomplete meanwhile
        known.upload(TENSORS_NAME, state / TENSORS_NAME)
        known.write(FACTS_NAME, (state / FACTS_NAME).read_bytes())
        self._prune()

    def position(self) -> Position | None:
        """Where the newest state stands; None where there is none."""
        complete = self._complete()
        return complete[max(complete)] if complete else None

    def newest(self) -> Path | None:
        """A local copy of the newest state that is whole; None where there is none."""
        for step in sorted(self._complete(), reverse=True):
            folder = self._fetch(step)
            if folder is not None:
                return folder
        return None

    def best(self) -> Path | None:
        """A local copy of the state with the best score, of equals the last; without scores the newest."""
        for step in _by_merit(self._complete()):
            folder = self._fetch(step)
            if folder is not None:
                return folder
        return None

    def _complete(self) -> dict[int, Position]:
        """Positions of the states whose facts are written, by step."""
        found = {}
        for entry in self._folder.listing():
            name, _, file = entry.key.partition("/")
            match = STATE_NAME.fullmatch(name)
            if match and file == FACTS_NAME:
                with suppress(FileNotFoundError):  # another training has just let go of it
                    facts = json.loads(self._folder.read(entry.key))
                    found[int(match[1])] = Position(**facts["position"])
        return found

    def _fetch(self, step: int) -> Path | None:
        """A local copy whose tensors are what the facts say, or None."""
        stored = self._folder.child(f"step-{step:08d}")
        try:
            local = Path(stored.url) if is_local(stored.url) else self._download(stored)
            facts = json.loads((local / FACTS_NAME).read_text())
            if _digest(local / TENSORS_NAME) == facts["sha256"]:
                return local
        except FileNotFoundError:
            pass  # as good as damaged
        logger.warning("the training state %s is damaged and is passed over", redact(stored.url))
        return None

    def _download(self, stored: Folder) -> Path:
        local = Path(tempfile.mkdtemp(prefix="terrazzo-state-"))
        self._downloads.append(local)
        for name in (TENSORS_NAME, FACTS_NAME):
            (local / name).write_bytes(stored.read(name))
        return local

    def _prune(self) -> None:
        complete = self._complete()
        steps = sorted(complete)
        kept = {*steps[-self._keep :], *_by_merit(complete)[:1]}
        stale = [
            entry.key
            for entry in self._folder.listing()
            if (match := STATE_NAME.match(entry.key)) and int(match[1]) not in kept
        ]
        # Facts first: what a kill leaves of a state that was being deleted must not pass for a whole one.
        stale.sort(key=lambda key: not key.endswith(FACTS_NAME))
        for key in stale:
            self._folder.delete([key])
        if is_local(self._folder.url):
            for folder in {Path(self._folder.url) / key.partition("/")[0] for key in stale}:
                with suppress(OSError):  # gone, or in use again: of no weight, only tidier without
                    folder.rmdir()


def _by_merit(states: Mapping[int, Position]) -> list[int]:
    """Steps from the best state to the worst: by score, then by age; those without a score last."""
    return sorted(
        states,
        key=lambda step: (-1.0 if states[step].score is None else states[step].score, step),
        reverse=True,
    )


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
