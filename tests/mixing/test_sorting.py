"""Rows are in the same order whether their columns fit into one word or not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.mixing import sorting
from mixlake.mixing.sorting import lexicographic_order, packed

tables = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 200), st.integers(0, 7)), min_size=1, max_size=60)


@settings(deadline=None)
@given(rows=tables, word_bits=st.sampled_from([63, 9]))
def test_rows_are_sorted_by_the_first_column_then_by_the_next(rows: list[tuple[int, int, int]], word_bits: int) -> None:
    columns = [np.array(column, np.int64) for column in zip(*rows, strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "_WORD_BITS", word_bits)
        order = lexicographic_order(columns)
    assert list(range(len(rows)) if order is None else order) == sorted(range(len(rows)), key=lambda i: rows[i])


@settings(deadline=None)
@given(rows=tables)
def test_words_differ_by_one_where_only_the_last_column_does(rows: list[tuple[int, int, int]]) -> None:
    words = packed([np.array(column, np.int64) for column in zip(*rows, strict=True)])
    assert words is not None
    for one, word in zip(rows, words.tolist(), strict=True):
        for other, next_word in zip(rows, words.tolist(), strict=True):
            assert (next_word - word == 1) == (one[:2] == other[:2] and other[2] - one[2] == 1)


def test_rows_that_are_in_order_need_none() -> None:
    assert lexicographic_order([np.array([0, 0, 1]), np.array([5, 6, 0])]) is None


def test_columns_that_do_not_fit_into_a_word_are_not_packed() -> None:
    assert packed([np.array([1 << 40]), np.array([1 << 40])]) is None
