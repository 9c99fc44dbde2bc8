"""What happened to a catalog: one row per version, from the log of the root table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from datafusion import DataFrame, SessionContext
from deltalake import DeltaTable

from mixlake.catalog import schema
from mixlake.catalog.errors import ConfigError, LakeError

_COLUMNS = pa.schema(
    [
        ("version", pa.int64()),
        ("timestamp", schema.TIMESTAMP),
        ("user", pa.string()),
        ("action", pa.string()),
        ("dataset", pa.string()),
        ("num_samples", pa.int64()),
        ("change", pa.int64()),
        ("details", pa.string()),
    ]
)

_WORDS = frozenset(["reason", "registration", "where"])
"""Details that are text whatever they look like."""


def history_frame(datasets: DeltaTable, newest: int) -> DataFrame:
    """Return the versions up to ``newest``, the newest first.

    Columns: version, timestamp, user, action, dataset, num_samples (what the dataset holds then), change (by how many
    samples that differs from the version before), details (the action's parameters, as JSON).
    """
    rows = [_row(commit) for commit in datasets.history() if commit["version"] <= newest]
    return SessionContext().from_arrow(pa.Table.from_pylist(rows, schema=_COLUMNS))


def version_at(datasets: DeltaTable, timestamp: str | datetime) -> int:
    """Return the version that was the newest at a moment: ISO 8601 or a datetime, in UTC where it has no zone.

    Raises:
        ConfigError: the timestamp does not parse.
        LakeError: there was no version yet.
    """
    moment = _moment(timestamp)
    commits = datasets.history()
    before = [int(commit["version"]) for commit in commits if commit["timestamp"] <= moment.timestamp() * 1000]
    if not before:
        first = datetime.fromtimestamp(commits[-1]["timestamp"] / 1000, UTC).isoformat()
        raise LakeError(f"there was no catalog at {moment.isoformat()}: datasets@0 was made at {first}")
    return max(before)


def _row(commit: Mapping[str, Any]) -> dict[str, Any]:
    said = {key.removeprefix("mixlake."): value for key, value in commit.items() if key.startswith("mixlake.")}
    return {
        "version": int(commit["version"]),
        "timestamp": commit["timestamp"] * 1000,
        "user": said.pop("user", ""),
        "action": said.pop("action", "create"),
        "dataset": said.pop("dataset", None),
        "num_samples": _integer(said.pop("num_samples", None)),
        "change": _integer(said.pop("change", None)),
        "details": json.dumps({key: _plain(key, value) for key, value in said.items()}, sort_keys=True),
    }


def _plain(key: str, text: str) -> Any:
    """Return what a detail was before it became text, which is all that a commit can hold."""
    if key in _WORDS:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _integer(text: str | None) -> int | None:
    return None if text is None else int(text)


def _moment(timestamp: str | datetime) -> datetime:
    try:
        moment = datetime.fromisoformat(timestamp) if isinstance(timestamp, str) else timestamp
    except ValueError as error:
        raise ConfigError(f"timestamp {timestamp!r} is not ISO 8601, such as 2026-11-01T00:00:00Z") from error
    if not isinstance(moment, datetime):
        raise ConfigError(f"timestamp {timestamp!r}: expected ISO 8601 text or a datetime")
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
