"""Removing samples: they leave, the rest keeps its place, and why is recorded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mixlake.catalog import Catalog, ConfigError, LakeError, QueryError, sample_writer
from mixlake.catalog.lake import user_name

WriteLines = Callable[..., str]
ReadBack = Callable[[str], list[dict[str, Any]]]


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def rows_of(catalog: Catalog) -> list[tuple[Any, ...]]:
    query = "SELECT dataset, file_id, block, row, byte_start, byte_stop, n, odd FROM samples ORDER BY 1, 2, 4"
    return [tuple(row.values()) for row in catalog.sql(query).to_pylist()]


@pytest.fixture
def numbers(catalog: Catalog, tmp_path: Path, write_lines: WriteLines) -> Catalog:
    """A catalog with the datasets ``low`` (0 to 5, in two files) and ``high`` (6 to 8, of which only n is known)."""
    for start in (0, 3):
        write_lines(
            f"low/{start}.jsonl", *({"text": f"{n}", "n": n, "odd": n % 2 == 1} for n in range(start, start + 3))
        )
    path = write_lines("high.jsonl", *({"text": f"{n}", "n": n} for n in range(6, 9)))
    catalog.register("low", str(tmp_path / "data" / "low"), properties={"n": "n", "odd": "odd"})
    catalog.register("high", path, properties={"n": "n"})
    return catalog


def test_samples_that_match_leave_and_the_others_keep_their_places(numbers: Catalog, read_back: ReadBack) -> None:
    before = rows_of(numbers)
    high = numbers.dataset("high").registrations
    done = numbers.remove("odd", reason="odd ones out")
    assert (done.version, done.num_samples) == (3, {"low": 3})
    assert str(done) == "3 samples removed (3 of low); datasets@3"
    assert rows_of(numbers) == [row for row in before if not row[-1]]
    assert rows_of(numbers.at(version=2)) == before
    assert [record["n"] for record in read_back("low")] == [0, 2, 4]
    assert numbers.dataset("high").registrations == high
    files = numbers.sql("SELECT path, num_samples FROM files WHERE dataset = 'low' ORDER BY 1").to_pylist()
    assert files == [{"path": "0.jsonl", "num_samples": 2}, {"path": "3.jsonl", "num_samples": 1}]
    assert (numbers.dataset("low").num_files, numbers.dataset("low").num_samples) == (2, 3)


def test_samples_of_several_datasets_leave_in_one_version(numbers: Catalog) -> None:
    done = numbers.remove("n BETWEEN 5 AND 6", reason="the middle")
    assert (done.version, done.num_samples) == (3, {"high": 1, "low": 1})
    assert [row[-2] for row in rows_of(numbers)] == [7, 8, 0, 1, 2, 3, 4]
    row = numbers.history().to_pylist()[0]
    assert (row["action"], row["dataset"], row["num_samples"], row["change"]) == ("remove", "high, low", 7, -2)
    assert json.loads(row["details"]) == {
        "where": "n BETWEEN 5 AND 6",
        "reason": "the middle",
        "num_removed": {"high": 1, "low": 1},
    }


def test_a_removal_is_recorded_with_the_dataset(numbers: Catalog) -> None:
    numbers.remove("n = 1", reason="first")
    numbers.remove("n = 2 -- only this", reason="second")
    removals = numbers.dataset("low").removals
    assert [(r.where, r.reason, r.user, r.num_samples) for r in removals] == [
        ("n = 1", "first", user_name(), 1),
        ("n = 2 -- only this", "second", user_name(), 1),
    ]
    assert all(timedelta(0) <= datetime.now(UTC) - r.removed_at < timedelta(minutes=5) for r in removals)
    assert numbers.dataset("high").removals == ()
    assert numbers.at(version=3).dataset("low").removals == removals[:1]
    assert [row["num_removed"] for row in numbers.datasets().to_pylist()] == [0, 2]
    query = "SELECT unnest(removals)['reason'] AS reason FROM datasets"
    assert [row["reason"] for row in numbers.sql(query).to_pylist()] == ["first", "second"]


@pytest.mark.parametrize(
    ("predicate", "left"),
    [
        ("n > 1 OR n IS NULL", [0, 1]),
        ("odd IS NULL", [0, 1, 2, 3, 4, 5]),
        ("NOT odd", [6, 7, 8, 1, 3, 5]),
        ("dataset = 'low'", [6, 7, 8]),
        ("dataset = 'high' AND row = 1", [6, 8, 0, 1, 2, 3, 4, 5]),
        ("registration LIKE 'low-%' AND file_id = 1 AND row >= 1", [6, 7, 8, 0, 1, 2, 3]),
        ("true", []),
    ],
)
def test_a_predicate_is_over_the_columns_of_samples(numbers: Catalog, predicate: str, left: list[int]) -> None:
    numbers.remove(predicate, reason="test")
    assert [row[-2] for row in rows_of(numbers)] == left
    assert [dataset.name for dataset in numbers.list_datasets()] == ["high", "low"]


def test_a_removal_that_matches_nothing_is_no_new_version(numbers: Catalog) -> None:
    done = numbers.remove("n = 99", reason="test")
    assert (done.version, done.num_samples, numbers.version) == (2, {}, 2)
    assert str(done) == "no sample matches n = 99; datasets@2 stays as it is"


def test_a_large_part_is_copied_in_storage_order(
    catalog: Catalog, tmp_path: Path, write_lines: WriteLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_writer, "ROWS_PER_GROUP", 5_000)
    monkeypatch.setattr(sample_writer, "_ROWS_PER_FILE", 10_000)
    for start in range(0, 40_000, 5_000):
        write_lines(f"many/{start:05}.jsonl", *({"text": "x", "n": n} for n in range(start, start + 5_000)))
    catalog.register("many", str(tmp_path / "data" / "many"), properties={"n": "n"})
    calls: list[tuple[int, int, str]] = []
    catalog.remove("n % 4 = 0", reason="test", progress=lambda *call: calls.append(call))
    (registration,) = catalog.dataset("many").registrations
    folder = Path(catalog.lake.path("samples"), f"registration={registration}")
    stored = [n for file in sorted(folder.iterdir()) for n in pq.read_table(file, partitioning=None)["n"].to_pylist()]
    assert stored == [n for n in range(40_000) if n % 4]
    assert calls[-1] == (40_000, 40_000, "samples")
    assert len(calls) > 2  # files of the index


@pytest.mark.parametrize(
    ("predicate", "message"),
    [
        ("nn = 1", "remove: unknown property 'nn'; samples@2 has: "),
        ("n", "remove: 'n' is int64, expected true or false for each sample"),
        ("n =", "remove: "),
        ("random() < 0.5", "remove: random gives another answer at each call"),
        ("1 / (n - 3) = 1", "remove: 1 / (n - 3) = 1 fails on samples@2: Divide by zero"),
        ("", "remove: expected an SQL predicate, got ''"),
        ("n = 1); DROP TABLE samples; (true", "remove: "),
    ],
)
def test_a_wrong_predicate_is_refused(numbers: Catalog, predicate: str, message: str) -> None:
    with pytest.raises(QueryError, match=f"^{re.escape(message)}"):
        numbers.remove(predicate, reason="test")
    assert numbers.version == 2


@pytest.mark.parametrize("reason", ["", "  ", None])
def test_a_removal_needs_a_reason(numbers: Catalog, reason: Any) -> None:
    message = f"reason={reason!r}: expected a few words; they are kept with what was removed"
    with pytest.raises(ConfigError, match=exactly(message)):
        numbers.remove("n = 1", reason=reason)
    assert numbers.version == 2


def test_a_pinned_catalog_removes_nothing(numbers: Catalog) -> None:
    with pytest.raises(LakeError, match=exactly("catalog@1 is read-only; remove through Catalog.open")):
        numbers.at(version=1).remove("n = 1", reason="test")


def test_another_process_that_changes_one_of_the_datasets_meanwhile_wins(numbers: Catalog) -> None:
    def unregister_first(*_: object) -> None:
        if numbers.version == 2:
            Catalog.open(numbers.lake.uri).unregister("high")

    message = "datasets@3: another process did remove first (dataset:high)"
    with pytest.raises(LakeError, match=exactly(message)):
        numbers.remove("n > 4", reason="test", progress=unregister_first)
    assert [row[-2] for row in rows_of(numbers)] == [0, 1, 2, 3, 4, 5]


# Unregistering


def test_an_unregistered_dataset_leaves_and_old_versions_show_it(numbers: Catalog) -> None:
    before = rows_of(numbers)
    assert numbers.unregister("low") == 3
    assert [row[0] for row in rows_of(numbers.at(version=2))] == [row[0] for row in before]
    assert [dataset.name for dataset in numbers.list_datasets()] == ["high"]
    assert numbers.sql("SELECT DISTINCT dataset FROM files").to_pylist() == [{"dataset": "high"}]
    row = numbers.history().to_pylist()[0]
    assert (row["action"], row["dataset"], row["num_samples"], row["change"]) == ("unregister", "low", 0, -6)


def test_a_name_that_was_unregistered_can_be_taken_again(numbers: Catalog, write_lines: WriteLines) -> None:
    numbers.unregister("low")
    numbers.register("low", write_lines("new.jsonl", {"text": "x", "n": 1}), properties={"n": "n"})
    assert numbers.dataset("low").num_samples == 1


def test_what_is_not_registered_cannot_be_unregistered(numbers: Catalog) -> None:
    with pytest.raises(
        LakeError, match=exactly("no dataset 'lw' in datasets@2; there are: high, low. Did you mean 'low'?")
    ):
        numbers.unregister("lw")
    with pytest.raises(LakeError, match=exactly("catalog@2 is read-only; unregister through Catalog.open")):
        numbers.at(version=2).unregister("low")
