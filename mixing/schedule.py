"""A run's chunks in the making: where it stands in the lake, and how it goes on from there."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from mixlake.catalog import Catalog, ConfigError, ScheduleError
from mixlake.catalog.lake import Fence
from mixlake.catalog.records import Progress
from mixlake.mixing import declared
from mixlake.mixing.cell_rows import CellRows
from mixlake.mixing.cells import CellPlan, find_cells
from mixlake.mixing.chunks import ChunkLog
from mixlake.mixing.consumed import Consumed, find_consumed
from mixlake.mixing.cursor import Change, Cursor
from mixlake.mixing.decisions import DecisionLog
from mixlake.mixing.demand import Demand
from mixlake.mixing.index import IndexReader
from mixlake.mixing.precedence import Precedence
from mixlake.mixing.program import set_shares
from mixlake.mixing.quotas import SCALE
from mixlake.mixing.resolution import check_components, plan_cells
from mixlake.mixing.run_config import RunConfig
from mixlake.mixing.scheduler import Drawn, Scheduler
from mixlake.mixing.weights import Reweighting, WeightsLog

_SAMPLES_PER_COMMIT = 1 << 18
_COMPONENTS_PER_COMMIT = 128
_MOST_TIMES = 4
"""Commits are larger, up to so many times, where components are more: each costs 0.3 ms, however little it gives."""
_MAX_ATTEMPTS = 10
"""Tries to set weights; the first one succeeds unless something took longer than a scheduler waits for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Snapshot:
    """Chunks that were drawn, to be committed."""

    previous: int
    """The chunk that they follow."""
    drawn: Drawn
    precedence: Fence
    """Refuses them if somebody has taken precedence since they were drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What was found out about a run on the way to it; None where it was not."""

    plan: CellPlan | None = None
    consumed: Consumed | None = None
    """What the runs that it goes on from have drawn."""
    before: Cursor | None = None
    """Where the run stands that it goes on from."""


