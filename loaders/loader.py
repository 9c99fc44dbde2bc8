"""The loader: batches for a trainer, made by worker processes, the same whatever their number."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from typing import Any, Generic, TypedDict, TypeVar, Unpack

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from mixlake.catalog import ConfigError, MixlakeError
from mixlake.catalog.errors import listed
from mixlake.catalog.tokenizers import TokenizerSpec
from mixlake.loaders.collate import Batch
from mixlake.loaders.lanes import Delivery, LaneDataset
from mixlake.loaders.reporting import Reporter
from mixlake.loaders.samples import SampleDataset
from mixlake.loaders.scheduling import BackgroundScheduler
from mixlake.loaders.sequences import PackedSequence
from mixlake.loaders.tokens import TokenDataset
from mixlake.mixing import Run

Item = TypeVar("Item")


class Loader(Generic[Item]):
    """Yields batches, and knows where the trainer stands: after the last batch that it was given.

    What workers have made in advance does not count as delivered. Iterating again goes on from there.
    """

    def __init__(
        self,
        dataset: LaneDataset[Item],
        *,
        batch_size: int,
        num_workers: int,
        multiprocessing_context: str,
        adapt: bool = True,
    ) -> None:
        if batch_size < 1 or num_workers < 0:
            raise ConfigError(
                f"batch_size is {batch_size} and num_workers is {num_workers}; expected 1 or more, and 0 or more"
            )
        if num_workers > len(dataset.lanes):
            raise ConfigError(
                f"num_workers is {num_workers}, but rank {dataset.reading.rank} has {len(dataset.lanes)} lanes; "
                "every worker needs one"
            )
        if num_workers and multiprocessing_context not in ("forkserver", "spawn"):
            raise ConfigError(
                f"multiprocessing_context is {multiprocessing_context!r}; expected forkserver or spawn: "
                "the lake's handles do not survive a fork"
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._context = multiprocessing_context
        self.components = dataset.components
        self._weights_version: int | None = None
        adapts = dataset.run.config.adapt is not None and adapt
        if adapts and dataset.reading.lookahead > dataset.run.delay:
            raise ConfigError(
                f"lookahead is {dataset.reading.lookahead}, but run {dataset.run.name!r} is to change its weights "
                f"{dataset.run.delay} chunks after those that it has reached (adapt.delay)"
            )
        self._reporter = None if dataset.reading.rank else Reporter(dataset.run, adapts=adapts)

    def __iter__(self) -> Iterator[Batch]:
        if self._reporter is None or self.dataset.run.config.adapt is None:
            yield from self._iterate()
            return
        self._reporter.start()  # what a trainer that was killed left undecided is decided before chunks are drawn
        try:
            yield from self._iterate()
        finally:
            self._reporter.close()

    def _iterate(self) -> Iterator[Batch]:
        if not self.num_workers:
            yield from self._batches(self.dataset.deliveries())
            return
        workers = DataLoader(
            _Bundles(self.dataset, -(-self.batch_size // self.num_workers)),
            batch_size=None,
            num_workers=self.num_workers,
            multiprocessing_context=_context(self._context),
            collate_fn=_as_it_is,
        )
        if self.dataset.reading.rank:
            yield from self._batches(_in_turn(iter(workers), self.num_workers))
            return
        with BackgroundScheduler(self.dataset.run, self.dataset.reading.lookahead) as scheduler:
            deliveries = _in_turn(scheduler.attend(iter(workers)), self.num_workers)
            yield from self._batches(scheduler.watch(deliveries))

    def report(self, step: int, loss_sum: Any, num_tokens: Any) -> None:
        """Say what a training step made of its batches; rank 0 passes it on, other ranks need not but may.

        It takes microseconds: a thread stores many steps at a time, and waits for the GPU in the trainer's place. Of a
        step that is reported again, also after a resume, nothing is taken. Should the lake be thousands of steps
        behind, their sums are added up; none is dropped.

        Args:
            step: the number of the training step; numbers grow, and may leave gaps where there are no losses.
            loss_sum: summed losses in nats of all ranks and micro-batches, shape (K,), K components.
            num_tokens: tokens with a loss, shape (K,).

        Raises:
            ConfigError: a shape or the step is wrong.
            MixlakeError: an earlier step could not be stored, or the policy failed.
        """
        if self._reporter is not None:
            chunk = self.dataset.chunks_reached()
            version = self._weights_version
            self._reporter.report(step, loss_sum, num_tokens, weights_version=version, chunk=chunk)

    def flush(self) -> None:
        """Wait until everything that was reported is stored, and taken in by the run's policy."""
        if self._reporter is not None:
            self._reporter.flush()

    def state_dict(self) -> dict[str, Any]:
        """Return where the trainer stands: small, JSON, positions only. What was reported until now is stored first."""
        self.flush()
        return self.dataset.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where ``state_dict`` (of this rank, or merged from all ranks) says.

        Raises:
            ConfigError: the state is of another run, other settings, or lacks this rank's lanes.
        """
        self.dataset.load_state_dict(state)

    def _batches(self, deliveries: Iterator[Delivery[Item]]) -> Iterator[Batch]:
        while batch := list(islice(deliveries, self.batch_size)):
            for delivery in batch:
                self.dataset.note(delivery)
                if isinstance(delivery.item, PackedSequence):
                    self._weights_version = max(self._weights_version or 0, delivery.item.weights_version)
            yield self.dataset.collate([delivery.item for delivery in batch])


class SampleOptions(TypedDict, total=False):
    """What `make_loader` passes on to `SampleDataset`."""

    fields: Sequence[str] | None
    images: Sequence[str] | bool
    transform: Callable[[dict[str, Any]], Any] | None
    collate: Callable[[Sequence[Any]], Any] | None


def make_loader(
    run: Run,
    *,
    batch_size: int,
    tokenizer: TokenizerSpec | None = "bytes",
    sequence_length: int = 1024,
    packing: str = "concat",
    overlap: int = 1,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    lookahead: int | None = None,
    timeout: float = 300.0,
    cache_bytes: int = 256 << 20,
    on_error: str = "raise",
    multiprocessing_context: str = "forkserver",
    adapt: bool = True,
    **samples: Unpack[SampleOptions],
) -> Loader[Any]:
    """Return a loader of a run's batches: packed tokens, or samples where ``tokenizer`` is None.

    Rank 0 schedules the run while it loads; other ranks wait for its chunks.

    Args:
        run: the run.
        batch_size: sequences or samples per batch and rank.
        tokenizer: ``bytes``, a tokenizer file (its path, or a TokenizerFile), a callable, or None for samples.
        sequence_length: tokens per sequence.
        packing: ``concat`` cuts documents where a sequence ends; ``best_fit`` cuts only those longer than a sequence.
        overlap: 1 if the label of a sequence's last position may be the first token of the next one, 0 if not.
        num_workers: worker processes; 0 loads in this one. The batches are the same for any number.
        rank: this data-parallel rank.
        world_size: number of data-parallel ranks; it must divide the run's lanes.
        lookahead: chunks to schedule in advance; four per lane where it is not given, at most the run's adapt.delay.
        timeout: seconds to wait for a chunk that another process schedules.
        cache_bytes: bound of what is held of files in memory, per process, in bytes as they lie in the files.
        on_error: ``raise``, or ``skip`` to deliver other samples in the place of those that cannot be read.
        multiprocessing_context: ``forkserver`` or ``spawn``.
        adapt: whether rank 0 adapts the run's weights, where it is declared to; else ``mixlake adapt`` does.
        **samples: for samples, ``fields``, ``images``, ``transform`` and ``collate`` of `SampleDataset`.

    Raises:
        ConfigError: a number is out of range, or the tokenizer cannot be loaded.
    """
    where: dict[str, Any] = {"rank": rank, "world_size": world_size, "lookahead": lookahead, "timeout": timeout}
    common = {**where, "cache_bytes": cache_bytes, "on_error": on_error}
    of_tokens: dict[str, Any] = {"sequence_length": sequence_length, "packing": packing, "overlap": overlap}
    dataset: LaneDataset[Any]
    if tokenizer is None:
        dataset = SampleDataset(run, **samples, **common)
    elif not samples:
        dataset = TokenDataset(run, tokenizer=tokenizer, **of_tokens, **common)
    else:
        raise ConfigError(f"{listed(samples)} goes with tokenizer=None; tokens are made of the text alone")
    workers: dict[str, Any] = {"num_workers": num_workers, "multiprocessing_context": multiprocessing_context}
    return Loader(dataset, batch_size=batch_size, adapt=adapt, **workers)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bundle:
    """Some deliveries of one worker, sent together."""

    worker: int
    deliveries: list[Delivery[Any]]
    is_last: bool
    error: MixlakeError | None = None
    """What ended the worker; sent as it is, where torch would wrap it in a traceback."""


class _Bundles(IterableDataset[_Bundle]):
    """What a worker process iterates."""

    def __init__(self, dataset: LaneDataset[Any], size: int) -> None:
        self._dataset = dataset
        self._size = size

    def __iter__(self) -> Iterator[_Bundle]:
        worker = get_worker_info()
        assert worker is not None
        deliveries = self._dataset.deliveries(worker.id, worker.num_workers)
        try:
            while bundle := list(islice(deliveries, self._size)):
                yield _Bundle(worker=worker.id, deliveries=bundle, is_last=False)
        except MixlakeError as error:
            yield _Bundle(worker=worker.id, deliveries=[], is_last=True, error=error)
        else:
            yield _Bundle(worker=worker.id, deliveries=[], is_last=True)


def _context(name: str) -> BaseContext:
    """Return a context whose workers start in a moment: the fork server imports torch once, for all of them."""
    context = get_context(name)
    if name == "forkserver":
        context.set_forkserver_preload(["__main__", "mixlake.loaders"])
    return context


def _as_it_is(bundle: Any) -> Any:
    return bundle


def _in_turn(bundles: Iterator[_Bundle], num_workers: int) -> Iterator[Delivery[Any]]:
    """Merge what the workers send into the order in which one process would deliver it."""
    waiting: list[deque[Delivery[Any]]] = [deque() for _ in range(num_workers)]
    alive = set(range(num_workers))

    def from_worker(worker: int) -> Iterator[Delivery[Any]]:
        while True:
            while not waiting[worker] and worker in alive:
                bundle = next(bundles)
                if bundle.error is not None:
                    raise bundle.error
                waiting[bundle.worker].extend(bundle.deliveries)
                if bundle.is_last:
                    alive.discard(bundle.worker)
            if not waiting[worker]:
                return
            yield waiting[worker].popleft()

    return heapq.merge(*map(from_worker, range(num_workers)), key=lambda delivery: delivery.turn)
