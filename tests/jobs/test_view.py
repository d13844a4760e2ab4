"""The map from the command line: told where it is, ended by a signal, refused in a sentence."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from jobs.view import main
from pipeline.storage import Folder
from tests.pipeline.raster.mosaics import make_contents

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def mosaic(tmp_path):
    make_contents(300, 200).write(Folder.at(tmp_path / "land.zarr"))
    return str(tmp_path / "land.zarr")


def test_it_says_where_it_is_serves_and_ends_when_told(mosaic, tmp_path):
    # By SIGTERM: a shell that starts the tests in the background has them ignore Ctrl+C.
    command = [sys.executable, ROOT / "jobs" / "view.py", "--mosaic", mosaic]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as served:
        try:
            address = served.stdout.readline().strip()
            with urlopen(address, timeout=60) as page:  # noqa: S310 - a loopback address of ours
                assert b"land.zarr" in page.read()
        finally:
            os.kill(served.pid, signal.SIGTERM)
        assert served.wait(60) == 0


def test_a_port_that_is_taken_is_refused(mosaic, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--mosaic", mosaic, "--port", str(port)]) == 2
    assert f"refused: --port must be a free port of this machine, got {port}" in capsys.readouterr().err


def test_a_port_that_cannot_be_is_refused(mosaic, capsys):
    assert main(["--mosaic", mosaic, "--port", "99999"]) == 2
    assert "got 99999" in capsys.readouterr().err


def test_what_is_no_mosaic_is_refused(tmp_path, capsys):
    assert main(["--mosaic", str(tmp_path / "nothing.zarr")]) == 2
    assert "nothing.zarr" in capsys.readouterr().err
