"""Work in threads, results in order."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Generic, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
_RESULTS_AHEAD = 16
"""What may wait to be taken of each task: it bounds memory, however much faster the threads are."""
_PATIENCE_SECONDS = 0.1
"""After how long a thread that waits for room looks whether anybody still takes results, if it is not woken before."""


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

    The threads take turns at making the next task, each while the others work on those before; so the task whose
    results are due is always being worked on. An error that a task raises is raised where its results would have come,
    and one in making the tasks behind the results of those that were made; threads then stop at their next result, as
    they do when the iterator is closed.

    >>> list(in_order(lambda n: [n, n], [1, 2, 3], num_threads=2))
    [1, 1, 2, 2, 3, 3]
    """
    is_abandoned = threading.Event()
    begun = _Results[_Results[Result]](is_abandoned, num_threads)
    remaining, turn = iter(tasks), threading.Lock()

    def serve() -> None:
        try:
            while True:
                with turn:
                    task = next(remaining)
                    results = _Results[Result](is_abandoned, results_ahead)
                    begun.put(results)
                results.fill(work, task)
        except StopIteration:
            begun.end()
        except BaseException as error:  # noqa: BLE001  (raised again where the results are taken)
            begun.end(error)

    due: _Results[Result] | None = None
    with ThreadPoolExecutor(num_threads, thread_name_prefix="scan") as pool:
        try:
            for _ in range(num_threads):
                pool.submit(serve)
            for due in begun.drain():
                yield from due.drain()
        finally:
            is_abandoned.set()
            begun.wake()
            if due is not None:
                due.wake()


class _AbandonedError(Exception):
    """Nobody takes the results any more."""


class _End:
    """What follows the last result: the error that ended them, if one did."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class _Results(Generic[Result]):
    """Results on their way to the thread that takes them."""

    def __init__(self, is_abandoned: threading.Event, num_ahead: int) -> None:
        self._queue: queue.Queue[Result | _End] = queue.Queue(num_ahead)
        self._is_abandoned = is_abandoned

    def fill(self, work: Callable[[Task], Iterable[Result]], task: Task) -> None:
        try:
            for result in work(task):
                self.put(result)
            self.end()
        except BaseException as error:  # noqa: BLE001  (raised again where the results are taken)
            self.end(error)

    def wake(self) -> None:
        """Let threads that wait for room, here or in results that wait here, go on, to find that they may end."""
        with suppress(queue.Empty):
            while True:
                item = self._queue.get_nowait()
                if isinstance(item, _Results):
                    item.wake()

    def put(self, item: Result | _End) -> None:
        while not self._is_abandoned.is_set():
            try:
                self._queue.put(item, timeout=_PATIENCE_SECONDS)
            except queue.Full:
                continue
            return
        raise _AbandonedError

    def end(self, error: BaseException | None = None) -> None:
        with suppress(_AbandonedError):
            self.put(_End(error))

    def drain(self) -> Iterator[Result]:
        while True:
            item = self._queue.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
