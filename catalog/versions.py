"""What every version of a catalog shows, from the log of the root table."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset as pads

from mixlake.catalog import schema
from mixlake.catalog.errors import LakeError
from mixlake.catalog.lake import Lake


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """One catalog version."""

    number: int
    made_at: float
    """In seconds since 1970."""
    registrations: frozenset[str]
    """What it shows."""


def read_versions(lake: Lake) -> list[Version]:
    """Return every version there is, in order.

    The log is read as it lies: opening a thousand versions one after another takes half a minute, this half a second.

    Raises:
        LakeError: the log does not go back to the first version.
    """
    log = Path(lake.path(schema.DATASETS), "_delta_log")
    commits = sorted(path for path in log.glob("*.json") if path.stem.isdigit())
    if [int(path.stem) for path in commits] != list(range(len(commits))):
        raise LakeError(f"the log of {lake.path(schema.DATASETS)} does not reach back to datasets@0, so gc cannot tell")
    live: dict[str, None] = {}
    paths: list[tuple[str, ...]] = []
    times: list[float] = []
    for commit in commits:
        made_at = commit.stat().st_mtime
        for action in map(json.loads, commit.read_text(encoding="utf-8").splitlines()):
            if "commitInfo" in action:
                made_at = action["commitInfo"].get("timestamp", made_at * 1000) / 1000
            elif "add" in action:
                live[action["add"]["path"]] = None
            elif "remove" in action:
                live.pop(action["remove"]["path"], None)
        paths.append(tuple(live))
        times.append(made_at)
    shown = _registrations_by_file(lake, sorted({path for some in paths for path in some}))
    return [
        Version(number=number, made_at=made_at, registrations=frozenset().union(*(shown[path] for path in some)))
        for number, (some, made_at) in enumerate(zip(paths, times, strict=True))
    ]


def _registrations_by_file(lake: Lake, paths: list[str]) -> dict[str, set[str]]:
    folder = lake.path(schema.DATASETS)
    found: dict[str, set[str]] = {path: set() for path in paths}
    if not paths:
        return found
    files: Any = pads.dataset([os.path.join(folder, path) for path in paths], format="parquet")
    rows = files.scanner(columns=[schema.REGISTRATION, "__filename"]).to_table()
    names = (os.path.relpath(name, folder) for name in rows["__filename"].to_pylist())
    for path, registration in zip(names, rows[schema.REGISTRATION].to_pylist(), strict=True):
        found[path].add(registration)
    return found
