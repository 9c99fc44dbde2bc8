"""Exponentiated weights: w ∝ w · exp(η · score), for scores of many methods.

Where scores come from outside, as those of DoGE (arXiv 2310.15393, alignment of gradients) and Aioli (arXiv 2411.05735,
effects of probes) do, they are what is reported in place of losses. `ExcessLoss` makes DoReMi's scores from losses and
those of a reference model, `SkillGraph` those of Skill-It from losses and a graph.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixlake.catalog import ConfigError
from mixlake.catalog.errors import listed, nearest
from mixlake.catalog.records import IntArray
from mixlake.mixing.inference import FloatArray
from mixlake.mixing.policies import BoolArray, Setting, described, dumped, loaded, mean_losses


@dataclass(frozen=True, kw_only=True, slots=True)
class ExponentiatedState:
    """Where exponentiated weights stand."""

    num_updates: int
    shares: FloatArray
    """Before smoothing, shape (K,)."""
    total: FloatArray
    """Sum of the smoothed shares of all updates: DoReMi's result is their mean, shape (K,)."""


class ExponentiatedWeights:
    """Weights from scores that come from outside, reported as ``loss_sum``: a component's score is sum over count."""

    def __init__(self, setting: Setting, *, rate: float = 1.0, smoothing: float = 1e-3) -> None:
        """Begin at the prior.

        Args:
            setting: what is mixed.
            rate: η, what scores are multiplied by.
            smoothing: c, the part that is shared out evenly: π = (1 - c) w + c / K.

        Raises:
            ConfigError: a number is out of range.
        """
        if not rate > 0 or not 0 <= smoothing <= 1:
            raise ConfigError(f"rate is {rate} and smoothing {smoothing}; expected more than 0, and 0 to 1")
        self._setting = setting
        self._rate = rate
        self._smoothing = smoothing
        self._state = ExponentiatedState(num_updates=0, shares=setting.prior, total=np.zeros(len(setting.prior)))
        self._scores = np.zeros(len(setting.prior))

    def scores(self, mean_loss: FloatArray, is_seen: BoolArray) -> FloatArray:
        """Return each component's score, shape (K,); 0 leaves it as it is."""
        return mean_loss

    def update(self, step: int, loss_sum: FloatArray, num_tokens: IntArray, weights_version: int) -> FloatArray | None:
        """Take one step's sums; return weights (see `Policy`)."""
        if not num_tokens.any():
            return None
        self._scores = self.scores(mean_losses(loss_sum, num_tokens), num_tokens > 0)
        shares = exponentiated(self._state.shares, self._rate * self._scores)
        given = smoothed(shares, self._smoothing)
        self._state = ExponentiatedState(
            num_updates=self._state.num_updates + 1, shares=shares, total=self._state.total + given
        )
        return given

    def state_dict(self) -> dict[str, Any]:
        """Return where the weights stand."""
        return dumped(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state."""
        self._state = loaded(ExponentiatedState, state)

    def details(self) -> dict[str, Any]:
        """Return scores, and the mean of all weights so far."""
        mean = self._state.total / max(self._state.num_updates, 1)
        return described(self._setting.components, score=self._scores, mean_weight=mean)


class ExcessLoss(ExponentiatedWeights):
    """DoReMi's group DRO (Xie et al. 2023, arXiv 2305.10429, algorithm 1): the score is max(loss - reference, 0).

    Here weights decide what is drawn, where DoReMi's proxy model multiplies losses by them.
    """

    def __init__(
        self, setting: Setting, *, reference: Mapping[str, float], rate: float = 1.0, smoothing: float = 1e-3
    ) -> None:
        """Begin at the prior.

        Args:
            setting: what is mixed.
            reference: mean loss of the reference model by component, in nats per token.
            rate: η.
            smoothing: c; the paper has 1e-3.

        Raises:
            ConfigError: a component has no reference, or a number is out of range.
        """
        super().__init__(setting, rate=rate, smoothing=smoothing)
        _check_names("reference", reference, setting.components)
        self._reference = np.array([float(reference[name]) for name in setting.components])

    def scores(self, mean_loss: FloatArray, is_seen: BoolArray) -> FloatArray:
        """Return what is lost beyond the reference."""
        return np.where(is_seen, np.maximum(mean_loss - self._reference, 0.0), 0.0)


class SkillGraph(ExponentiatedWeights):
    """Skill-It (Chen et al. 2023, arXiv 2307.14430, algorithm 1): the score is A @ sum of the losses of a window.

    A[i, j] says how much training on component i lowers the loss of component j.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        graph: Mapping[str, Mapping[str, float]],
        window: int = 3,
        rate: float = 0.2,
        smoothing: float = 0.0,
    ) -> None:
        """Begin at the prior.

        Args:
            setting: what is mixed.
            graph: A by component and component; entries that are not there are 0.
            window: how many updates' losses are summed.
            rate: η.
            smoothing: c.

        Raises:
            ConfigError: a name is unknown, or a number is out of range.
        """
        super().__init__(setting, rate=rate, smoothing=smoothing)
        if window < 1:
            raise ConfigError(f"window is {window}; expected 1 or more")
        names = setting.components
        _check_names("graph", graph, names)
        for name, edges in graph.items():
            _check_names(f"graph.{name}", edges, names, is_complete=False)
        self._graph = np.array([[float(graph[row].get(column, 0.0)) for column in names] for row in names])
        self._window: deque[FloatArray] = deque(maxlen=window)

    def scores(self, mean_loss: FloatArray, is_seen: BoolArray) -> FloatArray:
        """Return what training on each component promises for all."""
        self._window.append(mean_loss)
        scores: FloatArray = (self._graph * np.sum(self._window, axis=0)).sum(axis=1)
        return scores

    def state_dict(self) -> dict[str, Any]:
        """Return where the weights stand, with the losses of the window."""
        return {**super().state_dict(), "window": [losses.tolist() for losses in self._window]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state."""
        super().load_state_dict({key: value for key, value in state.items() if key != "window"})
        self._window.clear()
        self._window.extend(np.array(losses, np.float64) for losses in state["window"])


def exponentiated(shares: FloatArray, exponents: FloatArray) -> FloatArray:
    """Return shares ∝ shares · exp(exponents).

    >>> exponentiated(np.array([0.5, 0.5]), np.log([3.0, 1.0])).round(2).tolist()
    [0.75, 0.25]
    """
    powers = shares * np.exp(exponents - exponents.max())
    result: FloatArray = powers / powers.sum()
    return result


def smoothed(shares: FloatArray, part: float) -> FloatArray:
    """Return the shares with a part shared out evenly among those that have any.

    >>> smoothed(np.array([1.0, 0.0]), 0.5).tolist()
    [1.0, 0.0]
    """
    has_share = shares > 0
    result: FloatArray = np.where(has_share, (1 - part) * shares + part / has_share.sum(), 0.0)
    return result


def _check_names(path: str, given: Mapping[str, Any], names: Sequence[str], *, is_complete: bool = True) -> None:
    for name in given:
        if name not in names:
            raise ConfigError(f"{path}: unknown component {name!r}; there are: {listed(names)}.{nearest(name, names)}")
    if is_complete and (missing := [name for name in names if name not in given]):
        raise ConfigError(f"{path} lacks {listed(missing)}")
