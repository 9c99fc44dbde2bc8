"""Samples become as few intervals as possible, whether their columns fit into one word or not."""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog.records import IntArray
from mixlake.mixing import intervals, sorting
from mixlake.mixing.index import Rows
from mixlake.mixing.intervals import merge_rows

samples = st.sets(
    st.tuples(  # chunk, component, pass, registration, file, row
        st.integers(0, 2),
        st.integers(0, 2),
        st.integers(0, 1),
        st.integers(0, 1),
        st.integers(0, 2),
        st.integers(0, 15),
    ),
    min_size=1,
    max_size=200,
)


def columns(drawn: Sequence[tuple[int, ...]]) -> list[IntArray]:
    return [np.array(column, np.int64) for column in zip(*drawn, strict=True)]


def merged(drawn: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """(chunk, component, pass, registration, file, first row, row after the last, first byte, byte after the last)."""
    chunk, component, number, registration, file_id, row = columns(drawn)
    rows = Rows(
        registration=registration, file_id=file_id, row=row, byte_start=row * 10, byte_stop=row * 10 + 9, units=row
    )
    found, chunks = merge_rows(rows, chunk=chunk, component=component, pass_number=number)
    by_interval = [found.component, found.pass_number, found.registration, found.file_id]
    spans = [found.row_start, found.row_stop, found.byte_start, found.byte_stop]
    return list(zip(*(column.tolist() for column in [chunks, *by_interval, *spans]), strict=True))


def one_by_one(drawn: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    for *place, row in sorted(drawn):
        if found and list(found[-1][:5]) == place and found[-1][6] == row:
            found[-1] = (*place, found[-1][5], row + 1, found[-1][7], row * 10 + 9)
        else:
            found.append((*place, row, row + 1, row * 10, row * 10 + 9))
    return found


@settings(deadline=None)
@given(drawn=samples.map(list), word_bits=st.sampled_from([63, 5]))
def test_neighbours_are_merged_and_nothing_else(drawn: list[tuple[int, ...]], word_bits: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "_WORD_BITS", word_bits)
        assert merged(drawn) == one_by_one(drawn)


def test_the_last_row_of_one_file_and_the_first_of_the_next_are_not_neighbours() -> None:
    drawn = [(0, 0, 0, 0, 0, 7), (0, 0, 0, 0, 1, 0)]
    assert merged(drawn) == one_by_one(drawn)


def test_rows_beyond_one_word_are_sorted_too() -> None:
    drawn = [(9, 500, 3, 70, 2**31 - 1, row) for row in (2**40, 2**40 + 1, 5)]
    assert merged(drawn) == one_by_one(drawn)


def test_intervals_are_cut_into_parts() -> None:
    numbers = np.arange(5)
    part = intervals.Intervals(**{field.name: numbers for field in fields(intervals.Intervals)}).take(slice(1, 3))
    assert len(part) == 2
    assert part.byte_stop.tolist() == part.component.tolist() == [1, 2]
