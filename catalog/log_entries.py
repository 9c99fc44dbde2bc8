"""What has been added to a table since one last looked, as the entries of its log say.

Thousands of processes follow the chunks of a run. To bring a Delta handle up to date takes one of them two milliseconds
and all its threads seven; it then lists every file of the table anew. A log entry is a short file of JSON lines with a
number, published whole (https://github.com/delta-io/delta/blob/master/PROTOCOL.md, "Delta Log Entries"), and says it in
a twentieth of the time.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson

from mixlake.catalog.lake import Lake

_HARMLESS = frozenset({"add", "txn", "commitInfo"})


def added_since(lake: Lake, name: str, version: int) -> tuple[int, list[dict[str, Any]]] | None:
    """Return the newest version of a table, and the ``add`` actions of the entries after ``version``, in order.

    None where the entries do not tell all that has changed: files were removed, or entries cleaned up.
    """
    log = Path(lake.path(name), "_delta_log")
    added: list[dict[str, Any]] = []
    newest = version
    while (entry := _read(log / f"{newest + 1:020}.json")) is not None:
        for line in entry.splitlines():
            ((kind, action),) = orjson.loads(line).items()
            if kind not in _HARMLESS:
                return None
            if kind == "add":
                added.append(action)
        newest += 1
    if newest == version and _checkpoint(log) > version:
        return None  # the next entry is not there any more
    return newest, added


def _checkpoint(log: Path) -> int:
    """Return the version of the last checkpoint: entries up to it may have been deleted; -1 for none."""
    content = _read(log / "_last_checkpoint")
    return -1 if content is None else int(orjson.loads(content)["version"])


def _read(path: str | os.PathLike[str]) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
