"""What differs between two versions: datasets, properties, and samples per value."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixlake.catalog import Catalog, Difference, LakeError, diff

WriteLines = Callable[..., str]


def tuples(rows: Any) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in rows.to_pylist()]


@pytest.fixture
def grown(catalog: Catalog, tmp_path: Path, write_lines: WriteLines) -> Catalog:
    """Versions: 1 ``pages``, 2 and ``same``, 3 ``pages`` with one file more, 4 ``pages`` with other properties."""
    lines = [{"text": f"{n}", "language": "de" if n % 2 else None, "is_long": n > 2, "n": n} for n in range(6)]
    write_lines("pages/a.jsonl", *lines[:4])
    properties = {"language": "language", "is_long": "is_long", "n": "n"}
    catalog.register("pages", str(tmp_path / "data" / "pages"), properties=properties)
    catalog.register("same", write_lines("same.jsonl", *lines), properties=properties)
    write_lines("pages/b.jsonl", *lines[4:], {"text": "7", "language": "en", "is_long": False, "n": 7})
    catalog.refresh("pages")
    other = {"language": "upper(language)", "kind": "'page'"}
    catalog.register("pages", str(tmp_path / "data" / "pages"), properties=other, replace=True)
    return catalog


def test_a_refreshed_dataset_has_other_counts(grown: Catalog) -> None:
    done = grown.diff(2, 3)
    assert tuples(done.datasets) == [("pages", "changed", 1, 2, 4, 7)]
    assert tuples(done.properties) == []
    assert tuples(done.values) == [
        ("pages", "is_long", "false", 3, 4),
        ("pages", "is_long", "true", 1, 3),
        ("pages", "language", "de", 2, 3),
        ("pages", "language", "en", 0, 1),
        ("pages", "language", None, 2, 3),
    ]
    assert str(done).splitlines() == [
        "datasets@2 to datasets@3",
        "  changed   pages: 4 → 7 samples, 1 → 2 files",
        "  pages: is_long = false: 3 → 4 samples",
        "  pages: is_long = true: 1 → 3 samples",
        "  pages: language = de: 2 → 3 samples",
        "  pages: language = en: 0 → 1 samples",
        "  pages: language = null: 2 → 3 samples",
    ]


def test_properties_come_go_and_change(grown: Catalog) -> None:
    done = grown.diff(3)
    assert (done.before, done.after) == (3, 4)
    assert tuples(done.datasets) == [("pages", "changed", 2, 2, 7, 7)]
    assert tuples(done.properties) == [
        ("pages", "is_long", "removed", "bool, is_long", None),
        ("pages", "kind", "added", None, "string, 'page'"),
        ("pages", "language", "changed", "string, language", "string, upper(language)"),
        ("pages", "n", "removed", "int64, n", None),
    ]
    assert ("pages", "kind", "page", 0, 7) in tuples(done.values)
    assert "  changed   pages.language: string, language → string, upper(language)" in str(done).splitlines()


def test_datasets_are_added_and_removed(grown: Catalog) -> None:
    assert tuples(grown.diff(1, 2).datasets) == [("same", "added", None, 1, None, 6)]
    back = grown.diff(2, 1)
    assert tuples(back.datasets) == [("same", "removed", 1, None, 6, None)]
    assert ("same", "language", "de", 3, 0) in tuples(back.values)
    assert "  removed   same: 6 samples, 1 files" in str(back).splitlines()


def test_a_version_does_not_differ_from_itself(grown: Catalog) -> None:
    done = grown.diff(4)
    assert [tuples(frame) for frame in (done.datasets, done.properties, done.values)] == [[], [], []]
    assert str(done) == "datasets@4 to datasets@4\n  nothing differs"


def test_a_diff_of_a_pinned_catalog_ends_there(grown: Catalog) -> None:
    assert grown.at(version=2).diff(1).after == 2


def test_properties_of_many_values_are_not_counted_by_value(
    catalog: Catalog, write_lines: WriteLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diff, "MAX_VALUES", 3)
    lines = [{"text": str(n), "few": f"{n % 3}", "some": f"{n % 4}", "many": str(n)} for n in range(12)]
    catalog.register("a", write_lines("a.jsonl", *lines), properties={name: name for name in ("few", "some", "many")})
    assert {row[1] for row in tuples(catalog.diff(0).values)} == {"few"}


def test_many_values_are_cut_off_when_printed() -> None:
    rows = [
        {"dataset": "a", "property": "p", "value": str(n), "samples_before": 0, "samples_after": n} for n in range(40)
    ]
    done = Difference(before=0, after=1, dataset_rows=[], property_rows=[], value_rows=rows)
    assert str(done).splitlines()[-1] == "  … 10 more values"


def test_versions_that_are_not_there_are_refused(grown: Catalog) -> None:
    with pytest.raises(LakeError, match=re.escape("datasets@9 does not exist")):
        grown.diff(1, 9)
    grown.gc("0d")
    with pytest.raises(LakeError, match="gc has collected the catalog versions that show it"):
        grown.diff(1, 4)
