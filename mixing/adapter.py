"""Adapts a run beside its training: reads what was reported, and writes what a policy decides.

All that it needs is in the lake, and a decision of a step is made once. So it may be killed at any moment, run
anywhere, and even run twice: the thread of a trainer and a process of its own do not get into each other's way.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from mixlake.catalog import ConfigError, LakeError, schema
from mixlake.catalog.lake import Fence, arrow_dataset
from mixlake.catalog.records import Progress
from mixlake.mixing.adaptation import Adaptation
from mixlake.mixing.feedback import StepLosses
from mixlake.mixing.run import Run

_STEPS_PER_STATE = 1000
"""Steps from one stored state of the policy to the next: so many, at most, are replayed when it is taken up."""


class Adapter:
    """Takes in a run's feedback in order, and makes what its policy decides."""

    def __init__(self, run: Run) -> None:
        """Take up where the lake says that adaptation stands.

        Raises:
            ConfigError: the run is not adapted, or its policy cannot be made.
        """
        if run.config.adapt is None:
            raise ConfigError(f"run {run.name!r} does not adapt its weights; declare it with adapt=…")
        self._run = run
        self._adaptation = Adaptation(run.config.adapt, run.program, delay=run.delay)
        self._stored_step = -1
        state = self._stored_state()
        if state is not None:
            self._adaptation.load_state_dict(state)
            self._stored_step = self._adaptation.last_step

    @property
    def last_step(self) -> int:
        """The last step that was taken in."""
        return self._adaptation.last_step

    def catch_up(self) -> int:
        """Take in what is stored; return how many steps that were."""
        steps = self._run.feedback.read(self.last_step)
        self.take(steps)
        return len(steps)

    def take(self, steps: Sequence[StepLosses]) -> None:
        """Take in the stored steps that follow the last one.

        What a run that goes on from another would have decided for chunks in front of its own is history: only the
        newest of it is stored, for it may be what the run begins with.
        """
        made = [decision for losses in steps if (decision := self._adaptation.step(losses)) is not None]
        history = [decision for decision in made if decision.chunk < self._run.config.at_chunk]
        for decision in made[max(len(history) - 1, 0) :]:
            self._run.decisions.append(decision)
        if self.last_step - self._stored_step >= _STEPS_PER_STATE:
            self._store_state()

    def follow(self, *, progress: Progress | None = None, poll_seconds: float = 0.1) -> int:
        """Adapt until the run is scheduled to its end; return how many steps were taken in."""
        num = 0
        while True:
            is_ended = self._run.chunks.last()[2]
            num += self.catch_up()
            if is_ended:
                return num
            if progress is not None:
                progress(self.last_step + 1, self.last_step + 1, "steps")
            time.sleep(poll_seconds)

    def _stored_state(self) -> dict[str, Any] | None:
        lake = self._run.catalog.lake
        if not lake.has(schema.POLICIES):
            return None
        mine = pads.field("run") == self._run.name
        rows = arrow_dataset(lake.table(schema.POLICIES)).to_table(filter=mine, columns=["state"])
        found: dict[str, Any] | None = json.loads(rows["state"][0].as_py()) if len(rows) else None
        return found

    def _store_state(self) -> None:
        """Store the state in place of the one before; another adapter that is further on has stored a better one."""
        run, step = self._run.name, self.last_step
        row = {
            "run": run,
            "step": step,
            "state": json.dumps(self._adaptation.state_dict()),
            "created_at": datetime.now(UTC),
        }
        rows = pa.Table.from_pylist([row], schema=schema.TABLES[schema.POLICIES].columns)
        fence = Fence(application=f"policy:{run}", seen=step - 1, number=step)
        try:
            where = f"run = '{run}'"
            self._run.catalog.lake.append(
                schema.POLICIES, rows, action=f"adapt {run}", fence=fence, replace_where=where
            )
        except LakeError:
            last = self._run.catalog.lake.table(schema.POLICIES).transaction_version(f"policy:{run}")
            if last is None or last < step:
                raise
        self._stored_step = step
