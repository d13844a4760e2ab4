"""What is told of a worker's process that died, from what Ray says and from the process's own log."""

import pytest

from pipeline.segment.last_words import last_words

DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: _WorkerActor
\tactor_id: 745ddc57ce33d3c1215418e701000000
\tpid: 4711
\tnamespace: b1e63067
\tip: 192.0.2.7
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: \
Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) ..."""

SEGFAULT = """:job_id:01000000
:actor_name:_WorkerActor
loading
*** SIGSEGV received at time=1795279883 on cpu 0 ***
PC: @     0x7f1266d85ad8  (unknown)  (unknown)
Fatal Python error: Segmentation fault

Stack (most recent call first):
  File "ctypes/__init__.py", line 519 in string_at
"""


@pytest.fixture
def logs(tmp_path):
    (tmp_path / "worker-aa-ff-471.err").write_text("another process")
    return tmp_path


def test_the_line_by_which_it_says_that_it_dies_is_told(logs):
    (logs / "worker-aa-ff-4711.err").write_text(SEGFAULT)
    said = "process 4711 on 192.0.2.7 ended with 'Fatal Python error: Segmentation fault'"
    assert last_words(DIED, logs) == said


def test_else_its_last_line_short_and_without_secrets(logs, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-some-length")
    (logs / "worker-aa-ff-4711.err").write_text(
        f":job_id:01\n{'x' * 99_000}\nkey a-secret-of-some-length\n\n"
    )
    assert last_words(DIED, logs).endswith("ended with 'key ***'")
    (logs / "worker-aa-ff-4711.err").write_text("y" * 99_000)
    assert len(last_words(DIED, logs)) < 400


@pytest.mark.parametrize("there", [True, False])
def test_of_a_process_that_said_nothing_or_elsewhere_ray_is_believed(there, logs):
    """Killed by the kernel for its memory, or on another node."""
    if there:
        (logs / "worker-aa-ff-4711.err").write_text(":job_id:01000000\n")
    assert last_words(DIED, logs if there else None) == (
        "process 4711 on 192.0.2.7 ended, Worker unexpectedly exits with a connection error code 2. "
        "End of file; see worker-*-4711.err among Ray's logs there"
    )


def test_an_error_that_names_no_process_is_told_in_a_line(logs):
    assert last_words("The actor cannot be scheduled.\nmore", logs) == "The actor cannot be scheduled."
