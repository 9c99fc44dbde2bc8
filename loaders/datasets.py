"""Torch datasets over a run: one item per sample, or per packed sequence.

The global sequence of items takes the lanes in turn: slot g is the next item of lane g modulo the number of lanes.
Rank r of W has every W-th lane, so any world size that divides the lanes gives the same global sequence. A lane that
has ended leaves its slots empty.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from torch.utils.data import IterableDataset, get_worker_info

from mixlake.catalog import ConfigError
from mixlake.catalog.fields import parse_path, value_at
from mixlake.loaders.collate import Batch, collate_samples, collate_tokens
from mixlake.loaders.documents import LaneChunks, Sample, SampleQueue
from mixlake.loaders.feed import ChunkFeed
from mixlake.loaders.packing import ByShare, InOrder, PackedSequence, Packer, Pieces
from mixlake.loaders.reading import SampleReader
from mixlake.loaders.state import Identity, check_state, lane_states, make_state
from mixlake.loaders.tokenizers import Tokenizer, TokenizerSpec, load_tokenizer
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
class Portion(Generic[Item]):
    """The part of one batch that one worker makes."""

    batch: int
    items: list[tuple[int, int, Item]]
    """(place within the batch, lane, item)."""
    lanes: dict[int, dict[str, Any]]
    """Where the worker's lanes stand after this batch."""
    is_last: bool
    """The worker's lanes have ended."""


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
    """What both datasets share: lanes, slots and state.

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
        self.identity = Identity(run=run.name, config_hash=run.config.to_row()["config_hash"], lanes=lanes, kind=kind)
        self.components = tuple(component.name for component in run.config.mixture.components)
        """Names that component ids index."""
        self.lanes = list(range(rank, lanes, world_size))
        self._num_slots = 0
        self._lane_states: dict[int, dict[str, Any] | None] = dict.fromkeys(self.lanes)

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
        first = self._num_slots
        for portion in self.portions(len(self.lanes), number, num_workers):  # one item of each lane
            for place, lane, item in portion.items:
                slot = portion.batch * len(self.lanes) + place
                self._num_slots = first + (slot + 1) * self.reading.world_size
                self._lane_states[lane] = portion.lanes[lane]
                yield item

    def portions(self, batch_size: int, worker: int, num_workers: int) -> Iterator[Portion[Item]]:
        """Yield a worker's part of every batch, until its lanes have ended.

        Local slot i of a rank is its lane i modulo the number of its lanes; worker w of n has every n-th of these.
        """
        mine = {index: lane for index, lane in enumerate(self.lanes) if index % num_workers == worker}
        lanes = self._open(mine)
        ended: set[int] = set()
        slot = self._num_slots // self.reading.world_size
        batch = 0
        while len(ended) < len(mine):
            items: list[tuple[int, int, Item]] = []
            for place in range(batch_size):
                index = (slot + place) % len(self.lanes)
                if index not in mine or index in ended:
                    continue
                item = lanes[index].next()
                if item is None:
                    ended.add(index)
                else:
                    items.append((place, mine[index], item))
            states = {lane: lanes[index].state() for index, lane in mine.items()}
            yield Portion(batch=batch, items=items, lanes=states, is_last=len(ended) == len(mine))
            slot, batch = slot + batch_size, batch + 1

    def state_dict(self) -> dict[str, Any]:
        """Return where this rank stands: small, JSON, positions only."""
        begun = {lane: state for lane, state in self._lane_states.items() if state is not None}
        return make_state(self.identity, self._num_slots, begun)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where ``state_dict`` (of this rank, or merged from all) says.

        Raises:
            ConfigError: the state is of another run, other settings, or lacks this rank's lanes.
        """
        check_state(state, self.identity)
        if state["num_slots"] % self.reading.world_size:
            raise ConfigError(
                f"the state stands at slot {state['num_slots']} of the global sequence, which world_size "
                f"{self.reading.world_size} does not divide; resume with a world size that does"
            )
        self._lane_states = lane_states(state, self.lanes)
        self._num_slots = state["num_slots"]

    def advance(self, num_slots: int, lanes: Mapping[int, dict[str, Any]]) -> None:
        """Note that ``num_slots`` of this rank's slots have been delivered, after which its lanes stand so."""
        self._num_slots += num_slots * self.reading.world_size
        self._lane_states.update(lanes)

    def _open(self, mine: Mapping[int, int]) -> dict[int, Lane[Item]]:
        run, reading = self.run, self.reading
        schedules = get_worker_info() is None and reading.rank == 0
        feed = ChunkFeed(run, schedules=schedules, lookahead=reading.lookahead, timeout=reading.timeout)
        reader = SampleReader(run.catalog, fields=self.fields(), cache_bytes=reading.cache_bytes)
        opened = {}
        for index, lane in mine.items():
            chunks = LaneChunks(
                feed,
                reader,
                lane=lane,
                num_lanes=run.config.lanes,
                seed=run.config.seed,
                shuffled=run.config.mixture.window > 0,
            )
            opened[index] = self.open_lane(chunks, self._lane_states[lane])
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
        self._queue = SampleQueue(chunks, None, *(state["queue"] if state else (0, 0)))
        self._ready: deque[Sample] = deque()
        self._components = components
        self._fields = fields

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
            return {"text": sample.text()}
        if "*" in self._fields:
            return sample.record
        return {name: value_at(sample.record, parse_path(name)) for name in self._fields}


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
        self._tokenizer: Tokenizer | None = None
        load_tokenizer(tokenizer)  # refused here rather than in a worker

    def fields(self) -> Sequence[str] | None:
        """Return the record fields to read: none but the text."""
        return ()

    def collate(self, items: Sequence[PackedSequence]) -> Batch:
        """Return sequences as tensors."""
        return collate_tokens(items, self.components)

    def open_lane(self, chunks: LaneChunks, state: dict[str, Any] | None) -> Lane[PackedSequence]:
        """Return a lane of packed sequences."""
        self._tokenizer = self._tokenizer or load_tokenizer(self.tokenizer_spec)
        mixture = self.run.config.mixture
        pieces: Pieces
        if mixture.unit is Unit.SAMPLES:
            pieces = InOrder(chunks, self._tokenizer, state)
        else:
            pieces = ByShare(
                chunks, self._tokenizer, self.run.shares, len(mixture.components), self.sequence_length, state
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
