"""Proportions are exact at every prefix, for any weights and sizes."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, cycle, islice
from math import ceil

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixlake.mixing.quotas import SCALE, Turns, credits_after, fair_turns, integer_shares, leaning, without

TIE = 256
"""Finish times are compared as whole numbers of 1/256 unit."""
TINY_AND_BIG = [1e-4] * 200 + [1.0]

weights_lists = st.lists(st.floats(1e-6, 1.0) | st.just(1e-6), min_size=1, max_size=12)
size_lists = st.lists(st.integers(0, 50) | st.integers(1, 10_000), min_size=1, max_size=8)


def repeated(sizes: Sequence[Sequence[int]], num: int) -> list[list[int]]:
    return [list(islice(cycle(s), num)) for s in sizes]


def reference(shares: Sequence[int], credits: Sequence[int], sizes: Sequence[Sequence[int]], num: int) -> list[int]:
    """The rule as it is written: of those not ahead of their share, whose next sample would be finished first."""
    credits, coming = list(credits), [iter(s) for s in sizes]
    heads = [next(c) for c in coming]
    clock, order = 0, []
    start = [Fraction(-credit, share) if share else None for credit, share in zip(credits, shares, strict=True)]
    for _ in range(num):
        present = [(i, s) for i, s in enumerate(start) if s is not None]
        ready = [(i, s) for i, s in present if s <= clock]
        finish = {i: s + Fraction(heads[i] * SCALE, shares[i]) for i, s in ready}
        turn = min(finish, key=lambda i: (ceil(TIE * finish[i]), i))
        order.append(turn)
        clock += heads[turn]
        start[turn], heads[turn] = finish[turn], next(coming[turn])
    return order


class Model:
    """What each component got so far, from lists of sizes that are repeated for ever."""

    def __init__(
        self, shares: Sequence[int], sizes: Sequence[Sequence[int]] | None = None, credits: Sequence[int] | None = None
    ) -> None:
        self.shares = shares
        self.sizes = sizes if sizes is not None else [[1] for _ in shares]
        self.credits = tuple(credits or [0] * len(shares))
        self._taken = [0] * len(shares)

    def take(self, num: int) -> list[tuple[int, int]]:
        """Take samples; return component and size of each."""
        known = num
        while True:
            coming = [list(islice(cycle(s), n, n + known)) for s, n in zip(self.sizes, self._taken, strict=True)]
            turns = fair_turns(
                self.shares, self.credits, [np.array(c, np.int64) for c in coming], [False] * len(coming), num
            )
            if len(turns.components) == num:
                break
            known *= 2  # what comes after these sizes would have mattered
        heads = [iter(c) for c in coming]
        taken = [(component, next(heads[component])) for component in turns.components.tolist()]
        assert not turns.is_due
        units = [sum(size for c, size in taken if c == component) for component in range(len(coming))]
        self.credits = credits_after(self.shares, self.credits, units)
        self._taken = [n + sum(c == component for c, _ in taken) for component, n in enumerate(self._taken)]
        return taken


def credits_along(model: Model, taken: Sequence[tuple[int, int]]) -> list[list[int]]:
    """What each component is owed after every prefix."""
    steps = [[size if component == turn else 0 for component in range(len(model.shares))] for turn, size in taken]
    sums = accumulate(steps, lambda one, other: [a + b for a, b in zip(one, other, strict=True)])
    return [list(credits_after(model.shares, model.credits, units)) for units in sums]


# Shares


@given(weights=weights_lists)
def test_shares_sum_to_the_scale_and_each_is_the_weight_rounded(weights: list[float]) -> None:
    shares = integer_shares(weights)
    exact = [Fraction(weight) for weight in weights]
    assert sum(shares) == SCALE
    assert all(abs(share - SCALE * w / sum(exact)) < 1 for share, w in zip(shares, exact, strict=True))


def test_thirds_are_rounded_in_the_order_of_the_components() -> None:
    assert integer_shares([1.0, 1.0, 1.0]) == [SCALE // 3 + 1, SCALE // 3, SCALE // 3]


def test_shares_do_not_depend_on_how_large_the_weights_are() -> None:
    assert integer_shares([1e-300, 3e-300]) == integer_shares([0.5, 1.5]) == [SCALE // 4, 3 * SCALE // 4]


def test_a_zero_weight_has_no_share() -> None:
    assert integer_shares([0.0, 0.1, 0.2])[0] == 0


# Samples


def components(model: Model, num: int) -> list[int]:
    return [component for component, _ in model.take(num)]


def test_components_are_spread_evenly() -> None:
    assert components(Model(integer_shares([0.5, 0.25, 0.25])), 12) == [0, 1, 0, 2] * 3


def test_equal_components_take_turns() -> None:
    assert components(Model(integer_shares([1.0, 1.0, 1.0])), 9) == [0, 1, 2] * 3


def test_a_component_without_a_share_never_comes() -> None:
    assert components(Model(integer_shares([0.0, 1.0, 0.0, 2.0])), 6) == [3, 1, 3] * 2


def test_a_component_alone_always_comes() -> None:
    model = Model(integer_shares([0.1]))
    assert model.take(50) == [(0, 1)] * 50
    assert model.credits == (0,)


@settings(deadline=None, max_examples=60)
@given(weights=weights_lists, num=st.integers(1, 300))
@example(weights=[1.0, 1.0, 1.0], num=2000)
@example(weights=[1 / 3, 2 / 3], num=2000)
@example(weights=[1e-6, 1.0], num=2000)
@example(weights=[1e-6] * 11 + [1.0], num=2000)
@example(weights=TINY_AND_BIG, num=2000)
def test_every_prefix_is_within_one_sample_of_the_weights(weights: list[float], num: int) -> None:
    exact = [Fraction(w) / sum(map(Fraction, weights)) for w in weights]
    model = Model(integer_shares(weights))
    for length, credits in enumerate(credits_along(model, model_copy(model).take(num)), start=1):
        assert sum(credits) == 0
        assert max(map(abs, credits)) < SCALE
        for share, weight, credit in zip(model.shares, exact, credits, strict=True):
            assert abs(Fraction(credit - share * length, SCALE) + weight * length) < 1 + 1e-9


def model_copy(model: Model) -> Model:
    return Model(model.shares, model.sizes, model.credits)


def test_tiny_components_come_once_each_in_their_period() -> None:
    model = Model(integer_shares(TINY_AND_BIG))
    period = round(sum(TINY_AND_BIG) / 1e-4)
    for _ in range(3):
        order = components(model, period)
        assert [order.count(tiny) for tiny in range(200)] == [1] * 200


def test_a_weight_of_a_millionth_is_honoured_over_a_million_samples() -> None:
    shares = integer_shares([1e-6, 1 - 1e-6])
    turns = fair_turns(shares, [0, 0], [np.ones(1_000_000, np.int64)] * 2, [False] * 2, 1_000_000)
    assert np.bincount(turns.components).tolist() == [1, 999_999]
    assert max(map(abs, credits_after(shares, [0, 0], [1, 999_999]))) <= 1_000_000  # the share is rounded by below one


# Sizes


@settings(deadline=None)
@given(data=st.data(), weights=weights_lists, num=st.integers(1, 300))
def test_turns_are_those_of_the_rule_as_it_is_written(data: st.DataObject, weights: list[float], num: int) -> None:
    sizes = data.draw(st.lists(size_lists.filter(any), min_size=len(weights), max_size=len(weights)) | st.none())
    model = Model(integer_shares(weights), sizes)
    model.take(data.draw(st.integers(1, 40)))
    start = [*model.credits]
    ahead = model_copy(model)
    assert components(ahead, num) == reference(model.shares, start, repeated(model.sizes, num + 1), num)


@settings(deadline=None)
@given(data=st.data(), weights=weights_lists, num=st.integers(1, 300))
def test_nobody_is_ahead_by_more_than_its_own_sample_or_behind_by_more_than_the_largest(
    data: st.DataObject, weights: list[float], num: int
) -> None:
    sizes = data.draw(st.lists(size_lists.filter(any), min_size=len(weights), max_size=len(weights)))
    largest = max(max(s) for s in sizes)
    model = Model(integer_shares(weights), sizes)
    taken = model_copy(model).take(num)
    last_size = [0] * len(weights)
    for (component, size), credits in zip(taken, credits_along(model, taken), strict=True):
        last_size[component] = size
        assert sum(credits) == 0
        for credit, last in zip(credits, last_size, strict=True):
            assert -last * SCALE <= credit <= largest * SCALE + SCALE // TIE


def test_a_large_sample_is_paid_back_before_the_next() -> None:
    model = Model(integer_shares([1.0, 1.0]), [[10], [1]])
    assert components(model, 24) == [1, 0, *[1] * 10, 0, *[1] * 10, 0]


def test_empty_samples_are_given_away_at_once_and_cost_nothing() -> None:
    model = Model(integer_shares([1.0, 1.0]), [[0, 0, 0, 2], [2]])
    assert model.take(10) == [(0, 0)] * 3 + [(0, 2), (1, 2)] + [(0, 0)] * 3 + [(0, 2), (1, 2)]
    assert model.credits == (0, 0)


def test_sizes_and_shares_may_be_as_far_apart_as_can_be() -> None:
    model = Model(integer_shares([1e-14, 1.0, 1.0]), [[1 << 34], [1 << 40], [1 << 33]])
    order = components(model, 300)
    assert order == reference(model.shares, [0, 0, 0], repeated(model.sizes, 301), 300)
    assert order.count(0) == 1


# Continuing


@settings(deadline=None)
@given(data=st.data(), weights=weights_lists, cuts=st.lists(st.integers(1, 60), min_size=1, max_size=12))
def test_a_sequence_that_is_cut_anywhere_and_continued_from_its_credits_is_the_same(
    data: st.DataObject, weights: list[float], cuts: list[int]
) -> None:
    sizes = data.draw(st.lists(size_lists.filter(any), min_size=len(weights), max_size=len(weights)) | st.none())
    whole, cut = (Model(integer_shares(weights), sizes) for _ in range(2))
    assert whole.take(sum(cuts)) == [sample for length in cuts for sample in cut.take(length)]
    assert whole.credits == cut.credits


# Lanes


HEAVY_TAILED = np.clip(np.random.default_rng(0).lognormal(6, 1.2, 400), 20, 6000).astype(int).tolist()


def lanes_drawn(
    weights: list[float], sizes: list[int], num_lanes: int, chunk_size: int, num: int, *, leans: bool
) -> tuple[int, list[int]]:
    """The most that any component was ahead or behind in all, and in any lane up to each of ``num`` chunks, in units.

    Chunks belong to lanes in turn, and each lane has samples of its own: the same sizes, begun elsewhere.
    """
    shares = integer_shares(weights)
    nothing = (0,) * len(shares)
    credits, lanes = nothing, [nothing] * num_lanes
    taken = [[lane * 7 + component for component in range(len(shares))] for lane in range(num_lanes)]
    most, most_by_lane = 0, [0]
    for chunk in range(num):
        lane = chunk % num_lanes
        lean = leaning(lane, lanes) if leans else None
        turns, known = np.empty(0, np.int64), chunk_size
        while len(turns) < chunk_size:  # sizes that come after those that are known would matter
            known *= 2
            coming = [np.resize(sizes, start + known)[start:] for start in taken[lane]]
            turns = fair_turns(shares, credits, coming, [False] * len(shares), chunk_size, lean).components
        heads = [iter(c.tolist()) for c in coming]
        before, units = credits, [0] * len(shares)
        for component in turns.tolist():
            units[component] += next(heads[component])
            taken[lane][component] += 1
            credits = credits_after(shares, before, units)
            most = max(most, *map(abs, credits))
        lanes[lane] = credits_after(shares, lanes[lane], units)
        most_by_lane.append(max(most_by_lane[-1], *map(abs, lanes[lane])))
    return most // SCALE, [owed // SCALE for owed in most_by_lane]


@pytest.mark.parametrize(
    ("weights", "sizes", "num_lanes", "chunk_size"),
    [
        ([0.5, 0.2, 0.15, 0.1, 0.05], HEAVY_TAILED, 2, 2),
        ([0.5, 0.2, 0.15, 0.1, 0.05], HEAVY_TAILED, 4, 4),
        ([0.5, 0.2, 0.15, 0.1, 0.05], [100], 2, 2),
        ([0.9, 0.1], [100], 4, 5),
        ([1.0] * 12, HEAVY_TAILED, 8, 5),
        ([0.5, 0.3, 0.15, 0.0495, 0.0005], HEAVY_TAILED, 8, 64),
    ],
)
def test_every_lane_stays_near_the_weights_while_all_together_keep_to_them(
    weights: list[float], sizes: list[int], num_lanes: int, chunk_size: int
) -> None:
    """Turns alone let lanes drift apart without end: samples of a rare component may all fall to the same lane."""
    num = 200 * num_lanes
    drawn = (weights, sizes, num_lanes, chunk_size, num)
    most, by_lane = lanes_drawn(*drawn, leans=True)
    assert most <= max(sizes)
    assert by_lane[-1] <= 5 * max(sizes)
    _, apart = lanes_drawn(*drawn, leans=False)
    assert apart[-1] > by_lane[-1]


# What is not there, and what is not known


def turns_of(sizes: Sequence[Sequence[int]], is_all: Sequence[bool], num: int) -> tuple[list[int], bool]:
    shares = integer_shares([1.0] * len(sizes))
    found = fair_turns(shares, [0] * len(sizes), [np.array(s, np.int64) for s in sizes], is_all, num)
    assert isinstance(found, Turns)
    return found.components.tolist(), found.is_due


def test_turns_end_in_front_of_a_component_that_has_nothing_left() -> None:
    assert turns_of([[1, 1], [1] * 9], [True, True], 100) == ([0, 1, 0, 1], True)
    assert turns_of([[1, 1], [1] * 9], [True, True], 5) == ([0, 1, 0, 1], True)
    assert turns_of([[1, 1], [1] * 9], [True, True], 4) == ([0, 1, 0, 1], False)
    assert turns_of([[], [1] * 9], [True, True], 4) == ([], True)


def test_turns_end_where_a_size_that_is_not_known_would_matter() -> None:
    assert turns_of([[1, 1], [1] * 9], [False, True], 100) == ([0, 1, 0, 1], False)
    assert turns_of([[4], [1] * 9], [False, True], 100) == ([1, 0, 1, 1, 1], False)
    assert turns_of([[1], []], [True, False], 100) == ([], False)


def test_credits_that_nobody_can_work_off_do_not_stop_the_others() -> None:
    shares = [0, SCALE // 2, SCALE // 2]
    turns = fair_turns(shares, [4 * SCALE, -2 * SCALE, -2 * SCALE], [np.ones(9, np.int64)] * 3, [False] * 3, 6)
    assert turns.components.tolist() == [1, 2] * 3


# Leaving


@settings(deadline=None)
@given(weights=st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=12), num=st.integers(0, 100), data=st.data())
def test_when_a_component_leaves_the_others_share_what_it_had(
    weights: list[float], num: int, data: st.DataObject
) -> None:
    shares = integer_shares(weights)
    model = Model(shares)
    model.take(num)
    credits = model.credits
    leaver = data.draw(st.integers(0, len(weights) - 1))
    new_shares, new_credits = without(leaver, shares, credits)
    assert (new_shares[leaver], new_credits[leaver]) == (0, 0)
    assert (sum(new_shares), sum(new_credits)) == (SCALE, 0)
    for index, share in enumerate(shares):
        if index != leaver:
            grown = Fraction(share, SCALE - shares[leaver])
            assert abs(new_shares[index] - SCALE * grown) < 1
            assert abs(new_credits[index] - credits[index] - credits[leaver] * grown) < 1


def test_shares_that_were_zero_stay_zero_when_a_component_leaves() -> None:
    assert without(0, [SCALE // 2, 0, SCALE // 2], [-6, 0, 6]) == ((0, 0, SCALE), (0, 0, 0))


def test_the_last_component_cannot_leave() -> None:
    with pytest.raises(ValueError, match="no component is left"):
        without(1, [0, SCALE], [0, 0])
