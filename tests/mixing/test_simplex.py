"""Shares within bounds hold them, and are the ones that their formulas say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlake.mixing.simplex import nearest, within

simplex = st.lists(st.floats(0, 1), min_size=2, max_size=8).filter(lambda weights: sum(weights) > 0.1)


@given(weights=simplex, bounds=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_bounds_hold_and_proportions_are_kept_between_them(weights: list[float], bounds: tuple[float, float]) -> None:
    num = len(weights)
    floor, cap = bounds[0] / num, 1 / num + bounds[1] * (1 - 1 / num)
    shares = np.array(weights) / sum(weights)
    bounded = within(shares, floor, cap)
    assert bounded.sum() == pytest.approx(1)
    assert (bounded >= floor - 1e-12).all()
    assert (bounded <= cap + 1e-12).all()
    free = (bounded > floor + 1e-9) & (bounded < cap - 1e-9) & (shares > 1e-9)
    ratios = bounded[free] / shares[free]
    assert ratios == pytest.approx(np.full(len(ratios), ratios.mean() if len(ratios) else 0), rel=1e-6)


@st.composite
def bounded_points(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A point anywhere, and floors and caps between which there are shares."""
    num = draw(st.integers(1, 8))
    numbers = [draw(st.lists(st.floats(low, 1), min_size=num, max_size=num)) for low in (-1, 0, 0)]
    point, low, high = map(np.array, numbers)
    floor = low / num
    return 3 * point, floor, np.maximum(floor, 1 / num + high * (1 - 1 / num))


@given(given=bounded_points())
def test_the_nearest_shares_are_the_point_moved_along_the_diagonal_and_clipped(
    given: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    point, floor, cap = given
    shares = nearest(point, floor, cap)
    low, high = -5.0, 5.0
    for _ in range(80):  # the shift by bisection: the sum of the clipped point falls with it
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(point - middle, floor, cap).sum() > 1 else (low, middle)
    assert shares == pytest.approx(np.clip(point - low, floor, cap), abs=1e-9)
    assert shares.sum() == pytest.approx(1)
