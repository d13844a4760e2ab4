"""A thread pool's ``map`` that looks only so far ahead: the results of a million items do not pile up."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    threads: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], *, ahead: int
) -> Iterator[tuple[Item, Result]]:
    """Every item with its result, in order.

    Args:
        threads: Who computes.
        function: What they compute.
        items: Taken one by one, as results are taken.
        ahead: Results begun and not yet taken, at most.
    """
    begun: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        begun.append((item, threads.submit(function, item)))
        if len(begun) >= ahead:
            first, result = begun.popleft()
            yield first, result.result()
    for first, result in begun:
        yield first, result.result()
