"""What a worker process does: it makes the items of its lanes, a few bundles ahead, and sends them through its pipe."""

from __future__ import annotations

import gc
import os
import queue
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from multiprocessing import parent_process
from multiprocessing.connection import wait
from typing import Any, NamedTuple, TypeAlias

from mixlake.catalog import MixlakeError
from mixlake.loaders.deliveries import Delivery, Place, Source
from mixlake.loaders.messages import Outlet, from_bytes, pack, to_bytes
from mixlake.loaders.stats import Counts

_BUNDLES_AHEAD = 4
_SMALL_BYTES, _MAX_GROWTH = 512 << 10, 8
"""Bundles that are smaller become larger, up to so many times what was asked for: each of them wakes both processes.
The first ones are small, so that the trainer can begin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Which part of a source a worker reads."""

    worker: int
    num_workers: int
    bundle_size: int
    """Items that are sent together."""
    schedules: bool | None
    """Whether it schedules the run; None is as the source has it."""


class Bundle(NamedTuple):
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


_Packed: TypeAlias = tuple[Bundle, list[Any]]
"""A bundle, and what is sent beside it."""


def work(load: Callable[[], Source[Any]], share: Share, outlet: Outlet) -> None:
    """Send the deliveries of a worker, until they end or nobody wants them; an error is the last that is sent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the trainer gets it too, and ends its workers
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for libraries that are imported from here on
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    ready: queue.Queue[_Packed] = queue.Queue(_BUNDLES_AHEAD)
    sizes = deque([_SMALL_BYTES], maxlen=1)
    sender = threading.Thread(target=_send, args=(ready, share.worker, outlet, sizes), daemon=True)
    sender.start()
    try:
        source = load()
        gc.freeze()  # what was imported is there to stay: collections need not look through it
        gc.enable()
        if torch := sys.modules.get("torch"):  # what a transform imports
            torch.set_num_threads(1)
        source.is_sent = True
        deliveries = source.deliveries(share.worker, share.num_workers, schedules=share.schedules)
        num = share.bundle_size
        while bundle := list(islice(deliveries, num)):
            ready.put(_bundle(bundle, source.counts()))
            if sizes[0] < _SMALL_BYTES:
                num = min(2 * num, _MAX_GROWTH * share.bundle_size)
        ready.put((Bundle(is_last=True, counts=source.counts()), []))
    except Exception as error:  # noqa: BLE001  (it is raised in the trainer)
        ready.put((_failure(error, share.worker), []))
    sender.join()


def _bundle(deliveries: list[Delivery[Any]], counts: Counts) -> _Packed:
    turns, items, places = map(list, zip(*deliveries, strict=True))
    packed, beside = pack(items)
    return Bundle(turns=turns, items=packed, places=places, counts=counts), beside


def _failure(error: Exception, worker: int) -> Bundle:
    """Return an error as it can be sent: one that does not survive that is told in words."""
    if not isinstance(error, MixlakeError):
        error.add_note(f"in worker {worker} of the loader:\n{''.join(traceback.format_exception(error))}")
    try:
        from_bytes(to_bytes(error))
    except Exception:  # noqa: BLE001  (whatever the error's own methods raise)
        text = "".join(traceback.format_exception(error))
        error = MixlakeError(f"worker {worker} of the loader failed: {type(error).__name__}: {error}")
        error.add_note(text)
    return Bundle(is_last=True, error=error)


def _send(ready: queue.Queue[_Packed], worker: int, outlet: Outlet, sizes: deque[int]) -> None:
    is_last = False
    while not is_last:
        bundle, beside = ready.get()
        bundle = bundle._replace(num_ready=ready.qsize())
        is_last = bundle.is_last
        try:
            sizes.append(outlet.send(bundle, beside))
        except OSError:
            os._exit(0)  # the trainer has gone, or does not listen any more
        except Exception as error:  # noqa: BLE001  (an item that cannot be pickled raises what it likes)
            error.add_note("samples must be picklable to be sent by workers: return such from a transform")
            outlet.send(_failure(error, worker))
            os._exit(1)


def _leave_with_parent() -> None:
    parent = parent_process()
    if parent is not None:  # else it is in a fresh interpreter, which sees to that itself
        wait([parent.sentinel])
        os._exit(0)
