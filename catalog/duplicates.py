"""Groups of samples that are duplicates of one another, exactly or nearly, over any number of datasets.

Two passes: the first turns every text into keys, such that duplicates share one, and spills them to disk; sorted by
key, neighbours are duplicates, and what hangs together through them is a group. The second gives each sample its group.
Memory grows with the number of samples that have duplicates (some 50 bytes each), hardly with the number of samples.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixlake.catalog.errors import ConfigError
from mixlake.catalog.records import IntArray
from mixlake.catalog.segments import Hashes, Texts, bare_words, hashes, mix, ngrams, pieces

OUTPUTS = ("group", "rank")
_NUM_FILES = 256
_KEYS_IN_MEMORY = 2 << 20
_EDGES_IN_MEMORY = 8 << 20
_SEED = 1


class Grouping(Protocol):
    """What makes samples duplicates of one another."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields it needs."""

    def keys(self, records: pa.RecordBatch) -> tuple[IntArray, Hashes]:
        """Return the keys of each record: indices of shape (keys,) and key values of shape (keys, 2).

        Records that share a key are duplicates.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class ExactDuplicates:
    """Samples with the same text; as properties ``NAME_group`` and ``NAME_rank``, see `NearDuplicates`."""

    text: str = "_text"
    """The field that holds the text."""
    normalize: bool = True
    """Whether texts are the same that differ in capitals, white space, or how Unicode composes characters (NFC)."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields it needs."""
        return (self.text,)

    def keys(self, records: pa.RecordBatch) -> tuple[IntArray, Hashes]:
        """Return 128 bits of each text's BLAKE2b hash; none of a null."""
        texts = records.column(0).cast(pa.large_string())
        if self.normalize:
            texts = pc.utf8_lower(pc.utf8_normalize(texts, form="NFC"))
            texts = pc.utf8_trim_whitespace(pc.replace_substring_regex(texts, r"[\s\p{Z}]+", " "))
        index = np.flatnonzero(pc.is_valid(texts).to_numpy(zero_copy_only=False))
        digests = [
            hashlib.blake2b(text, digest_size=16).digest()
            for text in texts.drop_null().cast("large_binary").to_pylist()
        ]
        return index, np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class NearDuplicates:
    """Samples with almost the same text: MinHash signatures of runs of words, compared band by band.

    Added as a property NAME, it gives two columns: ``NAME_group`` (the same number for all samples that are duplicates
    of one another, over all datasets asked for; null for a sample without duplicates) and ``NAME_rank`` (0 for the
    first sample of its group in the order of datasets, files and rows, then 1, 2, …; 0 for a sample without
    duplicates), so that ``NAME_rank = 0`` keeps one of each.

    Two texts of Jaccard similarity s over their runs of words become duplicates with probability 1 - (1 - s**rows) **
    bands; with the defaults, 0.05 at s = 0.5, 0.56 at 0.7, 0.92 at 0.8, 0.999 at 0.9. Duplicates of duplicates fall
    into one group. The defaults are those that FineWeb was made with (Penedo et al. 2024, 3.4; Broder 1997 for MinHash,
    Leskovec et al. 2014, 3.4 for bands).
    """

    text: str = "_text"
    """The field that holds the text."""
    num_words: int = 5
    """Words of a run, in lower case and without punctuation; each ideograph is one. Shorter texts are sets of words."""
    bands: int = 14
    rows: int = 8
    """MinHash values that a band holds: all of them must agree."""

    def __post_init__(self) -> None:
        for name in ("num_words", "bands", "rows"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"NearDuplicates: {name} is {value!r}; expected 1 or more")
        _minhash()

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields it needs."""
        return (self.text,)

    def keys(self, records: pa.RecordBatch) -> tuple[IntArray, Hashes]:
        """Return a key per band of each text that has words."""
        found = []
        first = 0
        for texts in pieces(records.column(0)):
            index, keys = self._keys(texts)
            found.append((index + first, keys))
            first += len(texts)
        return np.concatenate([index for index, _ in found]), np.concatenate([keys for _, keys in found])

    def _keys(self, texts: Texts) -> tuple[IntArray, Hashes]:
        shingles, num_shingles = _shingles(texts, self.num_words)
        offsets = np.append(0, np.cumsum(num_shingles)).astype(np.uint64)
        matrix = _minhash().digest_matrix_from_flat_token_hashes(shingles, offsets, self.bands * self.rows, _SEED)
        signatures = np.array(matrix.to_rows(), np.uint64).reshape(len(texts), self.bands, self.rows)
        index = np.flatnonzero(num_shingles)
        values = np.zeros((len(index), self.bands), np.uint64)
        for row in range(self.rows):
            values = mix(values + signatures[index, :, row])
        bands = np.broadcast_to(np.arange(self.bands, dtype=np.uint64), values.shape)
        return np.repeat(index, self.bands), np.stack([bands.ravel(), values.ravel()], axis=1)


def _shingles(texts: Texts, num_words: int) -> tuple[Hashes, IntArray]:
    """Return the hashes of all texts' runs of words, text by text, and how many each text has."""
    lowered, words = bare_words(texts)
    word_hashes = hashes(lowered.points, words)
    runs, of_runs = ngrams(word_hashes, words, num_words)
    is_short = words.count()[words.text_ids] < num_words
    text_ids = np.concatenate([of_runs.text_ids, words.text_ids[is_short]])
    order = np.argsort(text_ids, kind="stable")
    return np.concatenate([runs, word_hashes[is_short]])[order], np.bincount(text_ids, minlength=len(texts))


