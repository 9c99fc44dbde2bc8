"""Losses on validation sets, as whoever trains reports them: a few numbers now and then, each stored once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime

import pyarrow as pa

from mixlake.catalog import ConfigError, LakeError, schema
from mixlake.catalog.lake import Fence, Lake
from mixlake.mixing import declared
from mixlake.mixing.run_files import RunFiles


class EvaluationLog:
    """The evaluations of one run in the `evaluations` table: a row for each validation set."""

    def __init__(self, lake: Lake, run: str) -> None:
        self._lake = lake
        self._run = run
        self._application = f"evaluate:{run}"
        self._files = RunFiles(lake, schema.EVALUATIONS, run, "step")

    def append(self, step: int, losses: Mapping[str, float]) -> bool:
        """Store the losses of one evaluation, all sets together; say whether it was not stored before.

        Args:
            step: of training, 0 or more, and greater than that of the evaluation before; another one of it is ignored.
            losses: mean losses per token in nats, by validation set.

        Raises:
            ConfigError: a loss is not a number, or there is none.
        """
        if isinstance(step, bool) or step < 0:
            raise ConfigError(f"step is {step!r}; expected 0 or more")
        found = {declared.name(name, "losses"): float(loss) for name, loss in losses.items()}
        if not found or not all(math.isfinite(loss) for loss in found.values()):
            raise ConfigError(f"losses of step {step} are {found}; expected finite numbers by validation set")
        seen = self._last_step()
        if step <= seen:
            return False
        now = datetime.now(UTC)
        rows = [
            {"run": self._run, "step": step, "name": name, "loss": loss, "reported_at": now}
            for name, loss in found.items()
        ]
        table = pa.Table.from_pylist(rows, schema=schema.TABLES[schema.EVALUATIONS].columns)
        fence = Fence(application=self._application, seen=seen, number=step)
        try:
            self._lake.append(schema.EVALUATIONS, table, action=f"evaluate {self._run}", fence=fence)
        except LakeError:
            if self._last_step() == seen:
                raise  # not another one who evaluates
            return self.append(step, losses)
        self._files.compact()
        return True

    def read(self) -> dict[int, dict[str, float]]:
        """Return the losses by step and validation set."""
        found: dict[int, dict[str, float]] = {}
        for row in self._files.read(0).to_pylist():
            found.setdefault(row["step"], {})[row["name"]] = row["loss"]
        return found

    def _last_step(self) -> int:
        if not self._lake.has(schema.EVALUATIONS):
            return -1
        found = self._lake.table(schema.EVALUATIONS).transaction_version(self._application)
        return -1 if found is None else found
