"""Packs a lane's documents into sequences without cutting those that fit into one (best-fit packing).

Some documents wait, a bounded number. A sequence begins with one that has waited longest; after it comes the longest
that still fits, again and again; what is left is padding. A document longer than a sequence fills sequences of its own,
and what remains of it begins another. Ding et al., "Fewer Truncations Improve Language Modeling" (ICML 2024), pack
whole corpora so; with a bounded number that waits, the lane can be left anywhere and taken up from their places.

Where the mixture counts bytes or tokens, documents of every component wait. A sequence begins with the component that
WF2Q names, and goes on with the one that is furthest behind and has a document that fits, unless that would put it
more than a sequence ahead. So no component is ever more than one sequence ahead of its share, and none is further
behind than the others together can be ahead: K - 1 sequences with K components. Padding does not count.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from typing import Any

from mixlake.catalog.tokenizers import Tokenizer
from mixlake.loaders.deliveries import Place
from mixlake.loaders.documents import LaneChunks
from mixlake.loaders.packing import Packing, positions_of, queue_components, shares_for
from mixlake.loaders.sequences import PackedSequence, Run
from mixlake.loaders.shares import Shares
from mixlake.loaders.token_queues import TokenQueue

_MAX_WAITING = 64
"""Documents that wait in a lane, of all components together."""
_MIN_WAITING = 4
"""Documents that wait in each component, however many there are."""


class BestFitPacker:
    """Fills sequences with whole documents."""

    def __init__(
        self,
        chunks: LaneChunks,
        tokenizer: Tokenizer,
        packing: Packing,
        shares_of: Callable[[int], Sequence[int]],
        state: dict[str, Any] | None,
    ) -> None:
        """Take up a lane.

        Args:
            chunks: the lane's chunks.
            tokenizer: for the documents.
            packing: how to make sequences.
            shares_of: from a weights version to integer shares out of SCALE, one per component.
            state: what ``state_of`` gave, or None for the lane's start.
        """
        self._length = packing.length
        self._layout = packing.layout(tokenizer.pad_id)
        components = queue_components(packing)
        waiting = state["waiting"] if state else []
        waiting = [*waiting, *([[]] * (len(components) - len(waiting)))]
        positions = positions_of(state["queues"] if state else [], len(components), chunks.first)
        num_waiting = max(_MIN_WAITING, _MAX_WAITING // len(components))
        self._buffers = []
        for component, places, position in zip(components, waiting, positions, strict=True):
            queue = TokenQueue(chunks, tokenizer, component, places[0] if places else position)
            self._buffers.append(_Buffer(queue, num_waiting, packing.length))
            if state and places:
                self._buffers[-1].restore(places, position, state["num_open"])
        self._places = [buffer.place() for buffer in self._buffers]
        shares = shares_for(packing, shares_of)
        self._shares = Shares(chunks, self._buffers, shares, packing.length, state, slack=0)  # whole turns may follow
        self._available: list[int] | None = None
        """The components that have documents, until one of them has none at hand."""

    def next(self) -> PackedSequence | None:
        """Return the next sequence, or None where the lane ends."""
        shares, buffers, space = self._shares, self._buffers, self._length
        available = self._available or shares.available()
        if not available:
            return None
        version, runs = shares.weights_version, []
        chosen = shares.most_urgent(available, [buffer.turn for buffer in buffers]) if len(buffers) > 1 else 0
        run: Run | None = buffers[chosen].take_oldest(space)
        while run is not None:
            runs.append(run)
            num = run.stop - run.start
            space -= num
            shares.charge(chosen, num)
            self._refill(chosen, available)
            if not space:
                break
            self._available = available = self._available or shares.available()
            chosen, run = self._fitting(available, space)
        return PackedSequence(self._layout, runs, self._length - space, version)

    def place(self) -> Place:
        """Return where the lane stands, for `state_of`."""
        return tuple(self._places), self._shares.place()

    @staticmethod
    def state_of(place: Place) -> dict[str, Any]:
        """Return a place as JSON can hold it: the places of what waits, and what is next."""
        buffers, shares = place
        return {
            "waiting": [list(map(list, waiting)) for waiting, _ in buffers],
            "queues": [list(position) for _, position in buffers],
            **Shares.state_of(shares),
        }

    def _refill(self, component: int, available: list[int]) -> None:
        """Have as many documents wait again as may."""
        shares, buffer = self._shares, self._buffers[component]
        is_known = buffer.is_at_hand(shares.num_open) and len(available) == len(self._buffers) and not shares.has_idle
        self._available = available if buffer.has_tokens(shares.num_open) and is_known else None
        self._places[component] = buffer.place()

    def _fitting(self, available: list[int], space: int) -> tuple[int, Run | None]:
        """Return the component that is furthest behind and has a document that fits, and the document."""
        shares, buffers = self._shares, self._buffers
        if len(buffers) == 1:
            return 0, buffers[0].take_longest(space)
        fitting = [index for index in available if buffers[index].shortest_length <= space]
        for index in sorted(fitting, key=shares.credits.__getitem__, reverse=True):
            run = buffers[index].take_longest(min(space, shares.room(index)))
            if run is not None:
                return index, run
        return 0, None


_NUMBER_BITS = 48
_MAX_NUMBER = (1 << _NUMBER_BITS) - 1


class _Buffer:
    """The documents of a queue that wait, or what is left of them: by age, and by length."""

    def __init__(self, queue: TokenQueue, max_waiting: int, length: int) -> None:
        self._queue = queue
        self._max_waiting = max_waiting
        self._most = length
        self._runs: dict[int, Run] = {}
        """By number, counted from when they came: the oldest is the first."""
        self._places: dict[int, tuple[int, int, int]] = {}
        """Where the queue stood before each of them: lane chunk, document, token."""
        self._by_length: list[int] = []
        """Length and number of each in one word, ascending; of those of one length the oldest is the last."""
        self._num_seen = 0
        self.turn = 0
        """What a sequence takes of the document that has waited longest, as of `has_tokens`; 0 where none waits."""
        self.shortest_length = 0
        """The tokens of the shortest document that waits, likewise."""

    @property
    def chunk_index(self) -> int:
        """The lane's chunk of the oldest document."""
        for place in self._places.values():
            return place[0]
        return self._queue.chunk_index

    def restore(self, places: Sequence[list[int]], position: list[int], num_open: int) -> None:
        """Have those documents wait that did: read them again, up to where the queue stood."""
        wanted, end = {(chunk, index) for chunk, index, _ in places}, tuple(position)
        while self._queue.has_tokens(num_open) and self._queue.position() < end:
            run, place = self._queue.take_document()
            if place[:2] in wanted:
                self._add(run, place)

    def has_tokens(self, num_open: int) -> bool:
        """Fill the buffer from the lane's first ``num_open`` chunks, and say whether anything waits."""
        runs, queue = self._runs, self._queue
        while len(runs) < self._max_waiting and queue.has_tokens(num_open):
            self._add(*queue.take_document())
        if not runs:
            self.turn = self.shortest_length = 0
            return False
        _, start, stop, _, _ = next(iter(runs.values()))
        self.turn = stop - start if stop - start < self._most else self._most
        self.shortest_length = self._by_length[0] >> _NUMBER_BITS
        return True

    def is_at_hand(self, num_open: int) -> bool:
        """Say whether it is known, without looking for it, if there is another document."""
        return self._queue.is_at_hand(num_open)

    def take_oldest(self, space: int) -> Run:
        """Take the document that has waited longest, or as much of it as there is space for."""
        number, run = next(iter(self._runs.items()))
        length = run.stop - run.start
        del self._by_length[bisect_left(self._by_length, (length << _NUMBER_BITS) + _MAX_NUMBER - number)]
        if length <= space:
            del self._places[number], self._runs[number]
            return run
        chunk, document, token = self._places[number]
        self._runs[number] = run._replace(start=run.start + space)
        self._places[number] = chunk, document, token + space
        insort(self._by_length, (length - space << _NUMBER_BITS) + _MAX_NUMBER - number)
        return run._replace(stop=run.start + space)

    def take_longest(self, space: int) -> Run | None:
        """Take the longest document that fits, of those the oldest; None where none does."""
        index = bisect_right(self._by_length, (space << _NUMBER_BITS) + _MAX_NUMBER)
        if not index:
            return None
        number = _MAX_NUMBER - (self._by_length.pop(index - 1) & _MAX_NUMBER)
        del self._places[number]
        return self._runs.pop(number)

    def place(self) -> Place:
        """Return the places of the documents that wait, and where the queue stands behind them."""
        return tuple(self._places.values()), self._queue.position()

    def _add(self, run: Run, place: tuple[int, int, int]) -> None:
        number = self._num_seen
        self._num_seen = number + 1
        self._runs[number], self._places[number] = run, place
        insort(self._by_length, (run.stop - run.start << _NUMBER_BITS) + _MAX_NUMBER - number)
