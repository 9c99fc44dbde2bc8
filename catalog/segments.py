"""Words and lines of many texts at once, as ranges of one array of code points.

Everything is computed with whole arrays: a batch of texts becomes one array of code points, what a character is (space,
letter, ideograph) is looked up in tables of all code points, and hashes of any range come out of prefix sums.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mixlake.catalog.records import IntArray

Points: TypeAlias = npt.NDArray[np.uint32]
Hashes: TypeAlias = npt.NDArray[np.uint64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

_NUM_POINTS = 0x110000
_NEWLINE = ord("\n")
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
_INVERSE = pow(_BASE, -1, 1 << 64)
_STEP = np.uint64(0xD6E8FEB86659FD93)
_BYTES_PER_PIECE = 4 << 20
_IDEOGRAPHS = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
"""Kana and Han: scripts that put no spaces between words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """Some texts, one after the other."""

    strings: pa.Array
    """The texts themselves; null is empty."""
    points: Points
    """The code points of all of them."""
    offsets: IntArray
    """Where each text starts, and where the last one ends."""

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Segments:
    """Pieces of texts in order, such as words or lines; all arrays have one entry per piece."""

    starts: IntArray
    """First code point of each."""
    stops: IntArray
    text_ids: IntArray
    """Number of the text that each lies in."""
    num_texts: int

    @property
    def lengths(self) -> IntArray:
        """Code points of each piece."""
        return self.stops - self.starts

    def count(self, chosen: BoolArray | None = None) -> IntArray:
        """Return how many of the (chosen) pieces each text has."""
        return np.bincount(self.text_ids if chosen is None else self.text_ids[chosen], minlength=self.num_texts)

    def total(self, amounts: IntArray) -> IntArray:
        """Return, for each text, the sum of its pieces' amounts."""
        sums: IntArray = np.bincount(self.text_ids, amounts, minlength=self.num_texts).astype(np.int64)
        return sums


def pieces(texts: pa.Array) -> Iterator[Texts]:
    """Yield the texts in batches of some megabytes, at least one batch, so that memory stays bounded; null is empty.

    One text alone may be longer.
    """
    texts = pc.fill_null(texts.cast(pa.large_string()), "")
    ends = np.cumsum(pc.binary_length(texts).to_numpy(zero_copy_only=False), dtype=np.int64)
    start = 0
    while start < len(texts):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _BYTES_PER_PIECE, side="right")))
        yield _decoded(texts.slice(start, stop - start))
        start = stop
    if not len(texts):
        yield _decoded(texts)


def _decoded(texts: pa.Array) -> Texts:
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(pc.utf8_length(texts).to_numpy(), out=offsets[1:])
    points = np.frombuffer("".join(texts.to_pylist()).encode("utf-32-le"), np.uint32)
    return Texts(strings=texts, points=points, offsets=offsets)


def words(texts: Texts) -> Segments:
    """Return what stands between white space."""
    return _runs(texts, ~_spaces()[texts.points])


def bare_words(texts: Texts) -> tuple[Texts, Segments]:
    """Return the texts in lower case, and their words without punctuation; every ideograph is a word of its own."""
    lowered = replace(texts, points=_lower()[texts.points])
    return lowered, _runs(lowered, _word_characters()[lowered.points], _ideographs()[lowered.points])


def lines(texts: Texts, of: Segments, *, newlines: int = 1) -> Segments:
    """Return the lines that are not blank, without white space around them; paragraphs with ``newlines=2``.

    Args:
        texts: what they are looked for in.
        of: the words of the texts.
        newlines: how many newlines, at least, lie between two of them.
    """
    if not len(of.starts):
        return of
    before = np.searchsorted(np.flatnonzero(texts.points == _NEWLINE), of.starts)
    is_first = np.append(True, (np.diff(before) >= newlines) | (np.diff(of.text_ids) > 0))
    first = np.flatnonzero(is_first)
    last = np.append(first[1:], len(is_first)) - 1
    return replace(of, starts=of.starts[first], stops=of.stops[last], text_ids=of.text_ids[first])


