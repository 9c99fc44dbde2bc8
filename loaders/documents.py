"""Queues of a lane's samples: of one component, or of all in delivery order.

A queue knows where it stands as a few numbers (chunk, index in the chunk), never as data, so a lane can be left
anywhere and taken up again by reading only the samples it stands in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from mixlake.catalog.records import IntArray
from mixlake.loaders.feed import ChunkFeed
from mixlake.loaders.groups import ChunkBuffer, SampleGroup
from mixlake.loaders.reading import SampleReader
from mixlake.loaders.substitutes import OrderedChunk, Substitutes
from mixlake.mixing.chunks import Chunk, Delivery

NO_LABEL = -100
"""Label of a position that carries no loss: the last token of a document, and padding."""
_CHUNKS_BACK, _CHUNKS_AHEAD = 16, 2
"""In how many of a lane's chunks what cannot be read is replaced from. Those ahead may have to be waited for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenChunk:
    """A chunk of a lane that at least one queue still draws from."""

    chunk: Chunk
    order: Delivery
    buffer: ChunkBuffer
    substitutes: Substitutes | None
    """Where samples that cannot be read are replaced."""

    def take(self, positions: IntArray) -> SampleGroup:
        """Return the samples at some delivery positions of one group, in that order; each can be taken once.

        Raises:
            DataError: a file is gone, has changed, or cannot be read.
        """
        group = self.buffer.take(positions)
        if self.substitutes is not None:
            self.substitutes.put_into(group, positions)
        return group


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
            buffer = ChunkBuffer(chunk, order, self._reader)
            substitutes = self._substitutes(index, OrderedChunk(chunk, order))
            self._open[index] = OpenChunk(chunk=chunk, order=order, buffer=buffer, substitutes=substitutes)
        return self._open[index]

    def _substitutes(self, index: int, chunk: OrderedChunk) -> Substitutes | None:
        replacements = self._reader.replacements
        if replacements is None:
            return None
        return Substitutes(chunk, self._reader, replacements, partial(self._around, index))

    def _around(self, index: int) -> Iterator[OrderedChunk]:
        """Yield the lane's chunks before one, the nearest first, and then some after it."""
        before = range(index - 1, max(self.first, index - _CHUNKS_BACK) - 1, -1)
        for other in (*before, *range(index + 1, index + 1 + _CHUNKS_AHEAD)):
            chunk = self._feed.get(self.lane + other * self._num_lanes)
            if chunk is not None:
                yield OrderedChunk(chunk, self._deliver(chunk))

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
        """Take up a queue; what comes first is read from now on, if its chunk is at hand.

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
        current = chunks.peek(chunk_index)
        if current is not None and index < len(places := self._places_in(current)):
            current.buffer.prefetch(int(places[index]))

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
                return current.take(places[self.index : stop])
            self.chunk_index, self.index = self.chunk_index + 1, 0
        return None

    def skip(self, num: int = 1) -> None:
        """Move on by some samples."""
        self.index += num

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
