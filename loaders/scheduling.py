"""Schedules a run in a background thread of rank 0's trainer process, a bounded number of chunks ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TypeVar

from mixlake.loaders.lanes import Delivery
from mixlake.loaders.state import chunk_reached
from mixlake.mixing import Run

T = TypeVar("T")
_PATIENCE_SECONDS = 0.1


class BackgroundScheduler:
    """Keeps the committed chunks ``lookahead`` ahead of what has been delivered.

    Workers run ahead of delivery by an amount that only they know. So while the trainer waits for a batch, the
    lookahead grows, a round of lanes at a time, until the batch comes: a small lookahead costs time, never the run.
    """

    def __init__(self, run: Run, lookahead: int) -> None:
        self._run = run
        self._lookahead = lookahead
        self._condition = threading.Condition()
        self._target = lookahead
        self._is_waiting = False
        self._is_closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=f"mixlake-schedule-{run.name}", daemon=True)

    def __enter__(self) -> BackgroundScheduler:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._condition:
            self._is_closed = True
            self._condition.notify()
        self._thread.join()

    def attend(self, items: Iterator[T]) -> Iterator[T]:
        """Pass items on; while one is waited for, the lookahead grows. Errors of the scheduler surface here."""
        while True:
            with self._condition:
                self._is_waiting = True
                self._condition.notify()
            try:
                item = next(items, None)
            except Exception as error:
                if self._error is not None:
                    raise self._error from error
                raise
            finally:
                with self._condition:
                    self._is_waiting = False
            if self._error is not None:
                raise self._error
            if item is None:
                return
            yield item

    def watch(self, deliveries: Iterator[Delivery[T]]) -> Iterator[Delivery[T]]:
        """Pass deliveries on, and note how far they have come."""
        lanes = self._run.config.lanes
        for delivery in deliveries:
            reached = delivery.turn[1] + lanes * chunk_reached(delivery.lane_state)
            if reached + self._lookahead > self._target:
                with self._condition:
                    self._target = reached + self._lookahead
                    self._condition.notify()
            yield delivery

    def _work(self) -> None:
        try:
            done = self._run.chunks.last()[0] + 1
            while (num := self._next_num(done)) is not None:
                drawn = self._run.schedule(num)
                done += drawn
                if drawn < num:
                    return  # the run ends
        except Exception as error:  # noqa: BLE001  (whatever it is, it must reach the trainer's thread)
            self._error = error

    def _next_num(self, done: int) -> int | None:
        """Wait until chunks are wanted, and return how many; None when the loader is closed."""
        with self._condition:
            while not self._is_closed:
                if self._target > done:
                    return self._target - done
                woken = self._condition.wait(_PATIENCE_SECONDS if self._is_waiting else None)
                if not woken and self._is_waiting:
                    self._target = done + self._run.config.lanes
            return None