def _runs(texts: Texts, inside: BoolArray, alone: BoolArray | None = None) -> Segments:
    """Return the runs of characters that are ``inside``, within each text; those that are ``alone`` stand alone."""
    breaks = np.zeros(len(inside) + 1, bool)
    breaks[texts.offsets] = True
    if alone is not None:
        breaks[:-1] |= alone
        breaks[1:] |= alone
    outside = np.concatenate([[True], ~inside, [True]])
    starts = np.flatnonzero(inside & (outside[:-2] | breaks[:-1]))
    stops = np.flatnonzero(inside & (outside[2:] | breaks[1:])) + 1
    text_ids = np.searchsorted(texts.offsets, starts, side="right") - 1
    return Segments(starts=starts, stops=stops, text_ids=text_ids, num_texts=len(texts))


def hashes(points: Points, of: Segments) -> Hashes:
    """Return a hash of each piece: equal for equal characters, wherever they stand.

    A polynomial modulo 2**64 over the code points, which prefix sums give for any range, and a mixer behind it.
    """
    powers, inverses = _powers(1 << max(len(points) - 1, 1).bit_length())
    sums = np.zeros(len(points) + 1, np.uint64)
    np.cumsum((points.astype(np.uint64) + np.uint64(1)) * powers[: len(points)], out=sums[1:])
    return mix((sums[of.stops] - sums[of.starts]) * inverses[of.starts])


def ngrams(word_hashes: Hashes, of: Segments, num_words: int) -> tuple[Hashes, Segments]:
    """Return hash and range of every run of so many words within a text."""
    if len(word_hashes) < num_words:
        return word_hashes[:0], replace(of, starts=of.starts[:0], stops=of.stops[:0], text_ids=of.text_ids[:0])
    num_runs = len(word_hashes) - num_words + 1
    combined = np.zeros(num_runs, np.uint64)
    for index in range(num_words):
        combined = combined * _STEP + word_hashes[index : index + num_runs]
    whole = of.text_ids[:num_runs] == of.text_ids[num_words - 1 :]
    found = replace(
        of,
        starts=of.starts[:num_runs][whole],
        stops=of.stops[num_words - 1 :][whole],
        text_ids=of.text_ids[:num_runs][whole],
    )
    return mix(combined[whole]), found


def mix(values: Hashes) -> Hashes:
    """Return well-mixed 64-bit hashes of 64-bit values: the finalizer of SplitMix64 (Steele et al. 2014, figure 17)."""
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def hash_of(text: str) -> np.uint64:
    """Return the hash that a word or line of these characters gets."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    whole = Segments(
        starts=np.zeros(1, np.int64), stops=np.array([len(points)]), text_ids=np.zeros(1, np.int64), num_texts=1
    )
    return np.uint64(hashes(points, whole)[0])


@cache
def _powers(size: int) -> tuple[Hashes, Hashes]:
    def up_to(base: int) -> Hashes:
        factors = np.full(size, base, np.uint64)
        factors[0] = 1
        return np.cumprod(factors, dtype=np.uint64)

    return up_to(_BASE), up_to(_INVERSE)


@cache
def _spaces() -> BoolArray:
    return np.array([chr(point).isspace() for point in range(_NUM_POINTS)])


@cache
def letters() -> BoolArray:
    """Return, for every code point, whether it is a letter."""
    return np.array([chr(point).isalpha() for point in range(_NUM_POINTS)])


@cache
def _word_characters() -> BoolArray:
    return np.array([unicodedata.category(chr(point))[0] in "LMN" for point in range(_NUM_POINTS)])


@cache
def _lower() -> Points:
    lowered = (chr(point).lower() for point in range(_NUM_POINTS))
    return np.array([ord(lower) if len(lower) == 1 else point for point, lower in enumerate(lowered)], np.uint32)


@cache
def _ideographs() -> BoolArray:
    table = np.zeros(_NUM_POINTS, bool)
    for first, last in _IDEOGRAPHS:
        table[first : last + 1] = True
    return table


def one_of(characters: str | Sequence[str]) -> BoolArray:
    """Return, for every code point, whether it is one of some characters."""
    table = np.zeros(_NUM_POINTS, bool)
    table[[ord(character) for character in characters]] = True
    return table
