"""Nothing that the demo starts outlives it; of its commands all is kept, and what matters is heard."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.demo import processes
from pipeline.demo.commands import run_command
from pipeline.demo.head import ray_environment
from pipeline.errors import TerrazzoError

REPOSITORY = Path(__file__).resolve().parents[3]

STUBBORN = """
import os, signal, sys, time
if os.fork():
    sys.exit(0)  # the parent goes, its child belongs to nobody
os.setsid()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(600)
"""


def is_alive(pid):
    return Path(f"/proc/{pid}").exists()


def start_stubborn():
    process = processes.start(
        [sys.executable, "-c", STUBBORN], environment=os.environ, output=subprocess.PIPE, folder=Path.cwd()
    )
    with process.stdout:
        pid = int(process.stdout.readline())
    process.wait()
    return pid


def test_nothing_that_was_started_outlives_the_demo(monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE_S", 0.3)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    started = []
    try:
        with pytest.raises(ValueError, match="invalid literal"), processes.no_process_left():  # noqa: PT012
            started.append(start_stubborn())
            assert is_alive(started[0])
            int("something goes wrong")
        assert not is_alive(started[0])
        assert bystander.poll() is None  # it was there before
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_whoever_is_asked_to_end_takes_all_along(number):
    script = (
        "import time\n"
        "from pipeline.demo import processes\n"
        "from pipeline.errors import Interrupted\n"
        "from tests.pipeline.demo.test_processes import start_stubborn\n"
        "processes.PATIENCE_S = 0.3\n"
        "try:\n"
        "    with processes.interrupted_by_signals(), processes.no_process_left():\n"
        "        print(start_stubborn(), flush=True)\n"
        "        time.sleep(600)\n"
        "except Interrupted as error:\n"
        "    print(error)\n"
    )
    demo = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    stubborn = int(demo.stdout.readline())
    demo.send_signal(number)
    out, _ = demo.communicate(timeout=60)
    assert number.name in out
    assert not is_alive(stubborn)


def run_python(script, tmp_path, told, **options):
    run_command(
        [sys.executable, "-c", script],
        shown=["python", "job.py", "--name", "a b"],
        environment=os.environ,
        log=tmp_path / "job.log",
        tell=told.append,
        **options,
    )


def test_a_command_that_fails_says_how_it_was_typed_and_what_it_said_last(tmp_path):
    said = r"(?s)python job\.py --name 'a b' must .* code 2;.*:\n5\n.*\n19$"
    with pytest.raises(TerrazzoError, match=said):
        run_python("import sys\nfor i in range(20): print(i)\nsys.exit(2)", tmp_path, [])
    assert len((tmp_path / "job.log").read_text().splitlines()) == 21


def test_of_a_submission_only_the_job_is_heard_and_all_is_kept(tmp_path):
    told = []
    said = [
        "2026-11-21 11:00:00,000\tINFO cli.py:41 -- hello",
        "Tailing logs until the job exits",
        "Running entrypoint for job 7: python job.py",
        "INFO: step 1",
        "(raylet pid=7) hm",
        "complete",
        "-" * 20,
        "Job succeeded",
    ]
    run_python(f"print({chr(10).join(said)!r})", tmp_path, told, is_submission=True)
    assert [line.strip(" │") for line in told[1:]] == ["INFO: step 1", "complete"]
    assert set(said) <= set((tmp_path / "job.log").read_text().splitlines())


def test_the_users_own_cluster_is_not_asked():
    theirs = {"RAY_ADDRESS": "http://elsewhere:8265", "RAY_AUTH_MODE": "disabled", "PATH": "/bin"}
    ours = ray_environment(theirs)
    assert "RAY_ADDRESS" not in ours
    assert (ours["RAY_AUTH_MODE"], ours["PATH"]) == ("token", "/bin")
    assert ours["RAY_AUTH_TOKEN"] != ray_environment(theirs)["RAY_AUTH_TOKEN"]
