"""Laws of mixtures: what loss a model has that was trained on a mixture, learned from runs with different ones.

A law is fitted to one loss: of a component, or of any validation set. It has the verbs of scikit-learn's regressors,
``fit(mixtures, losses)`` and ``predict(mixtures)``, so those, and LightGBM's, can stand in for the two here, which know
their gradients besides.

Arrays: E experiments, K components, F features, B fits side by side; mixtures are shares, shape (E, K), rows sum to 1.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from mixlake.catalog import ConfigError
from mixlake.mixing.inference import FloatArray

_RIDGES = np.array([1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0])
"""Strengths of regularisation that are tried, relative to what is to be explained."""
_FLOORS = np.array([0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.995])
"""Where fits of the exponential law start: c over the smallest loss."""
_NUM_FOR_RIDGES = 2
"""Starts from which every strength is tried."""
_MAX_ROUNDS = 100
_PATIENCE = 4


class MixtureLaw(Protocol):
    """Predicts a loss from mixtures."""

    def fit(self, mixtures: FloatArray, losses: FloatArray, /) -> Any:
        """Learn from experiments: mixtures (E, K) and their losses (E,), in nats."""

    def predict(self, mixtures: FloatArray, /) -> FloatArray:
        """Return losses, shape (E,)."""


class ExponentialLaw:
    """L(r) = c + exp(t · r), the data mixing law of Ye et al. 2024 (arXiv 2403.16952, equation 1).

    Its factor k is exp of what all t_j have in common, as shares sum to 1, so it is not a parameter of its own. The fit
    minimises the Huber loss of the residuals, as the authors' code does, by Levenberg-Marquardt with exact derivatives
    from several c; c is between 0 and the smallest loss. Where experiments are few, a ridge draws the t_j towards their
    mean, that is towards "the mixture does not matter"; how strongly, leave-one-out residuals decide.
    """

    def __init__(self, *, delta: float = 0.01, ridge: float | None = None) -> None:
        """Choose how to fit.

        Args:
            delta: residual in nats from which on an experiment counts linearly, not by its square.
            ridge: strength of the ridge, relative to the losses' variance; None tries several.
        """
        _check_positive(delta=delta)
        self._delta = delta
        self._ridges = _RIDGES if ridge is None else np.array([_check_ridge(ridge)])
        self.floor = np.nan
        """c, in nats."""
        self.slopes: FloatArray = np.zeros(0)
        """t, shape (K,)."""

    def fit(self, mixtures: FloatArray, losses: FloatArray, /) -> ExponentialLaw:
        """Fit to at least two experiments."""
        starts = self._starts(mixtures, losses)
        middle = float(np.sqrt(self._ridges[0] * self._ridges[-1])) * losses.var()
        starts, objective_S = self._polished(starts, np.full(len(starts), middle), mixtures, losses)
        best = starts[np.argsort(objective_S, kind="stable")[:_NUM_FOR_RIDGES]]
        theta, penalty_B = np.tile(best, (len(self._ridges), 1)), np.repeat(self._ridges * losses.var(), len(best))
        theta, objective_B = self._polished(theta, penalty_B, mixtures, losses)
        best_R = np.arange(len(self._ridges)) * len(best) + objective_B.reshape(-1, len(best)).argmin(axis=1)
        scores_R = self._left_out(theta[best_R], penalty_B[best_R], mixtures, losses)
        chosen = theta[best_R[int(np.argmin(scores_R))]]
        self.floor, self.slopes = float(chosen[0]), chosen[1:]
        return self

    def predict(self, mixtures: FloatArray, /) -> FloatArray:
        """Return losses, shape (E,)."""
        result: FloatArray = self.floor + np.exp(mixtures @ self.slopes)
        return result

    def gradient(self, mixtures: FloatArray, /) -> FloatArray:
        """Return ∂L/∂r, shape (E, K)."""
        result: FloatArray = np.exp(mixtures @ self.slopes)[:, None] * self.slopes
        return result

    def objective(self, mixtures: FloatArray, losses: FloatArray, ridge: float) -> float:
        """Return what the fit minimises: the mean Huber loss, and the ridge."""
        theta = np.concatenate([[self.floor], self.slopes])[None]
        penalty = np.array([ridge * losses.var()])
        return float(self._objectives(theta, penalty, mixtures, losses)[0])

    def _starts(self, mixtures: FloatArray, losses: FloatArray) -> FloatArray:
        """Return parameters (S, 1 + K) by least squares of log(L - c), which is linear."""
        num = mixtures.shape[1]
        floors = _FLOORS * losses.min()
        logs_SE = np.log(losses - floors[:, None])
        gram = mixtures.T @ mixtures + 1e-3 * np.eye(num)
        slopes_SK = np.linalg.solve(gram, mixtures.T @ (logs_SE - logs_SE.mean(1, keepdims=True)).T).T
        slopes_SK += logs_SE.mean(1, keepdims=True)
        return np.concatenate([floors[:, None], slopes_SK], axis=1)

    def _objectives(
        self, theta: FloatArray, penalty_B: FloatArray, mixtures: FloatArray, losses: FloatArray
    ) -> FloatArray:
        slopes = theta[:, 1:]
        with np.errstate(over="ignore"):
            size = np.abs(theta[:, :1] + np.exp(slopes @ mixtures.T) - losses)
        clipped = np.minimum(size, self._delta)
        result: FloatArray = (clipped * (size - 0.5 * clipped)).mean(1) + 0.5 * penalty_B * slopes.var(axis=1)
        return result

    def _polished(
        self, theta: FloatArray, penalty_B: FloatArray, mixtures: FloatArray, losses: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return the parameters at a minimum near each start, and their objectives."""
        theta, damping = theta.copy(), np.full(len(theta), 1e-3)
        value = self._objectives(theta, penalty_B, mixtures, losses)
        stalled = np.zeros(len(theta), np.int64)
        high = losses.min()
        for _ in range(_MAX_ROUNDS):
            going = np.flatnonzero(stalled < _PATIENCE)
            if not going.size:
                break
            here, penalty = theta[going], penalty_B[going]
            gradient, matrix = self._derivatives(here, penalty, mixtures, losses)
            is_held = ((here[:, 0] <= 0) & (gradient[:, 0] > 0)) | ((here[:, 0] >= high) & (gradient[:, 0] < 0))
            tried = here - _step(matrix, gradient, damping[going], is_held)
            tried[:, 0] = np.clip(tried[:, 0], 0, high)
            tried_value = self._objectives(tried, penalty, mixtures, losses)
            is_better = tried_value < value[going]
            damping[going] = np.clip(damping[going] * np.where(is_better, 0.2, 5.0), 1e-12, 1e9)
            gained = value[going] - tried_value > 1e-10 * value[going]
            stalled[going] = np.where(gained, 0, stalled[going] + 1)
            theta[going] = np.where(is_better[:, None], tried, here)
            value[going] = np.where(is_better, tried_value, value[going])
        return theta, value

    def _derivatives(
        self, theta: FloatArray, penalty_B: FloatArray, mixtures: FloatArray, losses: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return the gradient, and the matrix of the quadratic that Gauss and Newton take for the objective."""
        num_experiments, num = mixtures.shape
        learnable = np.exp(theta[:, 1:] @ mixtures.T)
        residual = theta[:, :1] + learnable - losses
        weight = np.minimum(1, self._delta / np.maximum(np.abs(residual), 1e-300)) / num_experiments
        jacobian = np.concatenate([np.ones((*learnable.shape, 1)), learnable[..., None] * mixtures], axis=2)
        weighted = jacobian * weight[..., None]
        matrix = weighted.transpose(0, 2, 1) @ jacobian
        gradient = (weighted * residual[..., None]).sum(axis=1)
        centring = (np.eye(num) - 1 / num) / num
        matrix[:, 1:, 1:] += penalty_B[:, None, None] * centring
        gradient[:, 1:] += penalty_B[:, None] * (theta[:, 1:] @ centring)
        return gradient, matrix

    def _left_out(
        self, theta: FloatArray, penalty_B: FloatArray, mixtures: FloatArray, losses: FloatArray
    ) -> FloatArray:
        """Return the mean Huber loss (B,) of leave-one-out residuals r / (1 - h), with leverages h at the minimum."""
        scores = np.empty(len(theta))
        _, matrices = self._derivatives(theta, penalty_B, mixtures, losses)
        for index, (one, matrix) in enumerate(zip(theta, matrices, strict=True)):
            learnable = np.exp(mixtures @ one[1:])
            residual = np.abs(one[0] + learnable - losses)
            free = slice(0 if 0 < one[0] < losses.min() else 1, None)
            jacobian = np.concatenate([np.ones((len(losses), 1)), learnable[:, None] * mixtures], axis=1)[:, free]
            weight = np.minimum(1, self._delta / np.maximum(residual, 1e-300)) / len(losses)
            inverse = np.linalg.pinv(matrix[free, free], hermitian=True)
            leverage = weight * np.einsum("ef,fg,eg->e", jacobian, inverse, jacobian)
            size = residual / np.maximum(1 - leverage, 1e-6)
            clipped = np.minimum(size, self._delta)
            scores[index] = (clipped * (size - 0.5 * clipped)).mean()
        return scores


class PolynomialLaw:
    """A polynomial of the shares (Scheffé 1958, for experiments with mixtures), by ridge regression.

    Degree 1 is L(r) = Σ b_j r_j, RegMix's linear regression (Liu et al. 2024, arXiv 2407.01492); degree 2 adds a term
    for every pair of components. Features are scaled alike; the strength of the ridge has the least sum of squared
    leave-one-out residuals, which are known exactly.
    """

    def __init__(self, *, degree: int = 1) -> None:
        """Choose the degree, 1 or 2."""
        if degree not in (1, 2):
            raise ConfigError(f"degree is {degree}; expected 1 or 2")
        self._degree = degree
        self._weights: FloatArray = np.zeros(0)
        self._constant = np.nan

    def fit(self, mixtures: FloatArray, losses: FloatArray, /) -> PolynomialLaw:
        """Fit to at least two experiments."""
        features = self._features(mixtures)
        centre, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-9)
        u, s, vt = np.linalg.svd((features - centre) / scale, full_matrices=False)
        along = u.T @ (losses - losses.mean())
        kept_RF = s**2 / (s**2 + (_RIDGES * s[0] ** 2)[:, None] + 1e-300)
        residual_RE = losses - losses.mean() - (kept_RF * along) @ u.T
        leverage_RE = 1 / len(losses) + kept_RF @ (u**2).T
        scores = ((residual_RE / np.maximum(1 - leverage_RE, 1e-6)) ** 2).sum(axis=1)
        kept = kept_RF[int(np.argmin(scores))]
        self._weights = (vt.T @ (kept * along / np.maximum(s, 1e-300))) / scale
        self._constant = float(losses.mean() - centre @ self._weights)
        return self

    def predict(self, mixtures: FloatArray, /) -> FloatArray:
        """Return losses, shape (E,)."""
        result: FloatArray = self._constant + self._features(mixtures) @ self._weights
        return result

    def gradient(self, mixtures: FloatArray, /) -> FloatArray:
        """Return ∂L/∂r, shape (E, K)."""
        num = mixtures.shape[1]
        pairs = np.zeros((num, num))
        if self._degree == 2:
            pairs[np.triu_indices(num, 1)] = self._weights[num:]
        return np.asarray(self._weights[:num] + mixtures @ (pairs + pairs.T), np.float64)

    def _features(self, mixtures: FloatArray) -> FloatArray:
        if self._degree == 1:
            return mixtures
        first, second = np.triu_indices(mixtures.shape[1], 1)
        return np.concatenate([mixtures, mixtures[:, first] * mixtures[:, second]], axis=1)


def _step(matrix: FloatArray, gradient: FloatArray, damping: FloatArray, is_held: FloatArray) -> FloatArray:
    """Return the damped step, with c where it is where that is held at a limit."""
    diagonal = np.arange(matrix.shape[1])
    damped = matrix.copy()
    size = damped[:, diagonal, diagonal]
    damped[:, diagonal, diagonal] += damping[:, None] * size + 1e-12 * size.max(axis=1, keepdims=True) + 1e-300
    damped[is_held, 0, :] = 0.0
    damped[is_held, :, 0] = 0.0
    damped[is_held, 0, 0] = 1.0
    wanted = gradient.copy()
    wanted[is_held, 0] = 0.0
    step: FloatArray = np.clip(np.linalg.solve(damped, wanted[..., None])[..., 0], -5.0, 5.0)
    return step


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ConfigError(f"{name} is {value}; expected more than 0")


def _check_ridge(ridge: float) -> float:
    if not ridge >= 0:
        raise ConfigError(f"ridge is {ridge}; expected 0 or more")
    return ridge
