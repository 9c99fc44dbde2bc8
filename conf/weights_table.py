"""A run's weights versions as a table that fits a terminal: a column per component, or else what changed most."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mixlake.conf.display import Fitting, Rows

_MOST_CHANGES = 4
_COLUMNS = ("version", "from chunk", "step", "cause")


def weights_table(versions: Sequence[Mapping[str, Any]]) -> Fitting:
    """Return versions, as `mixlake.mixing.Run.weights` gives them, without the details of their causes.

    A column says which of them came later than they were to, and by how many chunks, where there are any.
    """
    head = [
        {"version": row["version"], "from chunk": row["chunk"], "step": row["step"], "cause": row["cause"]}
        for row in versions
    ]
    late = [json.loads(row["details"] or "{}").get("chunks_late", 0) for row in versions]
    columns = [*_COLUMNS, *(["chunks late"] if any(late) else [])]
    for row, chunks in zip(head, late, strict=True):
        row["chunks late"] = chunks
    shares = [{entry["component"]: entry["weight"] for entry in row["weights"]} for row in versions]
    names = list(dict.fromkeys(name for known in shares for name in known))
    full = [
        {**row, **{name: _percent(known.get(name, 0.0)) for name in names}}
        for row, known in zip(head, shares, strict=True)
    ]
    short = [
        {**row, "weights": changes(known, before)}
        for row, known, before in zip(head, shares, [{}, *shares], strict=False)
    ]
    return Fitting([Rows(full, [*columns, *names]), Rows(short, [*columns, "weights"])])


def changes(shares: Mapping[str, float], before: Mapping[str, float]) -> str:
    """Return the shares that changed most, largest change first; the largest where nothing was before.

    >>> changes({"a": 0.5, "b": 0.25, "c": 0.25}, {"a": 0.4, "b": 0.35, "c": 0.25})
    'a 40.00% → 50.00%, b 35.00% → 25.00%'
    """
    moved = {name: abs(share - before.get(name, 0.0)) for name, share in shares.items()}
    most = sorted((name for name in moved if moved[name] > 0), key=lambda name: -moved[name])
    told = [
        f"{name} {_percent(before[name])} → {_percent(shares[name])}" if before else f"{name} {_percent(shares[name])}"
        for name in most[:_MOST_CHANGES]
    ]
    return ", ".join([*told, *([f"{len(most) - len(told)} more"] if len(most) > len(told) else [])])


def _percent(share: float) -> str:
    return f"{share:.2%}"
