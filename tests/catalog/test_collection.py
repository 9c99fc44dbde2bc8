"""Garbage collection: what no kept version shows goes; what a run pins, or somebody may still write, stays."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mixlake.catalog import Catalog, ConfigError, LakeError, schema
from mixlake.catalog.pins import pin_fence
from mixlake.catalog.sample_writer import SampleWriter

WriteLines = Callable[..., str]
INDEX_TABLES = (schema.SAMPLES, schema.FILES, schema.SKIPPED)


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def counts_of(catalog: Catalog) -> dict[str, int]:
    rows = catalog.sql("SELECT dataset, count(*) AS n FROM samples GROUP BY 1").to_pylist()
    return {row["dataset"]: row["n"] for row in rows}


def stored(catalog: Catalog) -> set[str]:
    """Every registration that has a folder; the tables list just these."""
    found: dict[str, set[str]] = {}
    for name in INDEX_TABLES:
        folder = Path(catalog.lake.path(name))
        found[name] = {path.name.removeprefix("registration=") for path in folder.glob("registration=*")}
        assert set(catalog.lake.table(name).to_pyarrow_table()["registration"].to_pylist()) == found[name]
    assert found[schema.SAMPLES] <= found[schema.FILES]
    return found[schema.FILES]


def live(catalog: Catalog, *versions: int) -> set[str]:
    return {
        registration
        for version in versions
        for dataset in catalog.at(version=version).list_datasets()
        for registration in dataset.registrations
    }


def pin(catalog: Catalog, run: str, version: int) -> None:
    row = {"run": run, "catalog_version": version}
    rows = pa.Table.from_pylist([row], schema=schema.TABLES[schema.RUNS].columns)
    catalog.lake.append(schema.RUNS, rows, action="start", fence=pin_fence(version))


def age(folder: Path, duration: timedelta) -> None:
    then = time.time() - duration.total_seconds()
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (then, then))


@pytest.fixture
def grown(catalog: Catalog, write_lines: WriteLines) -> Catalog:
    """Versions: 1 ``a`` of one sample, 2 another ``a`` of two, 3 and ``b`` of three, 4 ``a`` without one of them."""
    lines = [{"text": text, "n": n} for n, text in enumerate("xyz")]
    catalog.register("a", write_lines("a.jsonl", *lines[:1]), properties={"n": "n"})
    catalog.register("a", write_lines("a2.jsonl", *lines[:2]), properties={"n": "n"}, replace=True)
    catalog.register("b", write_lines("b.jsonl", *lines), properties={"n": "n"})
    catalog.remove("dataset = 'a' AND n = 0", reason="test")
    return catalog


def test_young_versions_are_kept(grown: Catalog) -> None:
    before = stored(grown)
    done = grown.gc()
    assert (done.versions, done.registrations, done.orphans, done.num_bytes) == ((), (), (), 0)
    assert dict(done.kept) == {**dict.fromkeys(range(4), "was the newest less than 30 days ago"), 4: "newest"}
    assert stored(grown) == before


def test_only_what_the_newest_version_shows_is_left(grown: Catalog) -> None:
    old, kept = live(grown, 1, 2, 3), live(grown, 4)
    size = sum(path.stat().st_size for path in Path(grown.lake.uri).rglob("registration=a-*/*"))
    size -= sum(
        p.stat().st_size for r in kept for p in Path(grown.lake.uri).rglob(f"registration={r}/*") if r[0] == "a"
    )
    done = grown.gc("0d")
    assert done.versions == (1, 2, 3)
    assert dict(done.kept) == {0: "holds nothing that the others do not", 4: "newest"}
    assert set(done.registrations) == old - kept
    assert done.num_bytes == size > 0
    assert stored(grown) == kept
    assert counts_of(grown) == counts_of(Catalog.open(grown.lake.uri)) == {"a": 1, "b": 3}
    assert grown.version == 4
    assert str(done).splitlines() == [
        "3 catalog versions collected 1-3, 2 kept",
        "  kept 0: holds nothing that the others do not",
        "  kept 4: newest",
        f"2 registrations deleted (0 left behind by processes that died), {size:,} bytes",
    ]
    again = grown.gc("0d")
    assert (again.versions, again.registrations, again.num_bytes) == ((1, 2, 3), (), 0)


@pytest.mark.parametrize("query", ["SELECT * FROM samples", "SELECT * FROM files", "SELECT 1"])
def test_a_collected_version_is_an_error_and_never_empty(grown: Catalog, query: str) -> None:
    (gone,) = live(grown, 1)
    grown.gc("0d")
    old = grown.at(version=1)
    at = grown.lake.table("samples").version()
    message = (
        f"samples@{at} holds no registration {gone!r} of dataset 'a' any more: "
        "gc has collected the catalog versions that show it"
    )
    with pytest.raises(LakeError, match=exactly(message)):
        old.sql(query)
    with pytest.raises(LakeError, match=exactly(message)):
        old.samples()
    assert [row["num_samples"] for row in old.datasets().to_pylist()] == [1]
    assert len(old.history().to_pylist()) == 2


def test_a_dry_run_deletes_nothing_and_says_the_same(grown: Catalog) -> None:
    before, version = stored(grown), grown.lake.table("samples").version()
    planned = grown.gc("0d", dry_run=True)
    assert stored(grown) == before
    assert grown.lake.table("samples").version() == version
    assert counts_of(grown.at(version=1)) == {"a": 1}
    assert str(planned).startswith("3 catalog versions would be collected 1-3, 2 kept\n")
    done = grown.gc("0d")
    assert (planned.is_dry_run, done.is_dry_run) == (True, False)
    assert (planned.versions, planned.registrations, planned.num_bytes) == (
        done.versions,
        done.registrations,
        done.num_bytes,
    )


def test_what_a_run_pins_is_kept_and_the_run_is_named(grown: Catalog) -> None:
    for run, version in (("exp1", 2), ("exp2", 2), ("exp3", 4)):
        pin(grown, run, version)
    done = grown.gc("0d")
    assert done.versions == (1,)
    assert dict(done.kept) == {
        0: "holds nothing that the others do not",
        2: "run exp1, run exp2",
        3: "holds nothing that the others do not",
        4: "newest, run exp3",
    }
    assert stored(grown) == live(grown, 2, 4)
    assert counts_of(grown.at(version=2)) == {"a": 2}
    assert counts_of(grown.at(version=3)) == {"a": 2, "b": 3}


def test_a_run_that_is_started_meanwhile_keeps_its_version(grown: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir
    started: list[str] = []

    def start_a_run(path: str) -> Any:
        if "registration=" in str(path) and not started:
            started.append("late")
            pin(grown, "late", 1)
        return scandir(path)

    monkeypatch.setattr("mixlake.catalog.collection.os.scandir", start_a_run)
    done = grown.gc("0d")
    assert started == ["late"]
    assert done.kept[1] == "run late"
    assert counts_of(grown.at(version=1)) == {"a": 1}


def test_the_newest_versions_may_be_kept_by_number(grown: Catalog) -> None:
    done = grown.gc("0d", keep_versions=2)
    assert (done.versions, done.kept[3]) == ((1,), "one of the newest 2")
    assert counts_of(grown.at(version=3)) == {"a": 2, "b": 3}


def test_a_version_that_was_the_newest_until_lately_is_young(grown: Catalog) -> None:
    """Version 3 is as old as the others, but it is what ``at(timestamp=yesterday)`` shows."""
    time.sleep(1.1)
    grown.unregister("b")
    done = grown.gc(timedelta(seconds=1))
    assert done.versions == (1, 2, 3)
    assert done.kept[4].startswith("was the newest less than ")
    assert counts_of(grown.at(version=4)) == {"a": 1, "b": 3}


def test_what_a_killed_process_left_behind_goes_after_a_day(grown: Catalog) -> None:
    def write_and_die() -> None:
        writer = SampleWriter(grown.lake, "c-dead")
        writer.__enter__()
        columns = {"file_id": pa.array([0], pa.int32()), "block": pa.array([0], pa.int32())}
        writer.write(pa.table({**columns, "row": [0], "byte_start": [0], "byte_stop": [1], "n": [1]}))
        writer.finish(pa.schema([("file_id", "int32"), ("block", "int32"), ("row", "int64"), ("n", "int64")]))

    write_and_die()
    folder = Path(grown.lake.path("samples"), "registration=c-dead")
    assert len(list(folder.iterdir())) == 1
    assert grown.gc("0d").orphans == ()
    age(folder, timedelta(hours=23))
    assert grown.gc("0d").orphans == ()
    age(folder, timedelta(hours=25))
    assert grown.gc("30d", dry_run=True).orphans == ("c-dead",)
    done = grown.gc("30d")
    assert done.orphans == ("c-dead",)
    assert not folder.exists()


def test_rows_that_were_written_but_never_published_go_too(grown: Catalog) -> None:
    rows = pa.Table.from_pylist([{"registration": "c-dead", "file_id": 0}], schema=schema.TABLES[schema.FILES].columns)
    grown.lake.append(schema.FILES, rows, action="register")
    age(Path(grown.lake.path("files"), "registration=c-dead"), timedelta(days=2))
    assert grown.gc().orphans == ("c-dead",)
    assert "c-dead" not in stored(grown)


def test_a_registration_that_gc_took_for_dead_is_not_published(grown: Catalog, write_lines: WriteLines) -> None:
    path = write_lines("c.jsonl", {"text": "x"})

    def sleep_for_days(*_: object) -> None:
        (folder,) = Path(grown.lake.path("samples")).glob("registration=c-*")
        shutil.rmtree(folder)
        folder.mkdir()
        age(folder, timedelta(days=3))
        assert grown.gc().orphans == (folder.name.removeprefix("registration="),)

    with pytest.raises((LakeError, OSError), match=r"c-[0-9a-f]{12}"):
        grown.register("c", path, progress=sleep_for_days)
    assert counts_of(grown) == {"a": 1, "b": 3}


@pytest.mark.parametrize("folder", ["samples", "files"])
def test_a_collection_that_was_cut_short_is_finished_by_the_next(grown: Catalog, folder: str) -> None:
    doomed = live(grown, 1, 2, 3) - live(grown, 4)
    names = ", ".join(f"'{registration}'" for registration in doomed)
    grown.lake.delete("samples", f"registration IN ({names})", action="gc")
    shutil.rmtree(Path(grown.lake.path(folder), f"registration={sorted(doomed)[0]}"))
    if folder == "files":  # rows leave the log before their files do
        grown.lake.delete("files", f"registration IN ({names})", action="gc")
    done = grown.gc("0d")
    assert set(done.registrations) == doomed
    assert stored(grown) == live(grown, 4)
    assert counts_of(grown) == {"a": 1, "b": 3}


def test_a_lake_that_is_new_has_nothing_to_collect(catalog: Catalog) -> None:
    done = catalog.gc("0d")
    assert (done.versions, dict(done.kept), done.registrations) == ((), {0: "newest"}, ())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"older_than": "a month"}, "older_than is 'a month'; expected a number and d, h, m or s, such as 30d"),
        ({"older_than": "-1d"}, "older_than is '-1d'; expected a number and d, h, m or s, such as 30d"),
        ({"older_than": 30}, "older_than is 30; expected a number and d, h, m or s, such as 30d"),
        ({"keep_versions": 0}, "keep_versions is 0; expected a whole number from 1 on"),
        ({"keep_versions": True}, "keep_versions is True; expected a whole number from 1 on"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(grown: Catalog, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=exactly(message)):
        grown.gc(**given)


def test_a_pinned_catalog_collects_nothing(grown: Catalog) -> None:
    with pytest.raises(LakeError, match=exactly("catalog@4 is read-only; collect through Catalog.open")):
        grown.at(version=4).gc()
