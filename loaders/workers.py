"""Worker processes as the trainer has them: started, listened to, ended.

With a pipe for each, a worker that dies is known at once, even in the middle of a message, and one whose lanes give
less is not read ahead of the others.
"""

from __future__ import annotations

import heapq
import select
import signal
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from mixlake.catalog import ConfigError, MixlakeError
from mixlake.loaders.deliveries import Delivery, Source
from mixlake.loaders.fresh import FreshProcess, check_may_start
from mixlake.loaders.messages import Inlet, Outlet, channel, from_bytes, to_bytes, unpack
from mixlake.loaders.stats import Counts
from mixlake.loaders.working import Bundle, Share, work

Item = TypeVar("Item")
CONTEXTS = ("fresh", "fork", "forkserver", "spawn")
_PATIENCE_SECONDS = 0.1


class _Process(Protocol):
    @property
    def pid(self) -> int | None: ...
    @property
    def exitcode(self) -> int | None: ...
    def start(self) -> None: ...
    def terminate(self) -> None: ...
    def join(self) -> None: ...


class Workers(Generic[Item]):
    """The worker processes of one iteration; they are started on entering, and stopped on leaving."""

    def __init__(
        self,
        source: Source[Item],
        num_workers: int,
        bundle_size: int,
        context: str,
        *,
        only: int | None = None,
        schedules: bool | None = False,
    ) -> None:
        """Prepare the processes.

        Args:
            source: what they read, from where it stands.
            num_workers: how many share it out; worker w of n has every n-th lane.
            bundle_size: items that are sent together.
            context: ``fresh`` interpreters, which import the main module only where they need something of it; the
                same for ``fork``, which the lake's handles do not survive; or ``forkserver`` or ``spawn`` of
                `multiprocessing`, which always imports it, and with it most often torch.
            only: the one of them that is to be started; None is all.
            schedules: whether they schedule the run; None is as the source has it.

        Raises:
            ConfigError: the source refers to something that cannot be pickled, such as a lambda.
        """
        check_may_start()
        payload = _pickled(source)
        self._inlets: list[Inlet] = []
        self._arrivals: list[select.poll] = []
        self._outlets: list[Outlet] = []
        self._processes: list[_Process] = []
        self._workers = list(range(num_workers)) if only is None else [only]
        self._have_begun = [False] * len(self._workers)
        self.counts = [Counts() for _ in self._workers]
        """What each worker has read, as of its last bundle."""
        self.num_ready = [0] * len(self._workers)
        """How many bundles were ready at each worker, as of its last bundle."""
        for worker in self._workers:
            here, there = channel()
            share = Share(worker=worker, num_workers=num_workers, bundle_size=bundle_size, schedules=schedules)
            self._inlets.append(here)
            self._arrivals.append(select.poll())  # made once: Connection.poll makes a selector every time
            self._arrivals[-1].register(here.fileno(), select.POLLIN)
            self._outlets.append(there)
            self._processes.append(_process(context, payload, share, there))

    def __enter__(self) -> Workers[Item]:
        for process, outlet in zip(self._processes, self._outlets, strict=True):
            process.start()
            outlet.close()  # only the worker holds it now, so that its death is the end of the pipe
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.terminate()  # they only read, so there is nothing to be finished
        for process, inlet in zip(self._processes, self._inlets, strict=True):
            process.join()
            inlet.close()

    def deliveries(self, while_waiting: Callable[[], None]) -> Iterator[Delivery[Item]]:
        """Yield what the workers send, in the order in which one process would deliver it.

        Args:
            while_waiting: is called from time to time while nothing comes.

        Raises:
            MixlakeError: a worker died, or what ended it.
        """
        streams = (self._of_worker(index, while_waiting) for index in range(len(self._processes)))
        return heapq.merge(*streams)  # by their turns, of which no two are equal

    def _of_worker(self, index: int, while_waiting: Callable[[], None]) -> Iterator[Delivery[Item]]:
        while True:
            bundle, items = self._receive(index, while_waiting)
            self._have_begun[index] = True
            self.counts[index], self.num_ready[index] = bundle.counts, bundle.num_ready
            yield from map(Delivery, bundle.turns, items, bundle.places)
            if bundle.error is not None:
                raise bundle.error
            if bundle.is_last:
                return

    def _receive(self, index: int, while_waiting: Callable[[], None]) -> tuple[Bundle, list[Item]]:
        while not self._arrivals[index].poll(1000 * _PATIENCE_SECONDS):
            while_waiting()
        try:
            with self._inlets[index].receive() as (bundle, beside):
                return bundle, unpack(bundle.items, beside)
        except (EOFError, OSError) as error:
            raise MixlakeError(self._how_it_ended(index)) from error

    def _how_it_ended(self, index: int) -> str:
        process = self._processes[index]
        process.join()
        code = process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        if code < 0:
            why = "if it ran out of memory, give it less with cache_bytes"
        elif self._have_begun[index]:
            why = "what it wrote before is among the standard errors of this process"
        else:
            why = (
                "it could not even begin, and wrote why to the standard error of this process; a script that starts "
                "workers needs if __name__ == '__main__': around what it does"
            )
        return (
            f"worker {self._workers[index]} of the loader (process {process.pid}) {how}; {why}. "
            "Nothing is lost: a loader that takes up the last state_dict() goes on with the next batch"
        )


def _pickled(source: Source[Item]) -> bytes:
    try:
        return to_bytes(source)
    except Exception as error:
        raise ConfigError(
            f"workers import what they call, such as a transform or a tokenizer, by its name, but: {error}; define it "
            "at the top of a module, or load without workers"
        ) from error


def _process(context: str, payload: bytes, share: Share, outlet: Outlet) -> _Process:
    name = f"mixlake-worker-{share.worker}"
    if context in ("fresh", "fork"):
        return FreshProcess(name, work, payload, (share,), outlet)
    arguments = (partial(from_bytes, payload), share, outlet)
    process: _Process = _context(context).Process(target=work, args=arguments, name=name, daemon=True)  # type: ignore[attr-defined]
    return process


def _context(name: str) -> BaseContext:
    """Return a context; a fork server imports what workers need once, for all of them."""
    context = get_context(name)
    if name == "forkserver":
        context.set_forkserver_preload(["__main__", "mixlake.loaders.working"])
    return context
