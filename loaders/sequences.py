"""Packed sequences, and what trainers need of them: one array per field, made for a whole batch at once.

A sequence says where its tokens are; nothing is copied before the batch is made, unless it goes to another process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from mixlake.catalog.records import IntArray
from mixlake.catalog.token_lists import IdArray
from mixlake.loaders.documents import NO_LABEL
from mixlake.loaders.replacing import Address


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Slab:
    """Tokens of consecutive documents, and of each document what goes with it; documents without tokens are left out.

    What is one number per document is in lists: most sequences have a few documents, and numpy is slow to begin.
    """

    ids: IdArray
    bounds: list[int]
    """Document n of N has ``ids[bounds[n]:bounds[n + 1]]``."""
    components: list[int]
    """Index of each document's component."""
    documents: list[Address]
    numbers: list[int]
    """Of each document, and of the one behind them: its number among the queue's documents in its chunk."""


class Run(NamedTuple):
    """A range of a slab's tokens, and the documents in which it begins and ends."""

    slab: Slab
    start: int
    stop: int
    first: int
    last: int

    def alone(self) -> Run:
        """Return it of a slab that holds nothing else, but for the token that follows in the same document."""
        slab, start, stop, first, last = self
        behind = last + 1
        held = Slab(
            ids=slab.ids[start : stop + (stop < slab.bounds[behind])],
            bounds=[bound - start for bound in slab.bounds[first : behind + 1]],
            components=slab.components[first:behind],
            documents=slab.documents[first:behind],
            numbers=[],
        )
        return Run(held, 0, stop - start, 0, last - first)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """What all sequences of a loader share."""

    length: int
    """Tokens per sequence, T."""
    pad_id: int
    """Fills what is left of a sequence."""
    overlap: int
    """1 if the last position's label may be the first token of another sequence, 0 if it has none then."""


class PackedSequence:
    """One sequence of T tokens, made of pieces of documents; the rest of it is padding."""

    __slots__ = ("layout", "num_tokens", "runs", "weights_version")

    def __init__(self, layout: Layout, runs: Sequence[Run], num_tokens: int, weights_version: int) -> None:
        self.layout = layout
        self.runs = runs
        """Its tokens without the padding."""
        self.num_tokens = num_tokens
        """How many these are."""
        self.weights_version = weights_version
        """The weights in force where it begins; 0, which none has, where it is all padding."""

    def __reduce__(self) -> Any:
        """Take nothing of its slabs along that it does not have."""
        return PackedSequence, (self.layout, [run.alone() for run in self.runs], self.num_tokens, self.weights_version)

    @property
    def ids(self) -> IdArray:
        """The tokens without the padding."""
        return self.input_ids[: self.num_tokens]

    @property
    def documents(self) -> list[Address]:
        """The document of each piece."""
        return [document for slab, _, _, first, last in self.runs for document in slab.documents[first : last + 1]]

    @property
    def input_ids(self) -> IntArray:
        """The tokens and the padding, shape (T,)."""
        return self._field("input_ids")

    @property
    def labels(self) -> IntArray:
        """The token that follows in the same document, or NO_LABEL."""
        return self._field("labels")

    @property
    def component_ids(self) -> IntArray:
        """Index of the token's component; -1 for padding."""
        return self._field("component_ids")

    @property
    def document_ids(self) -> IntArray:
        """Index into ``documents``; -1 for padding."""
        return self._field("document_ids")

    @property
    def position_ids(self) -> IntArray:
        """Position within the piece of the document that this sequence holds."""
        return self._field("position_ids")

    def _field(self, name: str) -> IntArray:
        field: IntArray = expanded([self])[name][0]
        return field


def make_padding(layout: Layout) -> PackedSequence:
    """Return a sequence that is all padding."""
    return PackedSequence(layout, (), 0, 0)


def expanded(sequences: Sequence[PackedSequence]) -> dict[str, Any]:
    """Return B sequences of T tokens as arrays: those of shape (B, T) that batches have, and ``cu_seqlens``.

    ``documents`` lists the document of every piece.
    """
    shape = len(sequences), sequences[0].layout.length
    pieces = _pieces(sequences)
    bounds = np.array(pieces.starts)
    starts, lengths, lasts = bounds[:-1], bounds[1:] - bounds[:-1], bounds[1:] - 1
    component = np.array(pieces.components)
    input_ids = np.concatenate(pieces.ids, dtype=np.int64)
    labels, loss_mask = np.empty(len(input_ids), np.int64), (component >= 0).repeat(lengths)
    labels[:-1] = input_ids[1:]
    for blank in pieces.blanks:
        labels[blank] = NO_LABEL
    labels[lasts], loss_mask[lasts] = NO_LABEL, False
    if pieces.following:
        cuts = list(pieces.following)
        labels[cuts], loss_mask[cuts] = list(pieces.following.values()), True
    position_ids = starts.repeat(lengths)
    np.subtract(_up_to(len(input_ids)), position_ids, out=position_ids)
    return {
        "input_ids": input_ids.reshape(shape),
        "labels": labels.reshape(shape),
        "loss_mask": loss_mask.reshape(shape),
        "component_ids": component.repeat(lengths).reshape(shape),
        "document_ids": np.array(pieces.numbers).repeat(lengths).reshape(shape),
        "position_ids": position_ids.reshape(shape),
        "cu_seqlens": bounds.astype(np.int32),
        "max_seqlen": int(lengths.max()),
        "documents": pieces.documents,
    }


class _Pieces(NamedTuple):
    """The pieces of some sequences, one after the other; what is padding is one, too."""

    ids: list[IdArray]
    """The tokens of all of them, in parts of any lengths."""
    starts: list[int]
    """Where each begins, and behind the last one."""
    components: list[int]
    """Of each; -1 for padding, as is the number."""
    numbers: list[int]
    """Of each, into the documents."""
    documents: list[Address]
    following: dict[int, int]
    """Where a piece ends before its document does: the token that follows there."""
    blanks: list[slice]
    """Where there is padding."""


def _pieces(sequences: Sequence[PackedSequence]) -> _Pieces:
    pieces = _Pieces([], [], [], [], [], {}, [])
    parts, starts, components, numbers, documents, following, blanks = pieces
    layout = sequences[0].layout
    at, end = 0, layout.length
    for sequence in sequences:
        for slab, start, stop, first, last in sequence.runs:
            bounds = slab.bounds
            parts.append(slab.ids[start:stop])
            starts.append(at)
            if first == last:
                numbers.append(len(documents))
                components.append(slab.components[first])
                documents.append(slab.documents[first])
            else:
                starts += [at - start + bound for bound in bounds[first + 1 : last + 1]]
                numbers += range(len(documents), len(documents) + last - first + 1)
                components += slab.components[first : last + 1]
                documents += slab.documents[first : last + 1]
            at += stop - start
            if stop < bounds[last + 1] and (layout.overlap or at < end):
                following[at - 1] = slab.ids.item(stop)
        if at < end:
            parts.append(_padding(layout.length, layout.pad_id)[: end - at])
            starts.append(at)
            components.append(-1)
            numbers.append(-1)
            blanks.append(slice(at, end))
            at = end
        end += layout.length
    starts.append(at)
    return pieces


@lru_cache(maxsize=64)
def _up_to(num: int) -> IntArray:
    numbers = np.arange(num)
    numbers.flags.writeable = False
    return numbers


@lru_cache(maxsize=8)
def _padding(length: int, pad_id: int) -> IntArray:
    padding = np.full(length, pad_id)
    padding.flags.writeable = False
    return padding
