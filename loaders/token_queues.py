"""Queues of a lane's documents as tokens: of one component, or of all in delivery order.

Tokens come in slabs, the ids of many documents in one array, and leave in runs, ranges of a slab: nothing is done
per token before a batch is made. Where slabs begin and end decides nothing but when something is tokenized.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import compress
from operator import attrgetter
from typing import Any

import numpy as np

from mixlake.catalog import DataError
from mixlake.catalog.token_lists import IdArray, TokenLists, narrowed
from mixlake.catalog.token_ranges import TokenRanges
from mixlake.catalog.tokenizers import Tokenizer
from mixlake.loaders.documents import LaneChunks, SampleQueue
from mixlake.loaders.groups import SampleGroup
from mixlake.loaders.sequences import Run, Slab

_LEAST_AT_ONCE, _MOST_AT_ONCE = 1 << 16, 1 << 20
"""Characters, or ids, that become a slab. Tokenizers like much at once (gigatoken is a fifth faster with a million
characters than with a quarter of one), but a lane's first token waits for all of it."""
_SECONDS_AT_ONCE = 0.05
"""What is tokenized in less makes the next slab twice as large, what takes more half as large."""


class TokenQueue:
    """The documents of a lane, of one component or of all, as tokens in delivery order."""

    def __init__(
        self, chunks: LaneChunks, tokenizer: Tokenizer, component: int | None, position: Sequence[int] = (0, 0, 0)
    ) -> None:
        """Take up a queue.

        Args:
            chunks: the lane's chunks.
            tokenizer: for the documents.
            component: index of the component; None for all.
            position: lane chunk, document in the chunk's part of this queue, token in the document.
        """
        self.chunk_index, number, skipped = position
        self._samples = SampleQueue(chunks, component, self.chunk_index, number)
        self._tokenizer = tokenizer
        self._slab = _empty_slab(number)
        self._group: SampleGroup | None = None
        self._next_sample = 0
        self._at = skipped
        """In the slab."""
        self._document = 0
        self._num_given = -1
        """Of so many chunks of the lane it has given everything."""
        self._at_once = _LEAST_AT_ONCE

    def position(self) -> tuple[int, int, int]:
        """Return where the queue stands: all that is needed to take it up again."""
        slab, document = self._slab, self._document
        return self.chunk_index, slab.numbers[document], self._at - slab.bounds[document]

    def has_tokens(self, num_open: int) -> bool:
        """Say whether there is a token in the lane's first ``num_open`` chunks that is not taken yet."""
        while self._at >= self._slab.bounds[-1]:
            if num_open == self._num_given or not self._extend(num_open):
                self._num_given = num_open
                return False
        return True

    def is_at_hand(self, num_open: int) -> bool:
        """Say whether `has_tokens` is known without looking for documents."""
        return self._at < self._slab.bounds[-1] or num_open == self._num_given

    def available(self) -> int:
        """Return how many tokens are at hand."""
        return self._slab.bounds[-1] - self._at

    def whole_documents(self, num: int) -> int:
        """Return the number of tokens up to where the document ends that holds the ``num``-th; of this chunk."""
        while self._slab.bounds[-1] - self._at < num and self._extend(self.chunk_index + 1):
            pass
        bounds = self._slab.bounds
        return bounds[min(bisect_left(bounds, self._at + num, self._document), len(bounds) - 1)] - self._at

    def take(self, num: int) -> Run:
        """Return the next ``num`` tokens, at least one, which must be at hand."""
        slab, start, first = self._slab, self._at, self._document
        bounds = slab.bounds
        self._at = stop = start + num
        if stop < bounds[first + 1]:
            return Run(slab, start, stop, first, first)
        self._document = document = bisect_right(bounds, stop, first + 1) - 1
        return Run(slab, start, stop, first, document if bounds[document] < stop else document - 1)

    def take_document(self) -> tuple[Run, tuple[int, int, int]]:
        """Return what is left of the next document, of which something must be at hand, and the position before it."""
        slab, start, document = self._slab, self._at, self._document
        self._document = behind = document + 1
        self._at = stop = slab.bounds[behind]
        place = self.chunk_index, slab.numbers[document], start - slab.bounds[document]
        return Run(slab, start, stop, document, document), place

    def _extend(self, num_open: int) -> bool:
        """Tokenize some more documents; those that are not taken yet stay. Say whether there are any."""
        if self._group is None or self._next_sample == len(self._group):
            if self._group is not None:
                self._samples.skip(len(self._group))
            self._group, self._next_sample = self._samples.next_group(num_open), 0
        if self._samples.chunk_index != self.chunk_index and self.available() <= 0:
            self.chunk_index = self._samples.chunk_index
            self._slab, self._at, self._document = _empty_slab(self._samples.index), 0, 0
        if self._group is None:
            return False
        start, stop = self._next_sample, _stop(self._group, self._next_sample, self._at_once)
        begun = time.perf_counter()
        self._append(encoded(self._tokenizer, self._group, start, stop), self._group, start, stop)
        is_quick = time.perf_counter() - begun < _SECONDS_AT_ONCE
        self._at_once = min(2 * self._at_once, _MOST_AT_ONCE) if is_quick else max(self._at_once // 2, _LEAST_AT_ONCE)
        self._next_sample = stop
        return True

    def _append(self, lists: TokenLists, group: SampleGroup, start: int, stop: int) -> None:
        """Make a slab of what is left of this one and of some samples of a group."""
        old, document, number = self._slab, self._document, self._samples.index
        components, documents = group.components[start:stop], group.addresses(start, stop)
        numbers, bounds = list(range(number + start, number + stop + 1)), lists.bounds
        if not (has_tokens := lists.lengths > 0).all():
            components, documents = list(compress(components, has_tokens)), list(compress(documents, has_tokens))
            numbers = [*compress(numbers, has_tokens), numbers[-1]]
            bounds = np.append(0, bounds[1:][has_tokens])
        begin, end = old.bounds[document], old.bounds[-1]
        left = slice(document, -1)
        self._slab = Slab(
            ids=np.concatenate([old.ids[begin:], lists.ids]) if begin < end else lists.ids,
            bounds=[bound - begin for bound in old.bounds[left]] + (bounds + (end - begin)).tolist(),
            components=old.components[document:] + components,
            documents=old.documents[document:] + documents,
            numbers=old.numbers[left] + numbers,
        )
        self._at -= begin
        self._document = bisect_right(self._slab.bounds, self._at) - 1


def _empty_slab(number: int) -> Slab:
    """Return a slab of no documents, behind which comes a document of some number."""
    return Slab(ids=np.empty(0, np.int64), bounds=[0], components=[], documents=[], numbers=[number])


def encoded(tokenizer: Tokenizer, samples: SampleGroup, start: int, stop: int) -> TokenLists:
    """Return the ids of some samples of a group; those that are tokenized already are taken as they are.

    Raises:
        DataError: a sample holds neither text nor ids, or ids that the tokenizer does not have, so that others made
            them.
    """
    contents = samples.contents[start:stop]
    if isinstance(contents, TokenRanges):
        return _checked(tokenizer, samples, start, contents.joined())
    kinds = set(map(type, contents))
    if kinds == {str}:
        return tokenizer.encode(contents)
    if kinds == {np.ndarray} and (joined := _joined(contents)) is not None:
        return _checked(tokenizer, samples, start, joined)
    values = [samples.content(index) for index in range(start, stop)]
    texts = iter(tokenizer.encode([value for value in values if isinstance(value, str)]))
    documents = []
    for index, value in enumerate(values, start=start):
        if not isinstance(value, str):
            _check(tokenizer, samples, index, value)
        documents.append(next(texts) if isinstance(value, str) else value)
    return TokenLists.of(documents)


def _joined(arrays: Sequence[IdArray]) -> TokenLists | None:
    """Put arrays of ids one after the other, as narrow as they are; None where they are something else."""
    kinds = set(map(attrgetter("dtype.kind"), arrays))
    if not kinds <= {"i", "u"} or set(map(attrgetter("ndim"), arrays)) != {1}:
        return None
    bounds = np.zeros(len(arrays) + 1, np.int64)
    np.cumsum(list(map(len, arrays)), out=bounds[1:])
    ids = np.concatenate(arrays)
    return TokenLists(ids=ids if ids.dtype.itemsize < np.dtype(np.int32).itemsize else narrowed(ids), bounds=bounds)


def _checked(tokenizer: Tokenizer, samples: SampleGroup, start: int, documents: TokenLists) -> TokenLists:
    """Return the ids of samples from ``start`` on, which must be the tokenizer's."""
    if tokenizer.vocab_size and _has_others(documents.ids, tokenizer.vocab_size):
        for index, ids in enumerate(documents, start):
            _check(tokenizer, samples, index, ids)
    return documents


def _has_others(ids: IdArray, vocab_size: int) -> bool:
    if not len(ids) or (ids.dtype.kind == "u" and np.iinfo(ids.dtype).max < vocab_size):
        return False
    if ids.dtype == np.int32:  # one pass instead of two: what is negative is large without its sign
        ids = ids.view(np.uint32)
    return int(ids.max()) >= vocab_size or (ids.dtype.kind == "i" and int(ids.min()) < 0)


def _check(tokenizer: Tokenizer, samples: SampleGroup, index: int, ids: IdArray) -> None:
    if tokenizer.vocab_size and _has_others(ids, tokenizer.vocab_size):
        raise DataError(
            f"{samples.place(index)} has token ids {ids.min()} to {ids.max()}, but the tokenizer has "
            f"{tokenizer.vocab_size} ids; load with the tokenizer that made them"
        )


def _stop(group: SampleGroup, start: int, at_once: int) -> int:
    """Return where to stop tokenizing: at the end of the group, or where there is enough of it."""
    contents = group.contents[start:]
    sizes = contents.lengths if isinstance(contents, TokenRanges) else list(map(_size, contents))
    return start + min(len(sizes), int(np.searchsorted(np.cumsum(sizes), at_once)) + 1)


def _size(content: Any) -> int:
    return len(content) if isinstance(content, (str, list, np.ndarray)) else 0
