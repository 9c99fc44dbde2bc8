"""Packs a lane's documents into sequences, so that the declared proportions hold in delivered tokens.

Where the mixture counts samples, documents follow one another in the order of the chunk. Where it counts bytes or
tokens, the lane has a queue per component, and each piece of a sequence comes from the component that WF2Q names
(see `mixlake.mixing.quotas`): of those that are not ahead of their share of delivered tokens, the one whose piece is
due first. A piece never crosses a sequence, so no component is ever more than one sequence away from its share,
whatever the lengths of documents.

A component may have to wait for its next document, which lies chunks ahead. The lane looks for it when the component
is half a sequence behind, and never more than MAX_OPEN_CHUNKS ahead: how far it looks depends on the chunks alone, not
on who schedules them when.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mixlake.catalog.records import IntArray
from mixlake.catalog.tokenizers import Tokenizer
from mixlake.loaders.documents import NO_LABEL, Document, DocumentQueue, LaneChunks
from mixlake.loaders.reading import Address
from mixlake.mixing.quotas import SCALE

MAX_OPEN_CHUNKS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedSequence:
    """One sequence of T tokens; arrays have shape (T,)."""

    input_ids: IntArray
    labels: IntArray
    """The token that follows in the same document, or NO_LABEL."""
    component_ids: IntArray
    """Index of the token's component; -1 for padding."""
    document_ids: IntArray
    """Index into ``documents``; -1 for padding."""
    position_ids: IntArray
    """Position within the piece of the document that this sequence holds."""
    documents: tuple[Address, ...]
    weights_version: int


class Pieces(Protocol):
    """Where the pieces of a lane's sequences come from."""

    def next(self, space: int) -> tuple[Document, IntArray, IntArray] | None:
        """Return a document and the next of its tokens and labels, at most ``space``; None where the lane ends."""

    @property
    def weights_version(self) -> int:
        """The weights that are in force."""

    def state(self) -> dict[str, Any]:
        """Return where the lane stands, as JSON can hold it."""


class InOrder:
    """Documents of all components in the order of the chunks."""

    def __init__(self, chunks: LaneChunks, tokenizer: Tokenizer, state: dict[str, Any] | None) -> None:
        self._chunks = chunks
        self._queue = DocumentQueue(chunks, tokenizer, None, state["queue"] if state else (chunks.first, 0, 0))

    def next(self, space: int) -> tuple[Document, IntArray, IntArray] | None:
        """Return the next piece of the document at hand."""
        while (document := self._queue.head(self._queue.chunk_index + 1)) is None:
            if self._chunks.get(self._queue.chunk_index) is None:
                return None
        self._chunks.close_before(self._queue.chunk_index)
        ids, labels = self._queue.take(min(space, self._queue.remaining()))
        return document, ids, labels

    @property
    def weights_version(self) -> int:
        """The weights version of the chunk at hand."""
        current = self._chunks.get(self._queue.chunk_index)
        return current.chunk.weights_version if current else 0

    def state(self) -> dict[str, Any]:
        """Return the queue's position."""
        return {"queue": self._queue.position()}


