"""What training reports: losses per component and step, stored exactly once, whoever reports them how often.

Many steps are one commit (see `mixlake.mixing.run_files`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixlake.catalog import schema
from mixlake.catalog.lake import Lake
from mixlake.catalog.records import IntArray
from mixlake.mixing.inference import FloatArray
from mixlake.mixing.run_files import RunFiles

_APPLICATION = "feedback"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StepLosses:
    """What one training step reported, of all ranks together. K components."""

    step: int
    loss_sum: FloatArray
    """Summed losses in nats, shape (K,)."""
    num_tokens: IntArray
    """Tokens with a loss, shape (K,); zero where the step had none of a component."""
    weights_version: int
    """The newest weights among the step's batches on the rank that reports."""
    chunk: int
    """The chunks that the rank had reached: those from here on had no part in the step, nor in any before it."""


class FeedbackLog:
    """The reported steps of one run in the `feedback` table: a row for each component that a step had tokens of."""

    def __init__(
        self,
        lake: Lake,
        run: str,
        components: Sequence[str],
        parent: FeedbackLog | None = None,
        inherited_step: int = -1,
    ) -> None:
        """Look at a run's feedback.

        Args:
            lake: the lake.
            run: the run.
            components: its components.
            parent: the feedback of the run that it goes on from, whose components are the same.
            inherited_step: the last step of that which is its own too; -1 for none.
        """
        self._run = run
        self._components = list(components)
        self._parent = parent
        self._inherited_step = inherited_step
        self._files = RunFiles(lake, schema.FEEDBACK, run, "step")

    def last_step(self) -> int:
        """Return the last step that is stored; -1 for none."""
        return max(self._inherited_step, self._files.last_step(_APPLICATION))

    def last_step_before(self, chunk: int) -> int:
        """Return the last step that is stored in which no chunk from ``chunk`` on had a part; -1 for none."""
        return max((losses.step for losses in self.read() if losses.chunk <= chunk), default=-1)

    def append(self, steps: Sequence[StepLosses]) -> list[StepLosses]:
        """Store steps in one commit, in their order; return those that were not stored before."""
        own = [losses for losses in steps if losses.step > self._inherited_step]
        return self._files.append_once(own, self._to_arrow, application=_APPLICATION, action="report")

    def read(self, after: int = -1) -> list[StepLosses]:
        """Return the stored steps after a step, in order."""
        inherited: list[StepLosses] = []
        if self._parent is not None and after < self._inherited_step:
            inherited = [losses for losses in self._parent.read(after) if losses.step <= self._inherited_step]
        rows = self._files.read(after + 1)
        if not len(rows):
            return inherited
        steps, first, place = np.unique(rows["step"].to_numpy(), return_index=True, return_inverse=True)
        component = pc.index_in(rows["component"], pa.array(self._components)).to_numpy()
        loss_sum = np.zeros((len(steps), len(self._components)))
        num_tokens = np.zeros((len(steps), len(self._components)), np.int64)
        loss_sum[place, component] = rows["loss_sum"].to_numpy()
        num_tokens[place, component] = rows["num_tokens"].to_numpy()
        versions = rows["weights_version"].to_numpy()[first].tolist()
        chunks = rows["chunk"].fill_null(0).to_numpy()[first].tolist()
        return inherited + [
            StepLosses(step=step, loss_sum=losses, num_tokens=tokens, weights_version=version, chunk=chunk)
            for step, losses, tokens, version, chunk in zip(
                steps.tolist(), loss_sum, num_tokens, versions, chunks, strict=True
            )
        ]

    def _to_arrow(self, steps: Sequence[StepLosses]) -> pa.Table:
        present = np.array([losses.num_tokens > 0 for losses in steps])
        present[~present.any(1), 0] = True  # a step without losses is a step all the same
        step, component = np.nonzero(present)
        columns = {
            "run": pa.array([self._run] * len(step)),
            "step": np.array([losses.step for losses in steps], np.int64)[step],
            "component": pa.array(self._components).take(pa.array(component)),
            "loss_sum": np.array([losses.loss_sum for losses in steps], np.float64)[step, component],
            "num_tokens": np.array([losses.num_tokens for losses in steps], np.int64)[step, component],
            "weights_version": np.array([losses.weights_version for losses in steps], np.int64)[step],
            "chunk": np.array([losses.chunk for losses in steps], np.int64)[step],
        }
        return pa.table(columns)
