"""Schedules a run in a background thread of one process, a bounded number of chunks ahead of what is delivered."""

from __future__ import annotations

import threading
from types import TracebackType

from mixlake.mixing import Run

_POLL_SECONDS = 0.1
_SAMPLES_PER_COMMIT = 1 << 18


class BackgroundScheduler:
    """Keeps the committed chunks ``lookahead`` ahead of what has been delivered here.

    Workers and other ranks may be further: what they wait for they say in the lake, and it is scheduled too. So a
    small lookahead costs time, never the run.
    """

    def __init__(self, run: Run, lookahead: int, reached: int = 0) -> None:
        """Prepare to schedule; entering it as a context begins.

        Args:
            run: the run.
            lookahead: chunks.
            reached: how many chunks are taken up already.
        """
        self._run = run
        self._lookahead = lookahead
        self._batch = max(1, lookahead // 4)
        """Commits are of as many chunks, unless somebody waits: each of them costs every reader a look at the lake."""
        self._news = threading.Condition()
        self._target = reached + lookahead
        self._wanted = 0
        self._is_closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=f"mixlake-schedule-{run.name}", daemon=True)

    def __enter__(self) -> BackgroundScheduler:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._news:
            self._is_closed = True
            self._news.notify_all()
        self._thread.join()

    def reach(self, chunk: int) -> None:
        """Note that delivery has come as far as a chunk."""
        if chunk + self._lookahead > self._target:
            with self._news:
                self._target = chunk + self._lookahead
                self._news.notify_all()

    def want(self, number: int, waited: float) -> None:  # noqa: ARG002
        """Have a chunk scheduled, and wait a little.

        Raises:
            Exception: what ended the scheduling.
        """
        with self._news:
            if number >= self._wanted:
                self._wanted = number + 1
                self._news.notify_all()
            self.check()
            self._news.wait(_POLL_SECONDS)
        self.check()

    def check(self) -> None:
        """Raise what ended the scheduling, if something did."""
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            done = self._run.chunks.end()[0] + 1
            while (num := self._next_num(done)) is not None:
                drawn = self._run.schedule(num)
                done += drawn
                with self._news:
                    self._news.notify_all()
                if drawn < num:
                    return  # the run ends
        except Exception as error:  # noqa: BLE001  (whatever it is, it must reach the trainer's thread)
            self._error = error
            with self._news:
                self._news.notify_all()

    def _next_num(self, done: int) -> int | None:
        """Wait until chunks are wanted, and return how many; None when this is closed."""
        most = max(1, _SAMPLES_PER_COMMIT // self._run.config.chunk_size)
        while True:
            with self._news:
                if self._is_closed:
                    return None
                if self._wanted > done or self._target - done >= self._batch:
                    return min(most, max(self._wanted, self._target) - done)
                is_news = self._news.wait(_POLL_SECONDS)
            if not is_news:
                demanded = self._run.demand.last() + 1
                with self._news:
                    self._wanted = max(self._wanted, demanded)
