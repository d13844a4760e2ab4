"""Samples made in processes of their own, for machines where Python's one interpreter holds loading up."""

import multiprocessing
import queue
import time
from multiprocessing.connection import Connection

import torch

from pipeline.errors import StorageError
from pipeline.train.samples.sample import Sample, SampleSource, SampleSpec


class ProcessSource:
    """Gives samples by number like `SampleSource`, each from whichever process is free.

    The processes end by themselves when this one does, however it ends: their pipe breaks.

    Args:
        spec: What samples depend on; its cache is divided among the processes.
        num_processes: How many.
    """

    def __init__(self, spec: SampleSpec, num_processes: int) -> None:
        spawn = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
        self._free: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self._cpu_s: dict[Connection, float] = {}
        self._connections: list[Connection] = []
        self._processes = []
        for _ in range(num_processes):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_serve, args=(spec, theirs), daemon=True)
            process.start()
            theirs.close()  # so that the pipe breaks when the process dies
            self._processes.append(process)
            self._connections.append(ours)
            self._free.put(ours)

    @property
    def cpu_s(self) -> float:
        """Seconds of processor time that the processes have taken, as they said last."""
        return sum(list(self._cpu_s.values()))

    def load(self, number: int) -> Sample:
        """The n-th sample.

        Args:
            number: n, counted from 0 over all epochs.
        """
        connection = self._free.get()
        try:
            connection.send(number)
            answer, self._cpu_s[connection] = connection.recv()
        except (EOFError, OSError) as error:
            raise StorageError(
                "a process that loads crops must not die, but one did; was memory short? Start again to go "
                "on, with fewer compute.loaders or a smaller compute.cache_mib"
            ) from error
        finally:
            self._free.put(connection)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End the processes."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join()


def _serve(spec: SampleSpec, connection: Connection) -> None:
    torch.set_num_threads(1)
    source = SampleSource(spec)
    try:
        while True:
            number = connection.recv()
            try:
                answer: Sample | Exception = source.load(number)
            except Exception as error:  # noqa: BLE001 - it is raised where the sample is wanted
                answer = error
            connection.send((answer, time.process_time()))
    except (EOFError, OSError, KeyboardInterrupt):
        pass  # nobody listens any more
    finally:
        source.close()
