"""The cache of decoded pieces keeps to its bytes."""

from __future__ import annotations

from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog.read_cache import ReadCache

Request = tuple[str, int]


def decoded(cache: ReadCache, *requests: Request) -> list[str]:
    """Ask for pieces and return the names of those that had to be decoded."""
    names: list[str] = []

    def decode(request: Request) -> Request:
        names.append(request[0])
        return request

    assert [cache.get(request[0], partial(decode, request)) for request in requests] == [name for name, _ in requests]
    return names


def decoded_by_a_list(max_bytes: int, requests: list[Request]) -> list[str]:
    """The same for a list of pieces, the one used last at its end: the reference."""
    names: list[str] = []
    kept: list[Request] = []
    for request in requests:
        if request in kept:
            kept.remove(request)
        else:
            names.append(request[0])
        kept.append(request)
        while sum(num_bytes for _, num_bytes in kept) > max_bytes and len(kept) > 1:
            kept.pop(0)
    return names


def test_a_piece_is_decoded_once_while_it_is_kept() -> None:
    assert decoded(ReadCache(10), ("a", 4), ("b", 4), ("a", 4), ("b", 4)) == ["a", "b"]


def test_the_piece_that_was_used_longest_ago_leaves_first() -> None:
    assert decoded(ReadCache(10), ("a", 4), ("b", 4), ("a", 4), ("c", 4), ("a", 4), ("b", 4)) == ["a", "b", "c", "b"]


def test_a_piece_that_is_larger_than_the_cache_is_kept_alone() -> None:
    assert decoded(ReadCache(10), ("a", 4), ("b", 40), ("b", 40), ("a", 4), ("a", 4)) == ["a", "b", "a"]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from("abcdef"), max_size=30), st.integers(0, 20))
def test_the_cache_keeps_what_a_list_of_the_pieces_used_last_would(names: list[str], max_bytes: int) -> None:
    requests = [(name, 1 + 2 * "abcdef".index(name)) for name in names]
    assert decoded(ReadCache(max_bytes), *requests) == decoded_by_a_list(max_bytes, requests)
