"""Whose turn it is among a lane's components, so that delivered tokens keep to the weights at every prefix.

The rule is WF2Q (see `mixlake.mixing.quotas`): of the components that are not ahead of their share, the one whose turn
would be finished first. A turn never takes more than a sequence, so no component is ever more than one sequence away
from its share, whatever the lengths of documents.

A component may have to wait for its next document, which lies chunks ahead. The lane looks for it when the component
is half a sequence behind, and never more than 64 chunks and 16,384 samples ahead: how far it looks depends on the
chunks alone, not on who schedules them when. Where the lane has nothing more of a component, the others share what it
is owed.

Weights hold as soon as the lane has opened a chunk that was drawn with them, though documents of earlier chunks are
left: what a lane keeps open for its rarest component would delay them by many times as much as it takes to draw them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mixlake.loaders.deliveries import Place
from mixlake.loaders.documents import LaneChunks
from mixlake.mixing.quotas import SCALE, carried, without

_MAX_CHUNKS, _MAX_SAMPLES = 64, 1 << 14
"""Of a lane that are open, whichever allows for more: where chunks are small, a rare component is many of them away."""


class Queue(Protocol):
    """One component's documents."""

    @property
    def chunk_index(self) -> int:
        """The lane's chunk in which its next document is."""

    def has_tokens(self, num_open: int) -> bool:
        """Say whether it has a token in the lane's first ``num_open`` chunks."""


