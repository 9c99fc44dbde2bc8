"""Shares within bounds: all that sum to 1 and are neither below their floors nor above their caps.

Arrays have one entry per component, shape (K,). Floors and caps are numbers for all components, or arrays.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_LEAST = 1e-200
"""In place of 0: a share of nothing has no proportion to keep, and goes to the floor."""


def within(shares: FloatArray, floor: float | FloatArray, cap: float | FloatArray) -> FloatArray:
    """Return the shares ``clip(c * shares, floor, cap)``, with the one c for which they sum to 1.

    Those that are not at a bound keep their proportions. The sum is piecewise linear in c, so c is found exactly: the
    last corner at which the sum is at most 1, and from there along the line.

    >>> within(np.array([0.01, 0.19, 0.8]), 0.1, 0.6).round(4).tolist()
    [0.1, 0.3, 0.6]
    """
    shares = np.maximum(shares, _LEAST)
    low, high = floor / shares, cap / shares
    corners = np.sort(np.concatenate([[0.0], low, high]))
    sums = np.array([np.clip(corner * shares, floor, cap).sum() for corner in corners])
    last = int(np.searchsorted(sums, 1.0, side="right")) - 1
    slope = shares[(low <= corners[last]) & (corners[last] < high)].sum()
    scale = corners[last] + (1 - sums[last]) / slope if slope > 0 else corners[last]
    clipped = np.clip(scale * shares, floor, cap)
    result: FloatArray = clipped / clipped.sum()
    return result


def nearest(point: FloatArray, floor: FloatArray, cap: FloatArray) -> FloatArray:
    """Return the shares within bounds that are nearest to a point, in the sense of Euclid.

    They are ``clip(point - c, floor, cap)`` with the c for which they sum to 1; found exactly, corner by corner.

    >>> nearest(np.array([0.9, 0.6, -0.1]), np.zeros(3), np.ones(3)).round(4).tolist()
    [0.65, 0.35, 0.0]
    """
    corners = np.sort(np.concatenate([point - floor, point - cap]))[::-1]  # of c, from where all are at their floors
    sums = np.clip(point - corners[:, None], floor, cap).sum(axis=1)
    last = max(int(np.searchsorted(sums, 1.0, side="right")) - 1, 0)
    is_free = (point - cap < corners[last]) & (corners[last] <= point - floor)
    shift = corners[last] - (1 - sums[last]) / max(int(is_free.sum()), 1)
    clipped = np.clip(point - shift, floor, cap)
    result: FloatArray = clipped / clipped.sum()
    return result
