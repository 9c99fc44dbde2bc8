"""Randomness as a pure function: raw Philox words keyed by (seed, purpose) and addressed by up to three numbers.

Only the raw words are used, never the methods of `numpy.random.Generator`: NumPy keeps bit streams stable between
versions, but not what its methods make of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from mixlake.catalog.records import IntArray

_MASK = (1 << 64) - 1


class Purpose(IntEnum):
    """What a stream of random words decides; streams of different purposes never meet."""

    SEGMENTS = 1
    """The order of the segments of the index in a pass."""
    BLOCKS = 2
    """The order of the blocks of a segment in a pass."""
    ROWS = 3
    """The order in which rows of the same window of blocks are taken in a pass."""
    DELIVERY = 4
    """The order in which a component's samples of a chunk are delivered."""


def permutation(num: int, seed: int, purpose: Purpose, *address: int) -> IntArray:
    """Return a permutation of ``range(num)`` that depends on nothing but the arguments.

    >>> permutation(5, 0, Purpose.BLOCKS, 7).tolist() == permutation(5, 0, Purpose.BLOCKS, 7).tolist()
    True
    """
    return np.argsort(_words(num, seed, purpose, *address), kind="stable").astype(np.int64)


def permutations(nums: Sequence[int], seed: int, purpose: Purpose, *address: int) -> list[IntArray]:
    """Return a permutation for each of some numbers; each has its place among them as the last number of its address.

    >>> [each.tolist() for each in permutations([3, 0, 5], 0, Purpose.DELIVERY, 7)] == [
    ...     permutation(num, 0, Purpose.DELIVERY, 7, place).tolist() for place, num in enumerate([3, 0, 5])]
    True
    """
    philox = _philox(seed, purpose, *address, 0)
    state = philox.state  # to set it takes a third of the time that another one takes to be made
    permuted = []
    for place, num in enumerate(nums):
        state["state"]["counter"][1 + len(address)] = place
        philox.state = state
        permuted.append(np.argsort(philox.random_raw(num), kind="stable").astype(np.int64, copy=False))
    return permuted


def scattered(values: IntArray, seed: int, purpose: Purpose, *address: int) -> npt.NDArray[np.uint64]:
    """Return a random word for each of some numbers, the same wherever the number stands.

    The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) of the number and a key, which is a Philox word.
    """
    words: npt.NDArray[np.uint64] = values.astype(np.uint64) + _words(1, seed, purpose, *address)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    return words ^ (words >> np.uint64(31))


def _words(num: int, seed: int, purpose: Purpose, *address: int) -> npt.NDArray[np.uint64]:
    return np.asarray(_philox(seed, purpose, *address).random_raw(num))


def _philox(seed: int, purpose: Purpose, *address: int) -> np.random.Philox:
    if len(address) > 3:
        raise ValueError(f"an address has at most 3 numbers, got {address}")
    # The lowest word of the counter runs while words are drawn; the address takes the words above it.
    counter = np.array([0, *address, *([0] * (3 - len(address)))], np.uint64)
    key = np.array([seed & _MASK, int(purpose)], np.uint64)
    return np.random.Philox(counter=counter, key=key)
