"""A run: one declared training run, pinned to one catalog version."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
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
from mixlake.mixing.cell_rows import CellRows
from mixlake.mixing.cells import CellPlan, find_cells
from mixlake.mixing.chunks import Chunk, ChunkLog, delivery
from mixlake.mixing.index import IndexReader
from mixlake.mixing.mixture import Mixture
from mixlake.mixing.quotas import SCALE, integer_shares
from mixlake.mixing.scheduler import Cursor, Reweighting, Scheduler

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SAMPLES_PER_COMMIT = 1 << 18


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """What decides every chunk of a run: a row of `runs`."""

    name: str
    catalog_version: int
    mixture: Mixture
    seed: int
    chunk_size: int
    """Samples per chunk."""
    lanes: int
    """Deterministic sub-streams: chunk c belongs to lane c modulo ``lanes``."""

    @property
    def config_hash(self) -> str:
        """The same for runs, whatever their names, that draw the same chunks."""
        decisive = [self.catalog_version, self._mixture_text(), self.seed, self.chunk_size, self.lanes]
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]

    def to_row(self) -> dict[str, Any]:
        """Return the row of `runs`."""
        return {
            "run": self.name,
            "catalog_version": self.catalog_version,
            "mixture": self._mixture_text(),
            "seed": self.seed,
            "chunk_size": self.chunk_size,
            "lanes": self.lanes,
            "config_hash": self.config_hash,
            "created_at": datetime.now(UTC),
        }

    def _mixture_text(self) -> str:
        return json.dumps(self.mixture.to_dict())

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> RunConfig:
        """Return the config of a row of `runs`."""
        return cls(
            name=row["run"],
            catalog_version=row["catalog_version"],
            mixture=Mixture.from_dict(json.loads(row["mixture"])),
            seed=row["seed"],
            chunk_size=row["chunk_size"],
            lanes=row["lanes"],
        )


class Run:
    """One training run in the lake: its chunks, its weights, and what was drawn."""

    def __init__(self, catalog: Catalog, config: RunConfig, plan: CellPlan | None = None) -> None:
        self.config = config
        self.catalog = catalog.at(version=config.catalog_version)
        self.chunks = ChunkLog(self.catalog.lake, config.name, config.mixture.names)
        self._known_plan = plan
        self._cursor: Cursor | None = None
        self._shares: dict[int, list[int]] = {}
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
        mixture: Mixture,
        *,
        seed: int = 0,
        chunk_size: int = 1024,
        lanes: int = 8,
    ) -> Run:
        """Declare a run at the catalog's version; its weights become version 1. Nothing is written if it is refused.

        Raises:
            ConfigError: a number is out of range, or a component of the mixture is empty.
            QueryError: a predicate of the mixture is wrong.
            LakeError: there is a run of that name.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(f"run name {name!r}: expected letters, digits, '_', '-' and '.'")
        limits = (("seed", seed, 0, 2**63), ("chunk_size", chunk_size, 1, 2**31), ("lanes", lanes, 1, 2**31))
        for label, value, least, limit in limits:
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < limit:
                raise ConfigError(f"{label} is {value!r}; expected a whole number, {least} to {limit - 1}")
        if name in _run_names(catalog):
            raise LakeError(f"run {name!r} exists already in {catalog.lake.uri}; choose another name, or load it")
        pinned = catalog.at(version=catalog.version)
        plan = find_cells(pinned, mixture)
        config = RunConfig(
            name=name, catalog_version=pinned.version, mixture=mixture, seed=seed, chunk_size=chunk_size, lanes=lanes
        )
        row = pa.Table.from_pylist([config.to_row()], schema=schema.TABLES[schema.RUNS].columns)
        fence = Fence(application=f"run:{name}", seen=-1, number=0)
        catalog.lake.append(schema.RUNS, row, action=f"start {name}", fence=fence)
        _declare_weights(catalog, config)
        return cls(catalog, config, plan)

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
        config = RunConfig.from_row(rows[0])
        if not _read(catalog, schema.WEIGHTS, name):  # whoever started the run died before this
            _declare_weights(catalog, config)
        return cls(catalog, config)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.config.name

    @cached_property
    def plan(self) -> CellPlan:
        """The cells that the run draws from."""
        return self._known_plan or find_cells(self.catalog, self.config.mixture)

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
                drawn = self._scheduler.draw(cursor, num)
                self._record_weights(drawn.changes)
                self.chunks.append(drawn.chunks, drawn.cursor.to_dict(), previous=cursor.next_chunk - 1)
                cursor = drawn.cursor
                done += len(drawn.chunks)
                if progress is not None:
                    progress(done, num_chunks, "chunks")
            self._cursor = cursor
            return done

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
        """Return a weights version as integer shares out of `quotas.SCALE`, one per component of the mixture.

        Raises:
            LakeError: there is no such version.
        """
        if weights_version not in self._shares:
            for row in _read(self.catalog, schema.WEIGHTS, self.name):
                weight = {entry["component"]: entry["weight"] for entry in row["weights"]}
                weights = [weight.get(name, 0.0) for name in self.config.mixture.names]
                self._shares[row["version"]] = integer_shares(weights)
        if weights_version not in self._shares:
            raise LakeError(f"run {self.name!r} has no weights version {weights_version} in {self.catalog.lake.uri}")
        return self._shares[weights_version]

    def _record_weights(self, changes: Sequence[Reweighting]) -> None:
        """Write the weights versions that components which ran out have made; written before their chunks are.

        A scheduler that died between the two finds them there, and they are the ones that it would write.

        Raises:
            ScheduleError: another scheduler is writing them now.
        """
        if not changes:
            return
        known = max(row["version"] for row in _read(self.catalog, schema.WEIGHTS, self.name))
        rows = [_exhausted_weights(self.config, change) for change in changes if change.version > known]
        if not rows:
            return
        table = pa.Table.from_pylist(rows, schema=schema.TABLES[schema.WEIGHTS].columns)
        fence = Fence(application=f"run:{self.name}", seen=known - 1, number=rows[-1]["version"] - 1)
        try:
            self.catalog.lake.append(schema.WEIGHTS, table, action=f"redistribute {self.name}", fence=fence)
        except LakeError as error:
            raise ScheduleError(
                f"run {self.name!r}: another scheduler wrote weights after version {known}; only one may schedule a run"
            ) from error

    @cached_property
    def _scheduler(self) -> Scheduler:
        config = self.config
        reader = IndexReader(self.catalog, config.mixture, self.plan)
        cell_rows = CellRows(self.plan, reader, seed=config.seed, window=config.mixture.window)
        return Scheduler(config.mixture, self.plan, cell_rows, chunk_size=config.chunk_size)

    def _stored_cursor(self) -> Cursor:
        _, state, _, _ = self.chunks.last()
        return Cursor.start(self.config.mixture, self.plan) if state is None else Cursor.from_dict(state)

    def _addresses(self, chunk: Chunk) -> pa.Table:
        order = delivery(chunk, seed=self.config.seed, shuffled=self.config.mixture.is_shuffled)
        intervals = chunk.intervals
        return pa.table(
            {
                "position": pa.array(np.arange(chunk.num_samples)),
                "component": pa.array(self.config.mixture.names).take(pa.array(order.component)),
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


def _declare_weights(catalog: Catalog, config: RunConfig) -> None:
    """Write the declared weights as version 1."""
    row = _weights_row(config, config.mixture.shares(), version=1, chunk=0, cause="declared")
    table = pa.Table.from_pylist([row], schema=schema.TABLES[schema.WEIGHTS].columns)
    fence = Fence(application=f"run:{config.name}", seen=-1, number=0)
    catalog.lake.append(schema.WEIGHTS, table, action=f"declare {config.name}", fence=fence)


def _exhausted_weights(config: RunConfig, change: Reweighting) -> dict[str, Any]:
    weights = [share / SCALE for share in change.shares]
    return _weights_row(config, weights, version=change.version, chunk=change.chunk, cause="exhausted")


def _weights_row(
    config: RunConfig, weights: Sequence[float], *, version: int, chunk: int, cause: str
) -> dict[str, Any]:
    named = zip(config.mixture.components, weights, strict=True)
    return {
        "run": config.name,
        "version": version,
        "step": 0 if version == 1 else None,
        "chunk": chunk,
        "weights": [{"component": component.name, "weight": weight} for component, weight in named],
        "cause": cause,
        "created_at": datetime.now(UTC),
    }
