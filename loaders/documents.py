"""Queues of a lane's samples and documents: of one component, or of all in delivery order.

A queue knows where it stands as a few numbers (chunk, index in the chunk, token offset), never as data, so a lane can
be left at any token and taken up again by reading only the documents it stands in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixlake.catalog import DataError
from mixlake.catalog.fields import token_ids, value_at
from mixlake.catalog.records import FieldPath, IntArray
from mixlake.catalog.tokenizers import Tokenizer
from mixlake.loaders.feed import ChunkFeed
from mixlake.loaders.reading import Address, ChunkBuffer, SampleReader
from mixlake.mixing.chunks import Chunk, Delivery

NO_LABEL = -100
"""Label of a position that carries no loss: the last token of a document, and padding."""
_MAX_SAMPLES = 32
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A sample as it was read."""

    record: dict[str, Any]
    text_field: FieldPath
    component: int
    address: Address

    def content(self) -> str | IntArray:
        """Return the sample's text, or its token ids where it is tokenized already.

        Raises:
            DataError: the field holds neither.
        """
        value = value_at(self.record, self.text_field)
        content = value if isinstance(value, str) else token_ids(value)
        if content is None:
            raise DataError(
                f"{self.place()} is {type(value).__name__}, expected text or token ids; "
                "leave such samples out with mixture.filter"
            )
        return content

    def place(self) -> str:
        """Name the field that holds the content, for messages."""
        registration, file_id, row = self.address
        return f"{registration}, file {file_id}, row {row}: field {'.'.join(self.text_field)!r}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A tokenized sample."""

    ids: IntArray
    component: int
    address: Address


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenChunk:
    """A chunk of a lane that at least one queue still draws from."""

    chunk: Chunk
    order: Delivery
    buffer: ChunkBuffer


