"""From reported losses to decisions: a pure function of the feedback, so that it can be replayed bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mixlake.catalog import ConfigError
from mixlake.mixing.adapt import Adapt
from mixlake.mixing.decisions import Decision
from mixlake.mixing.feedback import StepLosses
from mixlake.mixing.inference import FloatArray
from mixlake.mixing.policy_bounded import nearer
from mixlake.mixing.program import Program
from mixlake.mixing.tilting import setting


class Adaptation:
    """A policy at work: every step updates it; at every interval it is asked, and what moved enough is a decision."""

    def __init__(self, adapt: Adapt, program: Program, *, delay: int) -> None:
        """Begin.

        Args:
            adapt: the policy, and when to ask it.
            program: what the run draws.
            delay: chunks from those that a deciding step had reached to the first with its weights.

        Raises:
            ConfigError: the policy cannot be made.
        """
        self._adapt = adapt
        self._delay = delay
        mixed = setting(program)
        self._components = mixed.components
        self._current_K = mixed.prior
        self._policy = adapt.make_policy(mixed)
        self._wanted_K: FloatArray | None = None
        self.last_step = -1
        """The last step that it knows."""

    def step(self, losses: StepLosses) -> Decision | None:
        """Take in a step; return a decision where one is made."""
        assert losses.step > self.last_step
        wanted = self._policy.update(losses.step, losses.loss_sum, losses.num_tokens, losses.weights_version)
        if wanted is not None:
            self._wanted_K = _checked(wanted, len(self._current_K), self._adapt.policy)
        is_due = self._adapt.decides(losses.step, self.last_step)
        self.last_step = losses.step
        bounds = self._adapt.bounds
        if not is_due or self._wanted_K is None or bounds.is_frozen(losses.step):
            return None
        if float(np.abs(self._wanted_K - self._current_K).sum()) / 2 <= self._adapt.tolerance:
            return None
        self._current_K = nearer(self._current_K, self._wanted_K, bounds.max_change)
        details = {
            **plain(self._policy.details()),
            "policy": self._adapt.policy["_target_"],
            "reached_chunk": losses.chunk,
            "delay_chunks": self._delay,
            "reported_weights_version": losses.weights_version,
        }
        return Decision(
            step=losses.step,
            chunk=losses.chunk + self._delay,
            weights=dict(zip(self._components, self._current_K.tolist(), strict=True)),
            details=details,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands, as JSON can hold it: going on from there is the same to the bit."""
        return {
            "last_step": self.last_step,
            "current": self._current_K.tolist(),
            "wanted": None if self._wanted_K is None else self._wanted_K.tolist(),
            "policy": plain(self._policy.state_dict()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        self.last_step = state["last_step"]
        self._current_K = np.array(state["current"], np.float64)
        self._wanted_K = None if state["wanted"] is None else np.array(state["wanted"], np.float64)
        self._policy.load_state_dict(state["policy"])


def replay(adapt: Adapt, program: Program, delay: int, feedback: Iterable[StepLosses]) -> list[Decision]:
    """Return the decisions that a policy makes, or would have made, of the feedback of a run."""
    adaptation = Adaptation(adapt, program, delay=delay)
    return [decision for losses in feedback if (decision := adaptation.step(losses)) is not None]


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: arrays become lists, and numbers keep every bit."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(inner) for inner in value]
    return value


def _checked(weights: Any, num: int, policy: Mapping[str, Any]) -> FloatArray:
    weights_K: FloatArray = np.asarray(weights, np.float64)
    total = weights_K.sum()
    if weights_K.shape != (num,) or not np.isfinite(weights_K).all() or (weights_K < 0).any() or total <= 0:
        raise ConfigError(
            f"policy {policy.get('_target_')} gave {weights_K.tolist()}; expected {num} weights, none below zero"
        )
    normalised: FloatArray = weights_K / total
    return normalised
