"""What a process reads of a run: lanes, turns and state. Worker processes have this without torch.

Items come from the lanes in turn: the next one is of the lane that has given the fewest, and of those the first. Rank r
of W has every W-th lane, so any world size that divides the lanes gives the same global sequence. A lane that has ended
is passed over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from mixlake.catalog import ConfigError
from mixlake.catalog.columns import as_text
from mixlake.catalog.problems import OnError, checked_on_error
from mixlake.loaders.collate import Batch
from mixlake.loaders.deliveries import Delivery, Place
from mixlake.loaders.documents import LaneChunks, first_index
from mixlake.loaders.feed import ChunkFeed, Drawing, Supply, Waiting
from mixlake.loaders.images import Images
from mixlake.loaders.placement import Group, Placement
from mixlake.loaders.placement import place as placed
from mixlake.loaders.reading import SampleReader
from mixlake.loaders.replacing import Replacements
from mixlake.loaders.scheduling import BackgroundScheduler
from mixlake.loaders.state import Identity, check_state, chunk_reached, lane_states, make_state
from mixlake.loaders.stats import Counts
from mixlake.loaders.workers import Workers
from mixlake.mixing import Run

Item = TypeVar("Item")
_delivery: Callable[[tuple[tuple[int, int], Any, Place]], Delivery[Any]] = partial(tuple.__new__, Delivery)
"""Makes one out of its entries in a third of the time of calling its type."""
_FRESH_BUNDLE = 16
"""Items that a fresh interpreter sends together to the forked process in whose place it reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How a process reads."""

    placement: Placement
    lookahead: int
    """Chunks to schedule in advance, where this process schedules."""
    timeout: float
    """Seconds to wait for a chunk that another process schedules."""
    cache_bytes: int
    """Bound of what is held of files in memory, per process."""
    on_error: OnError
    """What happens to samples that cannot be read."""

    @classmethod
    def of(
        cls,
        run: Run,
        *,
        rank: int | None,
        world_size: int | None,
        group: Group | None,
        schedules: bool | None,
        lookahead: int | None,
        timeout: float,
        cache_bytes: int,
        on_error: str = OnError.RAISE,
    ) -> Reading:
        """Return it checked for a run.

        Raises:
            ConfigError: a number is out of range, or they do not go together (see `placement.place`).
        """
        lanes = run.config.lanes
        placement = placed(rank=rank, world_size=world_size, group=group, schedules=schedules, num_lanes=lanes)
        chunks = min(4 * lanes, run.delay) if lookahead is None else lookahead
        if chunks < 1:
            raise ConfigError(f"lookahead is {lookahead}; expected a number of chunks, 1 or more")
        return cls(
            placement=placement,
            lookahead=chunks,
            timeout=timeout,
            cache_bytes=cache_bytes,
            on_error=checked_on_error(on_error),
        )


class Lanes(Generic[Item]):
    """The lanes of a rank, whatever is made of their samples.

    One process schedules the run while it reads: that of rank 0, or its first worker. All others wait for chunks.
    """

    def __init__(self, run: Run, kind: str, reading: Reading) -> None:
        lanes = run.config.lanes
        self.run = run
        self.reading = reading
        self.identity = Identity(
            run=run.name,
            catalog_version=run.config.catalog_version,
            config_hash=run.config.config_hash,
            lanes=lanes,
            kind=kind,
            ancestors=tuple((known.name, known.config.config_hash) for known in run.ancestors()),
        )
        self._first_chunk = run.config.at_chunk
        self.components = run.components
        """Names that component ids index."""
        self.lanes = list(range(reading.placement.rank, lanes, reading.placement.world_size))
        self._reader: SampleReader | None = None
        self._fresh: Workers[Item] | None = None
        self._lane_states: dict[int, dict[str, Any]] = {lane: {"num_items": 0} for lane in self.lanes}
        self._delivered: dict[int, tuple[int, Place]] = {}
        self.is_sent = False
        """Whether items go to another process, so that texts in them may stay UTF-8 until they are there."""

    def open_lane(self, chunks: LaneChunks, state: dict[str, Any] | None) -> Iterator[tuple[Item, Place]]:
        """Return a lane's items from where ``state`` says, each with the place where the lane stands after it.

        Whatever is at hand of its chunks is read from now on, while other lanes are opened.
        """
        raise NotImplementedError

    def lane_state(self, place: Place) -> dict[str, Any]:
        """Return a place as JSON, for `open_lane`."""
        state: dict[str, Any] = place
        return state

    def chunk_reached(self, place: Place) -> int:
        """Return how many chunks of its lane a lane has opened, or is about to, at a place."""
        return chunk_reached(self.lane_state(place))

    def fields(self) -> Sequence[str] | None:
        """Return the record fields to read; None for all."""
        raise NotImplementedError

    def form(self) -> Callable[[Any], Any]:
        """Return what texts are to be read as; see `fetch_columns`."""
        return as_text

    def images(self) -> Images | None:
        """Return what decodes images, if any are asked for."""
        return None

    def collate(self, items: Sequence[Item]) -> Batch:
        """Return items as a batch."""
        raise NotImplementedError

    def padding(self) -> Item:
        """Return an item that holds nothing, to fill batches with.

        Raises:
            ConfigError: there is no such thing for samples.
        """
        raise ConfigError("ends is 'padded', but samples have no padding; expected each or together, or a tokenizer")

    def num_tokens(self, items: Sequence[Item]) -> int:  # noqa: ARG002
        """Return how many tokens items hold, without padding; 0 where they are not tokens."""
        return 0

    def items(self, worker: int = 0, num_workers: int = 1) -> Iterator[Item]:
        """Yield the items of a worker's lanes in turn; what is yielded counts as delivered."""
        for (number, lane), item, place in self.deliveries(worker, num_workers):
            self._delivered[lane] = number + 1, place
            yield item

    def deliveries(
        self, worker: int = 0, num_workers: int = 1, *, schedules: bool | None = None
    ) -> Iterator[Delivery[Item]]:
        """Yield the items of a worker's lanes in turn; worker w of n has every n-th lane of the rank.

        Args:
            worker: number of the worker.
            num_workers: how many there are.
            schedules: whether it schedules the run; None is if this rank does and it is its first worker.
        """
        if self.run.process_id != os.getpid():
            yield from self._from_fresh_process(worker, num_workers, schedules)
            return
        run, reading, placement = self.run, self.reading, self.reading.placement
        lanes = self.lanes[worker::num_workers]
        if not (placement.schedules and worker == 0 if schedules is None else schedules):
            yield from self._take_turns(lanes, Waiting(run, reading.timeout))
        elif placement.is_alone and num_workers == 1:
            yield from self._take_turns(lanes, Drawing(run, reading.lookahead))
        else:
            with BackgroundScheduler(run, reading.lookahead, self.chunks_reached()) as scheduler:
                for delivery in self._take_turns(lanes, scheduler):
                    scheduler.reach(self.reached_by(delivery))
                    yield delivery

    def _from_fresh_process(self, worker: int, num_workers: int, schedules: bool | None) -> Iterator[Delivery[Item]]:
        """Yield what a fresh interpreter reads: this process was forked, which the lake's handles do not survive."""
        with Workers(self, num_workers, _FRESH_BUNDLE, "fork", only=worker, schedules=schedules) as fresh:
            self._fresh = fresh
            yield from fresh.deliveries(lambda: None)

    def reached_by(self, delivery: Delivery[Item]) -> int:
        """Return how many of the run's chunks the lane of a delivery has come to."""
        return self._chunk(delivery.turn[1], self.chunk_reached(delivery.place))

    def counts(self) -> Counts:
        """Return what this process has read in its last iteration."""
        if self._fresh is not None:
            return sum(self._fresh.counts, Counts())
        return Counts() if self._reader is None else self._reader.counts()

    def _take_turns(self, numbers: Sequence[int], supply: Supply) -> Iterator[Delivery[Item]]:
        lanes = self._open(numbers, supply)
        reader = self._reader
        assert reader is not None
        begun = {lane: int(self._states()[lane]["num_items"]) for lane in lanes}
        number = min(begun.values(), default=0)
        try:
            while lanes:
                for lane, given in list(lanes.items()):
                    if begun[lane] > number:
                        continue
                    following = next(given, None)
                    if following is None:
                        del lanes[lane]
                    else:
                        yield _delivery(((number, lane), *following))
                number += 1
        finally:
            reader.close()

    def weights_version(self, items: Sequence[Item]) -> int | None:  # noqa: ARG002
        """Return the newest weights that items were drawn with; None where they do not say."""
        return None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the reader behind: each process opens its own."""
        return {**self.__dict__, "_reader": None, "_fresh": None}

    def note(self, deliveries: Iterable[Delivery[Item]]) -> None:
        """Note that items have been delivered: a state from now on stands after them."""
        delivered = self._delivered
        for (number, lane), _, place in deliveries:
            delivered[lane] = number + 1, place

    def _states(self) -> dict[int, dict[str, Any]]:
        """Return where each lane stands, as JSON."""
        for lane, (num_items, place) in self._delivered.items():
            self._lane_states[lane] = {"num_items": num_items, **self.lane_state(place)}
        self._delivered = {}
        return self._lane_states

    def chunks_reached(self) -> int:
        """Return a chunk from which on none had a part in what is delivered: a round after the last that was opened."""
        begun = [(lane, state) for lane, state in self._states().items() if state["num_items"]]
        return max((self._chunk(lane, chunk_reached(state)) for lane, state in begun), default=self._first_chunk)

    def _chunk(self, lane: int, index: int) -> int:
        """Return the number of a lane's chunk."""
        return lane + index * self.run.config.lanes

    def state_dict(self) -> dict[str, Any]:
        """Return where this rank stands: small, JSON, positions only."""
        return make_state(self.identity, self._states(), self._first_chunk)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where ``state_dict`` (of this rank, or merged from all) says.

        Raises:
            ConfigError: the state is of another run, other settings, or lacks this rank's lanes.
        """
        check_state(state, self.identity)
        states = lane_states(state, self.lanes)
        if state["run"] != self.run.name:
            self._check_reached(states)
        self._lane_states, self._delivered, self._first_chunk = states, {}, state["first_chunk"]

    def _check_reached(self, states: Mapping[int, dict[str, Any]]) -> None:
        """Refuse another run's state that has gone past the chunk where this run leaves it."""
        at_chunk, num_lanes = self.run.config.at_chunk, self.run.config.lanes
        for lane, state in states.items():
            if state["num_items"] and chunk_reached(state) > first_index(lane, num_lanes, at_chunk):
                raise ConfigError(
                    f"loader state has gone past chunk {at_chunk}, where run {self.run.name!r} begins; fork further on"
                )

    def _open(self, numbers: Sequence[int], supply: Supply) -> dict[int, Iterator[tuple[Item, Place]]]:
        run, reading = self.run, self.reading
        feed = ChunkFeed(run, numbers, supply)
        self._reader = reader = SampleReader(
            run.catalog,
            fields=self.fields(),
            cache_bytes=reading.cache_bytes,
            num_lanes=max(1, len(numbers)),
            replacements=Replacements(run) if reading.on_error is OnError.SKIP else None,
            images=self.images(),
            form=self.form(),
        )
        states = {lane: state if state["num_items"] else None for lane, state in self._states().items()}
        if numbers:
            feed.get(min(self._stands_in(lane, states[lane]) for lane in numbers))  # and with it those of other lanes
        opened = {}
        for lane in numbers:
            chunks = LaneChunks(
                feed,
                reader,
                lane=lane,
                num_lanes=run.config.lanes,
                deliver=run.delivery,
                first_chunk=self._first_chunk,
            )
            opened[lane] = self.open_lane(chunks, states[lane])
        return opened

    def _stands_in(self, lane: int, state: dict[str, Any] | None) -> int:
        """Return the number of the chunk that a lane stands in."""
        first = first_index(lane, self.run.config.lanes, self._first_chunk)
        return self._chunk(lane, max(first, chunk_reached(state) - 1) if state else first)