@cache
def _minhash() -> Any:
    try:
        from rensa import RMinHash  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise ImportError("NearDuplicates needs the rensa library: pip install 'mixlake[duplicates]'") from error
    return RMinHash


@dataclass(frozen=True, kw_only=True, slots=True)
class Groups:
    """The samples that have duplicates, in order; the arrays have one entry for each."""

    samples: IntArray
    groups: IntArray
    """The number of its group: that of the group's first sample."""
    ranks: IntArray
    """Its place within the group."""

    def columns(self, first: int, num_samples: int) -> tuple[pa.Array, pa.Array]:
        """Return group and rank of consecutive samples; see `NearDuplicates`."""
        start, stop = np.searchsorted(self.samples, [first, first + num_samples])
        index = self.samples[start:stop] - first
        groups, alone, ranks = (
            np.zeros(num_samples, np.int64),
            np.ones(num_samples, bool),
            np.zeros(num_samples, np.int64),
        )
        groups[index], alone[index], ranks[index] = self.groups[start:stop], False, self.ranks[start:stop]
        return pa.array(groups, mask=alone), pa.array(ranks)


class KeySpill:
    """Takes the keys of samples, in the samples' order, and finds the groups; a context that cleans up behind it.

    Keys go to one of many files by their hash, so that those that are equal lie in one file, and a file fits in memory.
    (DataFusion's external sort of 36 million keys took as long, and 900 MB where its pool had 64.)
    """

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="mixlake-keys-")
        self._paths = [os.path.join(self._folder.name, str(number)) for number in range(_NUM_FILES)]
        self._waiting: list[IntArray] = []
        self._num_waiting = 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def write(self, samples: IntArray, keys: Hashes) -> None:
        """Take some samples' numbers and keys, of shape (keys,) and (keys, 2)."""
        self._waiting.append(np.column_stack([keys.view(np.int64), samples]))
        self._num_waiting += len(samples)
        if self._num_waiting >= _KEYS_IN_MEMORY:
            self._flush()

    def groups(self) -> Groups:
        """Return the groups of all samples whose keys were written."""
        self._flush()
        forest = np.zeros((0, 2), np.int64)
        waiting: list[IntArray] = []
        for edges in self._edges():
            waiting.append(edges)
            if sum(map(len, waiting)) > max(_EDGES_IN_MEMORY, len(forest)):
                forest, waiting = components(np.concatenate([forest, *waiting])), []
        return _ranked(components(np.concatenate([forest, *waiting])))

    def _flush(self) -> None:
        rows = np.concatenate([np.zeros((0, 3), np.int64), *self._waiting])
        files = mix(mix(rows[:, 0].astype(np.uint64)) + rows[:, 1].astype(np.uint64)) % np.uint64(_NUM_FILES)
        order = np.argsort(files, kind="stable")
        bounds = np.searchsorted(files[order], np.arange(_NUM_FILES + 1))
        for path, start, stop in zip(self._paths, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            if start < stop:
                with open(path, "ab") as stream:
                    stream.write(rows[order[start:stop]].tobytes())
        self._waiting, self._num_waiting = [], 0

    def _edges(self) -> Iterator[IntArray]:
        """Yield pairs of samples that share a key, of shape (pairs, 2): enough of them to link all that do."""
        for path in filter(os.path.exists, self._paths):
            rows = np.fromfile(path, np.int64).reshape(-1, 3)
            rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
            same = (rows[1:, :2] == rows[:-1, :2]).all(axis=1) & (rows[1:, 2] != rows[:-1, 2])
            yield np.column_stack([rows[:-1, 2][same], rows[1:, 2][same]])


def _ranked(forest: IntArray) -> Groups:
    order = np.lexsort((forest[:, 0], forest[:, 1]))
    samples, groups = forest[order].T
    first = np.flatnonzero(np.diff(groups, prepend=-1))
    ranks = np.arange(len(groups)) - np.repeat(first, np.diff(np.append(first, len(groups))))
    by_sample = np.argsort(samples)
    return Groups(samples=samples[by_sample], groups=groups[by_sample], ranks=ranks[by_sample])


def components(edges: IntArray) -> IntArray:
    """Return every node of a graph with the smallest node that it hangs together with, of shape (nodes, 2).

    Trees are hooked onto smaller neighbours and flattened by pointer jumping, until no edge joins two of them (Shiloach
    and Vishkin 1982).

    >>> components(np.array([[7, 3], [9, 7], [4, 5]])).tolist()
    [[3, 3], [4, 4], [5, 4], [7, 3], [9, 3]]
    """
    nodes, dense = np.unique(edges, return_inverse=True)
    left, right = dense.reshape(-1, 2).T
    parents = np.arange(len(nodes))
    while len(left):
        one, other = parents[left], parents[right]
        apart = one != other
        left, right, one, other = left[apart], right[apart], one[apart], other[apart]
        np.minimum.at(parents, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(above := parents[parents], parents):
            parents = above
    return np.stack([nodes, nodes[parents]], axis=1)
