"""Packs a lane's documents into sequences: one after the other, cut where a sequence ends.

Where the mixture counts samples, documents follow one another in the order of the chunk. Where it counts bytes or
tokens, the lane has a queue per component, and a sequence is filled in turns: the component that is due (see
`mixlake.loaders.shares`) gives documents, up to the end of the one with which it has given a quarter of a sequence, or
of the sequence. See `mixlake.loaders.best_fit` for packing that does not cut documents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mixlake.catalog.tokenizers import Tokenizer
from mixlake.loaders.deliveries import Place
from mixlake.loaders.documents import LaneChunks
from mixlake.loaders.sequences import Layout, PackedSequence, Run
from mixlake.loaders.shares import Shares
from mixlake.loaders.token_queues import TokenQueue
from mixlake.mixing.quotas import SCALE

_TURNS_PER_SEQUENCE = 4
"""Short documents are taken some at a time: choosing for each of them would cost more than packing it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """How sequences are made."""

    length: int
    """Tokens per sequence, T."""
    overlap: int = 1
    """1 if the label of a sequence's last position may be the first token of the next one, 0 if it has none then."""
    num_components: int | None = None
    """Components whose shares are kept to in tokens; None to take documents in the order of the chunks."""

    def layout(self, pad_id: int) -> Layout:
        """Return what sequences share, with the token that fills them up."""
        return Layout(length=self.length, pad_id=pad_id, overlap=self.overlap)


class ConcatPacker:
    """Puts documents one after the other; one that does not fit goes on in a later sequence."""

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
        positions = positions_of(state["queues"] if state else [], len(components), chunks.first)
        self._queues = [
            TokenQueue(chunks, tokenizer, component, position)
            for component, position in zip(components, positions, strict=True)
        ]
        self._positions = [queue.position() for queue in self._queues]
        shares = shares_for(packing, shares_of)
        self._shares = Shares(chunks, self._queues, shares, packing.length, state, slack=packing.length // 2)
        self._turn = max(1, packing.length // _TURNS_PER_SEQUENCE)
        self._turns = [0] * len(components)
        """What each component would give next; 0 where it has given since."""
        self._available: list[int] | None = None
        """The components that have tokens, until one of them has none at hand."""

    def next(self) -> PackedSequence | None:
        """Return the next sequence, or None where the lane ends; the last one is padded."""
        length, filled, version = self._length, 0, 0
        runs: list[Run] = []
        take = self._take_from_only if len(self._queues) == 1 else self._take
        while filled < length:
            run = take(length - filled)
            if run is None:
                break
            version = version or self._shares.weights_version
            runs.append(run)
            filled += run.stop - run.start
        return PackedSequence(self._layout, runs, filled, version) if runs else None

    def place(self) -> Place:
        """Return where the lane stands, for `state_of`."""
        return tuple(self._positions), self._shares.place()

    @staticmethod
    def state_of(place: Place) -> dict[str, Any]:
        """Return a place as JSON can hold it."""
        positions, shares = place
        return {"queues": list(map(list, positions)), **Shares.state_of(shares)}

    def _take_from_only(self, space: int) -> Run | None:
        queue = self._queues[0]
        num = queue.available()
        if num <= 0 or self._available is None:
            self._available = self._shares.available() or None
            if self._available is None:
                return None
            num = queue.available()
        run = queue.take(num if num < space else space)
        self._positions[0] = queue.position()
        return run

    def _take(self, space: int) -> Run | None:
        shares, queues = self._shares, self._queues
        available = self._available or shares.available()
        if not available:
            return None
        chosen, num = self._turn_of(available, space)
        shares.charge(chosen, num)
        queue = queues[chosen]
        run = queue.take(num)
        self._positions[chosen] = queue.position()
        is_settled = len(available) == len(queues) and not shares.has_idle
        self._available = available if is_settled and queue.available() else None
        return run

    def _turn_of(self, available: Sequence[int], space: int) -> tuple[int, int]:
        """Return whose turn it is, and how many tokens it takes."""
        shares, turns = self._shares, self._turns
        for index in available:
            if not turns[index]:
                turns[index] = min(self._length, self._queues[index].whole_documents(self._turn))
        chosen = shares.most_urgent(available, turns)
        num = min(space, turns[chosen])
        if shares.credits[chosen] < 0 and (room := shares.room(chosen)) > 0:  # else there is room for a sequence
            num = max(1, min(num, room))
        turns[chosen] = 0
        return chosen, num


def queue_components(packing: Packing) -> list[int | None]:
    """Return the component of each of a lane's queues; None for all of them."""
    return [None] if packing.num_components is None else list(range(packing.num_components))


def positions_of(known: Sequence[Any], num: int, first: int) -> list[Any]:
    """Return where queues stand; components that came with a fork begin where the others are."""
    beginning = min((position[0] for position in known), default=first)
    return [*known, *([[beginning, 0, 0]] * (num - len(known)))]


def shares_for(packing: Packing, shares_of: Callable[[int], Sequence[int]]) -> Callable[[int], Sequence[int]]:
    """Return the shares of a lane's queues by weights version; a single queue has all."""
    return _everything if packing.num_components is None else shares_of


def _everything(weights_version: int) -> list[int]:
    del weights_version
    return [SCALE]
