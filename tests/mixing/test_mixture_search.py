import numpy as np
import pytest

from mixlake.catalog import ConfigError
from mixlake.mixing.experiments import Experiments, design
from mixlake.mixing.inference import FloatArray
from mixlake.mixing.mixture_laws import ExponentialLaw, PolynomialLaw
from mixlake.mixing.mixture_search import FittedMixture, find_mixture

NAMES = ("a", "b", "c", "d")
PRIOR = np.array([0.4, 0.3, 0.2, 0.1])
FLOOR, CAP = np.zeros(4), np.ones(4)
SLOPES = np.array([[-2.0, 0.2, 0.1, 0.0], [0.3, -1.5, 0.0, 0.1], [0.2, -0.2, -1.2, 0.0], [0.0, 0.1, 0.2, -2.5]])


def true_losses(mixtures: FloatArray) -> FloatArray:
    losses: FloatArray = 1.5 + np.exp(mixtures @ SLOPES.T)
    return losses


def made(num: int = 14, *, noise: float = 0.0, seed: int = 0) -> Experiments:
    mixtures = design(PRIOR, num, FLOOR, CAP, seed=seed)
    losses = true_losses(mixtures) + noise * np.random.default_rng(seed).standard_normal((num, 4))
    return Experiments(names=tuple(f"e{n}" for n in range(num)), mixtures=mixtures, targets=NAMES, losses=losses)


def found(
    experiments: Experiments, floor: FloatArray = FLOOR, cap: FloatArray = CAP, **options: object
) -> FittedMixture:
    arguments = {"make_law": ExponentialLaw, **options}
    return find_mixture(experiments, NAMES, PRIOR, floor, cap, **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def best() -> FittedMixture:
    return found(made())


class Nearest:
    """A law without a gradient: the losses of the three nearest experiments, with the verbs that others have."""

    def fit(self, mixtures: FloatArray, losses: FloatArray, /) -> None:
        self.mixtures, self.losses = mixtures, losses

    def predict(self, mixtures: FloatArray, /) -> FloatArray:
        distance = np.abs(mixtures[:, None] - self.mixtures).sum(-1)
        means: FloatArray = self.losses[np.argsort(distance, axis=1)[:, :3]].mean(axis=1)
        return means


def test_the_best_mixture_of_a_known_law_is_found(best: FittedMixture) -> None:
    everywhere = np.random.default_rng(0).dirichlet(np.ones(4), 50_000)
    assert true_losses(best.shares[None]).mean() <= true_losses(everywhere).mean(axis=1).min() + 1e-4
    assert best.predicted == pytest.approx(true_losses(best.shares[None])[0], abs=1e-3)
    assert best.declared == pytest.approx(true_losses(PRIOR[None])[0], abs=1e-3)
    assert best.gain == pytest.approx((best.declared - best.predicted).mean())
    assert (best.law_error < 0.1 * best.mean_error).all()


def test_errors_that_are_told_are_those_that_noise_makes() -> None:
    several = [found(made(noise=0.01, seed=seed)) for seed in range(3)]
    off = np.array([best.predicted - true_losses(best.shares[None])[0] for best in several])
    told = np.array([best.predicted_errors for best in several])
    assert 0.3 < np.sqrt((off**2).mean()) / np.sqrt((told**2).mean()) < 3
    assert all(0.005 < best.law_error.mean() < 0.04 for best in several)


def test_floors_caps_and_the_range_of_the_experiments_hold() -> None:
    floor, cap = np.array([0.0, 0.3, 0.0, 0.0]), np.array([0.25, 1.0, 1.0, 1.0])
    best = found(made(), floor, cap)
    assert (best.shares >= floor - 1e-9).all()
    assert (best.shares <= cap + 1e-9).all()
    experiments = made()
    only = np.array([0.0, 0.0, 0.0, 1.0])
    assert found(experiments, importance=only).shares[3] <= experiments.mixtures[:, 3].max() + 1e-9
    assert found(experiments, importance=only, extrapolate=True).shares[3] == pytest.approx(1.0)


def test_losses_count_as_much_as_is_said(best: FittedMixture) -> None:
    mostly_a = found(made(), importance=np.array([9.0, 1.0, 1.0, 1.0]))
    assert mostly_a.shares[0] > best.shares[0] + 0.1
    assert mostly_a.importance.sum() == pytest.approx(1)


def test_laws_without_a_gradient_are_searched_by_simulation() -> None:
    best = found(made(40), make_law=Nearest)
    assert best.shares.sum() == pytest.approx(1)
    assert true_losses(best.shares[None]).mean() < true_losses(PRIOR[None]).mean()


def test_a_law_that_does_not_hold_has_larger_errors_than_one_that_does(best: FittedMixture) -> None:
    assert (found(made(), make_law=PolynomialLaw).law_error > 3 * best.law_error).all()


def test_losses_may_be_missing_but_not_too_many(best: FittedMixture) -> None:
    experiments = made()
    experiments.losses[:4, 1] = np.nan
    assert found(experiments).predicted == pytest.approx(best.predicted, abs=1e-2)
    experiments.losses[:9, 1] = np.nan
    with pytest.raises(ConfigError, match=r"5 experiments have a loss of 'b', but for 4 components it takes 6"):
        found(experiments)


def test_bounds_that_no_mixture_keeps_are_refused() -> None:
    with pytest.raises(ConfigError, match="no share of 'a' is at least 1"):
        found(made(), np.array([1.0, 0.0, 0.0, 0.0]), np.array([0.5, 1.0, 1.0, 1.0]))
    with pytest.raises(ConfigError, match=r"floors of a, b, c, d sum to 1\.2"):
        found(made(), np.full(4, 0.3), CAP, extrapolate=True)


def test_designs_begin_with_the_declared_weights_keep_bounds_and_are_the_same_again() -> None:
    floor, cap = np.full(4, 0.05), np.array([0.3, 1.0, 1.0, 1.0])
    mixtures = design(PRIOR, 50, floor, cap, seed=7)
    assert mixtures[0] == pytest.approx(np.array([0.3, 0.35, 0.7 / 3, 0.35 / 3]))
    assert mixtures.sum(axis=1) == pytest.approx(np.ones(50))
    assert (mixtures >= floor - 1e-9).all()
    assert (mixtures <= cap + 1e-9).all()
    assert np.linalg.matrix_rank(mixtures - mixtures.mean(axis=0)) == 3
    assert mixtures.tobytes() == design(PRIOR, 50, floor, cap, seed=7).tobytes()
