"""Documents as ranges of arrays: whatever is taken, put and joined, the ids are those of the documents."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlake.catalog.token_ranges import TokenRanges

KINDS = ("<u2", ">u2", "<i4", ">i4", "<i8", "u1")
Lists = list[list[int]]
documents = st.lists(st.lists(st.integers(0, 200), max_size=400), max_size=12)


def ranges_of(lists: Lists, kind: str) -> TokenRanges:
    """Documents with a gap between them, in an array of a type."""
    parts = [np.array([255, *ids], np.dtype(kind)) for ids in lists]
    stops = np.cumsum([len(part) for part in parts], dtype=np.int64)
    starts = stops - np.array([len(ids) for ids in lists], np.int64)
    return TokenRanges.of(np.concatenate([np.empty(0, np.dtype(kind)), *parts]), starts, stops)


@given(several=st.lists(st.tuples(documents, st.sampled_from(KINDS)), max_size=3), data=st.data())
def test_documents_of_several_arrays_are_found_in_any_order(several: list[tuple[Lists, str]], data: Any) -> None:
    lists = [ids for some, _ in several for ids in some]
    order = data.draw(st.permutations(range(len(lists))))
    held, num = TokenRanges.none(len(lists)), 0
    for some, kind in several:
        ranges = ranges_of(some, kind)
        ranges.fetch()
        held.put(np.array(order[num : num + len(some)], np.int64), ranges)
        num += len(some)
    assert held.are_there(np.arange(len(lists))).all()
    taken = held.take(np.array(order, np.int64))
    assert [ids.tolist() for ids in taken] == lists
    assert taken.lengths.tolist() == [len(ids) for ids in lists]
    joined = taken.joined()
    assert [ids.tolist() for ids in joined] == lists
    assert joined.ids.dtype.isnative
    assert [ids.tolist() for ids in taken[1:3].joined()] == lists[1:3]


def test_a_document_on_its_own_is_a_copy_that_can_be_written_to() -> None:
    ids = np.arange(10, dtype=">u2")
    ids.flags.writeable = False
    document = TokenRanges.of(ids, np.array([2]), np.array([5]))[0]
    document[0] = 7
    assert (document.tolist(), document.dtype) == ([7, 3, 4], np.dtype(np.uint16))
    assert ids[2] == 2


def test_ids_stay_as_narrow_as_they_are_and_become_int32_where_they_fit() -> None:
    kinds = {kind: ranges_of([[1, 2]], kind).joined().ids.dtype for kind in KINDS}
    assert kinds == {"<u2": "u2", ">u2": "u2", "<i4": "i4", ">i4": "i4", "<i8": "i4", "u1": "u1"}


def test_where_no_document_was_put_there_is_none() -> None:
    held = TokenRanges.none(3)
    held.put(np.array([1]), ranges_of([[5]], "<u2"))
    assert held.are_there(np.arange(3)).tolist() == [False, True, False]
    with pytest.raises(IndexError, match="document 3 of 3"):
        held[3]
