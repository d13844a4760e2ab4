"""Why a worker's process died, as far as anybody knows: what Ray says of it, and the end of its own log."""

import re
from pathlib import Path

from pipeline.storage import redact_text

LOG_TAIL_BYTES = 64 << 10
LONGEST = 300
"""Characters of a log's line that fit into a sentence."""

SIGNS_OF_DEATH = ("Fatal ", "***", "terminate called", "MemoryError", "torch.")
"""How the line begins by which a process tells that it dies; what follows it is addresses."""

MAGIC = ":"
"""Ray marks its logs with lines that begin so."""


def last_words(said: str, logs: Path | None) -> str:
    """One sentence about a process that died.

    Args:
        said: What Ray says of it.
        logs: The folder of Ray's logs on this machine; the process may have died on another one.
    """
    pid, address = _named("pid", said), _named("ip", said)
    if pid is None:
        return redact_text(said.strip().split("\n", 1)[0])
    where = f"process {pid} on {address}" if address else f"process {pid}"
    line = _end_of_log(logs, pid)
    if line is not None:
        return f"{where} ended with {redact_text(line)!r}"
    return f"{where} ended, {_reason(said)}; see worker-*-{pid}.err among Ray's logs there"


def _named(name: str, said: str) -> str | None:
    found = re.search(rf"^\s*{name}: (\S+)", said, re.MULTILINE)
    return found[1] if found else None


def _reason(said: str) -> str:
    """What Ray was told when the process ended, without its advice."""
    last = said.strip().rsplit("\n", 1)[-1]
    detail = last.rpartition("Worker exit detail: ")[2].partition(" Some common causes")[0]
    return redact_text(detail.rstrip(".")[:LONGEST])


def _end_of_log(logs: Path | None, pid: str) -> str | None:
    """The line by which a process told that it died, else the last that it wrote; None without any."""
    files = sorted(logs.glob(f"worker-*-{pid}.err")) if logs else []
    if not files:
        return None
    with files[-1].open("rb") as file:
        file.seek(max(0, files[-1].stat().st_size - LOG_TAIL_BYTES))
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(MAGIC)]
    telling = [line for line in lines if line.startswith(SIGNS_OF_DEATH)]
    chosen = telling[-1:] or lines[-1:]
    return chosen[0][:LONGEST] if chosen else None
