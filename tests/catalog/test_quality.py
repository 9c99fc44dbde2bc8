"""Quality signals, against numbers counted by hand and against plain Python on any text."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import ConfigError, Quality
from mixlake.catalog.quality import SIGNALS

TEXT = """The cat sat with the dog...
- The mat

- The mat
Why? Lorem Ipsum {
# # 42"""


def signals(*texts: str | None, **options: Any) -> list[dict[str, Any]]:
    records = pa.record_batch({"_text": pa.array(texts, pa.string())})
    found: list[dict[str, Any]] = Quality(**options)(records).to_pylist()
    return found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_words", 19),
        ("mean_word_length", 55 / 19),
        ("symbol_word_ratio", 2 / 19),
        ("bullet_line_share", 2 / 5),
        ("ellipsis_line_share", 1 / 5),
        ("alphabetic_word_share", 13 / 19),
        ("num_stop_words", 2),
        ("duplicate_line_share", 1 / 5),
        ("duplicate_line_char_share", 9 / 69),
        ("duplicate_paragraph_share", 0.0),
        ("top_2gram_char_share", 12 / 55),  # "- The", "The mat": twice each, and the longer one counts
        ("top_3gram_char_share", 14 / 55),
        ("top_4gram_char_share", 0.0),
        ("punctuated_line_share", 1 / 5),
        ("short_line_share", 1.0),
        ("has_curly_brace", True),
        ("has_lorem_ipsum", True),
        ("has_javascript", False),
    ],
)
def test_signals_are_what_one_counts_by_hand(name: str, value: Any) -> None:
    (found,) = signals(TEXT, signals=[name])
    assert found == {name: value}


def test_signals_of_a_null_are_null_and_shares_of_nothing_too() -> None:
    of_null, of_nothing = signals(None, " \n ")
    assert set(of_null.values()) == {None}
    assert {name for name, value in of_nothing.items() if value is not None} == {
        "num_words",
        "num_stop_words",
        "has_curly_brace",
        "has_lorem_ipsum",
        "has_javascript",
    }


def test_three_dots_at_the_end_are_an_ellipsis_whatever_stands_before() -> None:
    shares = [row["ellipsis_line_share"] for row in signals("a...", "..", "b..\n.", "…", "a.\n..", "....")]
    assert shares == [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]


def test_paragraphs_that_come_again_are_counted_with_their_characters() -> None:
    (found,) = signals("one\ntwo\n\nthree\n\none\ntwo", signals=[n for n in SIGNALS if "paragraph" in n])
    assert found == {"duplicate_paragraph_share": 1 / 3, "duplicate_paragraph_char_share": 7 / 19}


def test_texts_do_not_mix() -> None:
    texts = ["a b", "a b", "a b a b", "", "a b"]
    apart = [signals(text)[0] for text in texts]
    assert signals(*texts) == apart


@settings(max_examples=60)
@given(text=st.text(st.sampled_from("ab the#.…\n-{é "), max_size=80))
def test_repetition_is_what_counting_in_plain_python_gives(text: str) -> None:
    (found,) = signals(text)
    split, lines = text.split(), [line.strip() for line in text.split("\n") if line.strip()]
    assert found["num_words"] == len(split)
    seen: set[str] = set()
    repeated = [line for line in lines if line in seen or seen.add(line)]  # type: ignore[func-returns-value]
    if lines:
        assert found["duplicate_line_share"] == len(repeated) / len(lines)
        assert found["duplicate_line_char_share"] == sum(map(len, repeated)) / sum(map(len, lines))
    runs = Counter(tuple(split[i : i + 2]) for i in range(len(split) - 1))
    most = max(runs.values(), default=1)
    longest = max((sum(map(len, run)) for run, count in runs.items() if count == most), default=0)
    total = sum(map(len, split))
    if split:
        expected = min(most * longest, total) / total if most > 1 else 0.0
        assert found["top_2gram_char_share"] == expected


def test_a_signal_that_there_is_not_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^unknown quality signal 'num_word'; there are: .*\. Did you mean 'num_words'\?$"
    ):
        Quality(signals=("num_word",))


def test_no_records_give_no_signals() -> None:
    found = Quality(signals=("num_words", "has_javascript"))(pa.record_batch({"_text": pa.array([], pa.string())}))
    assert (len(found), found.type) == (0, pa.struct([("num_words", pa.int64()), ("has_javascript", pa.bool_())]))


def test_it_is_a_value() -> None:
    assert copy.copy(Quality(signals=["num_words"])) == Quality(signals=("num_words",))  # type: ignore[arg-type]
    assert hash(Quality()) == hash(Quality(text="_text"))
