"""What the torch datasets over a run share: lanes, turns and state.

Items come from the lanes in turn: the next one is of the lane that has given the fewest, and of those the first. Rank r
of W has every W-th lane, so any world size that divides the lanes gives the same global sequence. A lane that has ended
is passed over.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from torch.utils.data import IterableDataset, get_worker_info

from mixlake.catalog import ConfigError
from mixlake.catalog.problems import OnError, checked_on_error
from mixlake.loaders.collate import Batch
from mixlake.loaders.documents import LaneChunks, first_index
from mixlake.loaders.feed import ChunkFeed
from mixlake.loaders.images import Images
from mixlake.loaders.reading import SampleReader
from mixlake.loaders.replacing import Replacements
from mixlake.loaders.state import Identity, check_state, chunk_reached, lane_states, make_state
from mixlake.mixing import Run

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)


class Lane(Protocol[Item_co]):
    """One lane's items."""

    def next(self) -> Item_co | None:
        """Return the next item, or None where the lane ends."""

    def state(self) -> dict[str, Any]:
        """Return where the lane stands after the items taken."""


class Delivery(NamedTuple, Generic[Item]):
    """One item, with what must be kept when it has been delivered; a tuple, as millions of them are made and sent."""

    turn: tuple[int, int]
    """(items that the lane gave before, lane): items are delivered in this order."""
    item: Item
    lane_state: dict[str, Any]
    """Where the lane stands after the item."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How a process reads."""

    rank: int
    world_size: int
    lookahead: int
    """Chunks to schedule at a time, where this process schedules."""
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
        rank: int,
        world_size: int,
        lookahead: int | None,
        timeout: float,
        cache_bytes: int,
        on_error: str = OnError.RAISE,
    ) -> Reading:
        """Return it checked for a run.

        Raises:
            ConfigError: ``world_size`` does not divide the lanes, or a number is out of range.
        """
        lanes = run.config.lanes
        if world_size < 1 or lanes % world_size:
            raise ConfigError(f"world_size is {world_size}; run {run.name!r} has {lanes} lanes, which it must divide")
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank is {rank}; expected 0 to {world_size - 1}")
        chunks = min(4 * lanes, run.delay) if lookahead is None else lookahead
        if chunks < 1:
            raise ConfigError(f"lookahead is {lookahead}; expected a number of chunks, 1 or more")
        return cls(
            rank=rank,
            world_size=world_size,
            lookahead=chunks,
            timeout=timeout,
            cache_bytes=cache_bytes,
            on_error=checked_on_error(on_error),
        )


class LaneDataset(IterableDataset[Item], Generic[Item]):
    """What both datasets share: lanes, turns and state.

    Iterated in the main process of rank 0 it schedules the chunks that it needs; in a worker process or on another rank
    it waits for them.
    """

    def __init__(self, run: Run, kind: str, reading: Reading) -> None:
        lanes = run.config.lanes
        self.run = run
        self.reading = reading
        self.identity = Identity(
            run=run.name,
            config_hash=run.config.config_hash,
            lanes=lanes,
            kind=kind,
            ancestors=tuple((known.name, known.config.config_hash) for known in run.ancestors()),
        )
        self._first_chunk = run.config.at_chunk
        self.components = run.components
        """Names that component ids index."""
        self.lanes = list(range(reading.rank, lanes, reading.world_size))
        self._lane_states: dict[int, dict[str, Any]] = {lane: {"num_items": 0} for lane in self.lanes}

    def open_lane(self, chunks: LaneChunks, state: dict[str, Any] | None) -> Lane[Item]:
        """Return a lane, taken up where ``state`` says."""
        raise NotImplementedError

    def fields(self) -> Sequence[str] | None:
        """Return the record fields to read; None for all."""
        raise NotImplementedError

    def images(self) -> Images | None:
        """Return what decodes images, if any are asked for."""
        return None

    def collate(self, items: Sequence[Item]) -> Batch:
        """Return items as a batch."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        number, num_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for delivery in self.deliveries(number, num_workers):
            self.note(delivery)
            yield delivery.item

    def deliveries(self, worker: int = 0, num_workers: int = 1) -> Iterator[Delivery[Item]]:
        """Yield the items of a worker's lanes in turn; worker w of n has every n-th lane of the rank."""
        lanes = self._open(self.lanes[worker::num_workers])
        turns = [(int(self._lane_states[lane]["num_items"]), lane) for lane in lanes]
        heapq.heapify(turns)
        while turns:
            num_items, lane = turns[0]
            item = lanes[lane].next()
            if item is None:
                heapq.heappop(turns)
                continue
            heapq.heapreplace(turns, (num_items + 1, lane))
            lane_state = lanes[lane].state()
            lane_state["num_items"] = num_items + 1
            yield Delivery((num_items, lane), item, lane_state)

    def note(self, delivery: Delivery[Item]) -> None:
        """Note that an item has been delivered: a state from now on stands after it."""
        self._lane_states[delivery.turn[1]] = delivery.lane_state

    def chunks_reached(self) -> int:
        """Return a chunk from which on none had a part in what is delivered: a round after the last that was opened."""
        lanes = self.run.config.lanes
        begun = [(lane, state) for lane, state in self._lane_states.items() if state["num_items"]]
        return max((lane + lanes * chunk_reached(state) for lane, state in begun), default=self._first_chunk)

    def state_dict(self) -> dict[str, Any]:
        """Return where this rank stands: small, JSON, positions only."""
        return make_state(self.identity, self._lane_states, self._first_chunk)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where ``state_dict`` (of this rank, or merged from all) says.

        Raises:
            ConfigError: the state is of another run, other settings, or lacks this rank's lanes.
        """
        check_state(state, self.identity)
        states = lane_states(state, self.lanes)
        if state["run"] != self.run.name:
            self._check_reached(states)
        self._lane_states, self._first_chunk = states, state["first_chunk"]

    def _check_reached(self, states: Mapping[int, dict[str, Any]]) -> None:
        """Refuse another run's state that has gone past the chunk where this run leaves it."""
        at_chunk, num_lanes = self.run.config.at_chunk, self.run.config.lanes
        for lane, state in states.items():
            if state["num_items"] and chunk_reached(state) > first_index(lane, num_lanes, at_chunk):
                raise ConfigError(
                    f"loader state has gone past chunk {at_chunk}, where run {self.run.name!r} begins; fork further on"
                )

    def _open(self, numbers: Sequence[int]) -> dict[int, Lane[Item]]:
        run, reading = self.run, self.reading
        schedules = get_worker_info() is None and reading.rank == 0
        feed = ChunkFeed(run, schedules=schedules, lookahead=reading.lookahead, timeout=reading.timeout)
        reader = SampleReader(
            run.catalog,
            fields=self.fields(),
            cache_bytes=reading.cache_bytes,
            num_lanes=max(1, len(numbers)),
            replacements=Replacements(run) if reading.on_error is OnError.SKIP else None,
            images=self.images(),
        )
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
            state = self._lane_states[lane]
            opened[lane] = self.open_lane(chunks, state if state["num_items"] else None)
        return opened
