"""Work in threads, results in order."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Generic, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
_RESULTS_AHEAD = 16
"""What may wait to be taken of each task: it bounds memory, however much faster the threads are."""


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
    work: Callable[[Task], Iterable[Result]],
    tasks: Iterable[Task],
    num_threads: int,
    *,
    results_ahead: int = _RESULTS_AHEAD,
) -> Iterator[Result]:
    """Yield what ``work`` yields for every task, in the order of the tasks, worked on by several threads at a time.

    Tasks are begun in order, so the one whose results are due is always being worked on. An error that a task raises is
    raised where its results would have come, and one in making the tasks behind the results of those that were made;
    threads then stop at their next result, as they do when the iterator is closed.

    >>> list(in_order(lambda n: [n, n], [1, 2, 3], num_threads=2))
    [1, 1, 2, 2, 3, 3]
    """
    is_abandoned = threading.Event()
    waiting: deque[_Results[Result]] = deque()
    remaining = iter(tasks)
    with ThreadPoolExecutor(num_threads, thread_name_prefix="scan") as pool:

        def begin() -> None:
            results = _Results[Result](is_abandoned, results_ahead)
            try:
                task = next(remaining)
            except StopIteration:
                return
            except Exception as error:  # noqa: BLE001  (raised again behind the results that come before)
                results.fail(error)
            else:
                pool.submit(results.fill, work, task)
            waiting.append(results)

        try:
            for _ in range(num_threads + 1):
                begin()
            while waiting:
                yield from waiting[0].drain()
                waiting.popleft()
                begin()
        finally:
            is_abandoned.set()
            for results in waiting:
                results.wake()


class _AbandonedError(Exception):
    """Nobody takes the results any more."""


class _End:
    """What follows the last result of a task: the error that ended it, if one did."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class _Results(Generic[Result]):
    """The results of one task, on their way from its thread to the one that takes them."""

    def __init__(self, is_abandoned: threading.Event, num_ahead: int) -> None:
        self._queue: queue.Queue[Result | _End] = queue.Queue(num_ahead)
        self._is_abandoned = is_abandoned

    def fill(self, work: Callable[[Task], Iterable[Result]], task: Task) -> None:
        try:
            for result in work(task):
                self._put(result)
            self._put(_End())
        except _AbandonedError:
            return
        except BaseException as error:  # noqa: BLE001  (raised again where the results are taken)
            try:
                self._put(_End(error))
            except _AbandonedError:
                return

    def fail(self, error: BaseException) -> None:
        self._put(_End(error))

    def drain(self) -> Iterator[Result]:
        while True:
            item = self._queue.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    def wake(self) -> None:
        """Let a thread that waits for room go on, to find that it may end."""
        with suppress(queue.Empty):
            self._queue.get_nowait()

    def _put(self, item: Result | _End) -> None:
        while not self._is_abandoned.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return
        raise _AbandonedError