class ByShare:
    """Documents of each component apart, taken so that delivered tokens keep to the weights."""

    def __init__(
        self,
        chunks: LaneChunks,
        tokenizer: Tokenizer,
        shares_of: Callable[[int], Sequence[int]],
        num_components: int,
        sequence_length: int,
        state: dict[str, Any] | None,
    ) -> None:
        """Take up a lane.

        Args:
            chunks: the lane's chunks.
            tokenizer: for the documents.
            shares_of: from a weights version to integer shares out of SCALE, one per component.
            num_components: K.
            sequence_length: T; the next document of a component that is T/2 tokens behind is looked for.
            state: what ``state`` gave, or None for the lane's start.
        """
        self._chunks = chunks
        self._shares_of = shares_of
        self._limit = sequence_length * SCALE
        positions = state["queues"] if state else [(chunks.first, 0, 0)] * num_components
        self._credits: list[int] = list(state["credits"]) if state else [0] * num_components
        self._num_open: int = state["num_open"] if state else chunks.first
        self._queues = [DocumentQueue(chunks, tokenizer, index, position) for index, position in enumerate(positions)]
        self.weights_version = 1

    def next(self, space: int) -> tuple[Document, IntArray, IntArray] | None:
        """Return the next piece of the component whose turn it is."""
        while True:
            heads = [queue.head(self._num_open) for queue in self._queues]
            available = [index for index, head in enumerate(heads) if head is not None]
            oldest = min((self._queues[index].chunk_index for index in available), default=self._num_open)
            current = self._chunks.get(oldest) if available else None
            if current is not None:
                self.weights_version = current.chunk.weights_version
            shares = self._shares_of(self.weights_version)
            is_starving = self._is_starving(available, shares)
            if not is_starving or self._num_open - oldest >= MAX_OPEN_CHUNKS or not self._open_another():
                break
        if not available:
            return None
        self._chunks.close_before(oldest)
        chosen = self._choose(available, shares, space)
        document = heads[chosen]
        assert document is not None
        num = self._length_of_piece(chosen, shares, space)
        self._credits = [credit + share * num for credit, share in zip(self._credits, shares, strict=True)]
        self._credits[chosen] -= SCALE * num
        return document, *self._queues[chosen].take(num)

    def state(self) -> dict[str, Any]:
        """Return every queue's position and credit, and how many chunks are open."""
        return {
            "queues": [queue.position() for queue in self._queues],
            "credits": list(self._credits),
            "num_open": self._num_open,
        }

    def _is_starving(self, available: Sequence[int], shares: Sequence[int]) -> bool:
        """Say if a component without a document is behind too far, or those with one are ahead too far."""
        if not any(shares[index] and self._credits[index] >= -self._limit // 2 for index in available):
            return True
        return any(
            share
            and index not in available
            and self._credits[index] > min(self._limit // 2, self._limit // SCALE * (SCALE - share))
            for index, share in enumerate(shares)
        )

    def _length_of_piece(self, chosen: int, shares: Sequence[int], space: int) -> int:
        """Return how many tokens to take: what is there and fits, and does not put the component a sequence ahead."""
        num = min(space, self._queues[chosen].remaining())
        room, others = self._limit + self._credits[chosen], SCALE - shares[chosen]
        return max(1, min(num, room // others)) if room > 0 and others else num

    def _open_another(self) -> bool:
        if self._chunks.get(self._num_open) is None:
            return False
        self._num_open += 1
        return True

    def _choose(self, available: Sequence[int], shares: Sequence[int], space: int) -> int:
        """Return the component that WF2Q names among those that have a document."""
        due = [index for index in available if shares[index] and self._credits[index] >= 0]
        if not due:  # those that are behind have no document: the least far ahead goes on
            return max(available, key=lambda index: (self._credits[index], -index))
        return min(
            due,
            key=lambda index: (
                (min(space, self._queues[index].remaining()) * SCALE - self._credits[index]) / shares[index],
                index,
            ),
        )


class Packer:
    """Fills sequences of a fixed length from a lane's pieces; a piece that does not fit goes on in the next one."""

    def __init__(self, pieces: Pieces, *, sequence_length: int, pad_id: int) -> None:
        self._pieces = pieces
        self._length = sequence_length
        self._pad_id = pad_id

    def next(self) -> PackedSequence | None:
        """Return the next sequence, or None where the lane ends; the last one is padded."""
        filled = 0
        inputs = np.full(self._length, self._pad_id, np.int64)
        labels = np.full(self._length, NO_LABEL, np.int64)
        components, documents, positions = (np.full(self._length, fill, np.int64) for fill in (-1, -1, 0))
        addresses: list[Address] = []
        version = 0
        while filled < self._length:
            piece = self._pieces.next(self._length - filled)
            if piece is None:
                break
            document, ids, following = piece
            version = version or self._pieces.weights_version
            here = slice(filled, filled + len(ids))
            inputs[here], labels[here] = ids, following
            components[here], documents[here] = document.component, len(addresses)
            positions[here] = np.arange(len(ids))
            addresses.append(document.address)
            filled += len(ids)
        if not filled:
            return None
        return PackedSequence(
            input_ids=inputs,
            labels=labels,
            component_ids=components,
            document_ids=documents,
            position_ids=positions,
            documents=tuple(addresses),
            weights_version=version,
        )

    def state(self) -> dict[str, Any]:
        """Return where the lane stands, as JSON can hold it."""
        return self._pieces.state()
