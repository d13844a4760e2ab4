"""A real S3 server: a one-node Ceph with its RADOS gateway, as plain processes of this machine."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import storage

SCRIPT = Path(__file__).resolve().parents[3] / "shared" / "tools" / "ceph-s3"


@dataclass(frozen=True)
class Ceph:
    """A server that runs; ``AWS_*`` variables lead to it."""

    folder: Path

    def lose_power(self) -> None:
        """Kill all of its processes at once, and start them again."""
        for command in ("kill", "start"):
            _run(command, self.folder).check_returncode()


@contextmanager
def running_ceph(folder: Path) -> Iterator[Ceph]:
    """A server with its data in a folder; where it cannot be had, the test is skipped with the reason."""
    if not SCRIPT.is_file():
        pytest.skip(f"no real S3 server: {SCRIPT} is absent")
    started = _run("up", folder)
    if started.returncode:
        pytest.skip(f"no real S3 server: {started.stderr.strip()[-300:]}")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for line in started.stdout.splitlines():
            for assignment in line.split("#")[0].removeprefix("export ").split():
                patch.setenv(*assignment.split("=", 1))
        storage._open_store.cache_clear()
        yield Ceph(folder)
        _run("down", folder)
    storage._open_store.cache_clear()


def _run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", SCRIPT, command, folder], capture_output=True, text=True, check=False)
