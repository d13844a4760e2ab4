"""Results in order, and never more of them begun than asked for."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.segment.ahead import map_ahead


@pytest.mark.parametrize("ahead", [1, 3, 1000])
def test_items_come_in_order_with_their_own_results(ahead):
    def square(number):
        time.sleep(0.001 * (number % 3))
        return number**2

    with ThreadPoolExecutor(4) as threads:
        found = list(map_ahead(threads, square, range(50), ahead=ahead))
    assert found == [(number, number**2) for number in range(50)]


def test_items_are_taken_as_results_are_taken():
    taken, lock = [], threading.Lock()

    def items():
        for number in range(1000):
            with lock:
                taken.append(number)
            yield number

    with ThreadPoolExecutor(2) as threads:
        results = map_ahead(threads, str, items(), ahead=8)
        for number in range(100):
            assert next(results) == (number, str(number))
            assert len(taken) <= number + 8
        results.close()
    assert len(taken) < 110


def test_nothing_gives_nothing():
    with ThreadPoolExecutor(2) as threads:
        assert list(map_ahead(threads, str, [], ahead=4)) == []


def test_an_error_comes_where_its_result_would_have_come():
    seen = []

    def fail_at_five(number):
        if number == 5:
            raise OSError("five")
        return number

    def take(results):
        for item, _ in results:
            seen.append(item)

    with ThreadPoolExecutor(2) as threads, pytest.raises(OSError, match="five"):
        take(map_ahead(threads, fail_at_five, range(10), ahead=4))
    assert seen == [0, 1, 2, 3, 4]
