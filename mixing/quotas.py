"""Exact proportions: which component comes next, and what each is owed.

Components are flows that share one link, samples are packets. The rule is worst-case fair weighted fair queueing
(WF2Q; Bennett and Zhang, INFOCOM 1996): of the components that are not ahead of their share, the one whose next sample
would be finished first under perfectly fluid sharing. No component is then ever ahead of its share by more than one of
its samples, nor behind by more than one sample, whatever the weights and sizes, at every prefix.

What a component is owed is its credit: its share of all units given out so far, minus what it got. Credits are integers
(shares are integers out of ``SCALE``), so nothing drifts however long a run is, and they sum to zero.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

SCALE = 1 << 48
"""Shares are whole numbers of 1/SCALE; a weight is honoured to 4e-15."""


def integer_shares(weights: Sequence[float]) -> list[int]:
    """Return weights as integers that sum to SCALE, by largest remainders.

    >>> integer_shares([1.0, 3.0]) == [SCALE // 4, 3 * SCALE // 4]
    True
    """
    exact = [weight.as_integer_ratio() for weight in weights]
    denominator = max(d for _, d in exact)  # powers of two: the largest is a multiple of all
    return _apportion(SCALE, [n * (denominator // d) for n, d in exact])


class FairQueue:
    """Says which component comes next.

    Every component is told the size of its next sample; ``take`` moves it on. Components with a zero share never come.
    """

    def __init__(self, shares: Sequence[int], credits: Sequence[int], next_sizes: Sequence[int]) -> None:
        assert sum(shares) == SCALE
        self._shares = list(shares)
        self._credits = list(credits)
        self._taken = [0] * len(shares)
        self._clock = 0
        self._waiting: list[tuple[float, int, int]] = []  # (virtual start, component, next size): ahead of their share
        self._ready: list[tuple[float, int, int]] = []  # (virtual finish, component, next size)
        for component, size in enumerate(next_sizes):
            if shares[component]:
                self._push(component, size)

    @property
    def clock(self) -> int:
        """Units given out since this queue was made."""
        return self._clock

    def credits(self) -> list[int]:
        """Return what each component is owed now, in units times SCALE; the sum is zero if it was at the start."""
        triples = zip(self._credits, self._shares, self._taken, strict=True)
        return [credit + share * self._clock - taken * SCALE for credit, share, taken in triples]

    def peek(self) -> int:
        """Return the component whose turn it is."""
        while self._waiting and self._waiting[0][0] <= self._clock:
            self._make_ready()
        if not self._ready:  # all are ahead by less than floating point can tell
            self._make_ready()
        return self._ready[0][1]

    def take(self, next_size: int) -> None:
        """Give the component of ``peek`` its sample; ``next_size`` is the size of its sample after that."""
        _, component, size = heapq.heappop(self._ready)
        self._taken[component] += size
        self._clock += size
        self._push(component, next_size)

    def _push(self, component: int, size: int) -> None:
        share = self._shares[component]
        # owed = credit + share·t - taken·SCALE becomes zero at t = start.
        start = (self._taken[component] * SCALE - self._credits[component]) / share
        heapq.heappush(self._waiting, (start, component, size))

    def _make_ready(self) -> None:
        start, component, size = heapq.heappop(self._waiting)
        heapq.heappush(self._ready, (start + size * (SCALE / self._shares[component]), component, size))


def without(component: int, shares: Sequence[int], credits: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return shares and credits after a component has left: the others share both, in proportion to their shares.

    Raises:
        ValueError: no other component has a share.
    """
    rest = [0 if index == component else share for index, share in enumerate(shares)]
    if not any(rest):
        raise ValueError("no component is left to share the weight")
    new_shares = _apportion(SCALE, rest)
    moved = _apportion(credits[component], rest)
    kept = [0 if index == component else credit for index, credit in enumerate(credits)]
    return new_shares, [credit + gift for credit, gift in zip(kept, moved, strict=True)]


def _apportion(amount: int, proportions: Sequence[int]) -> list[int]:
    """Split a whole amount, which may be negative, in proportion; the parts sum to it exactly."""
    total = sum(proportions)
    parts = [amount * p // total for p in proportions]
    remainders = [amount * p % total for p in proportions]
    by_remainder = sorted(range(len(parts)), key=lambda i: (-remainders[i], i))
    for index in by_remainder[: amount - sum(parts)]:
        parts[index] += 1
    return parts
