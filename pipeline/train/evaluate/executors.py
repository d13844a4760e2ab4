"""Who computes what reads mosaics and holds no network: threads of this process, or actors of a cluster."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.segment.executor import Executor, LocalExecutor
from pipeline.segment.machine import this_machine
from pipeline.segment.resolve import MEMORY_SHARE, Workers
from pipeline.train.evaluate.settings import EvaluateCompute


@contextmanager
def executor_for(compute: EvaluateCompute, memory_bytes: int) -> Iterator[Executor]:
    """The executor that the settings ask for.

    Args:
        compute: The settings.
        memory_bytes: What a worker holds at most; Ray places workers by it.
    """
    machine = this_machine()
    count = machine.cores if compute.workers == "auto" else compute.workers
    if compute.executor == "local":
        yield LocalExecutor(count)
        return
    # Ray is imported only where it is used: everything else works where it is not installed.
    from pipeline.segment.ray_executor import RayExecutor, ray_session  # noqa: PLC0415

    with ray_session(machine, cores=count) as cluster:
        if compute.workers == "auto":
            room = int(MEMORY_SHARE * cluster.memory_bytes / memory_bytes)
            count = cluster.nodes * max(1, min(cluster.cores, room))
        grow = compute.workers == "auto"
        workers = Workers(count=count, grow=grow, threads=1, gpus=0.0, memory_bytes=memory_bytes)
        yield RayExecutor(workers, memory_bytes)
