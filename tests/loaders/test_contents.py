"""Contents in their places: texts and documents of ids, taken in any order."""

import numpy as np

from mixlake.catalog.token_ranges import TokenRanges
from mixlake.loaders.contents import Contents


def test_texts_and_documents_of_mapped_ids_are_taken_in_any_order() -> None:
    ids = np.arange(10, dtype=np.uint16)
    contents = Contents(4)
    contents.put(np.array([3, 0]), TokenRanges.of(ids, np.array([2, 5]), np.array([4, 6])))
    contents.put(np.array([2, 1]), ["c", "b"])
    tokens = contents.take(np.array([0, 3]))
    assert isinstance(tokens, TokenRanges)
    assert [document.tolist() for document in tokens] == [[5], [2, 3]]
    assert contents.take(np.array([1, 2])) == ["b", "c"]
    contents.put(np.array([1]), ["b"])
    text, document = contents.take(np.array([1, 3]))
    assert (text, document.tolist()) == ("b", [2, 3])


def test_what_is_taken_is_forgotten() -> None:
    contents = Contents(1)
    contents.put(np.array([0]), ["a"])
    assert (contents.take(np.array([0])), contents.take(np.array([0]))) == (["a"], [None])
