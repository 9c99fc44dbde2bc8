"""Losses of a run so far, as points that a scaling law is fitted to: few of them, however long it has been.

Arrays: K components, N points.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from mixlake.catalog.records import IntArray
from mixlake.mixing.inference import FloatArray

Points = tuple[FloatArray, FloatArray, FloatArray]
"""Counts, mean losses and weights, each of shape (K, N); weight 0 where there is no point."""

_WINDOW = 101
_ORDER = 3


class BinnedHistory:
    """Sums over stretches of steps that are about equally long in log n, at most ``size`` of them.

    A step is a stretch of its own until there are too many; then the two neighbours go together that are closest in
    log n. So it costs the same at any time, keeps every token's loss, and needs no smoothing.
    """

    def __init__(self, num_components: int, size: int = 128) -> None:
        """Begin empty."""
        self._num = 0
        self._ends = np.zeros((size + 1, 2))  # n at the first and at the last step of each stretch
        self._sums = np.zeros((size + 1, 3, num_components))  # losses, tokens, and tokens times log n

    def __len__(self) -> int:
        """The number of stretches."""
        return self._num

    def add(self, counts_K: FloatArray, loss_sum: FloatArray, num_tokens: IntArray, total: float) -> None:
        """Add a step.

        Args:
            counts_K: n of each component, this step included.
            loss_sum: shape (K,), in nats.
            num_tokens: shape (K,).
            total: by which stretches are told apart, increasing and positive.
        """
        self._ends[self._num] = total
        self._sums[self._num] = loss_sum, num_tokens, num_tokens * np.log(np.maximum(counts_K, 1e-300))
        self._num += 1
        if self._num == len(self._ends):
            ends = self._ends
            pair = int(np.argmin(ends[1:, 1] / ends[:-1, 0]))
            ends[pair, 1] = ends[pair + 1, 1]
            self._sums[pair] += self._sums[pair + 1]
            ends[pair + 1 : -1] = ends[pair + 2 :].copy()
            self._sums[pair + 1 : -1] = self._sums[pair + 2 :].copy()
            self._num -= 1

    def points(self) -> Points:
        """Return one point for each stretch: token-weighted means, with tokens as weights."""
        losses, tokens, logs = self._sums[: self._num].transpose(1, 2, 0)
        seen = np.maximum(tokens, 1.0)
        return np.exp(logs / seen), np.where(tokens > 0, losses / seen, 1.0), tokens.copy()

    def state_dict(self) -> dict[str, Any]:
        """Return the stretches, as JSON can hold them."""
        return {"ends": self._ends[: self._num].tolist(), "sums": self._sums[: self._num].tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        self._num = len(state["ends"])
        if self._num:
            self._ends[: self._num], self._sums[: self._num] = state["ends"], state["sums"]


class SmoothedHistory:
    """Losses as the authors of ADO prepare them: Savitzky-Golay filter (101 steps, order 3), then every tenth step.

    The filter looks 50 steps ahead, so a point is final when these are there; those after the last final one are taken
    from the cubic through the last 101 steps (as scipy's ``mode="interp"`` does). Where there are more than ``size``
    points, every second one is left out from then on.
    """

    def __init__(self, num_components: int, *, first: int, stride: int = 10, size: int = 1000) -> None:
        """Begin empty.

        Args:
            num_components: K.
            first: the first step (from 0) that is a point.
            stride: from one point to the next, in steps.
            size: the most points.
        """
        self._first = first
        self._stride = stride
        self._size = size
        self._num = 0
        self._recent = np.zeros((0, 2, num_components))  # counts and losses of the last steps
        self._final = np.zeros((0, 2, num_components))  # the same of the points

    def add(self, counts_K: FloatArray, losses_K: FloatArray) -> None:
        """Add a step: n and mean losses, both of shape (K,)."""
        self._recent = np.concatenate([self._recent[-_WINDOW + 1 :], np.stack([counts_K, losses_K])[None]])
        self._num += 1
        half = _WINDOW // 2
        if self._num == _WINDOW:
            rows = [row for row in range(half + 1) if self._is_point(row)]
            self._finish(rows, rows)
        elif self._num > _WINDOW and self._is_point(self._num - 1 - half):
            self._finish([half], [half])

    def points(self) -> Points:
        """Return the points so far; weight 0 where a component has not been seen, or its smoothed loss is no loss."""
        tail = self._tail()
        counts, losses = np.concatenate([self._final, tail]).transpose(1, 2, 0)
        is_point = (counts > 0) & (losses > 0)
        return np.where(is_point, counts, 1.0), np.where(is_point, losses, 1.0), is_point.astype(np.float64)

    def state_dict(self) -> dict[str, Any]:
        """Return everything, as JSON can hold it."""
        return {
            "num": self._num,
            "stride": self._stride,
            "recent": self._recent.tolist(),
            "final": self._final.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        shape = (-1, *self._recent.shape[1:])
        self._num, self._stride = state["num"], state["stride"]
        self._recent = np.array(state["recent"], np.float64).reshape(shape)
        self._final = np.array(state["final"], np.float64).reshape(shape)

    def _is_point(self, step: int) -> bool:
        return step >= self._first and (step - self._first) % self._stride == 0

    def _finish(self, rows: list[int], positions: list[int]) -> None:
        """Make rows of the recent ones, smoothed at positions of their window, points for good."""
        losses = _smoother(_WINDOW)[positions] @ self._recent[:, 1]
        new = np.stack([self._recent[rows, 0], losses], axis=1)
        self._final = np.concatenate([self._final, new])
        if len(self._final) > self._size:
            self._final, self._stride = self._final[::2], 2 * self._stride

    def _tail(self) -> FloatArray:
        """Return the points that are not final, as they are now."""
        length = min(_WINDOW, self._num) - (1 - min(_WINDOW, self._num) % 2)
        begin = self._num - len(self._recent)
        last_final = self._num - 1 - _WINDOW // 2 if self._num >= _WINDOW else -1
        rows = [s - begin for s in range(last_final + 1, self._num) if self._is_point(s)]
        raw = self._recent[:, 1]
        if length <= _ORDER:
            return self._recent[rows]
        smoother, offset = _smoother(length), len(raw) - length
        losses = [
            smoother[row] @ raw[:length] if row <= length // 2 else smoother[row - offset] @ raw[-length:]
            for row in rows
        ]
        return np.stack([self._recent[rows, 0], np.reshape(losses, (len(rows), raw.shape[1]))], axis=1)


@cache
def _smoother(length: int) -> FloatArray:
    """Return the matrix that replaces values by those of the cubic through them (Savitzky and Golay 1964)."""
    powers = np.vander(np.linspace(-1, 1, length), _ORDER + 1)
    orthogonal, _ = np.linalg.qr(powers)
    result: FloatArray = orthogonal @ orthogonal.T
    return result
