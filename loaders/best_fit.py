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
from mixlake.loaders.documents import LaneChunks
from mixlake.loaders.packing import Packing, positions_of, queue_components, shares_for
from mixlake.loaders.sequences import PackedSequence, make_sequence
from mixlake.loaders.shares import Shares
from mixlake.loaders.token_queues import Run, TokenQueue

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
            state: what ``state`` gave, or None for the lane's start.
        """
        self._packing = packing
        self._pad_id = tokenizer.pad_id
        components = queue_components(packing)
        waiting = state["waiting"] if state else []
        waiting = [*waiting, *([[]] * (len(components) - len(waiting)))]
        positions = positions_of(state["queues"] if state else [], len(components), chunks.first)
        num_waiting = max(_MIN_WAITING, _MAX_WAITING // len(components))
        self._buffers = []
        for component, places, position in zip(components, waiting, positions, strict=True):
            queue = TokenQueue(chunks, tokenizer, component, places[0] if places else position)
            self._buffers.append(_Buffer(queue, num_waiting))
            if state and places:
                self._buffers[-1].restore(places, position, state["num_open"])
        shares = shares_for(packing, shares_of)
        self._shares = Shares(chunks, self._buffers, shares, packing.length, state, slack=0)  # whole turns may follow

    def next(self) -> PackedSequence | None:
        """Return the next sequence, or None where the lane ends."""
        shares, buffers = self._shares, self._buffers
        available = shares.available()
        if not available:
            return None
        version, space = shares.weights_version, self._packing.length
        turns = [min(space, buffer.oldest_length()) for buffer in buffers]
        chosen = shares.most_urgent(available, turns) if len(buffers) > 1 else 0
        run: Run | None = buffers[chosen].take_oldest(space)
        runs: list[Run] = []
        while run is not None:
            num = run.stop - run.start
            runs.append(run)
            space -= num
            shares.charge(chosen, num)
            if not space:
                break
            is_settled = len(available) == len(buffers) and not shares.has_idle
            if not buffers[chosen].has_tokens(shares.num_open) or not is_settled:
                available = shares.available()
            chosen, run = self._fitting(available, space)
        return make_sequence(
            runs,
            length=self._packing.length,
            pad_id=self._pad_id,
            overlap=self._packing.overlap,
            weights_version=version,
        )

    def state(self) -> dict[str, Any]:
        """Return where the lane stands, as JSON can hold it: the places of what waits, and what is next."""
        return {
            "waiting": [buffer.places() for buffer in self._buffers],
            "queues": [buffer.position() for buffer in self._buffers],
            **self._shares.state(),
        }

    def _fitting(self, available: list[int], space: int) -> tuple[int, Run | None]:
        """Return the component that is furthest behind and has a document that fits, and the document."""
        shares, buffers = self._shares, self._buffers
        if len(buffers) == 1:
            return 0, buffers[0].take_longest(space)
        for index in sorted(available, key=shares.credits.__getitem__, reverse=True):
            run = buffers[index].take_longest(min(space, shares.room(index)))
            if run is not None:
                return index, run
        return 0, None


_MAX_NUMBER = (1 << 48) - 1


class _Buffer:
    """The documents of a queue that wait, or what is left of them: by age, and by length."""

    def __init__(self, queue: TokenQueue, max_waiting: int) -> None:
        self._queue = queue
        self._max_waiting = max_waiting
        self._runs: dict[int, Run] = {}
        """By number, counted from when they came: the oldest is the first."""
        self._places: dict[int, list[int]] = {}
        """Where the queue stood before each of them: lane chunk, document, token."""
        self._by_length: list[int] = []
        """Length and number of each in one word, ascending; of those of one length the oldest is the last."""
        self._num_seen = 0

    @property
    def chunk_index(self) -> int:
        """The lane's chunk of the oldest document."""
        for place in self._places.values():
            return place[0]
        return self._queue.chunk_index

    def restore(self, places: Sequence[list[int]], position: list[int], num_open: int) -> None:
        """Have those documents wait that did: read them again, up to where the queue stood."""
        wanted = {(chunk, index) for chunk, index, _ in places}
        while self._queue.has_tokens(num_open) and (place := self._queue.position()) < position:
            run = self._queue.take_document()
            if (place[0], place[1]) in wanted:
                self._add(run, place)

    def has_tokens(self, num_open: int) -> bool:
        """Fill the buffer from the lane's first ``num_open`` chunks, and say whether anything waits."""
        runs, queue = self._runs, self._queue
        while len(runs) < self._max_waiting and queue.has_tokens(num_open):
            place = queue.position()
            self._add(queue.take_document(), place)
        return bool(runs)

    def oldest_length(self) -> int:
        """Return the tokens of the document that has waited longest; 0 where none waits."""
        for run in self._runs.values():
            return run.stop - run.start
        return 0

    def take_oldest(self, space: int) -> Run:
        """Take the document that has waited longest, or as much of it as there is space for."""
        number, run = next(iter(self._runs.items()))
        length = run.stop - run.start
        del self._by_length[bisect_left(self._by_length, _word(length, number))]
        if length <= space:
            del self._places[number]
            return self._runs.pop(number)
        chunk, document, token = self._places[number]
        self._runs[number] = run._replace(start=run.start + space)
        self._places[number] = [chunk, document, token + space]
        insort(self._by_length, _word(length - space, number))
        return run._replace(stop=run.start + space)

    def take_longest(self, space: int) -> Run | None:
        """Take the longest document that fits, of those the oldest; None where none does."""
        index = bisect_right(self._by_length, _word(space, 0))
        if not index:
            return None
        number = _MAX_NUMBER - (self._by_length.pop(index - 1) & _MAX_NUMBER)
        del self._places[number]
        return self._runs.pop(number)

    def places(self) -> list[list[int]]:
        """Return the places of those that wait."""
        return list(self._places.values())

    def position(self) -> list[int]:
        """Return where the queue stands behind them."""
        return self._queue.position()

    def _add(self, run: Run, place: list[int]) -> None:
        self._runs[self._num_seen], self._places[self._num_seen] = run, place
        insort(self._by_length, _word(run.stop - run.start, self._num_seen))
        self._num_seen += 1


def _word(length: int, number: int) -> int:
    return (length << 48) + _MAX_NUMBER - number
