"""Turns that are found side by side are those that are found turn by turn."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.mixing import quotas, unit_turns
from mixlake.mixing.quotas import SCALE, Turns, credits_after, fair_turns, integer_shares

weights_lists = st.lists(st.floats(1e-3, 1.0) | st.sampled_from([0.5, 1.0, 1e-6]), min_size=1, max_size=8)


@contextmanager
def stretches(*, turns: int, least: int, found: list[bool] | None = None) -> Iterator[None]:
    """Short stretches; whether turns were found side by side is written down."""
    search = unit_turns.unit_turns
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unit_turns, "_TURNS_PER_STRETCH", turns)
        patch.setattr(unit_turns, "_LEAST_STRETCHES", least)

        def counted(*arguments: object) -> object:
            result = search(*arguments)  # type: ignore[arg-type]
            if found is not None:
                found.append(result is not None)
            return result

        patch.setattr(quotas, "unit_turns", counted)
        yield


def turns(shares: list[int], credits: tuple[int, ...], known: list[int], is_all: list[bool], num: int) -> Turns:
    return fair_turns(shares, credits, [np.ones(size, np.int64) for size in known], is_all, num)


def both(shares: list[int], credits: tuple[int, ...], known: list[int], is_all: list[bool], num: int) -> bool:
    """Check that the turns are the same either way; say whether they were found side by side."""
    found: list[bool] = []
    with stretches(turns=16, least=1, found=found):
        beside = turns(shares, credits, known, is_all, num)
    with stretches(turns=1 << 40, least=1):
        after = turns(shares, credits, known, is_all, num)
    assert beside.components.tolist() == after.components.tolist()
    assert beside.is_due == after.is_due
    return found[0]


@settings(deadline=None, max_examples=60)
@given(weights=weights_lists, num=st.integers(16, 600), begun=st.integers(0, 50), data=st.data())
def test_they_are_the_same_for_any_weights_wherever_a_run_stands_and_whoever_runs_out(
    weights: list[float], num: int, begun: int, data: st.DataObject
) -> None:
    shares = integer_shares(weights)
    credits: tuple[int, ...] = (0,) * len(shares)
    if begun:
        before = turns(shares, credits, [begun + 1] * len(shares), [False] * len(shares), begun)
        counts = np.bincount(before.components, minlength=len(shares)).tolist()
        credits = credits_after(shares, credits, counts)
    wanted = [num * share // SCALE + 3 for share in shares]
    known = [data.draw(st.sampled_from([size, size // 2, size // 4])) for size in wanted]
    is_all = [data.draw(st.booleans()) for _ in shares]
    both(shares, credits, known, is_all, num)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0], [0.4, 0.25, 0.15, 0.12, 0.08], [0.31, 0.29, 0.21, 0.12, 0.07]])
def test_few_components_meet_often_enough(weights: list[float]) -> None:
    shares = integer_shares(weights)
    num = 20_000
    known = [num * share // SCALE + 3 for share in shares]
    assert both(shares, (0,) * len(shares), known, [False] * len(shares), num)


def test_many_components_take_turns_one_by_one() -> None:
    shares = integer_shares([1.0] * 20)
    assert not both(shares, (0,) * 20, [100] * 20, [False] * 20, 1_000)
