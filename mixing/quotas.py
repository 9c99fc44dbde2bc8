"""Exact proportions: which component comes next, and what each is owed.

Components are flows that share one link, samples are packets. The rule is worst-case fair weighted fair queueing
(WF2Q; Bennett and Zhang, INFOCOM 1996): of the components that are not ahead of their share, the one whose next sample
would be finished first under perfectly fluid sharing. No component is then ever ahead of its share by more than one of
its samples, nor behind by more than one sample, whatever the weights and sizes, at every prefix.

What a component is owed is its credit: its share of all units given out so far, minus what it got. Credits are integers
(shares are integers out of ``SCALE``), so nothing drifts however long a run is, and they sum to zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush, heappushpop
from typing import NamedTuple

import numpy as np

from mixlake.catalog.records import IntArray
from mixlake.mixing.unit_turns import unit_turns

SCALE = 1 << 48
"""Shares are whole numbers of 1/SCALE; a weight is honoured to 4e-15."""
_TIME_BITS = 8
"""Virtual times are whole numbers of 2^-8 units; finish times that are nearer to one another are a tie."""
_LATEST = 1 << 62
"""Virtual times end here, at 2^54 units."""
_NEVER = 1 << 62
_LEANING = 8
"""What a lane is owed, over what its chunks lean towards."""
_DIGIT_BITS = 14
_LEAST_PER_FLOW = 2048
"""Samples per component from which on each component's times are found apart."""
_ONE = np.ones(1, np.int64)


