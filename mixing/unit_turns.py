"""Turns among few components whose samples all count one: many stretches of them are found side by side.

Where as many samples as there are turns were owed, all of them have been served, whichever came first: there the state
of every component is known. Components that are few meet such points often, so the turns are cut there into stretches
that do not depend on one another, and all stretches go forward by one turn at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mixlake.catalog.records import IntArray

_NEVER = 1 << 62
_LATEST_RANK = 1 << 59
"""Ranks end here, so that the component fits in beside them."""
_TURNS_PER_STRETCH = 64
_MOST_TURNS_PER_STRETCH = 4096
_LEAST_STRETCHES = 128
_MOST_COMPONENTS = 8


def unit_turns(starts: Sequence[IntArray], ranks: Sequence[IntArray], num: int) -> IntArray | None:
    """Return the components of ``num`` turns, each the one of the lowest rank among the samples that may start.

    Return None where that is better found turn by turn.

    Args:
        starts: per component, the turn from which on each of its samples may come, ascending.
        ranks: per component, the ranks of these samples, ascending; of equal ones the first component's comes first.
        num: how many turns.
    """
    if len(starts) > _MOST_COMPONENTS or num < _LEAST_STRETCHES * _TURNS_PER_STRETCH:
        return None
    starts = [np.clip(part, 0, num) for part in starts]
    owed = np.cumsum(np.bincount(np.concatenate(starts), minlength=num + 1))  # until a turn, with the turn
    if (owed[:num] <= np.arange(num)).any():  # somebody comes before it is owed anything
        return None
    settled = np.append(0, np.flatnonzero(owed[:num] == np.arange(1, num + 1)) + 1)
    place = np.searchsorted(settled, np.arange(0, num, _TURNS_PER_STRETCH))
    begins = np.unique(settled[place[place < len(settled)]])
    begins = begins[begins < num]
    lengths = np.diff(np.append(begins, num))
    if lengths.max() > _MOST_TURNS_PER_STRETCH:
        return None
    stretch = np.repeat(np.arange(len(begins)), lengths)
    turns = _side_by_side(starts, ranks, begins, int(lengths.max()))
    return np.asarray(turns[np.arange(num) - begins[stretch], stretch])


def _side_by_side(starts: Sequence[IntArray], ranks: Sequence[IntArray], begins: IntArray, num: int) -> IntArray:
    """Return the components of ``num`` turns from each of some turns on; one row per turn, one column per beginning."""
    bits = (len(starts) - 1).bit_length()
    # Each component's samples, and behind them one that never comes; behind all of them as many as can be asked for
    # once nothing is left, which is not in the answer. The key tells rank and component.
    never = np.full(num, _NEVER)
    start = np.concatenate([*(np.append(part, _NEVER) for part in starts), never])
    key = np.concatenate(
        [
            *(np.append(np.minimum(part, _LATEST_RANK) << bits | index, _NEVER) for index, part in enumerate(ranks)),
            never,
        ]
    )
    first = np.cumsum([0, *(len(part) + 1 for part in starts[:-1])])
    at = np.stack([begin + part.searchsorted(begins) for begin, part in zip(first.tolist(), starts, strict=True)])
    starts_here, keys_here = start[at], key[at]
    at_flat, starts_flat, keys_flat = at.ravel(), starts_here.ravel(), keys_here.ravel()
    found = np.empty((num, len(begins)), np.int64)
    column, clock = np.arange(len(begins)), begins.copy()
    for turns in found:
        lowest = np.where(starts_here <= clock, keys_here, _NEVER).min(axis=0)
        np.bitwise_and(lowest, (1 << bits) - 1, out=turns)
        served = turns * len(begins) + column
        following = at_flat[served] + 1
        at_flat[served], starts_flat[served], keys_flat[served] = following, start[following], key[following]
        clock += 1
    return found
