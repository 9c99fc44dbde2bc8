"""Permutations are pure functions of their arguments."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.mixing.randomness import Purpose, permutation

GOLDEN = {
    (0, Purpose.SEGMENTS, (0,)): [5, 3, 7, 8, 2, 4, 1, 0, 6, 9],
    (0, Purpose.BLOCKS, (0,)): [6, 7, 2, 9, 1, 3, 5, 0, 4, 8],
    (7, Purpose.ROWS, (1, 2, 3)): [0, 8, 2, 3, 6, 5, 9, 7, 4, 1],
    (2**63 - 1, Purpose.DELIVERY, (2**40, 5)): [8, 0, 1, 5, 2, 7, 9, 4, 6, 3],
}
"""Chunks that were drawn once must be drawn again for ever: if this test fails, the code is wrong, not the numbers."""

seeds = st.integers(0, 2**63 - 1)
addresses = st.lists(st.integers(0, 2**40), max_size=3)


@pytest.mark.parametrize(("seed", "purpose", "address"), GOLDEN)
def test_an_order_never_changes_between_versions(seed: int, purpose: Purpose, address: tuple[int, ...]) -> None:
    assert permutation(10, seed, purpose, *address).tolist() == GOLDEN[seed, purpose, address]


@settings(deadline=None)
@given(num=st.integers(0, 200), seed=seeds, purpose=st.sampled_from(Purpose), address=addresses)
def test_every_number_comes_once(num: int, seed: int, purpose: Purpose, address: list[int]) -> None:
    assert sorted(permutation(num, seed, purpose, *address).tolist()) == list(range(num))


@settings(deadline=None)
@given(seed=seeds, purpose=st.sampled_from(Purpose), address=addresses)
def test_the_same_arguments_give_the_same_order_whatever_the_global_generator_does(
    seed: int, purpose: Purpose, address: list[int]
) -> None:
    first = permutation(50, seed, purpose, *address)
    np.random.seed(1)  # noqa: NPY002
    assert permutation(50, seed, purpose, *address).tolist() == first.tolist()


def test_streams_of_different_seeds_purposes_and_addresses_are_unrelated() -> None:
    streams = [(0, p, address) for p in Purpose for address in [(), (1,), (0, 1), (0, 0, 1), (1, 1, 1)]]
    streams += [(seed, Purpose.ROWS, (1,)) for seed in (1, 2, 2**62)]
    orders = [permutation(1000, seed, purpose, *address) for seed, purpose, address in streams]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.15
            assert (one == other).sum() < 10


def test_an_address_is_filled_up_with_zeros() -> None:
    assert permutation(20, 0, Purpose.ROWS, 4).tolist() == permutation(20, 0, Purpose.ROWS, 4, 0, 0).tolist()


def test_all_places_are_equally_likely() -> None:
    firsts = [int(permutation(5, 0, Purpose.DELIVERY, chunk)[0]) for chunk in range(2000)]
    assert np.bincount(firsts, minlength=5).min() > 340


def test_an_address_of_more_than_three_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at most 3 numbers, got \(1, 2, 3, 4\)"):
        permutation(5, 0, Purpose.ROWS, 1, 2, 3, 4)
