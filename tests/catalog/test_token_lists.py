"""Documents as two arrays, and what is put around them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlake.catalog.token_lists import TokenLists, framed, narrowed

ids = st.lists(st.integers(0, 3), max_size=5)


@given(documents=st.lists(ids, max_size=6), first=st.lists(st.integers(0, 3), max_size=2), last=ids)
def test_framing_equals_a_loop(documents: list[list[int]], first: list[int], last: list[int]) -> None:
    expected = [
        ([] if document[: len(first)] == first else first)
        + document
        + ([] if last == document[len(document) - len(last) :] and len(document) >= len(last) else last)
        for document in documents
    ]
    assert [found.tolist() for found in framed(TokenLists.of(documents), first, last)] == expected


def test_documents_are_found_by_index() -> None:
    lists = TokenLists.of([[1, 2], [], [3]])
    assert [lists[index].tolist() for index in range(3)] == [[1, 2], [], [3]]
    assert lists.lengths.tolist() == [2, 0, 1]
    with pytest.raises(IndexError, match="document 3 of 3"):
        lists[3]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, 65535], np.uint16, np.int32),
        ([1, -1], np.int8, np.int32),
        ([1, 2], np.uint32, np.int32),
        ([1, 1 << 31], np.uint32, np.int64),
        ([1, (1 << 31) - 1], np.int64, np.int32),
        ([-(1 << 40)], np.int64, np.int64),
        ([], np.float64, np.int32),
    ],
)
def test_ids_take_as_little_room_as_they_need(values: list[int], kind: type, expected: type) -> None:
    found = narrowed(np.array(values, kind))
    assert found.dtype == expected
    assert found.tolist() == values
