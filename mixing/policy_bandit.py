"""Online Data Mixing (Albalak et al. 2023, arXiv 2312.02406): components as arms of an adversarial bandit (EXP3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixlake.catalog import ConfigError
from mixlake.catalog.records import IntArray
from mixlake.mixing.inference import FloatArray
from mixlake.mixing.policies import Setting, described, dumped, loaded, mean_losses


@dataclass(frozen=True, kw_only=True, slots=True)
class BanditState:
    """Where the bandit stands."""

    num_updates: int
    rewards: FloatArray
    """Estimated rewards of the arms, shape (K,)."""
    shares: FloatArray
    """The weights that hold: rewards are weighted by their inverse, shape (K,)."""


class OnlineDataMixing:
    """EXP3 whose reward is the loss: what still has much to teach is sampled more.

    It adapts from the first step and favours high losses, those of noise included.
    """

    def __init__(
        self, setting: Setting, *, reward_scale: float = 0.1, moving_average: float | None = None, start_step: int = 0
    ) -> None:
        """Begin.

        Args:
            setting: what is mixed.
            reward_scale: what losses (in nats) are multiplied by; the authors' code has 1/10.
            moving_average: of importance-weighted rewards, as in the paper: how much of the old stays, 0 to 1; None
                adds rewards up, as the authors' code does.
            start_step: the first step whose losses count.

        Raises:
            ConfigError: a number is out of range.
        """
        if moving_average is not None and not 0 <= moving_average < 1:
            raise ConfigError(f"moving_average is {moving_average}; expected 0 to 1, less than 1")
        self._setting = setting
        self._reward_scale = reward_scale
        self._moving_average = moving_average
        self._start_step = start_step
        self._state = BanditState(num_updates=0, rewards=np.zeros(len(setting.prior)), shares=setting.prior)

    def update(self, step: int, loss_sum: FloatArray, num_tokens: IntArray, weights_version: int) -> FloatArray | None:
        """Take one step's sums; return weights (see `Policy`)."""
        if step < self._start_step or not num_tokens.any():
            return None
        losses = self._reward_scale * mean_losses(loss_sum, num_tokens)
        self._state = bandit_step(self._state, losses, num_tokens > 0, self._setting.prior > 0, self._moving_average)
        return self._state.shares

    def state_dict(self) -> dict[str, Any]:
        """Return where the bandit stands."""
        return dumped(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state."""
        self._state = loaded(BanditState, state)

    def details(self) -> dict[str, Any]:
        """Return estimated rewards."""
        return described(self._setting.components, reward=self._state.rewards)


def bandit_step(
    state: BanditState,
    losses: FloatArray,
    is_seen: np.ndarray[Any, Any],
    is_arm: np.ndarray[Any, Any],
    decay: float | None,
) -> BanditState:
    """Return the state after one step (arXiv 2312.02406, algorithm 1).

    With K arms and t updates, ε_t = min(1/K, sqrt(ln K / (K t))) and π = (1 - K ε_t) softmax(ε_{t-1} R) + ε_t, where R
    are the rewards loss / π, added up or averaged; ε_0 is 1/K. What is not an arm has no share.
    """
    reward = np.divide(losses, state.shares, out=np.zeros(len(losses)), where=is_seen & (state.shares > 0))
    if decay is None:
        rewards = state.rewards + reward
    else:
        rewards = np.where(is_seen, decay * state.rewards + (1 - decay) * reward, state.rewards)
    num, time = int(is_arm.sum()), state.num_updates + 1
    exponents = np.where(is_arm, _exploration(num, time - 1) * rewards, -np.inf)
    powers = np.exp(exponents - exponents.max())
    exploration = _exploration(num, time)
    shares = np.where(is_arm, (1 - num * exploration) * powers / powers.sum() + exploration, 0.0)
    return BanditState(num_updates=time, rewards=rewards, shares=shares / shares.sum())


def _exploration(num_arms: int, time: int) -> float:
    if time == 0:
        return 1 / num_arms
    return float(min(1 / num_arms, np.sqrt(np.log(num_arms) / (num_arms * time))))
