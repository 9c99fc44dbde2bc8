"""The cache of decoded pieces keeps to its bytes."""

from __future__ import annotations

import errno
import os
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


def test_a_piece_that_had_to_leave_memory_and_comes_back_is_spilled() -> None:
    cache, decodes, spills = ReadCache(10), [], []

    def get(name: str) -> str:
        def decode() -> tuple[str, int]:
            decodes.append(name)
            return name, 6

        def spill(piece: str) -> tuple[str, int]:
            spills.append(piece)
            return f"{piece} on disk", 6

        found: str = cache.get(name, decode, spill=spill)
        return found

    assert [get(name) for name in "abab"] == ["a", "b", "a on disk", "b"]
    assert (decodes, spills) == (["a", "b", "a"], ["a"])
    assert [get(name) for name in "abcb"] == ["a on disk", "b", "c", "b on disk"]


def test_where_there_is_no_space_to_spill_pieces_are_decoded_again() -> None:
    cache, decodes = ReadCache(10), []

    def decode(name: str) -> tuple[str, int]:
        decodes.append(name)
        return name, 6

    def no_space(_: str) -> tuple[str, int]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert [cache.get(name, partial(decode, name), spill=no_space) for name in "abab"] == list("abab")
    assert decodes == ["a", "b", "a", "a", "b", "b"]  # once more for what could not be written


def test_what_was_begun_is_waited_for_instead_of_decoded() -> None:
    cache = ReadCache(100, max_begun_bytes=10)
    assert cache.begin("a", lambda: lambda: ("begun", 8), 8)
    assert cache.begin("a", lambda: lambda: ("begun twice", 8), 8)
    assert not cache.begin("b", lambda: lambda: ("no room", 8), 8)
    assert cache.get("a", lambda: ("decoded", 8)) == "begun"
    assert cache.begin("a", lambda: lambda: ("begun though it is there", 8), 8)
    assert cache.get("a", lambda: ("decoded", 8)) == "begun"
    assert cache.begin("b", lambda: lambda: ("begun", 8), 8)
    assert cache.get("b", lambda: ("decoded", 8)) == "begun"
    assert not ReadCache(100).begin("a", lambda: lambda: ("no room at all", 1), 1)
