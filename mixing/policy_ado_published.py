"""ADO (arXiv 2410.11820) by the rules of two published implementations, with the laws fitted exactly.

`AuthorsAdo` follows the authors' JAX code, `MixteraAdo` Mixtera's with its variants for weights that arrive late. Both
smooth the losses, take every tenth step, count the same n for every component, and bound ε from below by 1.65 nats.
`mixlake.mixing.policy_ado.Ado` does without these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixlake.catalog import ConfigError
from mixlake.catalog.records import IntArray
from mixlake.mixing.ado import clipped, moved, preference
from mixlake.mixing.inference import FloatArray
from mixlake.mixing.laws import Laws, fit_laws
from mixlake.mixing.loss_history import SmoothedHistory
from mixlake.mixing.policies import Setting, described, dumped, loaded, mean_losses


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedState:
    """Where ADO stands, besides the losses so far; arrays of shape (K,)."""

    num_steps: int
    counts: FloatArray
    """n: sequences so far, the same for all components that count."""
    last_losses: FloatArray
    """In place of those of a step without tokens of a component."""
    credit: FloatArray
    average: FloatArray
    """π̄."""
    preference: FloatArray
    shares: FloatArray
    log_beta: FloatArray
    log_epsilon: FloatArray
    alpha: FloatArray
    """0 before the first fit."""
    version: int
    """The weights version of the step before; -1 before the first step."""
    last_credit_step: int
    next_step: int
    """The step to decide at, for ``adjusted_v3``; -1 for none."""


class _PublishedAdo:
    """What both have in common: counting, smoothing and fitting."""

    def __init__(
        self, setting: Setting, *, first_point: int, start_step: int, interval: int, sequence_length: int
    ) -> None:
        if interval < 1 or sequence_length < 1 or start_step < 1:
            raise ConfigError(
                f"interval is {interval}, sequence_length {sequence_length}, start_step {start_step}; "
                "expected 1 or more"
            )
        num = len(setting.prior)
        self._setting = setting
        self._start_step = start_step
        self._interval = interval
        self._sequence_length = sequence_length
        self._history = SmoothedHistory(num, first=first_point)
        zeros = np.zeros(num)
        self._state = PublishedState(
            num_steps=0,
            counts=zeros,
            last_losses=zeros,
            credit=setting.prior,
            average=setting.prior,
            preference=setting.prior,
            shares=setting.prior,
            log_beta=zeros,
            log_epsilon=zeros,
            alpha=zeros,
            version=-1,
            last_credit_step=0,
            next_step=-1,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return everything that later updates depend on."""
        return {"state": dumped(self._state), "history": self._history.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state."""
        self._state = loaded(PublishedState, state["state"])
        self._history.load_state_dict(state["history"])

    def details(self) -> dict[str, Any]:
        """Return laws (n in sequences), credit and preference."""
        state = self._state
        return described(
            self._setting.components,
            epsilon=np.exp(state.log_epsilon),
            beta=np.exp(state.log_beta),
            alpha=state.alpha,
            credit=state.credit,
            preference=state.preference,
        )

    def _counted(self, loss_sum: FloatArray, num_tokens: IntArray, is_counted: FloatArray, fill: FloatArray) -> None:
        state = self._state
        losses = np.where(num_tokens > 0, mean_losses(loss_sum, num_tokens), fill)
        counts = state.counts + is_counted * (num_tokens.sum() / self._sequence_length)
        self._history.add(counts, losses)
        self._state = replace(state, num_steps=state.num_steps + 1, counts=counts, last_losses=losses)

    def _fit(self) -> None:
        counts, losses, weights = self._history.points()
        laws = fit_laws(counts, losses, weights)
        state, is_fitted = self._state, np.isfinite(laws.objective)
        self._state = replace(
            state,
            log_beta=np.where(is_fitted, laws.log_beta, state.log_beta),
            log_epsilon=np.where(is_fitted, laws.log_epsilon, state.log_epsilon),
            alpha=np.where(is_fitted, laws.alpha, state.alpha),
        )

    def _speed(self, least_alpha: float) -> FloatArray:
        """Return -dL/dn per sequence; 0 where nothing has been counted, or is known."""
        state = self._state
        laws = Laws(log_beta=state.log_beta, log_epsilon=state.log_epsilon, alpha=state.alpha, objective=state.log_beta)
        counts = np.maximum(state.counts, 1e-300)
        speed = np.maximum(state.alpha, least_alpha) * laws.learnable(counts) / counts
        result: FloatArray = np.where((state.counts > 0) & (state.alpha > 0), speed, 0.0)
        return result


class AuthorsAdo(_PublishedAdo):
    """ADO as its authors' code does it (src/data_selectors/ado.py).

    Credit is the moving average of the batches' own shares; the floor is put on the preference; an exponent counts as
    0.05 at least. Steps without any tokens do not count. Steps are those that report, from 0.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        ignore_steps: int = 1000,
        start_step: int = 1000,
        interval: int = 1000,
        sequence_length: int = 1024,
        floor: float = 0.01,
    ) -> None:
        """Begin at the prior.

        Args:
            setting: what is mixed.
            ignore_steps: steps whose losses are not fitted.
            start_step: the first step that is acted on; laws are fitted at multiples of ``interval`` from there.
            interval: steps from one fit to the next.
            sequence_length: tokens per count, on which the limits of β depend.
            floor: of the preference, before it is normalised again.

        Raises:
            ConfigError: a number is out of range.
        """
        super().__init__(
            setting,
            first_point=ignore_steps,
            start_step=start_step,
            interval=interval,
            sequence_length=sequence_length,
        )
        self._floor = floor

    def update(self, step: int, loss_sum: FloatArray, num_tokens: IntArray, weights_version: int) -> FloatArray | None:
        """Take one step's sums; return weights (see `Policy`)."""
        if not num_tokens.any():
            return None
        number, prior = self._state.num_steps, self._setting.prior
        mean = float(loss_sum.sum() / num_tokens.sum())
        fill = self._state.last_losses if number else np.full(len(prior), mean)
        self._counted(loss_sum, num_tokens, np.ones(len(prior)), fill)
        self._state = replace(self._state, credit=moved(self._state.credit, num_tokens / num_tokens.sum(), 0.1))
        if number >= self._start_step and number % self._interval == 0:
            self._fit()
        state = self._state
        if number < self._start_step or not state.alpha.any():
            return None
        room = 1 - max(self._floor * len(prior) - 1, 0.0)  # what is left of the preference with more than 100 of them
        rho = clipped(room * preference(prior, state.credit, self._speed(0.05)), self._floor, prior > 0)
        self._state = replace(
            state,
            preference=rho,
            shares=moved(state.average, rho, 0.1),
            average=moved(state.average, rho, 1 / (number + 1)),
        )
        return self._state.shares


