"""Passes on what training reports, in a thread of rank 0's process: into the lake, and to the run's policy.

The trainer only puts numbers into a queue. They are stored many steps at a time, and up to date where the policy
decides. While a decision is due no chunks are drawn, so that it takes effect at its chunk however long it takes: the
trainer then goes on with the chunks that it has.
"""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mixlake.catalog import ConfigError
from mixlake.mixing import Adapter, Run
from mixlake.mixing.feedback import StepLosses

_STEPS_PER_COMMIT = 64
_SECONDS_PER_COMMIT = 30.0
"""Steps are stored when they are so many, or two and so old; and when the policy decides, or a state is saved."""
_MAX_QUEUED = 4096
"""Steps that may wait for the lake. Those that come then are added to the last one: sums stay, resolution is lost."""


@dataclass(kw_only=True, slots=True)
class _Report:
    step: int
    loss_sum: torch.Tensor
    num_tokens: torch.Tensor
    weights_version: int | None
    chunk: int

    def add(self, other: _Report) -> None:
        self.step, self.weights_version, self.chunk = other.step, other.weights_version, other.chunk
        self.loss_sum = self.loss_sum + other.loss_sum
        self.num_tokens = self.num_tokens + other.num_tokens


class Reporter:
    """The thread, and the trainer's end of it."""

    def __init__(self, run: Run, *, adapts: bool) -> None:
        """Prepare the thread; it starts with the first report, or with `start`.

        Args:
            run: the run.
            adapts: whether the run's policy is at work here too.

        Raises:
            ConfigError: the policy cannot be made.
        """
        self._run = run
        self._adapt = run.config.adapt
        self._adapter = Adapter(run) if adapts else None
        self._condition = threading.Condition()
        self._queue: deque[_Report] = deque()
        self._reported = -1
        self._due = -1
        """The last step that was reported and is one to decide at."""
        self._done = -1
        """The last step that is stored, and taken in by the policy."""
        self._is_ready = False
        self._is_wanted = False
        self._is_closed = False
        self._error: BaseException | None = None
        self._is_raised = False
        self._thread: threading.Thread | None = None
        self._opened = (-1, 0)

    def start(self) -> None:
        """Start the thread, unless it runs; what was stored before is known afterwards."""
        if self._thread is not None:
            return
        self._reported = self._done = self._run.feedback.last_step()
        self._thread = threading.Thread(target=self._work, name=f"mixlake-report-{self._run.name}", daemon=True)
        self._thread.start()
        atexit.register(self.close)
        if self._adapter is not None:
            self._run.before_scheduling = self.settle

    def report(self, step: int, loss_sum: Any, num_tokens: Any, *, weights_version: int | None, chunk: int) -> None:
        """Take a step's losses; see `mixlake.loaders.Loader.report`."""
        self.start()
        self._check_goes_on(_step(step), chunk)
        report = _Report(
            step=step,
            loss_sum=self._per_component(loss_sum, "loss_sum"),
            num_tokens=self._per_component(num_tokens, "num_tokens"),
            weights_version=weights_version,
            chunk=chunk,
        )
        with self._condition:
            self._raise_error()
            if step <= self._reported:
                return
            if self._adapt is not None and self._adapt.decides(step, self._reported):
                self._due = step
            self._reported = step
            if len(self._queue) < _MAX_QUEUED:
                self._queue.append(report)
            else:
                self._queue[-1].add(report)
            if self._is_due():
                self._condition.notify_all()

    def settle(self) -> None:
        """Wait until every decision that is due is made."""
        self._wait(lambda: self._is_ready and self._done >= self._due)

    def flush(self) -> None:
        """Wait until everything that was reported is stored, and taken in by the policy."""
        if self._thread is None:
            return
        with self._condition:
            self._is_wanted = True
            self._condition.notify_all()
        self._wait(lambda: self._done >= self._reported)

    def close(self) -> None:
        """Flush, and end the thread."""
        atexit.unregister(self.close)
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._run.before_scheduling = lambda: None
        with self._condition:
            self._is_closed = False
            if not self._is_raised:
                self._raise_error()

    def _wait(self, is_so: Callable[[], bool]) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._error is not None or is_so())
            self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            self._is_raised = True
            raise self._error

    def _is_due(self) -> bool:
        return bool(self._queue) and (
            len(self._queue) >= _STEPS_PER_COMMIT or self._is_wanted or self._is_closed or self._due > self._done
        )

    def _work(self) -> None:
        try:
            if self._adapter is not None:
                self._adapter.catch_up()
            self._finish(self._done)
            while batch := self._next_batch():
                self._store(batch)
        except Exception as error:  # noqa: BLE001  (whatever it is, it must reach the trainer's thread)
            with self._condition:
                self._error = error
                self._condition.notify_all()

    def _next_batch(self) -> list[_Report]:
        """Wait until steps are to be stored, and return them; none when the loader is closed."""
        with self._condition:
            while not self._is_due() and not self._is_closed:
                is_timely = self._condition.wait_for(lambda: self._is_due() or self._is_closed, _SECONDS_PER_COMMIT)
                if not is_timely and len(self._queue) > 1:
                    break
            batch = list(self._queue)
            self._queue.clear()
            return batch

    def _store(self, batch: list[_Report]) -> None:
        steps = [self._losses(report) for report in batch]
        new = self._run.feedback.append(steps)
        if self._adapter is not None:
            if len(new) == len(steps):
                self._adapter.take(new)
            else:  # another one reports too: what it stored counts
                self._adapter.catch_up()
        self._finish(steps[-1].step)

    def _losses(self, report: _Report) -> StepLosses:
        version = report.weights_version
        return StepLosses(
            step=report.step,
            loss_sum=report.loss_sum.cpu().numpy().astype(np.float64),
            num_tokens=report.num_tokens.cpu().numpy().astype(np.int64),
            weights_version=self._version_of(report.chunk) if version is None else version,
            chunk=report.chunk,
        )

    def _version_of(self, reached: int) -> int:
        """Return the weights version of the last chunk opened: samples, unlike sequences, do not say theirs.

        A step that is reported before any batch was taken has the weights that the run begins with.
        """
        opened = max(0, reached - self._run.config.lanes)
        if self._opened[0] != opened:
            chunks = self._run.chunks.read(opened, opened + 1)
            first = chunks[0].weights_version if chunks else int(self._run.weights().to_pylist()[0]["version"])
            self._opened = (opened, first)
        return self._opened[1]

    def _finish(self, step: int) -> None:
        with self._condition:
            self._done = max(self._done, step)
            self._is_ready = True
            self._is_wanted = self._is_wanted and self._done < self._reported
            self._condition.notify_all()

    def _check_goes_on(self, step: int, chunk: int) -> None:
        """Refuse a step that the run has of the one that it goes on from, unless the trainer repeats just that."""
        config = self._run.config
        if step <= config.resolution.inherited_step and chunk > config.at_chunk:
            raise ConfigError(
                f"step is {step}, but run {config.name!r} goes on from step {config.resolution.inherited_step} of "
                f"{config.parent!r}; number steps on from there"
            )

    def _per_component(self, values: Any, name: str) -> torch.Tensor:
        tensor = torch.as_tensor(values).detach().clone()  # the trainer may go on adding to its own
        num = len(self._run.components)
        if tensor.shape != (num,):
            raise ConfigError(f"{name} has shape {tuple(tensor.shape)}; run {self._run.name!r} has {num} components")
        return tensor


def _step(step: Any) -> int:
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise ConfigError(f"step is {step!r}; expected the number of the training step, 0 or more")
    return step
