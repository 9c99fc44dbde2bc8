"""The loader: batches for a trainer, made by worker processes, the same whatever their number."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any, Generic, TypedDict, TypeVar, Unpack

from mixlake.catalog import ConfigError
from mixlake.catalog.errors import listed
from mixlake.catalog.tokenizers import TokenizerSpec
from mixlake.loaders.collate import Batch
from mixlake.loaders.deliveries import Delivery
from mixlake.loaders.ending import Ending, Ends
from mixlake.loaders.lanes import Lanes
from mixlake.loaders.placement import Group
from mixlake.loaders.reporting import Reporter
from mixlake.loaders.samples import SampleLanes
from mixlake.loaders.scheduling import BackgroundScheduler
from mixlake.loaders.stats import Counts, Meter, Stats
from mixlake.loaders.tokens import TokenLanes
from mixlake.loaders.workers import CONTEXTS, Workers
from mixlake.mixing import Run

Item = TypeVar("Item")
_LOG = logging.getLogger("mixlake.loaders")


class Loader(Generic[Item]):
    """Yields batches, and knows where the trainer stands: after the last batch that it was given.

    What workers have made in advance does not count as delivered. Iterating again goes on from there.
    """

    def __init__(
        self,
        dataset: Lanes[Item],
        *,
        batch_size: int,
        num_workers: int,
        multiprocessing_context: str,
        adapt: bool,
        log_every: int | None,
        ends: str,
        group: Group | None,
    ) -> None:
        if batch_size < 1 or num_workers < 0:
            raise ConfigError(
                f"batch_size is {batch_size} and num_workers is {num_workers}; expected 1 or more, and 0 or more"
            )
        if num_workers > len(dataset.lanes):
            raise ConfigError(
                f"num_workers is {num_workers}, but rank {dataset.reading.placement.rank} has {len(dataset.lanes)} "
                "lanes; every worker needs one"
            )
        if multiprocessing_context not in CONTEXTS:
            raise ConfigError(
                f"multiprocessing_context is {multiprocessing_context!r}; expected one of {', '.join(CONTEXTS)}"
            )
        if log_every is not None and log_every < 1:
            raise ConfigError(f"log_every is {log_every}; expected a number of batches, 1 or more")
        self.dataset = dataset
        self.batch_size = batch_size
        self._ending = Ending(ends, batch_size, dataset.reading.placement, group)
        self._padding = [dataset.padding()] * batch_size if self._ending.ends is Ends.PADDED else []
        self.num_workers = num_workers
        self._context = multiprocessing_context
        self._log_every = log_every
        self._meter = Meter()
        self._workers: Workers[Item] | None = None
        self.components = dataset.components
        self._weights_version: int | None = None
        adapts = dataset.run.config.adapt is not None and adapt
        if adapts and dataset.reading.lookahead > dataset.run.delay:
            raise ConfigError(
                f"lookahead is {dataset.reading.lookahead}, but run {dataset.run.name!r} is to change its weights "
                f"{dataset.run.delay} chunks after those that it has reached (adapt.delay)"
            )
        self._reporter = Reporter(dataset.run, adapts=adapts) if dataset.reading.placement.leads else None

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
        self._meter.begin()
        try:
            if not self.num_workers:
                yield from self._batches(self.dataset.deliveries())
                return
            with ExitStack() as stack:
                yield from self._batches(self._from_workers(stack))
        finally:
            self._meter.end(self._read())
            self._workers = None

    def stats(self) -> Stats:
        """Return how loading has gone since the loader was made: waiting, rates, queues, cache."""
        num_ready = self._workers.num_ready if self._workers else ()
        return self._meter.stats(self._read(), num_ready)

    def _read(self) -> Counts:
        counts = self._workers.counts if self._workers else [self.dataset.counts()]
        return sum(counts, Counts())

    def _from_workers(self, stack: ExitStack) -> Iterator[Delivery[Item]]:
        dataset = self.dataset
        bundle_size = -(-self.batch_size // self.num_workers)
        self._workers = stack.enter_context(Workers(dataset, self.num_workers, bundle_size, self._context))
        if not dataset.reading.placement.schedules:
            yield from self._workers.deliveries(lambda: None)
            return
        reached = dataset.chunks_reached()
        scheduler = stack.enter_context(BackgroundScheduler(dataset.run, dataset.reading.lookahead, reached))
        for delivery in self._workers.deliveries(scheduler.check):
            scheduler.reach(dataset.reached_by(delivery))
            yield delivery

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
        dataset = self.dataset
        while self._ending.goes_on(len(batch := list(islice(deliveries, self.batch_size)))):
            dataset.note(batch)
            items = [delivery.item for delivery in batch]
            if items and (version := dataset.weights_version(items)) is not None:  # none where a rank is through
                self._weights_version = max(self._weights_version or 0, version)
            collated = dataset.collate([*items, *self._padding[len(items) :]])
            self._meter.deliver(len(items), dataset.num_tokens(items))
            if self._log_every and self._meter.num_batches % self._log_every == 0:
                _LOG.info("run %s, rank %d: %s", dataset.run.name, dataset.reading.placement.rank, self.stats().line())
            yield collated
            self._meter.wait()


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
    rank: int | None = None,
    world_size: int | None = None,
    group: Group | None = None,
    ends: str = "each",
    schedules: bool | None = None,
    lookahead: int | None = None,
    timeout: float = 300.0,
    cache_bytes: int = 256 << 20,
    on_error: str = "raise",
    multiprocessing_context: str = "fresh",
    adapt: bool = True,
    log_every: int | None = None,
    **samples: Unpack[SampleOptions],
) -> Loader[Any]:
    """Return a loader of a run's batches: packed tokens, or samples where ``tokenizer`` is None.

    One process schedules the run while it loads, that of rank 0; the others wait for its chunks.

    Args:
        run: the run.
        batch_size: sequences or samples per batch and rank.
        tokenizer: ``bytes``, a tokenizer file (its path, or a TokenizerFile), a callable, or None for samples.
        sequence_length: tokens per sequence.
        packing: ``concat`` cuts documents where a sequence ends; ``best_fit`` cuts only those longer than a sequence.
        overlap: 1 if the label of a sequence's last position may be the first token of the next one, 0 if not.
        num_workers: worker processes; 0 loads in this one. The batches are the same for any number.
        rank: this data-parallel rank; 0 where neither it nor a group is given.
        world_size: number of data-parallel ranks; it must divide the run's lanes.
        group: in place of both: the data-parallel group or mesh dimensions; tensor parallel ranks get the same batches.
        ends: ``each`` rank with its lanes, all ``together``, or ``padded`` (see `Ends`); all ranks call this together.
        schedules: whether this process does; None is (global) rank 0, False leaves it to ``mixlake schedule``.
        lookahead: chunks to schedule in advance; four per lane where it is not given, at most the run's adapt.delay.
        timeout: seconds to wait for a chunk that another process schedules.
        cache_bytes: bound of what is held of files in memory, per process, in bytes when decoded.
        on_error: ``raise``, or ``skip`` to deliver other samples in the place of those that cannot be read.
        multiprocessing_context: ``fresh`` interpreters, also in the place of ``fork``, or ``forkserver`` or ``spawn``.
        adapt: whether rank 0 adapts the run's weights, where it is declared to; else ``mixlake adapt`` does.
        log_every: batches after which a line about `stats` goes to the logger ``mixlake.loaders``, at level INFO.
        **samples: for samples, ``fields``, ``images``, ``transform`` and ``collate`` of `SampleDataset`.

    Raises:
        ConfigError: a number is out of range, or the tokenizer cannot be loaded.
    """
    reading: dict[str, Any] = {"rank": rank, "world_size": world_size, "group": group, "schedules": schedules}
    reading |= {"lookahead": lookahead, "timeout": timeout, "cache_bytes": cache_bytes, "on_error": on_error}
    of_tokens: dict[str, Any] = {"sequence_length": sequence_length, "packing": packing, "overlap": overlap}
    dataset = _dataset(run, tokenizer, of_tokens, samples, reading)
    options: dict[str, Any] = {"num_workers": num_workers, "multiprocessing_context": multiprocessing_context}
    options |= {"ends": ends, "group": group, "adapt": adapt, "log_every": log_every}
    return Loader(dataset, batch_size=batch_size, **options)


def _dataset(
    run: Run,
    tokenizer: TokenizerSpec | None,
    of_tokens: Mapping[str, Any],
    of_samples: SampleOptions,
    reading: Mapping[str, Any],
) -> Lanes[Any]:
    if tokenizer is None:
        return SampleLanes(run, **of_samples, **reading)
    if of_samples:
        raise ConfigError(f"{listed(of_samples)} goes with tokenizer=None; tokens are made of the text alone")
    return TokenLanes(run, tokenizer=tokenizer, **of_tokens, **reading)