VARIANTS = ("vanilla", "adjusted_v1", "adjusted_v2", "adjusted_v3")


class MixteraAdo(_PublishedAdo):
    """ADO as Mixtera does it (mixtera/core/algo/ado/ado.py), with its variants for weights that arrive late.

    Credit is the moving average of the weights given; the floor is put on them. ``adjusted_v1`` moves credit only where
    a new weights version has reached training; ``adjusted_v2`` by as much as the steps since then make; ``adjusted_v3``
    gives weights only 15 steps after one did, and after fits. Steps are those that report, from 1.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        variant: str = "vanilla",
        ignore_steps: int = 500,
        start_step: int = 1000,
        interval: int = 1000,
        sequence_length: int = 1024,
        floor: float = 0.01,
    ) -> None:
        """Begin at the prior.

        Args:
            setting: what is mixed.
            variant: one of `VARIANTS`.
            ignore_steps: steps whose losses are not fitted.
            start_step: the step of the first fit and the first weights; more than ``ignore_steps``.
            interval: steps from one fit to the next.
            sequence_length: tokens per count, on which the limits of β depend.
            floor: of the weights, before they are normalised again.

        Raises:
            ConfigError: a number is out of range, or there is no such variant.
        """
        if variant not in VARIANTS:
            raise ConfigError(f"variant is {variant!r}; expected one of {', '.join(VARIANTS)}")
        if start_step <= ignore_steps:
            raise ConfigError(f"start_step is {start_step}; expected more than ignore_steps, {ignore_steps}")
        super().__init__(
            setting,
            first_point=ignore_steps + 1,
            start_step=start_step,
            interval=interval,
            sequence_length=sequence_length,
        )
        self._variant = variant
        self._floor = floor

    def update(self, step: int, loss_sum: FloatArray, num_tokens: IntArray, weights_version: int) -> FloatArray | None:
        """Take one step's sums; return weights (see `Policy`)."""
        if not num_tokens.any():
            return None
        has_arrived = self._state.version not in (-1, weights_version)
        is_seen = (self._state.counts > 0) | (num_tokens > 0)
        self._counted(loss_sum, num_tokens, is_seen.astype(np.float64), self._state.last_losses)
        self._state = replace(self._state, version=weights_version)
        number = self._state.num_steps
        if number < self._start_step:
            return None
        is_fit = (number - self._start_step) % self._interval == 0
        if is_fit:
            self._fit()
        if not self._is_turn(has_arrived, is_fit):
            return None
        state = self._state
        rho = preference(self._setting.prior, state.credit, self._speed(0.0))
        shares = clipped(moved(state.average, rho, 0.1), self._floor, is_seen & (self._setting.prior > 0))
        part = self._credit_part(has_arrived)
        self._state = replace(
            state,
            preference=rho,
            shares=shares,
            credit=moved(state.credit, shares, part),
            last_credit_step=number if part else state.last_credit_step,
            average=moved(state.average, rho, 1 / (number + 1)),
        )
        return shares

    def _is_turn(self, has_arrived: bool, is_fit: bool) -> bool:
        number = self._state.num_steps
        if self._variant != "adjusted_v3" or number == self._start_step:
            return True
        if has_arrived:
            self._state = replace(self._state, next_step=number + 15)
        return is_fit or number == self._state.next_step

    def _credit_part(self, has_arrived: bool) -> float:
        if self._variant == "adjusted_v1":
            return 0.1 if has_arrived else 0.0
        if self._variant == "adjusted_v2":
            elapsed = self._state.num_steps - self._state.last_credit_step
            return float(1 - 0.9**elapsed) if has_arrived else 0.0
        return 0.1
