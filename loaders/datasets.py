"""Torch datasets over a run: one item per sample, or per packed sequence.

Items come from the lanes in turn: the next one is of the lane that has given the fewest, and of those the first. Rank r
of W has every W-th lane, so any world size that divides the lanes gives the same global sequence. A lane that has ended
is passed over.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from torch.utils.data import IterableDataset, get_worker_info

from mixlake.catalog import ConfigError
from mixlake.catalog.fields import parse_path, value_at
from mixlake.catalog.tokenizers import Tokenizer, TokenizerSpec, load_tokenizer
from mixlake.loaders.collate import Batch, collate_samples, collate_tokens
from mixlake.loaders.documents import LaneChunks, Sample, SampleQueue, first_index
from mixlake.loaders.feed import ChunkFeed
from mixlake.loaders.packing import ByShare, InOrder, PackedSequence, Packer, Pieces
from mixlake.loaders.reading import SampleReader
from mixlake.loaders.state import Identity, check_state, chunk_reached, lane_states, make_state
from mixlake.mixing import Run, Unit

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)


class Lane(Protocol[Item_co]):
    """One lane's items."""

    def next(self) -> Item_co | None:
        """Return the next item, or None where the lane ends."""

    def state(self) -> dict[str, Any]:
        """Return where the lane stands after the items taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery(Generic[Item]):
    """One item, with what must be kept when it has been delivered."""

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
    """Bound of decoded row groups kept, per process."""


class LaneDataset(IterableDataset[Item], Generic[Item]):
    """What both datasets share: lanes, turns and state.

    Iterated in the main process of rank 0 it schedules the chunks that it needs; in a worker process or on another rank
    it waits for them.
    """

    def __init__(self, run: Run, kind: str, reading: Reading) -> None:
        lanes, world_size, rank = run.config.lanes, reading.world_size, reading.rank
        if world_size < 1 or lanes % world_size:
            raise ConfigError(f"world_size is {world_size}; run {run.name!r} has {lanes} lanes, which it must divide")
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank is {rank}; expected 0 to {world_size - 1}")
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
        self.lanes = list(range(rank, lanes, world_size))
        self._lane_states: dict[int, dict[str, Any]] = {lane: {"num_items": 0} for lane in self.lanes}

    def open_lane(self, chunks: LaneChunks, state: dict[str, Any] | None) -> Lane[Item]:
        """Return a lane, taken up where ``state`` says."""
        raise NotImplementedError

    def fields(self) -> Sequence[str] | None:
        """Return the record fields to read; None for all."""
        raise NotImplementedError

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
            lane_state = {"num_items": num_items + 1, **lanes[lane].state()}
            yield Delivery(turn=(num_items, lane), item=item, lane_state=lane_state)

    def note(self, delivery: Delivery[Item]) -> None:
        """Note that an item has been delivered: a state from now on stands after it."""
        self._lane_states[delivery.turn[1]] = delivery.lane_state

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
        reader = SampleReader(run.catalog, fields=self.fields(), cache_bytes=reading.cache_bytes)
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


class SampleDataset(LaneDataset[dict[str, Any]]):
    """Yields samples as dicts: the record's fields, ``component`` (its name) and ``sample`` (its address).

    The address is (registration, file_id, row). Only the text is read, as ``text``, unless ``fields`` asks for more.
    """

    def __init__(
        self,
        run: Run,
        *,
        fields: Sequence[str] | None = None,
        rank: int = 0,
        world_size: int = 1,
        lookahead: int | None = None,
        timeout: float = 300.0,
        cache_bytes: int = 256 << 20,
    ) -> None:
        """Open a run's samples.

        Args:
            run: the run.
            fields: names of the record fields to yield instead of the text; ``["*"]`` yields all of them.
            rank: this data-parallel rank.
            world_size: number of data-parallel ranks; it must divide the run's lanes.
            lookahead: chunks to schedule at a time; four per lane where it is not given.
            timeout: seconds to wait for a chunk that another process schedules.
            cache_bytes: bound of decoded row groups kept.

        Raises:
            ConfigError: world_size does not divide the lanes, or rank is out of range.
        """
        super().__init__(run, "samples", _reading(run, rank, world_size, lookahead, timeout, cache_bytes))
        self._fields = None if fields is None else tuple(fields)

    def fields(self) -> Sequence[str] | None:
        """Return the record fields to read."""
        if self._fields is None:
            return ()
        return None if "*" in self._fields else self._fields

    def collate(self, items: Sequence[dict[str, Any]]) -> Batch:
        """Return samples as lists, one per field."""
        return collate_samples(items, self.components)

    def open_lane(self, chunks: LaneChunks, state: dict[str, Any] | None) -> Lane[dict[str, Any]]:
        """Return a lane of samples."""
        return _SampleLane(chunks, self.components, self._fields, state)


class _SampleLane:
    def __init__(
        self,
        chunks: LaneChunks,
        components: Sequence[str],
        fields: Sequence[str] | None,
        state: dict[str, Any] | None,
    ) -> None:
        self._chunks = chunks
        self._queue = SampleQueue(chunks, None, *(state["queue"] if state else (chunks.first, 0)))
        self._ready: deque[Sample] = deque()
        self._components = components
        self._fields = None if fields is None else {name: parse_path(name) for name in fields if name != "*"}
        self._takes_all = fields is not None and "*" in fields

    def next(self) -> dict[str, Any] | None:
        while not self._ready:
            self._ready.extend(self._queue.next_group(self._queue.chunk_index + 1))
            if not self._ready and self._chunks.get(self._queue.chunk_index) is None:
                return None
        self._chunks.close_before(self._queue.chunk_index)
        sample = self._ready.popleft()
        self._queue.skip()
        return {**self._chosen(sample), "component": self._components[sample.component], "sample": sample.address}

    def state(self) -> dict[str, Any]:
        return {"queue": [self._queue.chunk_index, self._queue.index]}

    def _chosen(self, sample: Sample) -> dict[str, Any]:
        if self._fields is None:
            content = sample.content()
            return {"text": content} if isinstance(content, str) else {"tokens": content}
        if self._takes_all:
            return sample.record
        return {name: value_at(sample.record, path) for name, path in self._fields.items()}


class TokenDataset(LaneDataset[PackedSequence]):
    """Yields packed sequences of a fixed number of tokens.

    Where the mixture counts bytes or tokens, the declared shares hold in delivered tokens at every sequence, within
    one sequence per component and lane; where it counts samples, documents follow in the order of the chunks.
    """

    def __init__(
        self,
        run: Run,
        *,
        tokenizer: TokenizerSpec = "bytes",
        sequence_length: int = 1024,
        rank: int = 0,
        world_size: int = 1,
        lookahead: int | None = None,
        timeout: float = 300.0,
        cache_bytes: int = 256 << 20,
    ) -> None:
        """Open a run's tokens.

        Args:
            run: the run.
            tokenizer: ``bytes``, the path of a tokenizer.json, or a callable from text to ids.
            sequence_length: tokens per sequence.
            rank: this data-parallel rank.
            world_size: number of data-parallel ranks; it must divide the run's lanes.
            lookahead: chunks to schedule at a time; four per lane where it is not given.
            timeout: seconds to wait for a chunk that another process schedules.
            cache_bytes: bound of decoded row groups kept.

        Raises:
            ConfigError: world_size does not divide the lanes, rank or sequence_length is out of range, or the tokenizer
                cannot be loaded.
        """
        if sequence_length < 2:
            raise ConfigError(f"sequence_length is {sequence_length}; expected 2 or more")
        kind = f"tokens, sequence_length {sequence_length}"
        super().__init__(run, kind, _reading(run, rank, world_size, lookahead, timeout, cache_bytes))
        self.tokenizer_spec = tokenizer
        self.sequence_length = sequence_length
        self._tokenizer: Tokenizer | None = load_tokenizer(tokenizer)  # refused here rather than in a worker

    def fields(self) -> Sequence[str] | None:
        """Return the record fields to read: none but the text."""
        return ()

    def collate(self, items: Sequence[PackedSequence]) -> Batch:
        """Return sequences as tensors."""
        return collate_tokens(items, self.components)

    def open_lane(self, chunks: LaneChunks, state: dict[str, Any] | None) -> Lane[PackedSequence]:
        """Return a lane of packed sequences."""
        self._tokenizer = self._tokenizer or load_tokenizer(self.tokenizer_spec)
        pieces: Pieces
        if self.run.program.unit is Unit.SAMPLES:
            pieces = InOrder(chunks, self._tokenizer, state)
        else:
            pieces = ByShare(
                chunks, self._tokenizer, self.run.shares, len(self.components), self.sequence_length, state
            )
        return Packer(pieces, sequence_length=self.sequence_length, pad_id=self._tokenizer.pad_id)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the tokenizer behind: each process loads its own."""
        return {**self.__dict__, "_tokenizer": None}


def _reading(run: Run, rank: int, world_size: int, lookahead: int | None, timeout: float, cache_bytes: int) -> Reading:
    chunks = 4 * run.config.lanes if lookahead is None else lookahead
    if chunks < 1:
        raise ConfigError(f"lookahead is {lookahead}; expected a number of chunks, 1 or more")
    return Reading(rank=rank, world_size=world_size, lookahead=chunks, timeout=timeout, cache_bytes=cache_bytes)