class Schedule:
    """Draws the chunks of one run and commits them."""

    def __init__(self, catalog: Catalog, config: RunConfig, known: Known, parent: Schedule | None) -> None:
        """Look at a run; nothing is read yet.

        Args:
            catalog: at the run's version.
            config: the run.
            known: what is found out already, and need not be again.
            parent: the schedule of the run that it goes on from.
        """
        self.catalog = catalog
        self.config = config
        self.program = config.program()
        lake, names = catalog.lake, self.program.components
        chunks, weights = (None, None) if parent is None else (parent.chunks, parent.weights)
        self.chunks: ChunkLog = ChunkLog(lake, config.name, names, chunks, config.at_chunk)
        self.weights: WeightsLog = WeightsLog(lake, config.name, names, weights)
        self.demand = Demand(lake, config.name)
        self.decisions = DecisionLog(lake, config.name)
        self._precedence = Precedence(lake, config.name)
        self._parent = parent
        self._known = known
        self._cursor: Cursor | None = None
        self._lock = threading.Lock()
        self._door = threading.Lock()
        """Scheduling stops at it after every commit; whoever holds it is next."""

    @cached_property
    def plan(self) -> CellPlan:
        """The cells that the run draws from."""
        if self._known.plan is not None:
            return self._known.plan
        if self._goes_on_in_cells:
            return self._ancestor.plan
        return find_cells(self.catalog, self.program, self._consumed)

    @cached_property
    def _consumed(self) -> Consumed | None:
        if self._known.consumed is not None or self._parent is None:
            return self._known.consumed
        if self._goes_on_in_cells:
            return self._ancestor._consumed
        return self._parent.consumed(self.config.at_chunk, self.catalog)

    @property
    def _goes_on_in_cells(self) -> bool:
        """Whether its cells are those of the run that it goes on from, and it goes on where that one stands in them."""
        return self.config.resolution.cells is not None

    @property
    def _ancestor(self) -> Schedule:
        """The run that has drawn what comes before this one's first chunk."""
        assert self._parent is not None
        return self._parent.owner(self.config.at_chunk)

    def owner(self, chunk: int) -> Schedule:
        """Return the schedule of the run that stands in front of a chunk: this one, or one that it goes on from."""
        if self._parent is not None and chunk <= self.config.at_chunk:
            return self._parent.owner(chunk)
        return self

    def consumed(self, until: int, catalog: Catalog) -> Consumed:
        """Return how often the chunks in front of ``until`` have drawn each row of a catalog version."""
        return find_consumed(self.chunks.intervals(until), self._catalogs(), catalog)

    def _catalogs(self) -> list[Catalog]:
        """Return the catalog versions that chunks were drawn from, those of the runs that it goes on from included."""
        return [self.catalog] if self._parent is None else [self.catalog, *self._parent._catalogs()]

    def fork(self, config: RunConfig, catalog: Catalog) -> tuple[RunConfig, Known]:
        """Return the config of a run that goes on from this one, and what is known of it.

        In the same order, over the same version, with predicates that are known, it goes on in the cells of the run
        that stands in front of its first chunk: from the cursor, whatever was drawn. Else that has to be counted.

        Args:
            config: the run.
            catalog: at its version.

        Raises:
            ConfigError: a component is empty.
            QueryError: a predicate fails on a sample.
        """
        owner = self.owner(config.at_chunk)
        is_same_order = (config.catalog_version, config.seed) == (owner.config.catalog_version, owner.config.seed)
        if is_same_order and config.program().goes_through(owner.program):
            config = replace(config, resolution=replace(config.resolution, cells=owner.program.predicates))
            check_components(owner.plan, config.program(), config.catalog_version)
            return config, Known(plan=owner.plan, consumed=owner._consumed)
        consumed = self.consumed(config.at_chunk, catalog)
        return config, Known(plan=plan_cells(catalog, config.program(), consumed), consumed=consumed)

    def declare(self) -> None:
        """Write the first weights, unless they are there: whoever started the run may have died before this."""
        if not self.weights.is_declared():
            start, set_before = self._start_cursor(), self._standing
            first = Reweighting(
                version=start.weights_version, chunk=start.next_chunk, shares=start.shares, cause="declared", step=0
            )
            if set_before is not None and set_before.shares == start.shares:
                first = replace(set_before, version=first.version, chunk=first.chunk)
            self.weights.declare(first)

    def check_beginning(self) -> Known:
        """Refuse a run that goes on from another one where nothing is left to draw; return what was found out.

        Raises:
            ConfigError: its length is reached, or no sample is left of the component that is due.
        """
        start = self._start_cursor()
        if self._scheduler.is_through(start):
            raise ConfigError(
                f"run {self.config.name!r} would begin with chunk {start.next_chunk}, where its length is reached; "
                "length counts from the beginning of the run that it goes on from: give a longer one"
            )
        if not self._scheduler.can_draw(start):
            raise ConfigError(
                f"run {self.config.name!r} would begin with chunk {start.next_chunk}, but nothing is left to draw "
                f"from the component that is due in samples@{self.catalog.version}; set on_exhausted: repeat, or take "
                "another mixture"
            )
        return Known(plan=self.plan, consumed=self._consumed, before=self._before)

    def go_on(self, num_chunks: int, progress: Progress | None = None) -> int:
        """Draw and commit up to ``num_chunks`` more chunks; return how many there were left to draw (see `Run`)."""
        if num_chunks < 0:
            raise ConfigError(f"num_chunks is {num_chunks}; expected 0 or more")
        done = 0
        while done < num_chunks:
            with self._door:
                pass
            with self._lock:
                cursor = self._cursor or self._stored_cursor()
                self._cursor = None  # read again from the lake, should anything below fail
                if not cursor.is_ended:
                    try:
                        for after, num in self._commits(cursor, num_chunks - done):
                            cursor, done = after, done + num
                            if progress is not None:
                                progress(done, num_chunks, "chunks")
                    except ScheduleError:
                        if self._is_overtaken(cursor):
                            raise
                        continue  # somebody has set weights
                self._cursor = cursor
                if cursor.is_ended:
                    break
        return done

    def _is_overtaken(self, cursor: Cursor) -> bool:
        """Say whether another scheduler, not somebody who sets weights, got the commit after ``cursor`` refused."""
        has_waited, stored = self._precedence.give_way(), self._stored_cursor()
        is_another = stored.next_chunk != cursor.next_chunk and stored.num_changes == cursor.num_changes
        return is_another or not has_waited

    def _commits(self, cursor: Cursor, num_chunks: int) -> Iterator[tuple[Cursor, int]]:
        """Draw and commit chunks until somebody is at the door; yield the cursor after each commit, and its chunks.

        While a snapshot is written the next one is drawn, and the index is read ahead for the one after it.
        """
        times = min(max(1, len(cursor.shares) / _COMPONENTS_PER_COMMIT), _MOST_TIMES)
        most = max(1, int(_SAMPLES_PER_COMMIT * times) // self.config.chunk_size)
        if num_chunks <= most:
            yield self._store(self._draw(cursor, num_chunks))
            return
        stored: Future[tuple[Cursor, int]] | None = None
        writing = ThreadPoolExecutor(1, thread_name_prefix=f"mixlake-commit-{self.config.name}")
        with writing as writer, self._reader.reading_ahead():
            while num_chunks > 0 and not cursor.is_ended and not self._door.locked():
                snapshot = self._draw(cursor, min(num_chunks, most))
                if stored is not None:
                    yield stored.result()
                stored = writer.submit(self._store, snapshot)
                cursor = snapshot.drawn.cursor
                num_chunks -= len(snapshot.drawn.chunks)
            if stored is not None:
                yield stored.result()

    def follow(self, lookahead: int, progress: Progress | None, poll_seconds: float) -> int:
        """Schedule for loaders of other processes until the run ends; return how many chunks that were (see `Run`)."""
        if lookahead < 1:
            raise ConfigError(f"lookahead is {lookahead}; expected a number of chunks, 1 or more")
        done = 0
        while True:
            last, _, is_ended, _ = self.chunks.last()
            if is_ended:
                return done
            missing = max(self.demand.last(), 0) + lookahead - last
            if missing > 0:
                done += self.go_on(missing)
                if progress is not None:
                    progress(last + 1 + missing, last + 1 + missing, "chunks")
            else:
                time.sleep(poll_seconds)

    def set_weights(
        self,
        weights: Mapping[str, float],
        *,
        from_chunk: int | None,
        cause: str,
        step: int | None,
        details: Mapping[str, Any] | None,
    ) -> int:
        """Set shares of some components from a chunk on; return the chunk (see `Run`)."""
        with self._door, self._lock:
            cursor = self._stored_cursor()
            self._checked_shares(cursor, cursor.next_chunk if from_chunk is None else from_chunk, weights)
            self._scheduler.draw(cursor, 1)  # what it reads, it reads before others have to wait
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            with self._door, self._lock, self._precedence.taken():
                self._cursor = None
                cursor = self._stored_cursor()
                chunk = cursor.next_chunk if from_chunk is None else from_chunk
                shares = self._checked_shares(cursor, chunk, weights)
                change = Change(chunk=chunk, weights=shares, cause=cause, step=step, details=details)
                pending = tuple(sorted((*cursor.pending, change), key=lambda known: known.chunk))
                try:
                    self._store(self._draw(replace(cursor, pending=pending, num_changes=cursor.num_changes + 1), 1))
                except ScheduleError:
                    if attempt == _MAX_ATTEMPTS:
                        raise
                else:
                    break
        return chunk

    def _checked_shares(self, cursor: Cursor, chunk: int, weights: Mapping[str, Any]) -> dict[str, float]:
        """Return the shares that are set, by innermost component, after checking that they can be."""
        name = self.config.name
        if cursor.is_ended:
            raise ScheduleError(f"run {name!r} has ended with chunk {cursor.next_chunk - 1}")
        if chunk < cursor.next_chunk:
            raise ConfigError(
                f"from_chunk is {chunk}, but run {name!r} is scheduled up to chunk {cursor.next_chunk - 1}; "
                f"weights can change from chunk {cursor.next_chunk} on"
            )
        path = f"run {name!r}: weights"
        given = declared.weights(weights, path)
        before = dict(zip(self.program.components, (share / SCALE for share in cursor.shares), strict=True))
        after = set_shares(before, given, path)
        return {leaf: after[leaf] for leaf in after if any(leaf == n or leaf.startswith(f"{n}.") for n in given)}

    def _draw(self, cursor: Cursor, num_chunks: int) -> _Snapshot:
        precedence = self._precedence.fence()
        if self.config.adapt is not None:
            cursor = cursor.with_decisions(self.decisions.read(cursor.adapted_step))
        drawn = self._scheduler.draw(cursor, num_chunks)
        return _Snapshot(previous=cursor.next_chunk - 1, drawn=drawn, precedence=precedence)

    def _store(self, snapshot: _Snapshot) -> tuple[Cursor, int]:
        """Commit what was drawn; return the cursor after it, and how many chunks it was."""
        drawn, previous = snapshot.drawn, snapshot.previous
        self.weights.record(drawn.changes, is_current=lambda: self.chunks.last()[0] == previous)
        self.chunks.append(drawn.chunks, drawn.cursor.to_dict(), previous=previous, precedence=snapshot.precedence)
        return drawn.cursor, len(drawn.chunks)

    @cached_property
    def _reader(self) -> IndexReader:
        return IndexReader(self.catalog, self.program, self.plan, self._consumed)

    @cached_property
    def _scheduler(self) -> Scheduler:
        config, window = self.config, self.program.window
        cell_rows = CellRows(self.plan, self._reader, seed=config.seed, window=window, lanes=config.lanes)
        return Scheduler(self.program, self.plan, cell_rows, chunk_size=config.chunk_size)

    def _stored_cursor(self) -> Cursor:
        _, state, _, _ = self.chunks.last()
        return self._start_cursor() if state is None else Cursor.from_dict(state)

    def _start_cursor(self) -> Cursor:
        if self._parent is None:
            return Cursor.start(self.program, self.plan, self.config.lanes)
        standing = None if self._standing is None else self._standing.shares
        before, in_cells = self._before, self._goes_on_in_cells
        start = Cursor.start(self.program, self.plan, self.config.lanes, before, standing, is_in_its_cells=in_cells)
        if not self._is_same_declaration:
            return start
        start = replace(start, pending=before.pending, num_changes=before.num_changes)
        if self._goes_on_adapting:
            return replace(start, adapted=before.adapted, adapted_step=before.adapted_step)
        return replace(start, pending=tuple(change for change in before.pending if not change.is_adapted))

    @cached_property
    def _before(self) -> Cursor:
        """Where the run stands that this one goes on from."""
        assert self._parent is not None
        return self._known.before or self._parent.cursor_at(self.config.at_chunk)

    @cached_property
    def _is_same_declaration(self) -> bool:
        """Whether it draws what the run did that it goes on from, so that weights which were set hold on."""
        if self._parent is None:
            return False
        other = self._ancestor
        return (self.config.mixture, self.config.curriculum, self.program.components) == (
            (other.config.mixture, other.config.curriculum, other.program.components)
        )

    @property
    def _goes_on_adapting(self) -> bool:
        """Whether its policy is that of the run that it goes on from."""
        return self._parent is not None and self.config.adapt == self._parent.config.adapt

    @cached_property
    def _standing(self) -> Reweighting | None:
        """The weights that were set for the run that it goes on from, if they hold on."""
        if self._parent is None or not self._is_same_declaration:
            return None
        standing = self._parent.weights.standing(self._before.weights_version)
        is_of_policy = standing is not None and standing.cause == "adapt"
        return None if is_of_policy and not self._goes_on_adapting else standing

    def cursor_at(self, chunk: int) -> Cursor:
        """Return the cursor in front of a chunk: from the snapshot before it, by drawing again what comes between."""
        if (owner := self.owner(chunk)) is not self:
            return owner.cursor_at(chunk)
        state = self.chunks.cursor_before(chunk)
        cursor = self._start_cursor() if state is None else Cursor.from_dict(state)
        missing = chunk - cursor.next_chunk
        with self._door, self._lock:
            return self._scheduler.draw(cursor, missing).cursor if missing else cursor
