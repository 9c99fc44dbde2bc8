"""Keeping any policy in bounds: floors, caps, warm-up, freezing, and how much one weights version may change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixlake.catalog import ConfigError
from mixlake.catalog.records import IntArray
from mixlake.mixing.inference import FloatArray
from mixlake.mixing.policies import Policy, Setting
from mixlake.mixing.simplex import within


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What a policy may do, whatever it would like to."""

    floor: float = 0.0
    """The least share of a component that has any."""
    cap: float = 1.0
    """The largest share of a component."""
    max_change: float = 1.0
    """Total variation distance (half the sum of the differences) from one weights version to the next, at most."""
    warm_up_steps: int = 0
    """Before this step the declared weights hold; the policy sees the losses already."""
    freeze_step: int | None = None
    """From this step on, for example where the learning rate decays, the weights stay as they are."""

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= self.cap <= 1:
            raise ConfigError(f"floor is {self.floor} and cap is {self.cap}; expected 0 <= floor <= cap <= 1")
        if not 0 < self.max_change <= 1:
            raise ConfigError(f"max_change is {self.max_change}; expected more than 0, at most 1")

    def is_frozen(self, step: int) -> bool:
        """Say whether the weights stay as they are at a step."""
        return self.freeze_step is not None and step >= self.freeze_step

    def check(self, num: int) -> None:
        """Refuse bounds that no shares of ``num`` components can hold.

        Raises:
            ConfigError: the floors are more than 1 together, or the caps less.
        """
        if num * self.floor > 1 or num * self.cap < 1:
            raise ConfigError(
                f"floor is {self.floor} and cap is {self.cap}, but there are {num} components: "
                f"expected floor <= {1 / num:.4g} <= cap"
            )


class Bounded:
    """A policy in bounds."""

    def __init__(self, setting: Setting, *, policy: Policy, bounds: Bounds) -> None:
        """Wrap a policy. ``max_change`` is kept by what writes the versions: it bounds a version, not a step.

        Raises:
            ConfigError: no shares are within the bounds.
        """
        self._policy = policy
        self._bounds = bounds
        self._has_share = setting.prior > 0
        bounds.check(int(self._has_share.sum()))

    def update(self, step: int, loss_sum: FloatArray, num_tokens: IntArray, weights_version: int) -> FloatArray | None:
        """Take one step's sums; return weights within the bounds (see `Policy`)."""
        bounds = self._bounds
        if bounds.is_frozen(step):
            return None
        wanted = self._policy.update(step, loss_sum, num_tokens, weights_version)
        if wanted is None or step < bounds.warm_up_steps:
            return None
        shares = np.zeros(len(wanted))
        shares[self._has_share] = within(wanted[self._has_share], bounds.floor, bounds.cap)
        return shares

    def state_dict(self) -> dict[str, Any]:
        """Return the policy's state."""
        return {"policy": self._policy.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state."""
        self._policy.load_state_dict(state["policy"])

    def details(self) -> dict[str, Any]:
        """Return the policy's."""
        return self._policy.details()


def nearer(old: FloatArray, new: FloatArray, max_change: float) -> FloatArray:
    """Return the shares on the way from old to new that differ from old by ``max_change`` in total variation, at most.

    >>> nearer(np.array([0.5, 0.5]), np.array([0.9, 0.1]), 0.1).round(3).tolist()
    [0.6, 0.4]
    """
    distance = float(np.abs(new - old).sum()) / 2
    if distance <= max_change:
        return new
    shares: FloatArray = old + (max_change / distance) * (new - old)
    return shares
