"""Adaptive policies: from the losses of training steps to weights, as pure functions over arrays and a small state.

A policy is told what it mixes once, then the sums of every step in order; the same calls give the same weights to the
bit, wherever they are made, so a run can be replayed from its feedback. Arrays have one entry per component, in the
order of `Setting.components`; names that end in K say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from mixlake.catalog import ConfigError
from mixlake.catalog.records import IntArray
from mixlake.mixing.inference import FloatArray

State = TypeVar("State")
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What a policy mixes."""

    components: tuple[str, ...]
    prior: FloatArray
    """Declared shares, shape (K,), sum 1; a component without a share is never given one."""
    tokens_per_pass: FloatArray | None = None
    """Tokens that one pass over each component has, shape (K,); None where they are not known."""

    def __post_init__(self) -> None:
        prior, num = self.prior, len(self.components)
        if prior.shape != (num,) or not np.isfinite(prior).all() or (prior < 0).any() or not prior.sum() > 0:
            raise ConfigError(f"prior is {prior.tolist()}; expected {num} shares, 0 or more, of which one is more")
        object.__setattr__(self, "prior", prior / prior.sum())


class Policy(Protocol):
    """Decides on weights. A user's own is named by ``_target_`` and is called with a `Setting` and its options."""

    def update(self, step: int, loss_sum: FloatArray, num_tokens: IntArray, weights_version: int) -> FloatArray | None:
        """Take the sums of one optimiser step over all ranks; return weights, or None for "as they are".

        Args:
            step: greater than that of the call before; steps may be missing.
            loss_sum: cross-entropy in nats, summed over each component's tokens, shape (K,).
            num_tokens: how many tokens those were, shape (K,); 0 where the step had none of a component.
            weights_version: under which the step's batches were drawn.

        Returns:
            Shares of shape (K,), 0 or more, sum 1.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return everything that later updates depend on, as JSON can hold it, exactly."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of a policy with the same setting and options."""

    def details(self) -> dict[str, Any]:
        """Return why the last weights are what they are, as JSON can hold it."""


def dumped(state: object) -> dict[str, Any]:
    """Return a dataclass of numbers and arrays as JSON can hold it; floats read back exactly."""
    values = {field.name: getattr(state, field.name) for field in fields(state)}  # type: ignore[arg-type]
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}


def loaded(kind: type[State], values: Mapping[str, Any]) -> State:
    """Return what `dumped` was given.

    Raises:
        ConfigError: the values are of something else.
    """
    names = {field.name: str(field.type) for field in fields(kind)}  # type: ignore[arg-type]
    if values.keys() != names.keys():
        raise ConfigError(f"policy state has {sorted(values)}; a {kind.__name__} has {sorted(names)}")
    arrays = {"FloatArray": np.float64, "IntArray": np.int64}
    return kind(
        **{
            name: np.array(values[name], arrays[type_name]) if type_name in arrays else values[name]
            for name, type_name in names.items()
        }
    )


def mean_losses(loss_sum: FloatArray, num_tokens: IntArray) -> FloatArray:
    """Return losses per token, shape (K,); 0 where there are no tokens.

    >>> mean_losses(np.array([6.0, 0.0]), np.array([2, 0])).tolist()
    [3.0, 0.0]
    """
    means: FloatArray = np.divide(loss_sum, num_tokens, out=np.zeros(len(loss_sum)), where=num_tokens > 0)
    return means


def described(components: Sequence[str], **columns: FloatArray) -> dict[str, Any]:
    """Return columns of numbers by component, for the record; what is not finite is None.

    >>> described(["a"], credit=np.array([0.5]))
    {'a': {'credit': 0.5}}
    """
    return {
        name: {key: float(column[index]) if np.isfinite(column[index]) else None for key, column in columns.items()}
        for index, name in enumerate(components)
    }
