"""What fits of laws are held against: the lowest objective that many starts of a general optimiser find."""

import itertools

import numpy as np
from scipy.optimize import minimize

from mixlake.mixing.inference import FloatArray

DELTA = 1e-3
BOUNDS = [(None, 6.5), (0.5, None), (0.001, 0.8)]
"""Of log β, log ε and α, as `mixlake.mixing.laws.Limits` has them."""
GRID = [
    (a, max(e, 0.5), alpha / 10)
    for alpha, a, e in itertools.product(range(1, 8), range(-2, 6), (-2.0, -1.5, -1.0, -0.5, 1.0, 1.5))
]
"""Mixtera's 384 starts, within the bounds."""


def traces(
    num: int, length: int, *, noise: float, seed: int = 0, first: float = 500, last: float = 5000
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Counts and losses of random laws from one step to another, 64 sequences each, and the laws: log β, log ε, α."""
    rng = np.random.default_rng(seed)
    beta, epsilon, alpha = rng.uniform(0.5, 80, num), rng.uniform(1.7, 3, num), rng.uniform(0.05, 0.7, num)
    counts = np.linspace(first, last, length) * 64 * np.ones((num, 1))
    losses = epsilon[:, None] + beta[:, None] * counts ** -alpha[:, None]
    theta = np.stack([np.log(beta), np.log(epsilon), alpha], axis=1)
    return counts, losses * np.exp(noise * rng.standard_normal(losses.shape)), theta


def hard_problem(seed: int) -> tuple[FloatArray, FloatArray]:
    """Counts and losses, shape (N,), of a trace as training has them, or as it should not: minima lie at limits."""
    rng = np.random.default_rng(seed)
    length = int(rng.choice([5, 8, 12, 20, 30, 60, 100, 150]))
    first = rng.uniform(10, 1000)
    space = (np.linspace, np.geomspace)[rng.integers(2)]
    counts = space(first, first * rng.choice([1.5, 3, 10, 100]), length) * 64
    epsilon, beta, alpha = rng.uniform(1.7, 3), np.exp(rng.uniform(-1, 6)), rng.uniform(0.02, 0.75)
    kind = seed % 6
    if kind == 1:  # less than ε may be
        epsilon = rng.uniform(0.1, 1.6)
    elif kind == 2:  # nearly nothing to learn
        beta = 10 ** rng.uniform(-4, -1)
    elif kind == 3:  # learned faster than α may be
        beta, alpha = np.exp(rng.uniform(4, 9)), rng.uniform(0.8, 1.5)
    losses = epsilon + beta * counts**-alpha
    if kind == 4:
        losses = epsilon + 0.1 * np.log(counts / counts[0] + 1)  # rising
    elif kind == 5:
        losses[length // 2 :] *= 1.05  # a jump
    return counts, losses * np.exp(rng.choice([0, 1e-5, 3e-4, 2e-3, 0.01, 0.05]) * rng.standard_normal(length))


def best_of_many_starts(counts: FloatArray, losses: FloatArray, every: int = 1) -> float:
    """The lowest mean Huber loss that L-BFGS-B finds, with the exact gradient; points of shape (N,).

    ``every`` takes only some of the starts.
    """
    x, z = np.log(counts), np.log(losses)

    def value(theta: FloatArray) -> tuple[float, FloatArray]:
        a, e, alpha = theta
        p = np.logaddexp(a - alpha * x, e)
        size, psi, s = np.abs(p - z), np.clip(p - z, -DELTA, DELTA), np.exp(a - alpha * x - p)
        huber = np.where(size <= DELTA, 0.5 * size**2, DELTA * (size - 0.5 * DELTA))
        gradient = np.array([(psi * s).mean(), (psi * (1 - s)).mean(), -(psi * s * x).mean()])
        return float(huber.mean() * 1e6), gradient * 1e6  # scaled, or L-BFGS-B takes anything for converged

    found = [
        minimize(value, start, jac=True, method="L-BFGS-B", bounds=BOUNDS)
        for start in list(dict.fromkeys(GRID))[::every]
    ]
    return float(min(result.fun for result in found)) / 1e6
