"""Weights versions are shown so that they can be read, however many components there are."""

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from mixlake.conf.weights_table import weights_table


def version(number: int, weights: Mapping[str, float], cause: str = "adapt", **details: Any) -> dict[str, Any]:
    entries = [{"component": name, "weight": weight} for name, weight in weights.items()]
    told = json.dumps({"policy": "x" * 500, **details}) if cause == "adapt" else None
    return {
        "version": number,
        "chunk": 10 * number,
        "step": 5 * number,
        "cause": cause,
        "weights": entries,
        "details": told,
    }


def shown(versions: list[dict[str, Any]], width: int) -> list[str]:
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(weights_table(versions))
    lines = capture.get().splitlines()
    assert all(len(line) <= width for line in lines)
    return [" ".join(line.split()) for line in lines if line.strip()]


TWO = [version(1, {"german": 0.25, "english": 0.75}, "declared"), version(2, {"german": 0.5, "english": 0.5})]


def test_each_component_has_a_column_where_there_is_room() -> None:
    assert shown(TWO, 100)[0] == "version from chunk step cause german english"
    assert shown(TWO, 100)[2:] == ["1 10 5 declared 25.00% 75.00%", "2 20 10 adapt 50.00% 50.00%"]


def test_of_many_components_those_are_told_that_changed_most() -> None:
    before = {f"part-{k:02}": 1 / 22 for k in range(22)}
    after = {**before, "part-03": 1 / 22 + 0.02, "part-07": 1 / 22 - 0.015, "part-20": 1 / 22 - 0.005}
    lines = shown([version(1, before, "declared"), version(2, after)], 100)
    assert lines[0] == "version from chunk step cause weights"
    joined = " ".join(lines)
    assert "part-00 4.55%, part-01 4.55%, part-02 4.55%, part-03 4.55%, 18 more" in joined
    assert "part-03 4.55% → 6.55%, part-07 4.55% → 3.05%, part-20 4.55% → 4.05%" in joined
    assert "2 more" not in joined


def test_what_came_late_says_so() -> None:
    assert "late" not in " ".join(shown(TWO, 100))
    lines = shown([*TWO, version(3, {"german": 0.6, "english": 0.4}, chunks_late=7)], 100)
    assert "chunks late" in lines[0]
    assert lines[-1] == "3 30 15 adapt 7 60.00% 40.00%"
