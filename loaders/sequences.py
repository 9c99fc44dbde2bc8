"""Packed sequences, and what trainers need of them: one array per field, made for a whole batch at once.

A sequence keeps its tokens and where its pieces begin, so that little travels from worker processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from typing import Any

import numpy as np

from mixlake.catalog.records import IntArray
from mixlake.catalog.token_lists import IdArray
from mixlake.loaders.documents import NO_LABEL
from mixlake.loaders.replacing import Address
from mixlake.loaders.token_queues import Run


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackedSequence:
    """One sequence of T tokens, made of P pieces of documents; the rest of it is padding."""

    length: int
    """T."""
    pad_id: int
    ids: IdArray
    """Its tokens without the padding."""
    lengths: list[int]
    """Tokens of each piece."""
    components: list[int]
    """Index of the component of each piece."""
    documents: list[Address]
    """The document of each piece."""
    following: dict[int, int]
    """The token that follows in the same document where that is not in the sequence, by position."""
    weights_version: int

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


def make_sequence(
    runs: Sequence[Run], *, length: int, pad_id: int, overlap: int, weights_version: int
) -> PackedSequence:
    """Return the sequence that some runs of tokens make up.

    Args:
        runs: at least one, of at most ``length`` tokens together.
        length: T.
        pad_id: fills the rest.
        overlap: 1 if the last position's label may be the first token of another sequence, 0 if it has none then.
        weights_version: in force where it begins.
    """
    parts: list[IdArray] = []
    lengths: list[int] = []
    components: list[int] = []
    documents: list[Address] = []
    following: dict[int, int] = {}
    filled = 0
    for slab, start, stop, first, last in runs:
        ids, bounds = slab.ids, slab.bounds
        parts.append(ids[start:stop])
        if first == last:
            lengths.append(stop - start)
        else:
            lengths += [bounds[first + 1] - start, *slab.lengths[first + 1 : last], stop - bounds[last]]
        components += slab.components[first : last + 1]
        documents += slab.documents[first : last + 1]
        filled += stop - start
        if stop < bounds[last + 1] and (overlap or filled < length):
            following[filled - 1] = int(ids[stop])
    if 0 in lengths:  # documents without tokens
        components = list(compress(components, lengths))
        documents = list(compress(documents, lengths))
        lengths = list(compress(lengths, lengths))
    return PackedSequence(
        length=length,
        pad_id=pad_id,
        ids=parts[0] if len(parts) == 1 else np.concatenate(parts),
        lengths=lengths,
        components=components,
        documents=documents,
        following=following,
        weights_version=weights_version,
    )


def make_padding(length: int, pad_id: int) -> PackedSequence:
    """Return a sequence that is all padding; its weights version is 0, which none has."""
    nothing = np.zeros(0, np.int64)
    return PackedSequence(
        length=length,
        pad_id=pad_id,
        ids=nothing,
        lengths=[],
        components=[],
        documents=[],
        following={},
        weights_version=0,
    )


def expanded(sequences: Sequence[PackedSequence]) -> dict[str, Any]:
    """Return B sequences of T tokens as arrays: those of shape (B, T) that batches have, and ``cu_seqlens``."""
    length = sequences[0].length
    shape = (len(sequences), length)
    input_ids = _joined(sequences, shape)
    lengths: list[int] = []
    components: list[int] = []
    numbers: list[int] = []
    cuts: dict[int, int] = {}
    num_documents = 0
    for index, sequence in enumerate(sequences):
        lengths += sequence.lengths
        components += sequence.components
        numbers += range(num_documents, num_documents := num_documents + len(sequence.lengths))
        for place, token in sequence.following.items():
            cuts[place + index * length] = token
        if space := length - len(sequence.ids):
            lengths.append(space)
            components.append(-1)
            numbers.append(-1)
    num_tokens = np.array(lengths)
    stops = num_tokens.cumsum()
    labels = np.empty(input_ids.size, np.int64)
    labels[:-1] = input_ids.ravel()[1:]
    labels[stops - 1] = NO_LABEL
    labels[list(cuts)] = list(cuts.values())
    if num_documents < len(numbers):
        for index, sequence in enumerate(sequences, start=1):
            labels[index * length - (length - len(sequence.ids)) : index * length] = NO_LABEL
    return {
        "input_ids": input_ids,
        "labels": labels.reshape(shape),
        "loss_mask": (labels != NO_LABEL).reshape(shape),
        "component_ids": np.array(components).repeat(num_tokens).reshape(shape),
        "document_ids": np.array(numbers).repeat(num_tokens).reshape(shape),
        "position_ids": (_up_to(labels.size) - (stops - num_tokens).repeat(num_tokens)).reshape(shape),
        "cu_seqlens": np.array([0, *stops.tolist()], np.int32),
        "max_seqlen": max(lengths),
    }


def _joined(sequences: Sequence[PackedSequence], shape: tuple[int, int]) -> IntArray:
    """Return the tokens and the padding of sequences."""
    num = sum(len(sequence.ids) for sequence in sequences)
    if num == shape[0] * shape[1]:
        return np.concatenate([sequence.ids for sequence in sequences], dtype=np.int64).reshape(shape)
    joined = np.empty(shape, np.int64)
    for row, sequence in zip(joined, sequences, strict=True):
        filled = len(sequence.ids)
        row[:filled] = sequence.ids
        row[filled:] = sequence.pad_id
    return joined


@lru_cache(maxsize=64)
def _up_to(num: int) -> IntArray:
    numbers = np.arange(num)
    numbers.flags.writeable = False
    return numbers
