"""Adaptive Data Optimization (Jiang et al. 2024, arXiv 2410.11820), with exact laws of all losses since the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixlake.catalog import ConfigError
from mixlake.catalog.records import IntArray
from mixlake.mixing.ado import moved, pooled, preference, repeat_discount
from mixlake.mixing.inference import FloatArray
from mixlake.mixing.laws import Laws, Limits, fit_laws, learning_speeds
from mixlake.mixing.loss_history import BinnedHistory, Points
from mixlake.mixing.policies import BoolArray, Setting, described, dumped, loaded
from mixlake.mixing.simplex import within

_LEAST_POINTS = 8
"""Points of a component, for a law of its own."""
_LEAST_CREDIT = 1e-3
"""Of the prior: what was not drawn for long can still come back."""
_OVERDUE = 30.0
"""Appearances that a component has missed in a row when it counts as exhausted; chance misses as many in e^-30."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdoState:
    """Where ADO stands, besides the losses so far; arrays of shape (K,), counts in tokens."""

    num_steps: int
    total: float
    """Tokens of all components."""
    reference: float
    """The n that the laws count in: where the fitted losses begin; 0 before the first fit."""
    tokens: FloatArray
    appearances: FloatArray
    """Steps that had tokens of it."""
    due: FloatArray
    """Tokens expected of it, by its weight, since the last."""
    credit: FloatArray
    average: FloatArray
    """π̄."""
    preference: FloatArray
    shares: FloatArray
    log_beta: FloatArray
    log_epsilon: FloatArray
    alpha: FloatArray
    """0 where there is no law."""
    speed_error: FloatArray
    """Standard error of -dL/d log n when it was fitted, in nats."""


