import json

import numpy as np
import pytest
from scipy.signal import savgol_filter

from mixlake.mixing.loss_history import BinnedHistory, SmoothedHistory


@pytest.mark.parametrize(
    ("num", "first"), [(2, 0), (7, 1), (60, 3), (100, 0), (101, 0), (102, 13), (480, 0), (731, 200)]
)
def test_points_are_those_of_a_savitzky_golay_filter_over_all_steps(num: int, first: int) -> None:
    rng = np.random.default_rng(num)
    losses, counts = rng.uniform(1, 4, (num, 3)), rng.uniform(1, 2, (num, 3)).cumsum(axis=0)
    history = SmoothedHistory(3, first=first)
    for count, loss in zip(counts, losses, strict=True):
        history.add(count, loss)
    window = min(101, num) - (1 - min(101, num) % 2)
    smooth = savgol_filter(losses, window, 3, axis=0) if window > 3 else losses
    given_counts, given_losses, weights = history.points()
    assert weights.all()
    assert given_counts.T.tolist() == counts[first::10].tolist()
    assert np.abs(given_losses.T - smooth[first::10]).max() < 1e-9


def test_points_of_a_long_history_stay_few_and_apart_alike() -> None:
    history = SmoothedHistory(1, first=0, size=100)
    for step in range(5000):
        history.add(np.array([step + 1.0]), np.array([3.0]))
    steps = history.points()[0][0] - 1
    assert 50 <= len(steps) <= 110
    assert np.diff(steps).tolist() == [80.0] * (len(steps) - 1)


def test_stretches_keep_every_token_and_are_alike_in_the_logarithm() -> None:
    rng = np.random.default_rng(0)
    history = BinnedHistory(2, size=64)
    tokens = rng.integers(0, 100, (20_000, 2))
    losses = tokens * rng.uniform(1, 3, tokens.shape)
    total = 0.0
    for step_tokens, step_losses in zip(tokens, losses, strict=True):
        total += float(step_tokens.sum()) + 1
        history.add(np.full(2, total), step_losses, step_tokens, total)
    counts, means, weights = history.points()
    assert len(history) == 64
    assert weights.sum(axis=1).tolist() == tokens.sum(axis=0).tolist()
    assert (means * weights).sum(axis=1) == pytest.approx(losses.sum(axis=0))
    widths = np.diff(np.log(counts[0]))[20:]
    assert widths.max() < 3 * np.median(widths)


@pytest.mark.parametrize("num", [0, 3, 60, 300])
def test_a_history_goes_on_from_its_state_to_the_bit(num: int) -> None:
    rng = np.random.default_rng(1)
    steps = rng.uniform(1, 4, (num + 100, 2))
    smoothed, binned = SmoothedHistory(2, first=5, size=20), BinnedHistory(2, size=16)
    for number, losses in enumerate(steps, start=1):
        if number == num + 1:
            states = json.loads(json.dumps([smoothed.state_dict(), binned.state_dict()]))
            smoothed_again, binned_again = SmoothedHistory(2, first=5, size=20), BinnedHistory(2, size=16)
            smoothed_again.load_state_dict(states[0])
            binned_again.load_state_dict(states[1])
        count = np.full(2, 10.0 * number)
        for history in [smoothed] if number <= num else [smoothed, smoothed_again]:
            history.add(count, losses)
        for stretches in [binned] if number <= num else [binned, binned_again]:
            stretches.add(count, losses, np.array([1, 2]), 10.0 * number)
    for whole, again in ((smoothed.points(), smoothed_again.points()), (binned.points(), binned_again.points())):
        assert [part.tolist() for part in whole] == [part.tolist() for part in again]
