"""The baseline of adaptive policies: weights in proportion to mean losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixlake.catalog.records import IntArray
from mixlake.mixing.inference import FloatArray
from mixlake.mixing.policies import Setting, described, dumped, loaded, mean_losses


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """What has been reported so far, per component."""

    loss_sum: FloatArray
    num_tokens: IntArray


class AverageLoss:
    """The baseline: a component's share is in proportion to its mean loss so far.

    Components that have not been seen keep their declared share, and those seen share the rest. It rewards what is
    hard, which noise is too.
    """

    def __init__(self, setting: Setting, *, start_step: int = 0) -> None:
        """Begin.

        Args:
            setting: what is mixed.
            start_step: the first step that changes weights.
        """
        num = len(setting.components)
        self._setting = setting
        self._start_step = start_step
        self._totals = Totals(loss_sum=np.zeros(num), num_tokens=np.zeros(num, np.int64))

    def update(self, step: int, loss_sum: FloatArray, num_tokens: IntArray, weights_version: int) -> FloatArray | None:
        """Take one step's sums; return weights (see `Policy`)."""
        self._totals = Totals(
            loss_sum=self._totals.loss_sum + loss_sum, num_tokens=self._totals.num_tokens + num_tokens
        )
        return average_loss_shares(self._totals, self._setting.prior) if step >= self._start_step else None

    def state_dict(self) -> dict[str, Any]:
        """Return the sums."""
        return dumped(self._totals)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the sums."""
        self._totals = loaded(Totals, state)

    def details(self) -> dict[str, Any]:
        """Return mean losses."""
        means = mean_losses(self._totals.loss_sum, self._totals.num_tokens)
        return described(self._setting.components, mean_loss=means)


def average_loss_shares(totals: Totals, prior: FloatArray) -> FloatArray:
    """Return shares in proportion to mean losses; what has not been seen keeps its prior.

    >>> totals = Totals(loss_sum=np.array([6.0, 2.0, 0.0]), num_tokens=np.array([2, 2, 0]))
    >>> average_loss_shares(totals, np.array([0.4, 0.4, 0.2])).round(2).tolist()
    [0.6, 0.2, 0.2]
    """
    means = np.where(prior > 0, mean_losses(totals.loss_sum, totals.num_tokens), 0.0)
    if not means.sum() > 0:
        return prior
    unseen = np.where(means > 0, 0.0, prior)
    shares: FloatArray = unseen + (1 - unseen.sum()) * means / means.sum()
    return shares
