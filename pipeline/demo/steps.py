"""The demo's steps on record: what is finished stays, what was begun goes on, what changed is redone.

A step's key sums up its own settings and the keys of all steps before it. The record lies in ``demo.json``;
that file is also what tells a folder of ours from one that must not be touched.
"""

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import StorageError

RECORD_NAME = "demo.json"
LOCK_NAME = "demo.lock"


class Steps:
    """The record of one folder.

    Args:
        folder: All that the demo writes lies here.
        tell: Where a line for the user goes.
        total: How many steps there will be.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None], total: int) -> None:
        self._path, self._tell, self._total = folder / RECORD_NAME, tell, total
        self._chain, self._count = "", 0
        self.records: dict[str, dict[str, Any]] = _read(self._path)

    def run(
        self,
        name: str,
        title: str,
        settings: Mapping[str, Any],
        work: Callable[[bool], dict[str, Any] | None],
        *,
        is_there: bool,
    ) -> dict[str, Any]:
        """Do a step unless it is done; gives what it has to say, also if it said so earlier.

        Args:
            name: Of the step.
            title: What is told of it.
            settings: What its result depends on, besides all steps before it.
            work: Does it; is given whether it goes on with what it has begun, and must else start over.
            is_there: Whether all that it writes is there, as far as can be seen.
        """
        self._count += 1
        self._tell(f"[{self._count}/{self._total}] {title}")
        self._chain = _digest([self._chain, name, settings])
        record = self._begun(name, title)
        if record["done"] and not is_there:  # what it wrote was deleted: it and all that follow are redone
            record |= {"done": False, "seconds": 0.0, "runs": 0, "round": record["round"] + 1}
        self._chain = _digest([self._chain, record["round"]])
        if record["done"]:
            self._tell(f"      finished earlier, in {record['seconds']:.1f} s")
            return dict(record["found"])
        goes_on = record["runs"] > 0
        record["runs"] += 1
        self._write()
        began, earlier_s = time.monotonic(), record["seconds"]
        try:
            record["found"] = work(goes_on) or {}
            record["done"] = True
        finally:
            record["seconds"] = earlier_s + time.monotonic() - began
            self._write()
        self._tell(f"      {record['seconds']:.1f} s")
        return dict(record["found"])

    def _begun(self, name: str, title: str) -> dict[str, Any]:
        """The record of a step: the one that is there, if it is of the same work, or else a new one."""
        record = self.records.get(name)
        if record is None or record["key"] != self._chain:
            record = {
                "key": self._chain,
                "round": 0,
                "title": title,
                "done": False,
                "seconds": 0.0,
                "runs": 0,
                "found": {},
            }
            self.records[name] = record
        return record

    def _write(self) -> None:
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self.records, indent=1))
        part.replace(self._path)


@contextmanager
def demo_folder(folder: Path, outputs: tuple[str, ...], *, again: bool) -> Iterator[None]:
    """A folder that is ours for as long as this lasts.

    Args:
        folder: Made if it is not there; one that holds anything but a demo is refused.
        outputs: Names of what a demo writes there.
        again: Whether all of that is deleted first.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RECORD_NAME).exists():
        raise StorageError(
            f"the demo's folder must be new, empty or that of an earlier demo, but {folder} holds something "
            "else; give another --folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_NAME).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(f"one demo at a time may use {folder}; another one does right now") from error
        if again:
            for name in (*outputs, RECORD_NAME):
                delete(folder / name)
        if not (folder / RECORD_NAME).exists():
            (folder / RECORD_NAME).write_text("{}")
        yield


def delete(path: Path) -> None:
    """Delete a file or a folder that the demo wrote, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        records: dict[str, dict[str, Any]] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise StorageError(
            f"{path} must be the record of a demo, but is damaged ({error}); start over with --again"
        ) from error
    return records


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