def first_index(lane: int, num_lanes: int, chunk: int) -> int:
    """Return which of a lane's chunks is the first from ``chunk`` on; lane l of n has the chunks l, l + n, l + 2n.

    >>> [first_index(lane, 4, 6) for lane in range(4)]
    [2, 2, 1, 1]
    """
    return max(0, -(-(chunk - lane) // num_lanes))


class LaneChunks:
    """The chunks of one lane, opened in order and shared by the lane's queues."""

    def __init__(
        self,
        feed: ChunkFeed,
        reader: SampleReader,
        *,
        lane: int,
        num_lanes: int,
        deliver: Callable[[Chunk], Delivery],
        first_chunk: int = 0,
    ) -> None:
        self.lane = lane
        self.first = first_index(lane, num_lanes, first_chunk)
        """The lane's chunk that it begins with where nothing else is said: a run may go on from another."""
        self._feed = feed
        self._reader = reader
        self._num_lanes = num_lanes
        self._deliver = deliver
        self._open: dict[int, OpenChunk] = {}

    def get(self, index: int) -> OpenChunk | None:
        """Return the lane's chunk number ``index`` (counted within the lane), or None where the run ends before it."""
        if index not in self._open:
            chunk = self._feed.get(self.lane + index * self._num_lanes)
            if chunk is None:
                return None
            order = self._deliver(chunk)
            self._open[index] = OpenChunk(chunk=chunk, order=order, buffer=ChunkBuffer(chunk, order, self._reader))
        return self._open[index]

    def close_before(self, index: int) -> None:
        """Forget the chunks that no queue needs any more."""
        for old in [number for number in self._open if number < index]:
            del self._open[old]


class SampleQueue:
    """The samples of a lane, of one component or of all, in delivery order, read in groups."""

    def __init__(self, chunks: LaneChunks, component: int | None, chunk_index: int = 0, index: int = 0) -> None:
        """Take up a queue.

        Args:
            chunks: the lane's chunks.
            component: index of the component; None for all.
            chunk_index: the lane's chunk that it stands in.
            index: how many of the queue's samples of that chunk are taken.
        """
        self._chunks = chunks
        self._component = component
        self.chunk_index = chunk_index
        self.index = index
        self._places: tuple[int, IntArray] | None = None

    def next_group(self, num_open: int) -> list[Sample]:
        """Read some samples from here on, none if the lane's first ``num_open`` chunks hold no more.

        The queue stays where it is: ``skip`` moves it on as its samples are taken.
        """
        while self.chunk_index < num_open:
            current = self._chunks.get(self.chunk_index)
            if current is None:
                break
            places = self._places_in(current)
            if self.index < len(places):
                return _read_group(current, places[self.index :])
            self.chunk_index, self.index = self.chunk_index + 1, 0
        return []

    def skip(self) -> None:
        """Move on by one sample."""
        self.index += 1

    def _places_in(self, current: OpenChunk) -> IntArray:
        if self._places is None or self._places[0] != self.chunk_index:
            component = current.order.component
            everything = np.arange(len(component))
            mine = everything if self._component is None else np.flatnonzero(component == self._component)
            self._places = (self.chunk_index, mine)
        return self._places[1]


class DocumentQueue:
    """The documents of a lane, of one component or of all, as tokens in delivery order."""

    def __init__(
        self, chunks: LaneChunks, tokenizer: Tokenizer, component: int | None, position: Sequence[int] = (0, 0, 0)
    ) -> None:
        """Take up a queue.

        Args:
            chunks: the lane's chunks.
            tokenizer: for the documents.
            component: index of the component; None for all.
            position: lane chunk, document in the chunk's part of this queue, token in the document.
        """
        self._samples = SampleQueue(chunks, component, position[0], position[1])
        self._tokenizer = tokenizer
        self._offset = position[2]
        self._ready: deque[Document] = deque()

    @property
    def chunk_index(self) -> int:
        """The lane's chunk that the queue stands in."""
        return self._samples.chunk_index

    def position(self) -> list[int]:
        """Return where the queue stands: all that is needed to take it up again."""
        return [self._samples.chunk_index, self._samples.index, self._offset]

    def head(self, num_open: int) -> Document | None:
        """Return the document that the queue stands in; None if the lane's first ``num_open`` chunks hold no more."""
        while True:
            while self._ready and not len(self._ready[0].ids):  # a document without a token
                self._drop_head()
            if self._ready:
                return self._ready[0]
            samples = self._samples.next_group(num_open)
            if not samples:
                return None
            self._ready.extend(
                Document(ids=ids, component=sample.component, address=sample.address)
                for sample, ids in zip(samples, _encode(self._tokenizer, samples), strict=True)
            )

    def remaining(self) -> int:
        """Return how many tokens of the head document are left."""
        return len(self._ready[0].ids) - self._offset

    def take(self, num: int) -> tuple[IntArray, IntArray]:
        """Return the next ``num`` tokens of the head document, and the token after each (NO_LABEL after its last)."""
        document = self._ready[0]
        stop = self._offset + num
        ids = document.ids[self._offset : stop]
        labels = document.ids[self._offset + 1 : stop + 1]
        if stop == len(document.ids):
            labels = np.append(labels, NO_LABEL)
            self._drop_head()
        else:
            self._offset = stop
        return ids, labels

    def _drop_head(self) -> None:
        self._ready.popleft()
        self._samples.skip()
        self._offset = 0


def _encode(tokenizer: Tokenizer, samples: Sequence[Sample]) -> list[IntArray]:
    """Return the ids of each sample; those that are tokenized already are taken as they are.

    Raises:
        DataError: ids that the tokenizer does not have, so that others made them.
    """
    contents = [sample.content() for sample in samples]
    encoded = iter(tokenizer.encode([content for content in contents if isinstance(content, str)]))
    ids_per_sample = [next(encoded) if isinstance(content, str) else content for content in contents]
    for sample, content, ids in zip(samples, contents, ids_per_sample, strict=True):
        is_foreign = tokenizer.vocab_size and not isinstance(content, str) and len(ids)
        if is_foreign and not 0 <= int(ids.min()) <= int(ids.max()) < tokenizer.vocab_size:
            raise DataError(
                f"{sample.place()} has token ids {ids.min()} to {ids.max()}, but the tokenizer has "
                f"{tokenizer.vocab_size} ids; load with the tokenizer that made them"
            )
    return ids_per_sample


def _read_group(current: OpenChunk, places: IntArray) -> list[Sample]:
    """Read the next samples together, as many as a bounded number of bytes allows."""
    positions: list[int] = []
    num_bytes = 0
    for position in places[:_MAX_SAMPLES].tolist():
        num_bytes += current.buffer.num_bytes(position)
        if positions and num_bytes > _MAX_BYTES:
            break
        positions.append(position)
    samples = []
    for position, record in zip(positions, current.buffer.read(positions), strict=True):
        address = current.buffer.address(position)
        samples.append(
            Sample(
                record=record,
                text_field=current.buffer.text_field(address),
                component=int(current.order.component[position]),
                address=address,
            )
        )
    return samples
