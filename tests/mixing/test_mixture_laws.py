import numpy as np
import pytest
from scipy.optimize import minimize

from mixlake.catalog import ConfigError
from mixlake.mixing.inference import FloatArray
from mixlake.mixing.mixture_laws import ExponentialLaw, PolynomialLaw


def experiments(num: int, components: int, *, noise: float, seed: int = 0) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mixtures, their losses by an exponential law with noise, and the law: c, then t."""
    rng = np.random.default_rng(seed)
    mixtures = rng.dirichlet(np.ones(components), num)
    law = np.concatenate([[1.8], rng.normal(-0.5, 1, components)])
    return mixtures, law[0] + np.exp(mixtures @ law[1:]) + noise * rng.standard_normal(num), law


@pytest.mark.parametrize(("num", "components"), [(12, 3), (24, 5), (64, 22)])
def test_the_exponential_law_is_recovered(num: int, components: int) -> None:
    mixtures, losses, true = experiments(num, components, noise=0.0)
    law = ExponentialLaw(ridge=0.0).fit(mixtures, losses)
    assert law.floor == pytest.approx(true[0], abs=1e-3)
    assert law.slopes == pytest.approx(true[1:], abs=5e-3)
    others = experiments(50, components, noise=0.0, seed=0)[0]
    assert law.predict(others) == pytest.approx(true[0] + np.exp(others @ true[1:]), abs=1e-4)


def test_the_law_that_is_fitted_with_noise_foretells_better_than_the_noise() -> None:
    mixtures, losses, true = experiments(40, 5, noise=0.02)
    law = ExponentialLaw().fit(mixtures, losses)
    others = np.random.default_rng(1).dirichlet(np.ones(5), 200)
    assert np.sqrt(((law.predict(others) - true[0] - np.exp(others @ true[1:])) ** 2).mean()) < 0.02


@pytest.mark.parametrize("ridge", [0.0, 1e-2])
def test_no_start_of_a_general_optimiser_gets_lower(ridge: float) -> None:
    mixtures, losses, _ = experiments(16, 4, noise=0.01, seed=3)
    ours = ExponentialLaw(ridge=ridge).fit(mixtures, losses).objective(mixtures, losses, ridge)
    other, rng = ExponentialLaw(), np.random.default_rng(0)

    def value(theta: FloatArray) -> float:
        size = np.abs(theta[0] + np.exp(mixtures @ theta[1:]) - losses)
        huber = np.where(size <= 0.01, 0.5 * size**2, 0.01 * (size - 0.005))
        return float(huber.mean() + 0.5 * ridge * losses.var() * theta[1:].var()) * 1e4

    assert other.fit(mixtures, losses) is other
    for _ in range(8):
        start = np.concatenate([[rng.uniform(0, losses.min())], rng.normal(-1, 1, 4)])
        found = minimize(value, start, method="L-BFGS-B", bounds=[(0, losses.min()), *[(None, None)] * 4])
        assert ours <= found.fun / 1e4 * (1 + 1e-6)


@pytest.mark.parametrize("law", [ExponentialLaw(), PolynomialLaw(), PolynomialLaw(degree=2)])
def test_gradients_are_those_of_the_predictions(law: ExponentialLaw | PolynomialLaw) -> None:
    mixtures, losses, _ = experiments(24, 4, noise=0.01)
    law.fit(mixtures, losses)
    move = 1e-6 * np.random.default_rng(5).standard_normal(4)
    slope = (law.predict(mixtures + move) - law.predict(mixtures - move)) / 2
    assert law.gradient(mixtures) @ move == pytest.approx(slope, rel=1e-4, abs=1e-12)


def test_polynomials_of_their_own_degree_are_recovered() -> None:
    rng = np.random.default_rng(0)
    mixtures = rng.dirichlet(np.ones(4), 40)
    linear = mixtures @ np.array([2.0, 3.0, 2.5, 4.0])
    assert PolynomialLaw().fit(mixtures[:20], linear[:20]).predict(mixtures) == pytest.approx(linear, abs=1e-4)
    curved = linear - 2 * mixtures[:, 0] * mixtures[:, 1]
    assert PolynomialLaw(degree=2).fit(mixtures, curved).predict(mixtures) == pytest.approx(curved, abs=1e-2)
    assert np.abs(PolynomialLaw().fit(mixtures, curved).predict(mixtures) - curved).max() > 2e-2


def test_where_the_mixture_does_not_matter_the_ridge_says_so() -> None:
    mixtures, _, _ = experiments(12, 6, noise=0.0)
    losses = 2.5 + 0.01 * np.random.default_rng(2).standard_normal(12)
    others = np.random.default_rng(1).dirichlet(np.ones(6), 50)
    assert np.abs(ExponentialLaw().fit(mixtures, losses).predict(others) - 2.5).max() < 0.03
    assert ExponentialLaw().fit(mixtures, np.full(12, 2.5)).predict(others) == pytest.approx(np.full(50, 2.5), abs=1e-3)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="degree is 3"):
        PolynomialLaw(degree=3)
    with pytest.raises(ConfigError, match="delta is 0"):
        ExponentialLaw(delta=0.0)
    with pytest.raises(ConfigError, match="ridge is -1"):
        ExponentialLaw(ridge=-1.0)
