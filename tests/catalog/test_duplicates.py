"""Duplicates: keys that equal texts share, groups that hang together through them, and how near is near."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence

import networkx
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlake.catalog import ConfigError, duplicates
from mixlake.catalog.duplicates import ExactDuplicates, Grouping, KeySpill, NearDuplicates, components

WORDS = [f"word{number}" for number in range(5000)]


def found(grouping: Grouping, *batches: Sequence[str | None]) -> list[tuple[int | None, int]]:
    """Group and rank of every text of some batches."""
    total = 0
    with KeySpill() as spill:
        for texts in batches:
            records = pa.record_batch({grouping.fields[0]: pa.array(texts, pa.string())})
            index, keys = grouping.keys(records)
            spill.write(index + total, keys)
            total += len(texts)
        groups, ranks = spill.groups().columns(0, total)
    return list(zip(groups.to_pylist(), ranks.to_pylist(), strict=True))


def sentence(seed: int, num_words: int = 200) -> list[str]:
    return random.Random(seed).choices(WORDS, k=num_words)


# Exact


def test_equal_texts_are_one_group_whatever_batch_they_come_in() -> None:
    assert found(ExactDuplicates(), ["a", "b", None], [], ["a", "c", None, "a", "b"]) == [
        (0, 0),
        (1, 0),
        (None, 0),
        (0, 1),
        (None, 0),
        (None, 0),
        (0, 2),
        (1, 1),
    ]


@pytest.mark.parametrize("other", ["Ärger  IM\tHaus", " ärger im haus\n", "A\u0308rger im\u00a0\u3000Haus"])
def test_case_space_and_composition_make_no_difference_unless_they_shall(other: str) -> None:
    assert found(ExactDuplicates(), ["Ärger im Haus", other]) == [(0, 0), (0, 1)]
    assert found(ExactDuplicates(normalize=False), ["Ärger im Haus", other]) == [(None, 0), (None, 0)]


def test_other_words_are_no_duplicate() -> None:
    assert found(ExactDuplicates(), ["ab c", "a bc", "a b c"]) == [(None, 0)] * 3


# Near


def test_texts_that_differ_in_a_word_are_near_and_others_are_not() -> None:
    text, other = sentence(1), sentence(2)
    changed = [*text[:100], "different", *text[101:]]
    texts = [" ".join(text), " ".join(other), ", ".join(changed).upper(), None, ""]
    assert found(NearDuplicates(), texts) == [(0, 0), (None, 0), (0, 1), (None, 0), (None, 0)]


def test_short_texts_and_texts_without_spaces_have_duplicates_too() -> None:
    texts = ["Yes, I do.", "yes i do", "no", "吾輩は猫である。名前はまだ無い。", "吾輩は猫である 名前はまだ無い"]
    assert found(NearDuplicates(), texts) == [(0, 0), (0, 1), (None, 0), (3, 0), (3, 1)]


def test_signatures_do_not_depend_on_the_batch() -> None:
    texts = [" ".join(sentence(seed, 50 + seed)) for seed in range(30)]
    whole = NearDuplicates().keys(pa.record_batch({"_text": texts}))[1]
    apart = [NearDuplicates().keys(pa.record_batch({"_text": [text]}))[1] for text in texts]
    assert np.array_equal(whole, np.concatenate(apart))


@pytest.mark.parametrize("similarity", [0.5, 0.7, 0.8, 0.9])
def test_pairs_become_duplicates_as_often_as_the_docstring_says(similarity: float) -> None:
    num_words, num_pairs = 400, 300
    shared = round(2 * num_words * similarity / (1 + similarity))  # of runs of one word: Jaccard similarity of sets
    texts = []
    for pair in range(num_pairs):
        words = [f"{pair}x{number}" for number in range(2 * num_words - shared)]
        texts += [" ".join(words[:num_words]), " ".join(words[-num_words:])]
    groups = found(NearDuplicates(num_words=1), texts)
    rate = sum(group is not None for group, _ in groups) / len(groups)
    exact = shared / (2 * num_words - shared)
    expected = 1 - (1 - exact**8) ** 14
    assert abs(rate - expected) < 4 * (expected * (1 - expected) / num_pairs) ** 0.5 + 0.01


@pytest.mark.parametrize("name", ["num_words", "bands", "rows"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^NearDuplicates: {name} is 0; expected 1 or more$"):
        NearDuplicates(**{name: 0})  # type: ignore[arg-type]


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    duplicates._minhash.cache_clear()
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(
        ImportError, match=r"^NearDuplicates needs the rensa library: pip install 'mixlake\[duplicates\]'$"
    ):
        NearDuplicates()


# Groups


@given(edges=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=60))
def test_what_hangs_together_is_what_networkx_says(edges: list[tuple[int, int]]) -> None:
    forest = components(np.array(edges, np.int64).reshape(-1, 2))
    expected = [(node, min(nodes)) for nodes in networkx.connected_components(networkx.Graph(edges)) for node in nodes]
    assert [tuple(row) for row in forest.tolist()] == sorted(expected)


def test_a_long_chain_is_one_group() -> None:
    order = np.random.default_rng(0).permutation(20_000)
    assert set(components(np.stack([order[:-1], order[1:]], axis=1))[:, 1].tolist()) == {0}


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is spilled and merged after a few keys."""
    monkeypatch.setattr(duplicates, "_KEYS_IN_MEMORY", 50)
    monkeypatch.setattr(duplicates, "_EDGES_IN_MEMORY", 10)


@pytest.mark.usefixtures("small_memory")
def test_groups_do_not_depend_on_how_much_fits_in_memory() -> None:
    texts = [f"text {number}" for number in np.random.default_rng(0).integers(0, 300, 1000)]
    groups = found(ExactDuplicates(), *(texts[start : start + 7] for start in range(0, len(texts), 7)))
    first: dict[str, int] = {}
    seen: dict[str, int] = {}
    for index, (text, (group, rank)) in enumerate(zip(texts, groups, strict=True)):
        assert rank == seen.get(text, 0)
        assert group == (first.setdefault(text, index) if texts.count(text) > 1 else None)
        seen[text] = rank + 1
