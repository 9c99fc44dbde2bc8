"""Quality signals of texts, as published with the filters that large collections were cleaned with.

Sources:

- Gopher: Rae et al. 2021, *Scaling Language Models: Methods, Analysis & Insights from Training Gopher*, appendix A.1.1
  (quality filtering; repetition removal, table A1).
- C4: Raffel et al. 2020, *Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer*, 2.2.
- FineWeb: Penedo et al. 2024, *The FineWeb Datasets*, 3.6 (custom filters).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mixlake.catalog.errors import ConfigError, listed, nearest
from mixlake.catalog.records import IntArray
from mixlake.catalog.segments import (
    BoolArray,
    Hashes,
    Segments,
    Texts,
    hash_of,
    hashes,
    letters,
    lines,
    mix,
    ngrams,
    one_of,
    pieces,
    words,
)

_STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_BULLETS = one_of("-*•‣▪▫●○◦⁃")
_ENDINGS = one_of(".!?\"'”’»…。！？」』।؟۔")
_SHORT_LINE = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """Quality signals of a text, each a property of its own: ``{"quality": Quality()}`` gives ``quality_num_words``, ….

    Words are what stands between white space; lines are those that are not blank, without white space around them;
    characters are code points. A share of nothing is null, as is every signal of a null.

    - ``num_words`` (Gopher: 50 to 100,000)
    - ``mean_word_length``: characters (Gopher: 3 to 10)
    - ``symbol_word_ratio``: hash signs, or ellipses if there are more, over words (Gopher: at most 0.1)
    - ``bullet_line_share``: of the lines, those that begin with a bullet (Gopher: at most 0.9)
    - ``ellipsis_line_share``: of the lines, those that end with an ellipsis (Gopher: at most 0.3)
    - ``alphabetic_word_share``: of the words, those with a letter (Gopher: at least 0.8)
    - ``num_stop_words``: how many of the, be, to, of, and, that, have, with there are (Gopher: at least 2)
    - ``duplicate_line_share``: of the lines, those that stood there before (Gopher: at most 0.3)
    - ``duplicate_paragraph_share``: the same of what blank lines separate (Gopher: at most 0.3)
    - ``duplicate_line_char_share``: of the lines' characters, those in such lines (Gopher: at most 0.2; FineWeb: 0.1)
    - ``duplicate_paragraph_char_share``: the same of paragraphs (Gopher: at most 0.2)
    - ``top_2gram_char_share``, ``top_3gram_char_share``, ``top_4gram_char_share``: characters of the run of words that
      occurs most often, times its occurrences, over the words' characters; 0 where none occurs twice (Gopher: at most
      0.2, 0.18, 0.16)
    - ``punctuated_line_share``: of the lines, those that end in a punctuation mark (C4 keeps only these; FineWeb: at
      least 0.12)
    - ``short_line_share``: of the lines, those of less than 30 characters (FineWeb: at most 0.67)
    - ``has_curly_brace``, ``has_lorem_ipsum``, ``has_javascript`` (C4 leaves out such pages, or lines)
    """

    text: str = "_text"
    """The field that holds the text."""
    signals: tuple[str, ...] = ()
    """Which signals; none named means all."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "signals", tuple(self.signals))
        for name in self.signals:
            if name not in SIGNALS:
                raise ConfigError(
                    f"unknown quality signal {name!r}; there are: {listed(SIGNALS, 30)}.{nearest(name, SIGNALS)}"
                )

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields it needs."""
        return (self.text,)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The signals it gives."""
        return self.signals or tuple(SIGNALS)

    def __call__(self, records: pa.RecordBatch) -> pa.StructArray:
        """Return the signals of each record's text."""
        texts = records.column(0)
        parts = [_signals(_Measured(piece), self.outputs) for piece in pieces(texts)]
        columns = [pa.concat_arrays([part[name] for part in parts]) for name in self.outputs]
        is_text = pc.is_valid(texts)
        columns = [pc.if_else(is_text, column, pa.scalar(None, column.type)) for column in columns]
        return pa.StructArray.from_arrays(columns, list(self.outputs))


