"""Randomness as a pure function: raw Philox words keyed by (seed, purpose) and addressed by up to three numbers.

Only the raw words are used, never the methods of `numpy.random.Generator`: NumPy keeps bit streams stable between
versions, but not what its methods make of them.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from mixlake.catalog.records import IntArray

_MASK = (1 << 64) - 1


class Purpose(IntEnum):
    """What a stream of random words decides; streams of different purposes never meet."""

    SEGMENTS = 1
    """The order of the segments of the index in a pass."""
    BLOCKS = 2
    """The order of the blocks of a segment in a pass."""
    ROWS = 3
    """The order in which a cell takes its rows of a window of blocks."""
    DELIVERY = 4
    """The order in which a component's samples of a chunk are delivered."""


def permutation(num: int, seed: int, purpose: Purpose, *address: int) -> IntArray:
    """Return a permutation of ``range(num)`` that depends on nothing but the arguments.

    >>> permutation(5, 0, Purpose.BLOCKS, 7).tolist() == permutation(5, 0, Purpose.BLOCKS, 7).tolist()
    True
    """
    if len(address) > 3:
        raise ValueError(f"an address has at most 3 numbers, got {address}")
    # The lowest word of the counter runs while words are drawn; the address takes the words above it.
    counter = np.array([0, *address, *([0] * (3 - len(address)))], np.uint64)
    key = np.array([seed & _MASK, int(purpose)], np.uint64)
    words = np.random.Philox(counter=counter, key=key).random_raw(num)
    return np.argsort(np.asarray(words), kind="stable").astype(np.int64)