class Ado:
    """ADO whose laws are fitted to all losses since ``ignore_steps``, weighted by tokens, in any unit of tokens.

    What differs from the published rules (`mixlake.mixing.policy_ado_published`): ε is bounded relative to the losses
    seen, so that components of low loss keep learning; losses are binned by tokens, not smoothed; fits start from the
    one before too; speeds that are known badly are drawn towards their mean; repeated data is worth less; the floor is
    exact. A component that appears later has the median speed of the others until it has a law; one that is exhausted
    keeps the floor.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        ignore_steps: int = 100,
        start_step: int = 500,
        interval: int = 100,
        floor: float = 0.01,
        epsilon_floor: float = 0.2,
        smoothing: float = 0.1,
        credit_smoothing: float = 0.1,
        credit_power: float = 0.5,
        shrink: bool = True,
        warm_start: bool = True,
        own_counts: bool = False,
        repeat_lifetime: float | None = 15.4,
    ) -> None:
        """Begin at the prior.

        Args:
            setting: what is mixed; with ``tokens_per_pass``, repeated components are discounted.
            ignore_steps: steps whose losses are not fitted; the warm-up of the learning rate.
            start_step: the step of the first fit and the first weights.
            interval: steps from one fit to the next.
            floor: least share, exactly; at most half of an even one.
            epsilon_floor: least ε over the smallest loss seen, 0 to 1.
            smoothing: γ₂, the part of the preference in the weights.
            credit_smoothing: γ₁, how fast credit follows the batches' shares.
            credit_power: s.
            shrink: whether speeds known badly are drawn towards their mean.
            warm_start: whether fits start from the last one too.
            own_counts: whether n is a component's own tokens; the authors count all tokens for each.
            repeat_lifetime: R*, passes in which repeated data loses most of its worth; None for no discount.

        Raises:
            ConfigError: a number is out of range.
        """
        _check_steps(ignore_steps, start_step, interval)
        _check_parts(floor, smoothing=smoothing, credit_smoothing=credit_smoothing, epsilon_floor=epsilon_floor)
        self._setting = setting
        self._ignore_steps = ignore_steps
        self._start_step = start_step
        self._interval = interval
        self._is_mixed = setting.prior > 0
        self._floor = min(floor, 0.5 / int(self._is_mixed.sum()))
        self._epsilon_floor = epsilon_floor
        self._smoothing = smoothing
        self._credit_smoothing = credit_smoothing
        self._credit_power = credit_power
        self._shrink = shrink
        self._warm_start = warm_start
        self._own_counts = own_counts
        self._repeat_lifetime = repeat_lifetime
        self._history = BinnedHistory(len(setting.prior))
        self._state = _initial(setting.prior)

    def update(self, step: int, loss_sum: FloatArray, num_tokens: IntArray, weights_version: int) -> FloatArray | None:
        """Take one step's sums; return weights (see `Policy`). Steps are those with tokens, from 0."""
        if not num_tokens.any():
            return None
        self._state = counted(self._state, num_tokens, self._credit_smoothing)
        state, number = self._state, self._state.num_steps - 1
        if number >= self._ignore_steps:
            counts = state.tokens if self._own_counts else np.full(len(num_tokens), state.total)
            self._history.add(counts, loss_sum, num_tokens, state.total)
        if number < self._start_step:
            return None
        if (number - self._start_step) % self._interval == 0:
            self._state = self._fitted()
        self._state = self._weighted()
        return self._state.shares

    def state_dict(self) -> dict[str, Any]:
        """Return everything that later updates depend on."""
        return {"state": dumped(self._state), "history": self._history.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state."""
        self._state = loaded(AdoState, state["state"])
        self._history.load_state_dict(state["history"])

    def details(self) -> dict[str, Any]:
        """Return laws in tokens, speeds (nats per e-fold of tokens) with their errors, credit and preference."""
        state = self._state
        has_law = state.alpha > 0
        beta = np.exp(state.log_beta + state.alpha * np.log(max(state.reference, 1.0)))
        counts = self._counts()
        return described(
            self._setting.components,
            epsilon=np.where(has_law, np.exp(state.log_epsilon), np.nan),
            beta=np.where(has_law, beta, np.nan),
            alpha=np.where(has_law, state.alpha, np.nan),
            speed=np.where(has_law, state.alpha * _laws(state).learnable(counts), np.nan),
            speed_error=np.where(has_law, state.speed_error, np.nan),
            credit=state.credit,
            preference=state.preference,
        )

    def _counts(self) -> FloatArray:
        """Return n in the laws' unit."""
        state = self._state
        tokens = np.maximum(state.tokens, 1.0) if self._own_counts else np.full(len(state.tokens), state.total)
        result: FloatArray = np.maximum(tokens, 1.0) / max(state.reference, 1.0)
        return result

    def _fitted(self) -> AdoState:
        state = self._state
        counts, losses, tokens = self._history.points()
        reference = state.reference or float(counts[tokens > 0].min())
        points: Points = (counts / reference, losses, tokens)
        has_law = (tokens > 0).sum(axis=1) >= _LEAST_POINTS
        if not has_law.any():
            return state
        lowest = np.where(tokens > 0, losses, np.inf).min(axis=1)
        limits = Limits(min_log_epsilon=np.log(self._epsilon_floor * np.where(has_law, lowest, 1.0)))
        start = np.where(has_law[:, None] & (state.alpha > 0)[:, None], _laws(state).theta, np.nan)
        laws = fit_laws(*points, limits=limits, start_K3=start if self._warm_start else None)
        self._state = replace(
            state,
            reference=reference,
            log_beta=np.where(has_law, laws.log_beta, 0.0),
            log_epsilon=np.where(has_law, laws.log_epsilon, 0.0),
            alpha=np.where(has_law, laws.alpha, 0.0),
        )
        known = tuple(part[has_law] for part in points)
        _, error = learning_speeds(_laws(self._state, has_law), self._counts()[has_law], (known[0], known[1], known[2]))
        errors = np.zeros(len(has_law))
        errors[has_law] = error
        return replace(self._state, speed_error=errors)

    def _weighted(self) -> AdoState:
        state, prior = self._state, self._setting.prior
        has_law = (state.alpha > 0) & self._is_mixed
        if not has_law.any():
            return state
        counts = self._counts()
        speed = state.alpha * _laws(state).learnable(counts)
        if self._shrink:
            speed[has_law] = np.maximum(pooled(speed[has_law], np.maximum(state.speed_error[has_law], 1e-9)), 0.0)
        speed = np.where(has_law, speed, np.median(speed[has_law])) / counts
        sizes = self._setting.tokens_per_pass
        if sizes is not None and self._repeat_lifetime is not None:
            speed = speed * repeat_discount(state.tokens / np.maximum(sizes, 1.0), self._repeat_lifetime)
        credit = np.maximum(state.credit, _LEAST_CREDIT * prior)
        rho = preference(np.where(is_exhausted(state), 0.0, prior), credit, speed, self._credit_power)
        shares = np.zeros(len(prior))
        wanted = moved(state.average, rho, self._smoothing)
        shares[self._is_mixed] = within(wanted[self._is_mixed], self._floor, 1.0)
        return replace(
            state, preference=rho, shares=shares, average=moved(state.average, rho, 1 / (state.num_steps + 1))
        )


def counted(state: AdoState, num_tokens: IntArray, credit_smoothing: float) -> AdoState:
    """Return the state with a step's tokens counted, and credit moved towards their shares."""
    total = float(num_tokens.sum())
    return replace(
        state,
        num_steps=state.num_steps + 1,
        total=state.total + total,
        tokens=state.tokens + num_tokens,
        appearances=state.appearances + (num_tokens > 0),
        due=np.where(num_tokens > 0, 0.0, state.due + state.shares * total),
        credit=moved(state.credit, num_tokens / total, credit_smoothing),
    )


def is_exhausted(state: AdoState) -> BoolArray:
    """Say which components were there and no longer come, though their weights have been due for long; shape (K,)."""
    usual = state.tokens / np.maximum(state.appearances, 1.0)
    result: BoolArray = (state.tokens > 0) & (state.due > _OVERDUE * usual)
    return result


def _initial(prior: FloatArray) -> AdoState:
    zeros = np.zeros(len(prior))
    return AdoState(
        num_steps=0,
        total=0.0,
        reference=0.0,
        tokens=zeros,
        appearances=zeros,
        due=zeros,
        credit=prior,
        average=prior,
        preference=prior,
        shares=prior,
        log_beta=zeros,
        log_epsilon=zeros,
        alpha=zeros,
        speed_error=zeros,
    )


def _laws(state: AdoState, which: BoolArray | slice = slice(None)) -> Laws:
    a, e, alpha = state.log_beta[which], state.log_epsilon[which], state.alpha[which]
    return Laws(log_beta=a, log_epsilon=e, alpha=alpha, objective=np.zeros(len(a)))


def _check_steps(ignore_steps: int, start_step: int, interval: int) -> None:
    if interval < 1 or not 0 <= ignore_steps < start_step:
        raise ConfigError(
            f"ignore_steps is {ignore_steps}, start_step {start_step}, interval {interval}; "
            "expected 0 <= ignore_steps < start_step, and 1 or more"
        )


def _check_parts(floor: float, **parts: float) -> None:
    for name, part in parts.items():
        if not 0 < part <= 1:
            raise ConfigError(f"{name} is {part}; expected more than 0, at most 1")
    if not 0 <= floor < 1:
        raise ConfigError(f"floor is {floor}; expected 0 or more, less than 1")
