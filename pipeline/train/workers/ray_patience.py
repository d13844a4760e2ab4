"""How long Ray Train waits for workers, which its controller is told by the driver's variables alone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"

START_TIMEOUT_S = 1800
"""An autoscaler brings machines within minutes, not within Ray's 60 s."""

RANGE_START_TIMEOUT_S = 30
"""Where fewer workers would do. Ray begins with as many as its list of nodes has room for, and that may be
20 s old: a node that has left since is not worth waiting for. For the fewest it waits without an end."""


@contextmanager
def patience(fewest: int, most: int) -> Iterator[None]:
    """Within, a training that is begun waits as long as makes sense; a user's own word goes first.

    Args:
        fewest: Workers that it needs.
        most: Workers that it takes.
    """
    if VARIABLE in os.environ:
        yield
        return
    os.environ[VARIABLE] = str(START_TIMEOUT_S if fewest == most else RANGE_START_TIMEOUT_S)
    try:
        yield
    finally:
        del os.environ[VARIABLE]