class Shares:
    """What each component of a lane is owed, and which of them has something to give."""

    def __init__(
        self,
        chunks: LaneChunks,
        queues: Sequence[Queue],
        shares_of: Callable[[int], Sequence[int]],
        sequence_length: int,
        state: dict[str, Any] | None,
        *,
        slack: int,
    ) -> None:
        """Take up a lane.

        Args:
            chunks: the lane's chunks.
            queues: one per component; or a single one of all of them, which then has the whole share.
            shares_of: from a weights version to integer shares out of SCALE, one per queue.
            sequence_length: T; the next document of a component that is T/2 tokens behind is looked for.
            state: what ``state_of`` gave, or None for the lane's start.
            slack: how many tokens ahead a component may be and still get more, where all that are behind have none.
        """
        self._slack = slack * SCALE
        self._chunks = chunks
        self._queues = queues
        self._shares_of = shares_of
        self._limit = sequence_length * SCALE
        credits: list[int] = list(state["credits"]) if state else []
        self.credits = credits + [0] * (len(queues) - len(credits))
        """Per component, its share of all tokens given out so far minus what it got, in tokens times SCALE."""
        self.num_open: int = state["num_open"] if state else chunks.first
        """How many of the lane's chunks are open."""
        self._gone: list[int] = list(state["gone"]) if state else []
        self._seen = (-1, -1)
        self._leaving: list[int] = []
        self.weights_version = 1
        """The weights that are in force: those of the newest chunk that is open."""
        self.shares: Sequence[int] = ()
        """Per component, out of SCALE."""
        self.has_idle = False
        """Whether a component has no share at all."""

    def available(self) -> list[int]:
        """Return the components that have tokens; empty where the lane ends. Opens more chunks where one has to."""
        while True:
            available, oldest = [], self.num_open
            for index, queue in enumerate(self._queues):
                if queue.has_tokens(self.num_open):
                    available.append(index)
                    oldest = min(oldest, queue.chunk_index)
            has_left = any(index not in available for index in self._leaving)
            if (oldest, self.num_open) != self._seen or has_left or not self.shares:
                self._settle(oldest, available)
            if self.has_idle:
                self.credits = list(carried(self.credits, self.shares))
            is_starving = len(available) < len(self._queues) and self._is_starving(available)
            if not is_starving or self._is_far(oldest):
                return available
            if not self._open_another() and not self._let_go(available):
                return available

    def most_urgent(self, available: Sequence[int], turns: Sequence[int]) -> int:
        """Return the component that WF2Q names, where the turn of each would take so many tokens."""
        best, earliest = -1, float("inf")
        credits, shares = self.credits, self.shares
        for index in available:
            credit, share = credits[index], shares[index]
            if share and credit >= 0:
                finish = (turns[index] * SCALE - credit) / share
                if finish < earliest:
                    best, earliest = index, finish
        # those that are behind have no document: the least far ahead goes on
        return best if best >= 0 else max(available, key=lambda index: (credits[index], -index))

    def room(self, component: int) -> int:
        """Return how many tokens it may get before it is a sequence ahead; negative where it is."""
        others = SCALE - self.shares[component]
        room = self._limit + self.credits[component]
        return room // others if others else 1 << 62

    def charge(self, component: int, num: int) -> None:
        """Note that a component got some tokens."""
        credits = self.credits
        if len(credits) > 1:
            for index, share in enumerate(self.shares):
                credits[index] += share * num
            credits[component] -= SCALE * num

    def place(self) -> Place:
        """Return where they stand, for `state_of`."""
        return tuple(self.credits), self.num_open, tuple(self._gone)

    @staticmethod
    def state_of(place: Place) -> dict[str, Any]:
        """Return every component's credit, how many chunks are open, and which components will give nothing more."""
        credits, num_open, gone = place
        return {"credits": list(credits), "num_open": num_open, "gone": list(gone)}

    def _settle(self, oldest: int, available: Sequence[int]) -> None:
        """Take the weights that are in force, and forget the chunks before the oldest that has tokens left."""
        if available:
            if oldest != self._seen[0]:
                self._chunks.close_before(oldest)
            self.weights_version = self._version(oldest, available)
        self._seen = (oldest, self.num_open)
        self.shares = self._shares_of(self.weights_version)
        for component in self._gone:
            if any(share for index, share in enumerate(self.shares) if index != component):
                self.shares, _ = without(component, self.shares, self.credits)
        self.has_idle = not all(self.shares)

    def _version(self, oldest: int, available: Sequence[int]) -> int:
        """Return the newest weights among open chunks with a share for all that has tokens left.

        What newer ones have no share for is given out first, and noted as leaving.
        """
        self._leaving = []
        version = 0
        for index in range(self.num_open - 1, oldest - 1, -1):
            opened = self._chunks.get(index)
            assert opened is not None
            if opened.chunk.weights_version == version:
                continue
            version = opened.chunk.weights_version
            shares = self._shares_of(version)
            leaving = [component for component in available if not shares[component]]
            if not leaving:
                return version
            self._leaving += leaving
        return version

    def _let_go(self, available: Sequence[int]) -> bool:
        """Share out what components are owed that have nothing more in this lane, and say whether there are any."""
        gone = [index for index, share in enumerate(self.shares) if share and index not in available]
        if not available or not gone or not any(self.shares[index] for index in available):
            return False
        self._gone += gone
        self._settle(self._seen[0], [])
        return True

    def _is_starving(self, available: Sequence[int]) -> bool:
        """Say if a component without a document is behind too far, or those with one are ahead too far."""
        credits, shares = self.credits, self.shares
        if not any(shares[index] and credits[index] >= -self._slack for index in available):
            return True
        return any(
            share
            and index not in available
            and credits[index] > min(self._limit // 2, self._limit // SCALE * (SCALE - share))
            for index, share in enumerate(shares)
        )

    def _is_far(self, oldest: int) -> bool:
        """Say if as many chunks are open as may be."""
        num = self.num_open - oldest
        if num < _MAX_CHUNKS:
            return False
        first = self._chunks.get(oldest)
        assert first is not None
        return num * first.chunk.num_samples >= _MAX_SAMPLES

    def _open_another(self) -> bool:
        if self._chunks.get(self.num_open) is None:
            return False
        self.num_open += 1
        return True
