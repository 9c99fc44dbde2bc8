"""The catalog: opening, versions, time travel, what it lists, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mixlake.catalog import BatchFunction, Catalog, ConfigError, LakeError

WriteLines = Callable[..., str]


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def counts_of(catalog: Catalog) -> list[tuple[str, int]]:
    rows = catalog.sql("SELECT dataset, count(*) AS n FROM samples GROUP BY 1 ORDER BY 1").to_pylist()
    return [(row["dataset"], row["n"]) for row in rows]


def committed_at(catalog: Catalog, version: int) -> datetime:
    (row,) = [row for row in catalog.history().to_pylist() if row["version"] == version]
    moment = row["timestamp"]
    assert isinstance(moment, datetime)
    return moment


@pytest.fixture
def grown(catalog: Catalog, write_lines: WriteLines) -> Catalog:
    """A catalog of three versions: ``a`` with one sample, ``b`` with two, then another ``a`` with three."""
    lines = [{"text": text, "kind": text * 2} for text in "xyz"]
    catalog.register("a", write_lines("a.jsonl", *lines[:1]), properties={"kind": "kind"})
    time.sleep(0.005)  # commits of one millisecond cannot be told apart by time
    catalog.register("b", write_lines("b.jsonl", *lines[:2]), properties={"size": "_num_bytes"})
    time.sleep(0.005)
    catalog.register("a", write_lines("a2.jsonl", *lines), properties={"kind": "upper(kind)"}, replace=True)
    return catalog


def test_a_new_lake_has_version_0_and_nothing_in_it(catalog: Catalog) -> None:
    assert catalog.version == 0
    assert catalog.list_datasets() == ()
    assert catalog.datasets().to_pylist() == []
    assert catalog.properties().to_pylist() == []
    assert catalog.sql("SELECT * FROM samples").to_pylist() == []
    assert [row["action"] for row in catalog.history().to_pylist()] == ["create"]


def test_each_registration_is_one_version(grown: Catalog) -> None:
    assert grown.version == 3
    assert counts_of(grown) == [("a", 3), ("b", 2)]


def test_datasets_are_listed_with_what_they_hold(grown: Catalog, tmp_path: Path) -> None:
    rows = grown.datasets().to_pylist()
    assert [(row["dataset"], row["format"], row["num_files"], row["num_samples"]) for row in rows] == [
        ("a", "jsonl", 1, 3),
        ("b", "jsonl", 1, 2),
    ]
    assert [row["num_bytes"] for row in rows] == [84, 56]
    assert [row["uris"] for row in rows] == [[f"{tmp_path}/data/a2.jsonl"], [f"{tmp_path}/data/b.jsonl"]]
    assert [row["text"] for row in rows] == ["text", "text"]
    assert [(row["num_parts"], row["num_removed"]) for row in rows] == [(1, 0), (1, 0)]
    (registration,) = grown.dataset("a").registrations
    assert re.fullmatch("a-[0-9a-f]{12}", registration)
    assert all(timedelta(0) <= datetime.now(UTC) - row["registered_at"] < timedelta(minutes=5) for row in rows)


def test_properties_are_listed_with_their_types_and_where_they_come_from(
    catalog: Catalog, write_lines: WriteLines
) -> None:
    path = write_lines("a.jsonl", {"text": "x", "tags": ["t"]})
    first = BatchFunction(function=lambda batch: batch["tags"].flatten(), fields=("tags",))
    catalog.register("a", path, properties={"size": "length(text)", "tags": "tags", "first_tag": first})
    rows = [tuple(row.values()) for row in catalog.properties().to_pylist()]
    name = f'{first.function.__module__}:{first.function.__qualname__} {{"fields": ["tags"]}}'
    assert rows == [
        ("a", "size", "int64", "length(text)", "sql"),
        ("a", "tags", "list<item: string>", "tags", "sql"),
        ("a", "first_tag", "string", name, "local function"),
    ]


def test_history_tells_what_was_done_newest_first(grown: Catalog, tmp_path: Path) -> None:
    rows = grown.history().to_pylist()
    assert [(row["version"], row["action"], row["dataset"], row["num_samples"]) for row in rows] == [
        (3, "register", "a", 3),
        (2, "register", "b", 2),
        (1, "register", "a", 1),
        (0, "create", None, None),
    ]
    details = json.loads(rows[1]["details"])
    assert details.pop("registration") == grown.dataset("b").registrations[0]
    assert details == {
        "format": "jsonl",
        "num_files": 1,
        "properties": {"size": "_num_bytes"},
        "uris": [f"{tmp_path}/data/b.jsonl"],
    }
    assert [row["change"] for row in rows] == [2, 2, 1, None]
    assert all(row["user"] for row in rows[:-1])
    times = [row["timestamp"] for row in rows]
    assert times == sorted(times, reverse=True)


def test_a_dataset_is_found_by_its_name(grown: Catalog) -> None:
    dataset = grown.dataset("b")
    assert (dataset.name, dataset.format, dataset.num_samples, dataset.options) == ("b", "jsonl", 2, {})
    assert [(prop.name, prop.type) for prop in dataset.properties] == [("size", "int64")]


def test_a_dataset_that_is_not_there_is_refused_with_the_nearest(catalog: Catalog, write_lines: WriteLines) -> None:
    catalog.register("manuals", write_lines("a.jsonl", {"text": "x"}))
    message = "no dataset 'manual' in datasets@1; there are: manuals. Did you mean 'manuals'?"
    with pytest.raises(LakeError, match=exactly(message)):
        catalog.dataset("manual")


def test_another_catalog_of_the_lake_sees_the_newest_version_at_once(grown: Catalog, write_lines: WriteLines) -> None:
    other = Catalog.open(grown.lake.uri)
    assert counts_of(other) == counts_of(grown)
    grown.register("c", write_lines("c.jsonl", {"text": "x"}))
    assert other.version == 4
    assert counts_of(other) == [("a", 3), ("b", 2), ("c", 1)]


# Time travel


@pytest.mark.parametrize(
    ("version", "counts"), [(0, []), (1, [("a", 1)]), (2, [("a", 1), ("b", 2)]), (3, [("a", 3), ("b", 2)])]
)
def test_an_old_version_shows_what_it_showed(grown: Catalog, version: int, counts: list[tuple[str, int]]) -> None:
    old = grown.at(version=version)
    assert old.version == version
    assert counts_of(old) == counts
    assert [(row["dataset"], row["num_samples"]) for row in old.datasets().to_pylist()] == counts
    assert [row["version"] for row in old.history().to_pylist()] == list(range(version, -1, -1))
    assert len(old.sql("SELECT * FROM files").to_pylist()) == len(counts)


def test_a_replaced_dataset_keeps_its_old_properties_in_the_old_version(grown: Catalog) -> None:
    query = "SELECT kind FROM samples WHERE dataset = 'a' ORDER BY row"
    assert grown.at(version=2).sql(query).to_pylist() == [{"kind": "xx"}]
    assert grown.sql(query).to_pylist() == [{"kind": "XX"}, {"kind": "YY"}, {"kind": "ZZ"}]
    assert [p["expression"] for p in grown.at(version=1).properties().to_pylist()] == ["kind"]
    assert [p["expression"] for p in grown.properties().to_pylist()] == ["upper(kind)", "_num_bytes"]


def test_a_version_without_a_property_does_not_show_its_column(grown: Catalog) -> None:
    assert "size" not in grown.at(version=1).samples().schema().names
    assert "size" in grown.at(version=2).samples().schema().names


def test_a_pinned_catalog_stays_where_it_is(grown: Catalog, write_lines: WriteLines) -> None:
    old = grown.at(version=3)
    grown.register("c", write_lines("c.jsonl", {"text": "x"}))
    assert (old.version, grown.version) == (3, 4)
    assert counts_of(old) == [("a", 3), ("b", 2)]


def test_a_pinned_catalog_cannot_be_written(grown: Catalog, write_lines: WriteLines) -> None:
    path = write_lines("c.jsonl", {"text": "x"})
    message = "catalog@3 is read-only; register through Catalog.open"
    with pytest.raises(LakeError, match=exactly(message)):
        grown.at(version=3).register("c", path)
    assert grown.version == 3


def test_a_moment_stands_for_the_version_of_that_moment(grown: Catalog) -> None:
    for version in range(4):
        moment = committed_at(grown, version)
        assert grown.at(timestamp=moment).version == version
        assert grown.at(timestamp=moment.isoformat()).version == version
        assert grown.at(timestamp=moment.replace(tzinfo=None).isoformat()).version == version
        berlin = moment.astimezone(datetime.fromisoformat("2026-01-01T00:00:00+01:00").tzinfo)
        assert grown.at(timestamp=berlin.isoformat()).version == version
    just_before = committed_at(grown, 2) - timedelta(milliseconds=1)
    assert grown.at(timestamp=just_before).version == 1
    assert grown.at(timestamp="2999-01-01").version == 3
    assert grown.at(timestamp="2999-01-01T00:00:00Z").version == 3


def test_a_moment_before_the_lake_was_made_is_refused(grown: Catalog) -> None:
    first = committed_at(grown, 0)
    message = f"there was no catalog at 2001-02-03T00:00:00+00:00: datasets@0 was made at {first.isoformat()}"
    with pytest.raises(LakeError, match=exactly(message)):
        grown.at(timestamp="2001-02-03")


@pytest.mark.parametrize("version", [4, 99, -1])
def test_a_version_that_there_is_not_is_refused(grown: Catalog, version: int) -> None:
    message = f"datasets@{version} does not exist in {grown.lake.uri}; versions are 0 to 3"
    with pytest.raises(LakeError, match=exactly(message)):
        grown.at(version=version)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "at() takes a version or a timestamp, got version=None, timestamp=None"),
        (
            {"version": 1, "timestamp": "2026-01-01"},
            "at() takes a version or a timestamp, got version=1, timestamp=2026-01-01",
        ),
        ({"version": "1"}, "at(version='1'): expected a whole number"),
        ({"version": 1.0}, "at(version=1.0): expected a whole number"),
        ({"version": True}, "at(version=True): expected a whole number"),
        ({"timestamp": "yesterday"}, "timestamp 'yesterday' is not ISO 8601, such as 2026-11-01T00:00:00Z"),
        ({"timestamp": ""}, "timestamp '' is not ISO 8601, such as 2026-11-01T00:00:00Z"),
        ({"timestamp": 1_700_000_000}, "timestamp 1700000000: expected ISO 8601 text or a datetime"),
    ],
)
def test_what_is_neither_a_version_nor_a_moment_is_refused(
    catalog: Catalog, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=exactly(message)):
        catalog.at(**given)


def test_versions_stay_readable_when_their_log_is_older_than_what_delta_keeps(grown: Catalog) -> None:
    month_ago = time.time() - 60 * 86_400
    log = Path(grown.lake.path("datasets")) / "_delta_log"
    for commit in log.iterdir():
        os.utime(commit, (month_ago, month_ago))
    rows = grown.lake.table("datasets").to_pyarrow_table().slice(0, 0)
    for _ in range(110):  # past a checkpoint, after which delta-rs would drop the older commits
        grown.lake.append("datasets", rows, action="nothing")
    assert any(path.name.endswith(".checkpoint.parquet") for path in log.iterdir())
    reopened = Catalog.open(grown.lake.uri)
    assert reopened.version == 113
    assert counts_of(reopened.at(version=1)) == [("a", 1)]
    assert len(reopened.history().to_pylist()) == 114


# Opening, and names


def test_a_lake_is_opened_by_a_relative_path_or_one_from_home(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Catalog.open("lake").lake.uri == Catalog.open("~/lake").lake.uri == catalog.lake.uri


def test_open_with_create_makes_a_lake_once(tmp_path: Path, write_lines: WriteLines) -> None:
    uri = str(tmp_path / "deep" / "lake")
    Catalog.open(uri, create=True).register("a", write_lines("a.jsonl", {"text": "x"}))
    assert Catalog.open(uri, create=True).version == 1


def test_a_lake_that_is_missing_is_refused(tmp_path: Path) -> None:
    uri = str(tmp_path / "nothing")
    message = f"there is no lake at {uri}; check the path; `mixlake register` or create=True makes one"
    with pytest.raises(LakeError, match=exactly(message)):
        Catalog.open(uri)
    assert not Path(uri).exists()


def test_a_lake_is_not_made_over_another(grown: Catalog) -> None:
    message = f"there is a lake at {grown.lake.uri} already; open it instead"
    with pytest.raises(LakeError, match=exactly(message)):
        Catalog.create(grown.lake.uri)
    assert counts_of(grown) == [("a", 3), ("b", 2)]


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../a", ".a", "-a", "_a", "a'b", "größe", "a\n"])
def test_a_dataset_name_that_would_not_do_as_a_folder_is_refused(
    catalog: Catalog, write_lines: WriteLines, name: str
) -> None:
    message = f"dataset name {name!r}: expected letters, digits, '_', '-' and '.'"
    with pytest.raises(ConfigError, match=exactly(message)):
        catalog.register(name, write_lines("a.jsonl", {"text": "x"}))


@pytest.mark.parametrize("name", ["a", "A-1", "wiki_de.v2", "0"])
def test_a_dataset_name_of_letters_digits_and_marks_is_taken(
    catalog: Catalog, write_lines: WriteLines, name: str
) -> None:
    catalog.register(name, write_lines("a.jsonl", {"text": "x"}))
    assert counts_of(catalog) == [(name, 1)]


def test_a_name_that_is_taken_is_refused_unless_it_is_to_be_replaced(grown: Catalog, write_lines: WriteLines) -> None:
    path = write_lines("c.jsonl", {"text": "x"})
    message = "dataset 'a' is registered already (datasets@3); pass replace=True to replace it"
    with pytest.raises(LakeError, match=exactly(message)):
        grown.register("a", path)
    assert grown.register("a", path, replace=True) == 4
    assert grown.register("new", path, replace=True) == 5
    assert counts_of(grown) == [("a", 1), ("b", 2), ("new", 1)]


@pytest.mark.parametrize("text", ["", "upper(text)", "a b", "null"])
def test_a_text_that_is_no_field_is_refused(catalog: Catalog, write_lines: WriteLines, text: str) -> None:
    message = f"text={text!r}: expected a field, such as text or meta.body"
    with pytest.raises(ConfigError, match=exactly(message)):
        catalog.register("a", write_lines("a.jsonl", {"text": "x"}), text=text)