class _Measured:
    """A batch of texts, and what several signals need of it, computed once."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.words = words(texts)

    @cached_property
    def num_words(self) -> IntArray:
        return self.words.count()

    @cached_property
    def num_word_chars(self) -> IntArray:
        return self.words.total(self.words.lengths)

    @cached_property
    def word_hashes(self) -> Hashes:
        return hashes(self.texts.points, self.words)

    @cached_property
    def lines(self) -> Segments:
        return lines(self.texts, self.words)

    @cached_property
    def paragraphs(self) -> Segments:
        return lines(self.texts, self.words, newlines=2)

    def share_of_lines(self, chosen: BoolArray) -> pa.Array:
        return _ratio(self.lines.count(chosen), self.lines.count())

    def last_characters(self) -> npt.NDArray[np.uint32]:
        return self.texts.points[self.lines.stops - 1]


_Signal: TypeAlias = Callable[[_Measured], pa.Array]


def _signals(measured: _Measured, names: tuple[str, ...]) -> dict[str, pa.Array]:
    return {name: SIGNALS[name](measured) for name in names}


def _ratio(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> pa.Array:
    nothing = whole == 0
    return pa.array(part / np.where(nothing, 1, whole), pa.float64(), mask=nothing)


def _symbol_word_ratio(measured: _Measured) -> pa.Array:
    strings = measured.texts.strings
    num_hashes = pc.count_substring(strings, "#").to_numpy()
    num_ellipses = pc.add(pc.count_substring(strings, "..."), pc.count_substring(strings, "…")).to_numpy()
    return _ratio(np.maximum(num_hashes, num_ellipses), measured.num_words)


def _alphabetic_word_share(measured: _Measured) -> pa.Array:
    before = np.append(0, np.cumsum(letters()[measured.texts.points]))
    has_letter = before[measured.words.stops] > before[measured.words.starts]
    return _ratio(measured.words.count(has_letter), measured.num_words)


def _num_stop_words(measured: _Measured) -> pa.Array:
    found = [measured.words.count(measured.word_hashes == hash_of(word)) > 0 for word in _STOP_WORDS]
    return pa.array(np.sum(found, axis=0, dtype=np.int64))


def _bullet_line_share(measured: _Measured) -> pa.Array:
    return measured.share_of_lines(_BULLETS[measured.texts.points[measured.lines.starts]])


def _ellipsis_line_share(measured: _Measured) -> pa.Array:
    last = measured.last_characters()
    points, stops = measured.texts.points, measured.lines.stops
    is_long = measured.lines.lengths >= 3
    dots = [(points[np.maximum(stops - back, 0)] == ord(".")) for back in (1, 2, 3)]
    return measured.share_of_lines((last == ord("…")) | (is_long & dots[0] & dots[1] & dots[2]))


def _repeated(measured: _Measured, of: Segments) -> BoolArray:
    """Say of each piece whether an equal one stands before it in the same text."""
    keys = _within_text(hashes(measured.texts.points, of), of)
    _, first = np.unique(keys, return_index=True)
    repeated = np.ones(len(keys), bool)
    repeated[first] = False
    return repeated


def _within_text(piece_hashes: Hashes, of: Segments) -> Hashes:
    return mix(piece_hashes + mix(of.text_ids.astype(np.uint64)))


def _duplicate_share(measured: _Measured, *, of: str, by: str) -> pa.Array:
    segments: Segments = getattr(measured, of)
    repeated = _repeated(measured, segments)
    if by == "pieces":
        return _ratio(segments.count(repeated), segments.count())
    return _ratio(segments.total(segments.lengths * repeated), segments.total(segments.lengths))


def _top_ngram_char_share(measured: _Measured, *, num_words: int) -> pa.Array:
    found_hashes, found = ngrams(measured.word_hashes, measured.words, num_words)
    lengths = np.append(0, np.cumsum(measured.words.lengths))
    first = np.searchsorted(measured.words.starts, found.starts)
    num_chars = lengths[first + num_words] - lengths[first]
    _, index, counts = np.unique(_within_text(found_hashes, found), return_index=True, return_counts=True)
    top = np.zeros(len(measured.texts), np.int64)
    amounts = np.where(counts > 1, counts * num_chars[index], 0)
    # The most frequent run, and of several the longest: sorted so that the last one written is it.
    order = np.lexsort((num_chars[index], counts))
    top[found.text_ids[index][order]] = amounts[order]
    return _ratio(np.minimum(top, measured.num_word_chars), measured.num_word_chars)


def _contains(measured: _Measured, *, phrase: str) -> pa.Array:
    return pc.match_substring(measured.texts.strings, phrase, ignore_case=True)


SIGNALS: dict[str, _Signal] = {
    "num_words": lambda measured: pa.array(measured.num_words),
    "mean_word_length": lambda measured: _ratio(measured.num_word_chars, measured.num_words),
    "symbol_word_ratio": _symbol_word_ratio,
    "bullet_line_share": _bullet_line_share,
    "ellipsis_line_share": _ellipsis_line_share,
    "alphabetic_word_share": _alphabetic_word_share,
    "num_stop_words": _num_stop_words,
    "duplicate_line_share": partial(_duplicate_share, of="lines", by="pieces"),
    "duplicate_paragraph_share": partial(_duplicate_share, of="paragraphs", by="pieces"),
    "duplicate_line_char_share": partial(_duplicate_share, of="lines", by="characters"),
    "duplicate_paragraph_char_share": partial(_duplicate_share, of="paragraphs", by="characters"),
    "top_2gram_char_share": partial(_top_ngram_char_share, num_words=2),
    "top_3gram_char_share": partial(_top_ngram_char_share, num_words=3),
    "top_4gram_char_share": partial(_top_ngram_char_share, num_words=4),
    "punctuated_line_share": lambda measured: measured.share_of_lines(_ENDINGS[measured.last_characters()]),
    "short_line_share": lambda measured: measured.share_of_lines(measured.lines.lengths < _SHORT_LINE),
    "has_curly_brace": partial(_contains, phrase="{"),
    "has_lorem_ipsum": partial(_contains, phrase="lorem ipsum"),
    "has_javascript": partial(_contains, phrase="javascript"),
}
"""The signals by name."""