def integer_shares(weights: Sequence[float]) -> list[int]:
    """Return weights as integers that sum to SCALE, by largest remainders.

    >>> integer_shares([1.0, 3.0]) == [SCALE // 4, 3 * SCALE // 4]
    True
    """
    exact = [weight.as_integer_ratio() for weight in weights]
    denominator = max(d for _, d in exact)  # powers of two: the largest is a multiple of all
    return _apportion(SCALE, [n * (denominator // d) for n, d in exact])


class Turns(NamedTuple):
    """Whose turn it is, sample by sample."""

    components: IntArray
    """Component of each of the next samples."""
    is_due: bool
    """Whether the sample after these is of a component that has none left."""


def fair_turns(
    shares: Sequence[int],
    credits: Sequence[int],
    sizes: Sequence[IntArray],
    is_all: Sequence[bool],
    num: int,
    lean: Sequence[int] | None = None,
) -> Turns:
    """Return the components of up to ``num`` next samples: cut anywhere and continued, it is the same sequence.

    There are fewer where the next sample is of a component that has none left (it is found as if there were one more,
    of one unit), or where it cannot be told from the sizes that are known.

    Args:
        shares: per component, out of SCALE; components with a zero share never come.
        credits: per component, in units times SCALE.
        sizes: per component, the units of its next samples, as many as are known.
        is_all: per component, whether these are all that it has.
        num: how many turns to return.
        lean: per component, in units times SCALE, what to lean towards: above zero it is as urgent as if it were owed
            so much more; below zero it has to wait until it is owed so much. None is no leaning.
    """
    present = [index for index, share in enumerate(shares) if share]
    count_C = np.array([len(sizes[index]) + 1 for index in present])
    size = np.concatenate([part for index in present for part in (sizes[index], _ONE)])
    last_C = np.cumsum(count_C) - 1  # the sample that is not there, or not known
    finish, start = _windows(size, last_C, count_C, present, shares, credits, lean)
    start = -(-start >> _TIME_BITS)  # in whole units, as the clock is
    is_known = np.ones(len(size), bool)
    is_known[last_C] = [is_all[i] for i in present]
    horizon = int(start[~is_known].min(initial=_NEVER))
    if lean is None and (size == 1).all():
        known = [slice(last - count + 1, last + is_known[last]) for last, count in zip(last_C, count_C, strict=True)]
        found = unit_turns([start[part] for part in known], [finish[part] for part in known], min(num, horizon))
        if found is not None:
            return _until_due(found, present, [len(sizes[index]) for index in present])
    size[last_C] = _NEVER
    jobs = np.flatnonzero(is_known)
    by_finish = jobs[np.argsort(finish[jobs], kind="stable")]
    order = by_finish[:num]
    if len(order) < num or not _are_eligible(start[order], size[order], horizon):
        rank = np.empty_like(start)
        rank[by_finish] = np.arange(len(by_finish))
        by_start = jobs[np.argsort(start[jobs], kind="stable")]
        served = _serve(start[by_start].tolist(), rank[by_start].tolist(), size[by_finish].tolist(), num, horizon)
        order = by_finish[np.array(served, np.int64)]
    is_due = len(order) > 0 and bool(size[order[-1]] == _NEVER)
    component = np.searchsorted(last_C, order[: len(order) - is_due])
    return Turns(components=np.array(present, np.int64)[component], is_due=is_due)


def _windows(
    size: IntArray,
    last_C: IntArray,
    count_C: IntArray,
    present: Sequence[int],
    shares: Sequence[int],
    credits: Sequence[int],
    lean: Sequence[int] | None,
) -> tuple[IntArray, IntArray]:
    """Return when each sample would be finished, and when it may start, in 2^-_TIME_BITS units of the clock."""
    total = np.cumsum(size)
    total -= np.repeat(np.append(0, total[last_C[:-1]]), count_C)
    share_C, credit_C = [shares[i] for i in present], [credits[i] for i in present]
    if lean is None:
        finish = _virtual_times(total, count_C, share_C, credit_C)
        start = np.append(0, finish[:-1])  # a sample may start when the one before it would be finished
        start[last_C - count_C + 1] = [
            _clipped(-((credit << _TIME_BITS) // share)) for credit, share in zip(credit_C, share_C, strict=True)
        ]
        return finish, start
    urgent_C = [credits[i] + max(lean[i], 0) for i in present]
    waiting_C = [credits[i] + min(lean[i], 0) for i in present]
    finish = _virtual_times(total, count_C, share_C, urgent_C)
    return finish, _virtual_times(total - size, count_C, share_C, waiting_C)


def _until_due(turns: IntArray, present: Sequence[int], num_left: Sequence[int]) -> Turns:
    """Return turns up to the first of a component that has none left."""
    due = [np.flatnonzero(turns == index)[left:][:1] for index, left in enumerate(num_left)]
    stop = int(np.concatenate(due).min(initial=len(turns)))
    return Turns(components=np.array(present, np.int64)[turns[:stop]], is_due=stop < len(turns))


def credits_after(shares: Sequence[int], credits: Sequence[int], units: Sequence[int]) -> tuple[int, ...]:
    """Return what each component is owed once it got ``units``; the sum of the credits stays what it was."""
    total = sum(units)
    return tuple(c + share * total - got * SCALE for c, share, got in zip(credits, shares, units, strict=True))


def leaning(lane: int, credits_LK: Sequence[Sequence[int]]) -> list[int]:
    """Return what turns in a chunk of a lane lean towards: what the lane is owed beside the others, an eighth of it.

    Turns alone keep all lanes together to the weights, and not each of them: where a component is rare, or has a large
    sample next in one lane, its samples all may fall to the others. An eighth brings lanes back to within some samples,
    and moves no turn by more than a part of one.

    >>> leaning(0, [[80, -80], [-80, 80]])
    [10, -10]
    """
    num, sums = len(credits_LK), [sum(column) for column in zip(*credits_LK, strict=True)]
    return [(num * own - total) // (_LEANING * num) for own, total in zip(credits_LK[lane], sums, strict=True)]


def without(component: int, shares: Sequence[int], credits: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return shares and credits after a component has left: the others share both, in proportion to their shares.

    Raises:
        ValueError: no other component has a share.
    """
    rest = [0 if index == component else share for index, share in enumerate(shares)]
    if not any(rest):
        raise ValueError("no component is left to share the weight")
    return tuple(_apportion(SCALE, rest)), carried(credits, rest)


def carried(credits: Sequence[int], shares: Sequence[int]) -> tuple[int, ...]:
    """Return credits under new shares: what components without a share are owed, or owe, goes to those that have one.

    >>> carried([6, -6, 0], [1, 0, 2])
    (4, 0, -4)
    """
    left = sum(credit for credit, share in zip(credits, shares, strict=True) if not share)
    gifts = _apportion(left, shares)
    return tuple(credit + gift if share else 0 for credit, gift, share in zip(credits, gifts, shares, strict=True))


def _apportion(amount: int, proportions: Sequence[int]) -> list[int]:
    """Split a whole amount, which may be negative, in proportion; the parts sum to it exactly."""
    total = sum(proportions)
    parts = [amount * p // total for p in proportions]
    remainders = [amount * p % total for p in proportions]
    by_remainder = sorted(range(len(parts)), key=lambda i: (-remainders[i], i))
    for index in by_remainder[: amount - sum(parts)]:
        parts[index] += 1
    return parts


def _are_eligible(starts: IntArray, sizes: IntArray, horizon: int) -> bool:
    """Say whether jobs may be served in a row, each before the horizon: the sizes of those before it are the clock.

    In the order of their finish times they may, unless some component has more than about twice the mean share.
    """
    clock = np.cumsum(sizes) - sizes
    return bool(((starts <= clock) & (clock < horizon)).all())


def _serve(starts: list[int], ranks: list[int], sizes: list[int], num: int, horizon: int) -> list[int]:
    """Serve up to ``num`` jobs, each time the one of the lowest rank among those that may start; return the ranks.

    Args:
        starts: when each job may start, ascending; the clock is the sum of the sizes served.
        ranks: the rank of each of these jobs.
        sizes: size of each job, by rank.
        num: how many to serve.
        horizon: where the clock stops.
    """
    coming = iter(zip([*starts, _NEVER], [*ranks, len(ranks)], strict=True))
    start, rank = next(coming)
    waiting: list[int] = []
    served: list[int] = []
    clock = 0
    for _ in range(num):
        if clock >= horizon:
            break
        if start > clock and waiting:
            best = heappop(waiting)
        elif start == _NEVER:
            break
        else:  # one at least; if nobody is owed anything, as where credits left with a component, whoever is first
            best = rank
            start, rank = next(coming)
            while start <= clock:
                heappush(waiting, best)
                best = rank
                start, rank = next(coming)
            best = heappushpop(waiting, best)
        served.append(best)
        clock += sizes[best]
    return served


def _virtual_times(units: IntArray, count_C: IntArray, shares: Sequence[int], credits: Sequence[int]) -> IntArray:
    """Return when its component has been owed each of ``units``, in 2^-_TIME_BITS units of the clock, rounded up.

    The ceiling of (units · SCALE - credit) / share. So rounded, two times are in the same order wherever the clock
    began, and each is on the same side of every whole unit as it was: that is what the proof of WF2Q's bounds for
    samples of one unit needs.

    Args:
        units: units that a component got when it has got a sample; one component's samples after the other's.
        count_C: how many samples each has there.
        shares: by component.
        credits: by component.
    """
    step = SCALE << _TIME_BITS
    base = [_clipped((-credit << _TIME_BITS) // share) for share, credit in zip(shares, credits, strict=True)]
    rest = [(-credit << _TIME_BITS) % share for share, credit in zip(shares, credits, strict=True)]
    room = [max(0, _LATEST - b) // (step // share + 1) for b, share in zip(base, shares, strict=True)]
    flows = list(zip(base, rest, room, shares, strict=True))
    if len(units) < _LEAST_PER_FLOW * len(shares):
        return _times(units, *np.repeat(np.array(flows, np.int64), count_C, axis=0).T)
    ends = np.cumsum(count_C).tolist()
    starts = [0, *ends[:-1]]
    return np.concatenate([_times(units[a:b], *flow) for a, b, flow in zip(starts, ends, flows, strict=True)])


def _times(
    units: IntArray, base: IntArray | int, rest: IntArray | int, room: IntArray | int, share: IntArray | int
) -> IntArray:
    """Return base + ⌈(units · SCALE · 2^_TIME_BITS + rest) / share⌉, and ``_LATEST`` for more units than there is room.

    It is exact in 64 bits, as the product is divided by digits. NumPy divides by one number several times as fast as
    by one of each row.
    """
    whole, part = np.divmod(np.int64(SCALE << _TIME_BITS), share)
    within = np.minimum(units, room)
    quotient, remainder = np.zeros_like(units), np.zeros_like(units)
    num_digits = -(-int(within.max(initial=0)).bit_length() // _DIGIT_BITS)
    for shift in range((num_digits - 1) * _DIGIT_BITS, -1, -_DIGIT_BITS):
        digit = within >> shift & ((1 << _DIGIT_BITS) - 1)
        dividend = (remainder << _DIGIT_BITS) + digit * part
        more: IntArray = np.floor_divide(dividend, share)  # half the time of np.divmod
        remainder = dividend - more * share
        quotient = (quotient << _DIGIT_BITS) + more
    exact = base + within * whole + quotient - (-(remainder + rest) // share)
    return np.where(within < units, _LATEST, exact)


def _clipped(time: int) -> int:
    return min(max(time, -_LATEST >> 1), _LATEST)
