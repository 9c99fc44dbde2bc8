"""Words, lines and runs of words as ranges, compared with what Python's own string methods say."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlake.catalog import segments
from mixlake.catalog.segments import Segments, Texts, bare_words, hash_of, hashes, lines, ngrams, pieces, words

TEXTS = st.lists(st.text(st.sampled_from("ab Äß.,\n\t 漢か-é́x1"), max_size=40), min_size=1, max_size=5)


def whole(texts: list[str | None]) -> Texts:
    (found,) = pieces(pa.array(texts, pa.string()))
    return found


def shown(texts: Texts, of: Segments) -> list[list[str]]:
    """The pieces as strings, text by text."""
    everything = "".join(map(chr, texts.points.tolist()))
    found: list[list[str]] = [[] for _ in range(len(texts))]
    for start, stop, text in zip(of.starts.tolist(), of.stops.tolist(), of.text_ids.tolist(), strict=True):
        found[text].append(everything[start:stop])
    return found


@given(texts=TEXTS)
def test_words_are_what_split_gives(texts: list[str]) -> None:
    found = whole(list(texts))
    assert shown(found, words(found)) == [text.split() for text in texts]


@given(texts=TEXTS)
def test_lines_are_stripped_and_not_blank(texts: list[str]) -> None:
    found = whole(list(texts))
    expected = [[line.strip() for line in text.split("\n") if line.strip()] for text in texts]
    assert shown(found, lines(found, words(found))) == expected


def test_paragraphs_are_parted_by_blank_lines() -> None:
    found = whole(["a\nb\n \nc\n\n\nd", "e\n\n"])
    assert shown(found, lines(found, words(found), newlines=2)) == [["a\nb", "c", "d"], ["e"]]


def test_bare_words_have_no_punctuation_and_no_capitals_and_ideographs_stand_alone() -> None:
    lowered, found = bare_words(whole(["Foo-BAR, (x1)!", "漢字かな ok", "नमस्ते"]))
    assert shown(lowered, found) == [["foo", "bar", "x1"], ["漢", "字", "か", "な", "ok"], ["नमस्ते"]]


@given(texts=TEXTS)
def test_words_have_equal_hashes_where_they_are_equal(texts: list[str]) -> None:
    found = whole(list(texts))
    of = words(found)
    values = hashes(found.points, of).tolist()
    spelled = [word for text in texts for word in text.split()]
    assert values == [int(hash_of(word)) for word in spelled]
    assert len(set(values)) == len(set(spelled))


@given(texts=TEXTS, num_words=st.integers(1, 4))
def test_runs_of_words_stay_within_their_text(texts: list[str], num_words: int) -> None:
    found = whole(list(texts))
    of = words(found)
    values, runs = ngrams(hashes(found.points, of), of, num_words)
    expected = [
        [tuple(split[i : i + num_words]) for i in range(len(split) - num_words + 1)] for split in map(str.split, texts)
    ]
    assert [[tuple(run.split()) for run in of_text] for of_text in shown(found, runs)] == expected
    assert len(set(values.tolist())) == len({run for of_text in expected for run in of_text})


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_many_texts_come_in_bounded_pieces_and_null_is_empty(
    monkeypatch: pytest.MonkeyPatch, kind: pa.DataType
) -> None:
    monkeypatch.setattr(segments, "_BYTES_PER_PIECE", 10)
    texts = ["äää", None, "12345", "x" * 30, "", "end"]
    found = [piece.strings.to_pylist() for piece in pieces(pa.array(texts, kind))]
    assert found == [["äää", ""], ["12345"], ["x" * 30], ["", "end"]]


def test_no_texts_are_one_empty_piece() -> None:
    found = whole([])
    assert (len(found), shown(found, lines(found, words(found)))) == (0, [])
