"""Queues of a lane's samples and documents: of one component, or of all in delivery order.

A queue knows where it stands as a few numbers (chunk, index in the chunk, token offset), never as data, so a lane can
be left at any token and taken up again by reading only the documents it stands in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mixlake.catalog import DataError
from mixlake.catalog.records import IntArray
from mixlake.catalog.tokenizers import Tokenizer
from mixlake.loaders.feed import ChunkFeed
from mixlake.loaders.reading import Address, ChunkBuffer, SampleGroup, SampleReader
from mixlake.mixing.chunks import Chunk, Delivery

NO_LABEL = -100
"""Label of a position that carries no loss: the last token of a document, and padding."""


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

    def peek(self, index: int) -> OpenChunk | None:
        """Return the lane's chunk number ``index`` if it is at hand; nothing is waited for or scheduled."""
        if index not in self._open and not self._feed.has(self.lane + index * self._num_lanes):
            return None
        return self.get(index)

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

    def next_group(self, num_open: int) -> SampleGroup | None:
        """Return the samples from here to the end of a group, or None if the lane's first ``num_open`` chunks are done.

        The queue stays where it is: ``skip`` moves it on as its samples are taken, and they must all be taken before
        the next group. The group after it is read meanwhile.
        """
        while self.chunk_index < num_open:
            current = self._chunks.get(self.chunk_index)
            if current is None:
                break
            places = self._places_in(current)
            if self.index < len(places):
                stop = int(np.searchsorted(places, current.buffer.group_stop(int(places[self.index]))))
                current.buffer.prefetch(int(places[self.index]))
                self._prefetch(current, places, stop)
                return current.buffer.take(places[self.index : stop])
            self.chunk_index, self.index = self.chunk_index + 1, 0
        return None

    def skip(self) -> None:
        """Move on by one sample."""
        self.index += 1

    def _prefetch(self, current: OpenChunk, places: IntArray, stop: int) -> None:
        """Have the group behind this one read: it may be the first of the lane's next chunk, if that is known yet."""
        if stop < len(places):
            current.buffer.prefetch(int(places[stop]))
            return
        following = self._chunks.peek(self.chunk_index + 1)
        if following is not None:
            following.buffer.prefetch(0)

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
            if samples is None:
                return None
            self._ready.extend(
                Document(ids=ids, component=samples.components[index], address=samples.address(index))
                for index, ids in enumerate(_encode(self._tokenizer, samples))
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


def _encode(tokenizer: Tokenizer, samples: SampleGroup) -> list[IntArray]:
    """Return the ids of each sample; those that are tokenized already are taken as they are.

    Raises:
        DataError: ids that the tokenizer does not have, so that others made them.
    """
    contents = [samples.content(index) for index in range(len(samples))]
    encoded = iter(tokenizer.encode([content for content in contents if isinstance(content, str)]))
    ids_per_sample = [next(encoded) if isinstance(content, str) else content for content in contents]
    for index, (content, ids) in enumerate(zip(contents, ids_per_sample, strict=True)):
        is_foreign = tokenizer.vocab_size and not isinstance(content, str) and len(ids)
        if is_foreign and not 0 <= int(ids.min()) <= int(ids.max()) < tokenizer.vocab_size:
            raise DataError(
                f"{samples.place(index)} has token ids {ids.min()} to {ids.max()}, but the tokenizer has "
                f"{tokenizer.vocab_size} ids; load with the tokenizer that made them"
            )
    return ids_per_sample
