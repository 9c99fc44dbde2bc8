"""Weights versions: what the scheduler writes, what loaders and people read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from mixlake.catalog import schema
from mixlake.catalog.errors import LakeError, ScheduleError
from mixlake.catalog.lake import Fence, Lake
from mixlake.mixing.quotas import SCALE, integer_shares
from mixlake.mixing.run_files import RunFiles

_SET = ("manual", "adapt")
"""Causes of weights that somebody set; they hold until the curriculum changes the weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reweighting:
    """Shares that a run has from a chunk on, and why."""

    version: int
    chunk: int
    shares: tuple[int, ...]
    """By component, out of `quotas.SCALE`."""
    cause: str
    """``declared``, ``curriculum``, ``manual``, ``adapt``, or ``exhausted``: a component has left."""
    step: int | None = None
    """The training step that led to it."""
    details: Mapping[str, Any] | None = None


class WeightsLog:
    """The weights versions of one run in the `weights` table."""

    def __init__(self, lake: Lake, run: str, components: Sequence[str], parent: WeightsLog | None = None) -> None:
        self._parent = parent
        self._lake = lake
        self._run = run
        self._components = list(components)
        self._shares: dict[int, list[int]] = {}
        self._files = RunFiles(lake, schema.WEIGHTS, run, "version")

    def is_declared(self) -> bool:
        """Say whether the declared weights are written."""
        return not self._files.is_empty()

    def declare(self, first: Reweighting) -> None:
        """Write the first weights: version 1, or the first after those of the run that it goes on from."""
        self._append([first], None, f"declare {self._run}")

    def standing(self, version: int) -> Reweighting | None:
        """Return what somebody set that still holds at a version, before components ran out; None where nothing was."""
        rows = [row for row in self._read(0) if row["version"] <= version and row["cause"] != "exhausted"]
        if not rows:
            return None if self._parent is None else self._parent.standing(version)
        row = max(rows, key=lambda row: int(row["version"]))
        if row["cause"] not in _SET:
            return None
        return Reweighting(
            version=row["version"],
            chunk=row["chunk"],
            shares=tuple(self.shares(row["version"])),
            cause=row["cause"],
            step=row["step"],
            details=row["details"] and json.loads(row["details"]),
        )

    def record(self, changes: Sequence[Reweighting], is_current: Callable[[], bool]) -> None:
        """Write weights versions; before the chunks that have them are.

        A scheduler that died between the two finds them there, and they are the ones that it would write. One that was
        overtaken by somebody who set weights may have left others: no chunk has them, and they are replaced.

        Args:
            changes: the versions, in order.
            is_current: says whether the chunks are still to be written; asked before anything is replaced.

        Raises:
            ScheduleError: another scheduler is writing.
        """
        if not changes:
            return
        seen = self._lake.table(schema.WEIGHTS).transaction_version(f"run:{self._run}")
        known = {row["version"]: row for row in self._read(changes[0].version)}
        new = [change for change in changes if not _is_same(self._to_row(change), known.get(change.version))]
        if not new:
            return
        first = new[0].version
        stale = f"run = '{self._run}' AND version >= {first}" if first in known else None
        try:
            if not is_current():
                raise LakeError(f"chunks of run {self._run!r} were written meanwhile")
            self._append([c for c in changes if c.version >= first], seen, f"reweight {self._run}", stale)
        except LakeError as error:
            raise ScheduleError(
                f"run {self._run!r}: another scheduler wrote weights or chunks meanwhile; only one may schedule a run"
            ) from error

    def shares(self, version: int) -> list[int]:
        """Return a weights version as integer shares out of `quotas.SCALE`, one per component.

        Raises:
            LakeError: there is no such version.
        """
        if version not in self._shares:
            for row in self._read(version):
                weight = {entry["component"]: entry["weight"] for entry in row["weights"]}
                weights = [weight.get(name, 0.0) for name in self._components]
                if row["version"] == version:
                    self._shares[version] = integer_shares(weights)
        if version not in self._shares and self._parent is not None:
            before = self._parent.shares(version)
            self._shares[version] = before + [0] * (len(self._components) - len(before))
        if version not in self._shares:
            raise LakeError(f"run {self._run!r} has no weights version {version} in {self._lake.uri}")
        return self._shares[version]

    def _read(self, first: int) -> list[dict[str, Any]]:
        """Return the rows of the versions from ``first`` on; an adaptive run has thousands before them."""
        return list(self._files.read(first).to_pylist())

    def _append(self, changes: Sequence[Reweighting], seen: int | None, action: str, stale: str | None = None) -> None:
        rows = pa.Table.from_pylist(
            [self._to_row(change) for change in changes], schema=schema.TABLES[schema.WEIGHTS].columns
        )
        last = -1 if seen is None else seen
        fence = Fence(application=f"run:{self._run}", seen=last, number=last + 1)
        self._lake.append(schema.WEIGHTS, rows, action=action, fence=fence, replace_where=stale)
        self._files.compact()

    def _to_row(self, change: Reweighting) -> dict[str, Any]:
        named = zip(self._components, change.shares, strict=True)
        return {
            "run": self._run,
            "version": change.version,
            "step": change.step,
            "chunk": change.chunk,
            "weights": [{"component": component, "weight": share / SCALE} for component, share in named],
            "cause": change.cause,
            "details": None if change.details is None else json.dumps(change.details),
            "created_at": datetime.now(UTC),
        }


def _is_same(row: Mapping[str, Any], known: Mapping[str, Any] | None) -> bool:
    return known is not None and all(known[key] == row[key] for key in ("chunk", "weights", "cause", "step", "details"))
