import numpy as np
import pytest

from mixlake.mixing.inference import FloatArray
from mixlake.mixing.laws import Limits, fit_laws, learning_speeds, objectives
from tests.mixing.general_optimiser import DELTA, best_of_many_starts, hard_problem, traces


def mean_huber(theta: FloatArray, counts: FloatArray, losses: FloatArray) -> float:
    total = 0.0
    for n, y in zip(counts, losses, strict=True):
        r = abs(np.log(np.exp(theta[1]) + np.exp(theta[0]) * n ** -theta[2]) - np.log(y))
        total += 0.5 * r * r if r <= DELTA else DELTA * (r - 0.5 * DELTA)
    return total / len(counts)


@pytest.mark.parametrize("noise", [0.0, 1e-5])
def test_laws_are_recovered_from_traces_without_noise(noise: float) -> None:
    counts, losses, theta = traces(22, 150, noise=noise)
    laws = fit_laws(counts, losses, np.ones_like(losses))
    assert laws.losses(counts[:, -1]) == pytest.approx(
        np.exp(theta[:, 1]) + np.exp(theta[:, 0]) * counts[:, -1] ** -theta[:, 2], rel=1e-5
    )
    if not noise:
        assert laws.objective.max() < 1e-15


def test_the_fit_is_never_worse_than_many_starts_of_a_general_optimiser() -> None:
    counts, losses, _ = traces(1, 30, noise=0.002, seed=1)
    laws = fit_laws(counts, losses, np.ones_like(losses))
    assert laws.objective[0] <= best_of_many_starts(counts[0], losses[0], every=8) + 1e-12
    assert laws.objective[0] == pytest.approx(mean_huber(laws.theta[0], counts[0], losses[0]), rel=1e-6)


def test_minima_at_limits_and_between_kinks_are_found_to_the_last_digits() -> None:
    for seed in (3, 5, 7, 9, 10, 14, 18, 22):
        counts, losses = hard_problem(seed)
        found = fit_laws(counts[None], losses[None], np.ones((1, len(counts)))).objective[0]
        assert found <= best_of_many_starts(counts, losses, every=61) * (1 + 1e-12) + 1e-18, seed


def test_parameters_keep_within_their_limits() -> None:
    counts, losses, _ = traces(6, 30, noise=0.1, seed=5)
    limits = Limits(alpha=(0.1, 0.5), max_log_beta=2.0, min_log_epsilon=np.log(0.5 * losses.min(axis=1)))
    laws = fit_laws(counts, losses, np.ones_like(losses), limits=limits)
    assert ((laws.alpha >= 0.1) & (laws.alpha <= 0.5)).all()
    assert (laws.log_beta <= 2.0).all()
    assert (laws.log_epsilon >= np.log(0.5 * losses.min(axis=1)) - 1e-12).all()


def test_a_weight_is_worth_as_many_points() -> None:
    counts, losses, _ = traces(1, 30, noise=0.01)
    times = np.arange(30) % 3 + 1
    repeated = fit_laws(np.repeat(counts, times, axis=1), np.repeat(losses, times, axis=1), np.ones((1, times.sum())))
    weighted = fit_laws(counts, losses, times[None].astype(float))
    assert weighted.objective == pytest.approx(repeated.objective, abs=1e-13)
    assert weighted.losses(counts[:, -1]) == pytest.approx(repeated.losses(counts[:, -1]), rel=1e-6)


def test_points_without_weight_and_components_without_points_change_nothing() -> None:
    counts, losses, _ = traces(3, 30, noise=0.01)
    weights = np.ones_like(losses)
    weights[1], weights[2, :5] = 0, 0
    spoilt_counts, spoilt_losses = counts.copy(), losses.copy()
    spoilt_counts[1], spoilt_losses[1], spoilt_losses[2, :5] = 0, -1, 0
    laws = fit_laws(spoilt_counts, spoilt_losses, weights)
    assert np.isnan(laws.objective).tolist() == [False, True, False]
    alone = fit_laws(counts[2:, 5:], losses[2:, 5:], np.ones((1, 25)))
    assert laws.objective[2] == pytest.approx(alone.objective[0], abs=1e-14)


def test_a_fit_that_starts_from_another_is_as_good_and_the_same_to_the_bit_again() -> None:
    counts, losses, _ = traces(5, 100, noise=0.01)
    first = fit_laws(counts, losses, np.ones_like(losses))
    again = fit_laws(counts, losses, np.ones_like(losses))
    assert first.theta.tobytes() == again.theta.tobytes()
    warm = fit_laws(counts, losses, np.ones_like(losses), start_K3=first.theta)
    assert (warm.objective <= first.objective).all()


def test_objectives_are_weighted_huber_losses() -> None:
    counts, losses, theta = traces(3, 20, noise=0.002)
    given = objectives(theta, np.log(counts), np.log(losses), np.full((3, 20), 1 / 20))
    assert given == pytest.approx([mean_huber(theta[k], counts[k], losses[k]) for k in range(3)], rel=1e-9)


def test_errors_of_speeds_are_those_that_repeated_noise_makes() -> None:
    counts = np.geomspace(1, 30, 60) * np.ones((400, 1))
    noise = 0.003 * np.random.default_rng(0).standard_normal(counts.shape)
    losses = (2.0 + 1.5 * counts**-0.4) * np.exp(noise)
    weights = np.ones_like(losses)
    laws = fit_laws(counts, losses, weights, limits=Limits(min_log_epsilon=-2.0))
    speed, error = learning_speeds(laws, counts[:, -1], (counts, losses, weights))
    true = 0.4 * 1.5 * 30**-0.4
    assert np.median(speed) == pytest.approx(true, rel=0.1)
    spread = 1.4826 * np.median(np.abs(speed - np.median(speed)))
    assert 0.4 < np.median(error) / spread < 2.5


def test_a_learning_speed_is_the_slope_of_the_law() -> None:
    counts, losses, _ = traces(4, 50, noise=0.001)
    weights = np.ones_like(losses)
    laws = fit_laws(counts, losses, weights)
    here = counts[:, -1]
    speed, _ = learning_speeds(laws, here, (counts, losses, weights))
    step = 1e-4
    slope = (laws.losses(here * np.exp(-step)) - laws.losses(here * np.exp(step))) / (2 * step)
    assert speed == pytest.approx(slope, rel=1e-6)
