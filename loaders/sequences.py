"""Packed sequences, and what trainers need of them: one array per field, made for a whole batch at once.

A sequence keeps its tokens and where its pieces begin, so that little travels from worker processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    starts: list[int]
    """Where each piece begins."""
    components: list[int]
    """Index of the component of each piece."""
    documents: tuple[Address, ...]
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
    starts: list[int] = []
    components: list[int] = []
    documents: list[Address] = []
    following: dict[int, int] = {}
    filled = 0
    for slab, start, stop, first in runs:
        shift = filled - start
        bounds = slab.bounds
        piece, begin = first, start
        while begin < stop:
            end = bounds[piece + 1]
            if end > begin:
                starts.append(begin + shift)
                components.append(slab.components[piece])
                documents.append((slab.registrations[piece], slab.file_ids[piece], slab.rows[piece]))
                begin = end
            piece += 1
        filled += stop - start
        if begin > stop and (overlap or filled < length):
            following[filled - 1] = int(slab.ids[stop])
    parts = [slab.ids[start:stop] for slab, start, stop, _ in runs]
    return PackedSequence(
        length=length,
        pad_id=pad_id,
        ids=parts[0] if len(parts) == 1 else np.concatenate(parts),
        starts=starts,
        components=components,
        documents=tuple(documents),
        following=following,
        weights_version=weights_version,
    )


def expanded(sequences: Sequence[PackedSequence]) -> dict[str, Any]:
    """Return B sequences of T tokens as arrays: those of shape (B, T) that batches have, and ``cu_seqlens``."""
    length = sequences[0].length
    total = len(sequences) * length
    input_ids = np.empty((len(sequences), length), np.int64)
    starts: list[int] = []
    components: list[int] = []
    numbers: list[int] = []
    cuts: dict[int, int] = {}
    num_documents = 0
    for index, sequence in enumerate(sequences):
        filled, base = len(sequence.ids), index * length
        input_ids[index, :filled] = sequence.ids
        starts += [start + base for start in sequence.starts]
        components += sequence.components
        numbers += range(num_documents, num_documents + len(sequence.starts))
        num_documents += len(sequence.starts)
        for place, token in sequence.following.items():
            cuts[place + base] = token
        if filled < length:
            input_ids[index, filled:] = sequence.pad_id
            starts.append(base + filled)
            components.append(-1)
            numbers.append(-1)
    cu_seqlens = np.array([*starts, total], np.int32)
    num_tokens = np.diff(cu_seqlens)
    labels = np.empty(total, np.int64)
    labels[:-1] = input_ids.reshape(-1)[1:]
    labels[cu_seqlens[1:] - 1] = NO_LABEL
    labels[list(cuts)] = list(cuts.values())
    position_ids = np.arange(total)
    position_ids -= np.repeat(cu_seqlens[:-1].astype(np.int64), num_tokens)
    document_ids = np.repeat(np.array(numbers, np.int64), num_tokens)
    if min(numbers, default=0) < 0:
        labels[document_ids < 0] = NO_LABEL
    shape = (len(sequences), length)
    return {
        "input_ids": input_ids,
        "labels": labels.reshape(shape),
        "loss_mask": (labels != NO_LABEL).reshape(shape),
        "component_ids": np.repeat(np.array(components, np.int64), num_tokens).reshape(shape),
        "document_ids": document_ids.reshape(shape),
        "position_ids": position_ids.reshape(shape),
        "cu_seqlens": cu_seqlens,
        "max_seqlen": int(num_tokens.max()),
    }
