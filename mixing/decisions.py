"""What an adaptive policy decided: written by whoever adapts a run, taken up by whoever draws its next chunks.

Neither waits for the other. A decision of a step is stored once, by the same means as feedback is, however many adapt
the run; the scheduler's cursor says up to which one it has taken them up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from mixlake.catalog import schema
from mixlake.catalog.lake import Lake
from mixlake.mixing.run_files import RunFiles


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Weights that a policy wants, from when on, and why."""

    step: int
    """The last training step whose losses they know."""
    chunk: int
    """The first chunk that is to have them."""
    weights: Mapping[str, float]
    """What the policy makes of its prior, for every component; they sum to 1."""
    details: Mapping[str, Any]
    """Where they come from, and what the policy says about them."""


class DecisionLog:
    """The decisions of one run in the `decisions` table."""

    def __init__(self, lake: Lake, run: str) -> None:
        self._run = run
        self._files = RunFiles(lake, schema.DECISIONS, run, "step")

    def append(self, decision: Decision) -> bool:
        """Store a decision; say whether it was not stored before."""
        return bool(self._files.append_once([decision], self._to_arrow, application="decide", action="adapt"))

    def read(self, after: int = -1) -> list[Decision]:
        """Return the decisions after a step, in order."""
        return [
            Decision(
                step=row["step"],
                chunk=row["chunk"],
                weights={entry["component"]: entry["weight"] for entry in row["weights"]},
                details=json.loads(row["details"]),
            )
            for row in self._files.read(after + 1).to_pylist()
        ]

    def _to_arrow(self, decisions: Sequence[Decision]) -> pa.Table:
        rows = [
            {
                "run": self._run,
                "step": decision.step,
                "chunk": decision.chunk,
                "weights": [{"component": name, "weight": weight} for name, weight in decision.weights.items()],
                "details": json.dumps(decision.details),
                "created_at": datetime.now(UTC),
            }
            for decision in decisions
        ]
        return pa.Table.from_pylist(rows, schema=schema.TABLES[schema.DECISIONS].columns)
