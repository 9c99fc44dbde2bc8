"""A run: one declared training run, pinned to one catalog version."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
from datafusion import DataFrame

from mixlake.catalog import Catalog, ConfigError, LakeError, ScheduleError, schema
from mixlake.catalog.errors import listed, nearest
from mixlake.catalog.lake import Fence, arrow_dataset
from mixlake.catalog.records import Progress
from mixlake.catalog.sql import check_predicate
from mixlake.mixing import declared
from mixlake.mixing.cell_rows import CellRows
from mixlake.mixing.cells import CellPlan, find_cells
from mixlake.mixing.chunks import Chunk, ChunkLog, delivery
from mixlake.mixing.curriculum import Curriculum
from mixlake.mixing.cursor import Change, Cursor
from mixlake.mixing.demand import Demand
from mixlake.mixing.index import IndexReader
from mixlake.mixing.mixture import Mixture
from mixlake.mixing.program import set_shares
from mixlake.mixing.quotas import SCALE
from mixlake.mixing.resolution import plan_cells
from mixlake.mixing.run_config import RunConfig
from mixlake.mixing.scheduler import Scheduler
from mixlake.mixing.weights import WeightsLog

_SAMPLES_PER_COMMIT = 1 << 18
_PATIENCE_SECONDS = 60.0
"""How long to try to get a chunk in between those of a scheduler that is running."""


class Run:
    """One training run in the lake: its chunks, its weights, and what was drawn."""

    def __init__(self, catalog: Catalog, config: RunConfig, plan: CellPlan | None = None) -> None:
        self.config = config
        self.catalog = catalog.at(version=config.catalog_version)
        self.program = config.program()
        self.chunks = ChunkLog(self.catalog.lake, config.name, self.program.components)
        self.weights_log = WeightsLog(self.catalog.lake, config.name, self.program.components)
        self.demand = Demand(self.catalog.lake, config.name)
        self._known_plan = plan
        self._cursor: Cursor | None = None
        self._lock = threading.Lock()
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
            composed: the config that all this was composed from; it is stored with the run.

        Raises:
            ConfigError: a number is out of range, a component is empty, or the stages' ends cannot be known.
            QueryError: a predicate is wrong.
            LakeError: there is a run of that name.
        """
        pinned = catalog.at(version=catalog.version)
        if name in _run_names(catalog):
            raise LakeError(f"run {name!r} exists already in {catalog.lake.uri}; choose another name, or load it")
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
            composed=composed,
        )
        plan = plan_cells(pinned, config.program())
        config = config.settled(plan)
        row = pa.Table.from_pylist([config.to_row()], schema=schema.TABLES[schema.RUNS].columns)
        fence = Fence(application=f"run:{name}", seen=-1, number=0)
        catalog.lake.append(schema.RUNS, row, action=f"start {name}", fence=fence)
        return cls(catalog, config, plan)._declared()

    @classmethod
    def load(cls, catalog: Catalog, name: str) -> Run:
        """Return a run that was started before.

        Raises:
            LakeError: there is none of that name.
        """
        rows = _read(catalog, schema.RUNS, name)
        if not rows:
            names = _run_names(catalog)
            raise LakeError(f"no run {name!r} in {catalog.lake.uri}; there are: {listed(names)}.{nearest(name, names)}")
        return cls(catalog, RunConfig.from_row(rows[0]))._declared()

    def _declared(self) -> Run:
        """Write the declared weights, unless they are there: whoever started the run may have died before this."""
        if not self.weights_log.is_declared():
            self.weights_log.declare(self.program.segments[0].shares)
        return self

    @property
    def name(self) -> str:
        """The run's name."""
        return self.config.name

    @property
    def components(self) -> tuple[str, ...]:
        """The names that component ids index."""
        return self.program.components

    @cached_property
    def plan(self) -> CellPlan:
        """The cells that the run draws from."""
        return self._known_plan or find_cells(self.catalog, self.program)

    def schedule(self, num_chunks: int, *, progress: Progress | None = None) -> int:
        """Draw and commit up to ``num_chunks`` more chunks; return how many there were left to draw.

        Each commit is one snapshot of consecutive chunks and can be resumed from. A run that has ended gives 0.

        Raises:
            ScheduleError: another scheduler writes chunks of this run.
        """
        if num_chunks < 0:
            raise ConfigError(f"num_chunks is {num_chunks}; expected 0 or more")
        with self._lock:
            cursor = self._cursor or self._stored_cursor()
            self._cursor = None  # read again from the lake, should anything below fail
            done = 0
            while done < num_chunks and not cursor.is_ended:
                num = min(num_chunks - done, max(1, _SAMPLES_PER_COMMIT // self.config.chunk_size))
                try:
                    cursor, drawn = self._commit(cursor, num)
                except ScheduleError:
                    stored = self._stored_cursor()
                    if stored.num_changes == cursor.num_changes:
                        raise
                    cursor = stored  # not another scheduler: somebody has set weights
                    continue
                done += drawn
                if progress is not None:
                    progress(done, num_chunks, "chunks")
            self._cursor = cursor
            return done

    def follow(self, *, lookahead: int, progress: Progress | None = None, poll_seconds: float = 0.05) -> int:
        """Schedule for loaders of other processes until the run ends; return how many chunks that were.

        Chunks are kept ``lookahead`` ahead of the last one that a loader had to wait for, so that weights which are set
        take effect soon.

        Raises:
            ScheduleError: another scheduler writes chunks of this run.
        """
        if lookahead < 1:
            raise ConfigError(f"lookahead is {lookahead}; expected a number of chunks, 1 or more")
        done = 0
        while True:
            last, _, is_ended, _ = self.chunks.last()
            if is_ended:
                return done
            missing = max(self.demand.last(), 0) + lookahead - last
            if missing > 0:
                done += self.schedule(missing)
                if progress is not None:
                    progress(last + 1 + missing, last + 1 + missing, "chunks")
            else:
                time.sleep(poll_seconds)

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

        They hold until the curriculum changes the weights. The change is published by committing the next chunk, which
        only one process can: a scheduler that runs elsewhere takes it up with its next commit.

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
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            with self._lock:
                self._cursor = None
                cursor = self._stored_cursor()
                chunk = cursor.next_chunk if from_chunk is None else from_chunk
                shares = self._checked_shares(cursor, chunk, weights)
                change = Change(chunk=chunk, weights=shares, cause=cause, step=step, details=details)
                pending = tuple(sorted((*cursor.pending, change), key=lambda known: known.chunk))
                try:
                    self._commit(replace(cursor, pending=pending, num_changes=cursor.num_changes + 1), 1)
                except ScheduleError:
                    continue  # a scheduler was faster: it may have gone past the chunk
                return chunk
        raise ScheduleError(f"run {self.name!r}: its scheduler is always faster; set from_chunk further ahead")

    def _checked_shares(self, cursor: Cursor, chunk: int, weights: Mapping[str, Any]) -> dict[str, float]:
        """Return the shares that are set, by innermost component, after checking that they can be."""
        if cursor.is_ended:
            raise ScheduleError(f"run {self.name!r} has ended with chunk {cursor.next_chunk - 1}")
        if chunk < cursor.next_chunk:
            raise ConfigError(
                f"from_chunk is {chunk}, but run {self.name!r} is scheduled up to chunk {cursor.next_chunk - 1}; "
                f"weights can change from chunk {cursor.next_chunk} on"
            )
        path = f"run {self.name!r}: weights"
        given = declared.weights(weights, path)
        before = dict(zip(self.components, (share / SCALE for share in cursor.shares), strict=True))
        after = set_shares(before, given, path)
        return {leaf: after[leaf] for leaf in after if any(leaf == n or leaf.startswith(f"{n}.") for n in given)}

    def _commit(self, cursor: Cursor, num_chunks: int) -> tuple[Cursor, int]:
        """Draw and commit chunks; return the cursor after them, and how many they were."""
        drawn = self._scheduler.draw(cursor, num_chunks)
        previous = cursor.next_chunk - 1
        self.weights_log.record(drawn.changes, is_current=lambda: self.chunks.last()[0] == previous)
        self.chunks.append(drawn.chunks, drawn.cursor.to_dict(), previous=previous)
        return drawn.cursor, len(drawn.chunks)

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
        context = self.catalog.session()
        context.from_arrow(self._addresses(found[0]), "drawn")
        return context.sql(
            "SELECT d.position, d.component, f.dataset, d.registration, d.file_id, d.row, f.uri, d.pass, "
            "d.weights_version FROM drawn d "
            "JOIN files f ON d.registration = f.registration AND d.file_id = f.file_id ORDER BY d.position"
        )

    def lineage(self, predicate: str) -> DataFrame:
        """Return a frame of the chunks that drew the samples which match a predicate.

        Columns: chunk, component, pass, weights_version, dataset, registration, file_id, row, uri.

        Raises:
            QueryError: the predicate is wrong.
        """
        where = f"samples@{self.catalog.version}"
        check_predicate(self.catalog.samples(), predicate, "lineage", where)
        return self.catalog.sql(
            "WITH hits AS (SELECT dataset, registration, file_id, row FROM samples WHERE (\n" + predicate + "\n)), "
            "pieces AS (SELECT chunk, weights_version, unnest(intervals) AS interval FROM chunks "
            f"WHERE run = '{self.name}') "
            "SELECT p.chunk, p.interval['component'] AS component, p.interval['pass'] AS pass, p.weights_version, "
            "h.dataset, h.registration, h.file_id, h.row, f.uri FROM hits h "
            "JOIN pieces p ON p.interval['registration'] = h.registration AND p.interval['file_id'] = h.file_id "
            "AND h.row >= p.interval['row_start'] AND h.row < p.interval['row_stop'] "
            "JOIN files f ON f.registration = h.registration AND f.file_id = h.file_id "
            "ORDER BY chunk, dataset, h.file_id, h.row"
        )

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
        return self.weights_log.shares(weights_version)

    @cached_property
    def _scheduler(self) -> Scheduler:
        config = self.config
        reader = IndexReader(self.catalog, self.program, self.plan)
        cell_rows = CellRows(self.plan, reader, seed=config.seed, window=self.program.window)
        return Scheduler(self.program, self.plan, cell_rows, chunk_size=config.chunk_size)

    def _stored_cursor(self) -> Cursor:
        _, state, _, _ = self.chunks.last()
        return Cursor.start(self.program, self.plan) if state is None else Cursor.from_dict(state)

    def _addresses(self, chunk: Chunk) -> pa.Table:
        order = delivery(chunk, seed=self.config.seed, shuffled=self.program.is_shuffled)
        intervals = chunk.intervals
        return pa.table(
            {
                "position": pa.array(np.arange(chunk.num_samples)),
                "component": pa.array(self.components).take(pa.array(order.component)),
                "registration": pa.array(chunk.registrations).take(pa.array(intervals.registration[order.interval])),
                "file_id": pa.array(intervals.file_id[order.interval], pa.int32()),
                "row": pa.array(order.row),
                "pass": pa.array(intervals.pass_number[order.interval], pa.int32()),
                "weights_version": pa.array(np.full(chunk.num_samples, chunk.weights_version)),
            }
        )


def list_runs(catalog: Catalog) -> DataFrame:
    """Return a frame of all runs of the lake."""
    return catalog.sql(
        "SELECT run, catalog_version, seed, chunk_size, lanes, config_hash, created_at FROM runs ORDER BY run"
    )


def _load(uri: str, storage_options: dict[str, str], name: str) -> Run:
    return Run.load(Catalog.open(uri, storage_options=storage_options), name)


def _run_names(catalog: Catalog) -> list[str]:
    return sorted(arrow_dataset(catalog.lake.table(schema.RUNS)).to_table(columns=["run"])["run"].to_pylist())


def _read(catalog: Catalog, table: str, run: str) -> list[dict[str, Any]]:
    rows = arrow_dataset(catalog.lake.table(table)).to_table(filter=pads.field("run") == run)
    return list(rows.to_pylist())
