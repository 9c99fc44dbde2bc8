"""Work in threads, results in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from mixlake.catalog.parallel import in_order


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_tasks_however_long_each_takes(num_threads: int) -> None:
    def work(task: int) -> Iterator[tuple[int, int]]:
        for part in range(task % 4):
            time.sleep(0.002 * ((task * 7) % 3))
            yield task, part

    wanted = [(task, part) for task in range(30) for part in range(task % 4)]
    assert list(in_order(work, range(30), num_threads)) == wanted


def test_several_tasks_are_worked_on_at_a_time() -> None:
    meeting = threading.Barrier(3, timeout=10)

    def work(task: int) -> list[int]:
        meeting.wait()
        return [task]

    assert list(in_order(work, range(6), num_threads=3)) == list(range(6))


def test_what_waits_to_be_taken_is_bounded() -> None:
    made = 0

    def work(task: int) -> Iterator[int]:
        nonlocal made
        for _ in range(1000):
            made += 1
            yield task

    results = in_order(work, range(50), num_threads=1)
    next(results)
    time.sleep(0.2)
    assert made < 100
    results.close()  # type: ignore[attr-defined]


def test_how_many_results_wait_can_be_said() -> None:
    made = []

    def work(task: int) -> Iterator[int]:
        for part in range(100):
            made.append(part)
            yield task

    results = in_order(work, [1], num_threads=1, results_ahead=3)
    next(results)
    time.sleep(0.2)
    assert made == list(range(5))  # one taken, three that wait, and one for which there is no room
    results.close()  # type: ignore[attr-defined]


def test_an_error_comes_where_the_results_of_its_task_would_have_come() -> None:
    def work(task: int) -> Iterator[int]:
        yield task
        if task == 3:
            raise KeyError("three")

    results = in_order(work, range(10), num_threads=4)
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(KeyError, match="three"):
        next(results)


def test_an_error_in_making_the_tasks_comes_behind_the_results_of_those_made() -> None:
    def tasks() -> Iterator[int]:
        yield from range(5)
        raise OSError("listing")

    results = in_order(lambda task: [task], tasks(), num_threads=2)
    assert [next(results) for _ in range(5)] == list(range(5))
    with pytest.raises(OSError, match="listing"):
        next(results)


def test_threads_end_when_nobody_takes_the_results_any_more() -> None:
    def work(task: int) -> Iterator[int]:
        while True:
            yield task

    before = threading.active_count()
    results = in_order(work, range(3), num_threads=2)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
