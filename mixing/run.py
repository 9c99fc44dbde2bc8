"""A run: one declared training run, pinned to one catalog version."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from datafusion import DataFrame
from rich.console import Group
from rich.text import Text

from mixlake.catalog import Catalog, ConfigError, ScheduleError
from mixlake.catalog.records import Progress
from mixlake.catalog.showing import Shown, new_table
from mixlake.catalog.tokenizers import TokenizerSpec
from mixlake.mixing.adapt import Adapt
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.chunks import Chunk, ChunkLog, Delivery, delivery
from mixlake.mixing.curriculum import Curriculum
from mixlake.mixing.decisions import DecisionLog
from mixlake.mixing.demand import Demand
from mixlake.mixing.evaluations import EvaluationLog
from mixlake.mixing.feedback import FeedbackLog
from mixlake.mixing.lineage import chunk_samples, chunks_of_samples
from mixlake.mixing.mixture import Mixture
from mixlake.mixing.program import Program
from mixlake.mixing.quotas import SCALE
from mixlake.mixing.resolution import plan_cells
from mixlake.mixing.run_config import RunConfig, fork_config
from mixlake.mixing.run_table import check_new, read_config, write_config
from mixlake.mixing.schedule import Known, Schedule

_NOTHING = Known()


class Run(Shown):
    """One training run in the lake: its chunks, its weights, and what was drawn."""

    def __init__(self, catalog: Catalog, config: RunConfig, known: Known = _NOTHING) -> None:
        self.config = config
        self.catalog = catalog.at(version=config.catalog_version)
        self.parent: Run | None = None if config.parent is None else Run.load(catalog, config.parent)
        """The run that this one goes on from."""
        parent = None if self.parent is None else self.parent._schedule
        self._schedule: Schedule = Schedule(self.catalog, config, known, parent)
        inherited = (None if self.parent is None else self.parent.feedback, config.resolution.inherited_step)
        self.feedback: FeedbackLog = FeedbackLog(self.catalog.lake, config.name, self.program.components, *inherited)
        """What training reports; of the run that this one goes on from, what its policy knows."""
        self.evaluations = EvaluationLog(self.catalog.lake, config.name)
        """Losses on validation sets."""
        self.before_scheduling: Callable[[], None] = lambda: None
        """Called before chunks are drawn: who adapts the run waits here until what is due is decided."""
        self.process_id = os.getpid()
        """The process that opened the lake's handles, which do not survive a fork."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the run as its place in the lake, so that worker processes open it afresh."""
        lake = self.catalog.lake
        return _load, (lake.uri, lake.storage_options, self.name)

    @classmethod
    def start(
        cls,
        catalog: Catalog,
        name: str,
        mixture: Mixture | Mapping[str, Any],
        *,
        curriculum: Curriculum | Mapping[str, Any] | None = None,
        seed: int = 0,
        chunk_size: int = 1024,
        lanes: int = 8,
        length: Mapping[str, Any] | None = None,
        step: Mapping[str, Any] | None = None,
        tokens_per_byte: float | Mapping[str, float] | None = None,
        adapt: Adapt | Mapping[str, Any] | None = None,
        tokenizer: TokenizerSpec | None = None,
        composed: Mapping[str, Any] | None = None,
    ) -> Run:
        """Declare a run at the catalog's version; its weights become version 1. Nothing is written if it is refused.

        Args:
            catalog: at the version that the run is pinned to.
            name: the run's name.
            mixture: what it draws.
            curriculum: stages over its time; None for one mixture throughout.
            seed: of every order.
            chunk_size: samples per chunk.
            lanes: deterministic sub-streams, which ranks and workers share out.
            length: ``{steps: …}``, chunks, samples, bytes or tokens; None is until its samples run out.
            step: what one training step takes on all ranks, as ``{tokens: …}``, bytes or samples; needed where
                anything counts steps.
            tokens_per_byte: estimates tokens from ``num_bytes``, for all components or by name.
            adapt: ``{policy: {_target_: …}, interval: …, tolerance: …, delay: …}``, see `mixlake.mixing.Adapt`: how
                the weights follow what training reports; None is not at all.
            tokenizer: measures that on some documents of each component; what it finds is stored with the run.
            composed: the config that all this was composed from; it is stored with the run.

        Raises:
            ConfigError: a number is out of range, a component is empty, or the stages' ends cannot be known.
            QueryError: a predicate is wrong.
            LakeError: there is a run of that name.
        """
        pinned = catalog.at(version=catalog.version)
        check_new(pinned, name)
        config = RunConfig.declare(
            pinned,
            name,
            mixture,
            curriculum=curriculum,
            seed=seed,
            chunk_size=chunk_size,
            lanes=lanes,
            length=length,
            step=step,
            tokens_per_byte=tokens_per_byte,
            adapt=adapt,
            tokenizer=tokenizer,
            composed=composed,
        )
        return cls._write(catalog, config, Known(plan=plan_cells(pinned, config.program())))

    @classmethod
    def _write(cls, catalog: Catalog, config: RunConfig, known: Known, parent: Run | None = None) -> Run:
        assert known.plan is not None
        config = config.settled(known.plan)
        if parent is not None:
            known = Schedule(catalog, config, known, parent._schedule).check_beginning()
        write_config(catalog, config)
        return cls(catalog, config, known)._declared()

    @classmethod
    def load(cls, catalog: Catalog, name: str) -> Run:
        """Return a run that was started before.

        Raises:
            LakeError: there is none of that name.
        """
        return cls(catalog, read_config(catalog, name))._declared()

    def _declared(self) -> Run:
        self._schedule.declare()
        return self

    def __rich__(self) -> Group:
        config, (last, _, is_ended, _) = self.config, self.chunks.last()
        versions = [int(row["version"]) for row in self.weights().to_pylist()]
        columns = ("component", "weight", "declared")
        table = new_table(f"run {self.name} over samples@{config.catalog_version}", *columns, right=columns[1:])
        for name, now, first in zip(self.components, self.shares(versions[-1]), self.shares(versions[0]), strict=True):
            table.add_row(Text(name), f"{now / SCALE:.2%}", f"{first / SCALE:.2%}")
        drawn = f"{last + 1:,} chunks of {config.chunk_size:,} samples are scheduled{', which are all' * is_ended}"
        notes = [
            f"{drawn}; weights version {versions[-1]}",
            f"seed {config.seed}, {config.lanes} lanes, counts {self.program.unit.value}",
        ]
        if len(self.program.stages) > 1:
            notes.append(f"stages: {', '.join(self.program.stages)}")
        if config.adapt is not None:
            notes.append(f"adapts with {config.adapt.policy['_target_']} every {config.adapt.interval} steps")
        if config.parent is not None:
            notes.append(f"goes on from {config.parent} at chunk {config.at_chunk:,}")
        return Group(table, *map(Text, notes))

    @property
    def name(self) -> str:
        """The run's name."""
        return self.config.name

    @property
    def components(self) -> tuple[str, ...]:
        """The names that component ids index."""
        return self.program.components

    @property
    def program(self) -> Program:
        """What the run draws, and when."""
        return self._schedule.program

    @property
    def plan(self) -> CellPlan:
        """The cells that the run draws from."""
        return self._schedule.plan

    @property
    def chunks(self) -> ChunkLog:
        """The chunks that are scheduled, those of the runs that this one goes on from included."""
        return self._schedule.chunks

    @property
    def demand(self) -> Demand:
        """Which chunk is waited for."""
        return self._schedule.demand

    def schedule(self, num_chunks: int, *, progress: Progress | None = None) -> int:
        """Draw and commit up to ``num_chunks`` more chunks; return how many there were left to draw.

        Each commit is one snapshot of consecutive chunks and can be resumed from. A run that has ended gives 0.

        Raises:
            ScheduleError: another scheduler writes chunks of this run.
        """
        self.before_scheduling()
        return self._schedule.go_on(num_chunks, progress)

    def follow(self, *, lookahead: int, progress: Progress | None = None, poll_seconds: float = 0.05) -> int:
        """Schedule for loaders of other processes until the run ends; return how many chunks that were.

        Chunks are kept ``lookahead`` ahead of the last one that a loader had to wait for, so that weights which are set
        take effect soon.

        Raises:
            ScheduleError: another scheduler writes chunks of this run.
        """
        return self._schedule.follow(lookahead, progress, poll_seconds)

    def fork(
        self,
        name: str,
        *,
        at_chunk: int,
        mixture: Mixture | Mapping[str, Any] | None = None,
        curriculum: Curriculum | Mapping[str, Any] | None = None,
        seed: int | None = None,
        length: Mapping[str, Any] | None = None,
        step: Mapping[str, Any] | None = None,
        tokens_per_byte: float | Mapping[str, float] | None = None,
        adapt: Adapt | Mapping[str, Any] | None = None,
        tokenizer: TokenizerSpec | None = None,
        catalog: Catalog | None = None,
        composed: Mapping[str, Any] | None = None,
    ) -> Run:
        """Declare a run that goes on from this one, in place of its chunk ``at_chunk``; what is None stays as it is.

        Its chunks before that are this run's. Nothing that they drew is drawn again in the same pass: it is found in
        the fork's catalog version by dataset, file and row, whatever the mixture and the version. Where order, version
        and predicates are this run's, it goes on where this run stands in each cell, however much that has drawn.
        Components of the same name are owed what they were, and time goes on: stages and length count from the
        beginning of this run.
        Weights that were set by hand hold on, unless another mixture or curriculum is given; so do those of a policy,
        unless another one is given.

        Where it adapts its weights, and the components draw the same samples, its policy knows what training reported
        to this run in front of the chunk: laws and averages go on. Of other components it begins anew.

        Args:
            name: the fork's name.
            at_chunk: its first chunk; one that is scheduled here, or the next one.
            mixture: what it draws; it must count the same units.
            curriculum: stages over its time; with another mixture, None is no stages.
            seed: of every order.
            length: of the whole run, this one's part included.
            step: what one training step takes on all ranks.
            tokens_per_byte: estimates tokens from ``num_bytes``.
            adapt: how the weights follow what training reports; ``{}`` is not at all.
            tokenizer: measures that anew, as it does of another mixture where it did for this run.
            catalog: another version of the same lake.
            composed: the config that all this was composed from.

        Raises:
            ConfigError: a number is out of range, the units differ, nothing is left to draw, or something is wrong as
                in `start`.
            QueryError: a predicate is wrong.
            LakeError: there is a run of that name.
        """
        pinned = self._checked_fork(name, at_chunk, catalog or self.catalog)
        changes: dict[str, Any] = {"mixture": mixture, "curriculum": curriculum, "seed": seed, "length": length}
        changes |= {"step": step, "tokens_per_byte": tokens_per_byte, "adapt": adapt, "tokenizer": tokenizer}
        changes["composed"] = composed
        config = fork_config(self.config, self.components, pinned, name, at_chunk, changes)
        if config.adapt is not None and config.program().draws_alike(self.program):
            last = self.feedback.last_step_before(at_chunk)
            config = replace(config, resolution=replace(config.resolution, inherited_step=last))
        return Run._write(pinned, *self._schedule.fork(config, pinned), parent=self)

    def _checked_fork(self, name: str, at_chunk: int, catalog: Catalog) -> Catalog:
        """Return the catalog version of a fork, whose name and beginning are possible."""
        scheduled = self.chunks.last()[0] + 1
        if isinstance(at_chunk, bool) or not isinstance(at_chunk, int) or not 0 <= at_chunk <= scheduled:
            raise ConfigError(f"at_chunk is {at_chunk!r}; run {self.name!r} is scheduled up to chunk {scheduled - 1}")
        if catalog.lake.uri != self.catalog.lake.uri:
            raise ConfigError(f"run {self.name!r} is in lake {self.catalog.lake.uri}, not in {catalog.lake.uri}")
        check_new(catalog, name)
        return catalog.at(version=catalog.version)

    def set_weights(
        self,
        weights: Mapping[str, float],
        *,
        from_chunk: int | None = None,
        cause: str = "manual",
        step: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> int:
        """Set shares of some components from a chunk on; return the chunk. The others keep their proportions.

        They hold until the curriculum changes the weights. The change is published by committing the next chunk; a
        scheduler that is at work elsewhere lets it pass before its own next commit.

        Args:
            weights: shares by component, of all units.
            from_chunk: a chunk that is not scheduled; None is the next one.
            cause: of the weights version: ``manual`` or ``adapt``.
            step: the training step that led to it.
            details: more for the record, as JSON can hold it.

        Raises:
            ConfigError: a component is unknown, the shares are too much, or the chunk is scheduled.
            ScheduleError: the run has ended.
        """
        return self._schedule.set_weights(weights, from_chunk=from_chunk, cause=cause, step=step, details=details)

    @property
    def decisions(self) -> DecisionLog:
        """What an adaptive policy has decided; it becomes weights versions when chunks are drawn."""
        return self._schedule.decisions

    @property
    def delay(self) -> int:
        """Chunks between those that a deciding step had reached and the first that has its weights."""
        adapt = self.config.adapt
        return 4 * self.config.lanes if adapt is None or adapt.delay is None else adapt.delay

    def samples(self, chunk: int) -> DataFrame:
        """Return a frame of one chunk's samples in delivery order.

        Columns: position, component, dataset, registration, file_id, row, uri, pass, weights_version.

        Raises:
            ScheduleError: the chunk is not scheduled.
        """
        found = self.chunks.read(chunk, chunk + 1)
        if not found:
            last = self.chunks.last()[0]
            raise ScheduleError(f"run {self.name!r} has no chunk {chunk}; its last chunk is {last}")
        if self.parent is not None and chunk < self.config.at_chunk:
            return self.parent.samples(chunk)
        return chunk_samples(self.catalog, found[0], self.components, self.delivery(found[0]))

    def delivery(self, chunk: Chunk) -> Delivery:
        """Return the order in which a chunk's samples are delivered: as the run that drew the chunk has it."""
        if self.parent is not None and chunk.number < self.config.at_chunk:
            return self.parent.delivery(chunk)
        return delivery(chunk, seed=self.config.seed, shuffled=self.program.is_shuffled)

    def lineage(self, predicate: str) -> DataFrame:
        """Return a frame of the chunks that drew the samples which match a predicate, at this run's catalog version.

        Columns: chunk, component, pass, weights_version, dataset, registration, file_id, row, uri.

        Raises:
            QueryError: the predicate is wrong.
        """
        catalogs = [run.catalog for run in (self, *self.ancestors())]
        return chunks_of_samples(catalogs, predicate, self._whose_chunks())

    def ancestors(self) -> list[Run]:
        """Return the runs that this one goes on from, the nearest first."""
        return [] if self.parent is None else [self.parent, *self.parent.ancestors()]

    def _whose_chunks(self) -> str:
        """Return the predicate of the run's chunks: its own, and those of the runs that it goes on from."""
        if self.parent is None:
            return f"run = '{self.name}'"
        return f"(run = '{self.name}' OR (chunk < {self.config.at_chunk} AND {self.parent._whose_chunks()}))"

    def weights(self) -> DataFrame:
        """Return a frame of the run's weights versions, each with its cause."""
        return self.catalog.sql(
            f"SELECT version, step, chunk, cause, weights, details, created_at FROM weights "
            f"WHERE run = '{self.name}' ORDER BY version"
        )

    def shares(self, weights_version: int) -> list[int]:
        """Return a weights version as integer shares out of `quotas.SCALE`, one per component of the run.

        Raises:
            LakeError: there is no such version.
        """
        return self._schedule.weights.shares(weights_version)


def _load(uri: str, storage_options: dict[str, str], name: str) -> Run:
    return Run.load(Catalog.open(uri, storage_options=storage_options), name)
