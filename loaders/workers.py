"""Worker processes: each makes the items of its lanes, a few batches ahead, and sends them through a pipe of its own.

With a pipe for each, a worker that dies is known at once, even in the middle of a message, and one whose lanes give
less is not read ahead of the others.
"""

from __future__ import annotations

import gc
import heapq
import os
import queue
import select
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from mixlake.catalog import MixlakeError
from mixlake.loaders.lanes import Delivery, LaneDataset, Place
from mixlake.loaders.messages import pack, receive, send, unpack, widen
from mixlake.loaders.stats import Counts

Item = TypeVar("Item")
_BUNDLES_AHEAD = 2
_PATIENCE_SECONDS = 0.1


class _Bundle(NamedTuple):
    """Some deliveries of one worker, sent together, by column."""

    turns: Sequence[tuple[int, int]] = ()
    items: Any = ()
    """Packed."""
    places: Sequence[Place] = ()
    counts: Counts = Counts()
    """What the worker has read so far."""
    num_ready: int = 0
    """How many more bundles were ready when this one was sent."""
    is_last: bool = False
    error: Exception | None = None


class Workers(Generic[Item]):
    """The worker processes of one iteration; they are started on entering, and stopped on leaving."""

    def __init__(self, dataset: LaneDataset[Item], num_workers: int, bundle_size: int, context: str) -> None:
        """Prepare the processes.

        Args:
            dataset: what they read, from where it stands.
            num_workers: how many; worker w of n has every n-th lane.
            bundle_size: items that are sent together.
            context: ``forkserver`` or ``spawn``.
        """
        start = _context(context)
        self._connections: list[Connection] = []
        self._arrivals: list[select.poll] = []
        self._processes: list[BaseProcess] = []
        self._ends: list[Connection] = []
        self.counts = [Counts() for _ in range(num_workers)]
        """What each worker has read, as of its last bundle."""
        self.num_ready = [0] * num_workers
        """How many bundles were ready at each worker, as of its last bundle."""
        for worker in range(num_workers):
            here, there = start.Pipe(duplex=False)
            widen(here)
            arguments = (dataset, worker, num_workers, bundle_size, there)
            self._connections.append(here)
            self._arrivals.append(select.poll())  # made once: Connection.poll makes a selector every time
            self._arrivals[-1].register(here.fileno(), select.POLLIN)
            self._ends.append(there)
            self._processes.append(
                start.Process(target=_work, args=arguments, name=f"mixlake-worker-{worker}", daemon=True)  # type: ignore[attr-defined]
            )

    def __enter__(self) -> Workers[Item]:
        for process, end in zip(self._processes, self._ends, strict=True):
            process.start()
            end.close()  # only the worker holds it now, so that its death is the end of the pipe
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.terminate()  # they only read, so there is nothing to be finished
        for process, connection in zip(self._processes, self._connections, strict=True):
            process.join()
            connection.close()

    def deliveries(self, while_waiting: Callable[[], None]) -> Iterator[Delivery[Item]]:
        """Yield what the workers send, in the order in which one process would deliver it.

        Args:
            while_waiting: is called from time to time while nothing comes.

        Raises:
            MixlakeError: a worker died, or what ended it.
        """
        streams = (self._of_worker(worker, while_waiting) for worker in range(len(self._processes)))
        return heapq.merge(*streams, key=lambda delivery: delivery.turn)

    def _of_worker(self, worker: int, while_waiting: Callable[[], None]) -> Iterator[Delivery[Item]]:
        while True:
            bundle = self._receive(worker, while_waiting)
            self.counts[worker], self.num_ready[worker] = bundle.counts, bundle.num_ready
            yield from map(Delivery, bundle.turns, unpack(bundle.items), bundle.places)
            if bundle.error is not None:
                raise bundle.error
            if bundle.is_last:
                return

    def _receive(self, worker: int, while_waiting: Callable[[], None]) -> _Bundle:
        connection = self._connections[worker]
        while not self._arrivals[worker].poll(1000 * _PATIENCE_SECONDS):
            while_waiting()
        try:
            bundle: _Bundle = receive(connection)
        except (EOFError, OSError) as error:
            raise MixlakeError(self._how_it_ended(worker)) from error
        return bundle

    def _how_it_ended(self, worker: int) -> str:
        process = self._processes[worker]
        process.join()
        code = process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        return (
            f"worker {worker} of the loader (process {process.pid}) {how}; if it ran out of memory, give it less with "
            "cache_bytes. Nothing is lost: a loader that takes up the last state_dict() goes on with the next batch"
        )


def _context(name: str) -> BaseContext:
    """Return a context whose workers start in a moment: the fork server imports torch once, for all of them."""
    context = get_context(name)
    if name == "forkserver":
        context.set_forkserver_preload(["__main__", "mixlake.loaders"])
    return context


def _work(dataset: LaneDataset[Any], worker: int, num_workers: int, size: int, connection: Connection) -> None:
    """Make the deliveries of a worker, until they end or nobody wants them."""
    torch.set_num_threads(1)
    gc.freeze()  # what was imported is there to stay: collections need not look through it
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    ready: queue.Queue[_Bundle] = queue.Queue(_BUNDLES_AHEAD)
    sender = threading.Thread(target=_send, args=(ready, connection), daemon=True)
    sender.start()
    dataset.is_sent = True
    deliveries = dataset.deliveries(worker, num_workers, schedules=False)
    try:
        while bundle := list(islice(deliveries, size)):
            ready.put(_bundle(bundle, dataset.counts()))
    except Exception as error:  # noqa: BLE001  (it is raised in the trainer)
        if not isinstance(error, MixlakeError):
            error.add_note(f"in worker {worker} of the loader:\n{traceback.format_exc()}")
        ready.put(_Bundle(is_last=True, error=error, counts=dataset.counts()))
    else:
        ready.put(_Bundle(is_last=True, counts=dataset.counts()))
    sender.join()


def _bundle(deliveries: list[Delivery[Any]], counts: Counts) -> _Bundle:
    turns, items, places = map(list, zip(*deliveries, strict=True))
    return _Bundle(turns=turns, items=pack(items), places=places, counts=counts)


def _send(ready: queue.Queue[_Bundle], connection: Connection) -> None:
    is_last = False
    while not is_last:
        bundle = ready.get()
        is_last = bundle.is_last
        try:
            send(connection, bundle._replace(num_ready=ready.qsize()))
        except OSError:
            os._exit(0)  # the trainer has gone, or does not listen any more


def _leave_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(0)
