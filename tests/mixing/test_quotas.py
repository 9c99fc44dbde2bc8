"""Proportions are exact at every prefix, for any weights and sizes."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import cycle, islice

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixlake.mixing.quotas import SCALE, FairQueue, integer_shares, without

ROUNDING = SCALE // 10**9
"""Turns are decided in floating point: a billionth of a unit either way is a tie."""
TINY_AND_BIG = [1e-4] * 200 + [1.0]

weights_lists = st.lists(st.floats(1e-6, 1.0) | st.just(1e-6), min_size=1, max_size=12)
size_lists = st.lists(st.integers(0, 50) | st.integers(1, 10_000), min_size=1, max_size=8)


class Model:
    """A queue driven from lists of sizes, and what each component got."""

    def __init__(
        self, shares: Sequence[int], sizes: Sequence[Sequence[int]] | None = None, credits: Sequence[int] | None = None
    ) -> None:
        self._sizes = [cycle(s) for s in sizes] if sizes is not None else [cycle([1]) for _ in shares]
        self.next_sizes = [next(size) for size in self._sizes]
        self.queue = FairQueue(shares, credits or [0] * len(shares), self.next_sizes)

    def take(self) -> tuple[int, int]:
        """Take one sample; return its component and size."""
        component = self.queue.peek()
        size = self.next_sizes[component]
        self.next_sizes[component] = next(self._sizes[component])
        self.queue.take(self.next_sizes[component])
        return component, size

    def restart(self, shares: Sequence[int]) -> None:
        """Go on with a new queue that knows the old one's credits, as every chunk does."""
        self.queue = FairQueue(shares, self.queue.credits(), self.next_sizes)


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


def test_components_are_spread_evenly() -> None:
    model = Model(integer_shares([0.5, 0.25, 0.25]))
    assert [model.take()[0] for _ in range(12)] == [0, 1, 0, 2] * 3


def test_equal_components_take_turns() -> None:
    model = Model(integer_shares([1.0, 1.0, 1.0]))
    assert [model.take()[0] for _ in range(9)] == [0, 1, 2] * 3


def test_a_component_without_a_share_never_comes() -> None:
    model = Model(integer_shares([0.0, 1.0, 0.0, 2.0]))
    assert [model.take()[0] for _ in range(6)] == [3, 1, 3] * 2


def test_a_component_alone_always_comes() -> None:
    model = Model(integer_shares([0.1]))
    assert {model.take() for _ in range(50)} == {(0, 1)}
    assert model.queue.credits() == [0]


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
    taken = [0] * len(weights)
    for length in range(1, num + 1):
        taken[model.take()[0]] += 1
        assert all(abs(t - w * length) < 1 + 1e-9 for t, w in zip(taken, exact, strict=True))
        credits = model.queue.credits()
        assert sum(credits) == 0
        assert max(map(abs, credits)) <= SCALE + ROUNDING


def test_tiny_components_come_once_each_in_their_period() -> None:
    model = Model(integer_shares(TINY_AND_BIG))
    period = round(sum(TINY_AND_BIG) / 1e-4)
    for _ in range(3):
        order = [model.take()[0] for _ in range(period)]
        assert [order.count(tiny) for tiny in range(200)] == [1] * 200


def test_a_weight_of_a_millionth_is_honoured_over_a_million_samples() -> None:
    model = Model(integer_shares([1e-6, 1 - 1e-6]))
    taken = [model.take()[0] for _ in range(1_000_000)]
    assert taken.count(0) == 1
    assert max(map(abs, model.queue.credits())) <= 1_000_000  # of SCALE: the share is rounded by less than one


# Sizes


@settings(deadline=None)
@given(data=st.data(), weights=weights_lists, num=st.integers(1, 300))
def test_nobody_is_ahead_by_more_than_its_own_sample_or_behind_by_more_than_the_largest(
    data: st.DataObject, weights: list[float], num: int
) -> None:
    sizes = data.draw(st.lists(size_lists.filter(any), min_size=len(weights), max_size=len(weights)))
    largest = max(max(s) for s in sizes)
    model = Model(integer_shares(weights), sizes)
    last_size = [0] * len(weights)
    for _ in range(num):
        component, size = model.take()
        last_size[component] = size
        credits = model.queue.credits()
        assert sum(credits) == 0
        for credit, last in zip(credits, last_size, strict=True):
            assert -last * SCALE - ROUNDING * largest <= credit <= largest * SCALE + ROUNDING * largest


def test_a_large_sample_is_paid_back_before_the_next() -> None:
    model = Model(integer_shares([1.0, 1.0]), [[10], [1]])
    assert [model.take()[0] for _ in range(24)] == [1, 0, *[1] * 10, 0, *[1] * 10, 0]


def test_empty_samples_are_given_away_at_once_and_cost_nothing() -> None:
    model = Model(integer_shares([1.0, 1.0]), [[0, 0, 0, 2], [2]])
    assert [model.take() for _ in range(10)] == [(0, 0)] * 3 + [(0, 2), (1, 2)] + [(0, 0)] * 3 + [(0, 2), (1, 2)]
    assert model.queue.credits() == [0, 0]


# Continuing


@settings(deadline=None)
@given(data=st.data(), weights=weights_lists, cuts=st.lists(st.integers(1, 60), min_size=1, max_size=12))
def test_a_sequence_may_be_cut_anywhere_and_continued_from_its_credits(
    data: st.DataObject, weights: list[float], cuts: list[int]
) -> None:
    sizes = data.draw(st.lists(size_lists.filter(any), min_size=len(weights), max_size=len(weights)))
    largest = max(max(s) for s in sizes)
    shares = integer_shares(weights)
    model = Model(shares, sizes)
    for length in cuts:
        for _ in range(length):
            model.take()
            assert sum(model.queue.credits()) == 0
            assert max(map(abs, model.queue.credits())) <= largest * (SCALE + ROUNDING)
        model.restart(shares)


def test_continuing_gives_the_sequence_that_was_cut() -> None:
    shares = integer_shares([0.37, 0.21, 0.42])
    whole, cut = Model(shares), Model(shares)
    expected = [whole.take() for _ in range(1000)]
    found = []
    for length in islice(cycle([1, 7, 2, 90]), 40):
        found += [cut.take() for _ in range(length)]
        cut.restart(shares)
    assert found[:1000] == expected


def test_the_clock_counts_what_this_queue_gave_out() -> None:
    model = Model(integer_shares([1.0, 1.0]), [[10], [1]])
    taken = [model.take()[1] for _ in range(5)]
    assert model.queue.clock == sum(taken) == 14


# Leaving


@settings(deadline=None)
@given(weights=st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=12), num=st.integers(0, 100), data=st.data())
def test_when_a_component_leaves_the_others_share_what_it_had(
    weights: list[float], num: int, data: st.DataObject
) -> None:
    shares = integer_shares(weights)
    model = Model(shares)
    for _ in range(num):
        model.take()
    credits = model.queue.credits()
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
    assert without(0, [SCALE // 2, 0, SCALE // 2], [-6, 0, 6]) == ([0, 0, SCALE], [0, 0, 0])


def test_the_last_component_cannot_leave() -> None:
    with pytest.raises(ValueError, match="no component is left"):
        without(1, [0, SCALE], [0, 0])
