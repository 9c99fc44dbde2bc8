"""Inferred shares are what their formulas say, and keep their limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlake.mixing.inference import inferred_shares, tempered, unimax
from mixlake.mixing.mixture import Inference, UniMax
from mixlake.mixing.simplex import within

units = st.lists(st.floats(1, 1e12), min_size=1, max_size=30).map(np.array)


@given(units=units, temperature=st.floats(0.1, 100))
def test_temperature_keeps_the_order_and_sums_to_one(units: np.ndarray, temperature: float) -> None:
    shares = tempered(units, temperature)
    assert shares.sum() == pytest.approx(1)
    assert (np.diff(shares[np.argsort(units)]) >= -1e-12).all()


@given(units=units, part=st.floats(0, 1))
def test_a_floor_holds_for_all_and_leaves_the_proportions_of_the_others(units: np.ndarray, part: float) -> None:
    floor = part / len(units)
    before = tempered(units, 1.0)
    after = within(before, floor, 1.0)
    assert after.sum() == pytest.approx(1)
    assert (after >= floor - 1e-12).all()
    above = after > floor + 1e-9
    factors = after[above] / before[above]
    assert np.allclose(factors, factors[:1])


@given(units=units, budget=st.floats(1, 1e13), passes=st.integers(1, 8))
def test_unimax_is_even_but_for_those_that_would_be_repeated_too_often(
    units: np.ndarray, budget: float, passes: int
) -> None:
    shares = unimax(units, UniMax(budget=budget, max_passes=passes))
    spent = shares * min(budget, units.sum() * passes)
    assert shares.sum() == pytest.approx(1)
    assert (spent <= units * passes * (1 + 1e-9)).all()
    is_full = np.isclose(spent, units * passes)
    assert np.allclose(spent[~is_full], spent.max())


def test_components_that_hold_nothing_have_no_share() -> None:
    assert inferred_shares([0, 1, 3], Inference(by=("x",), floor=0.3), "mixture") == pytest.approx([0, 0.3, 0.7])
