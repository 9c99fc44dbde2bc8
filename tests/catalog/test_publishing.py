"""Datasets as rows of the root table: what is published is read back, and only once."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from mixlake.catalog import Catalog, Dataset, LakeError, Removal, schema
from mixlake.catalog.publishing import new_registration, publish, read_datasets, registered_files

WriteLines = Callable[..., str]


@pytest.fixture
def docs(catalog: Catalog, write_lines: WriteLines) -> Dataset:
    """A dataset of two files, in version 1."""
    paths = [write_lines("a.jsonl", {"text": "x", "n": 1}), write_lines("b.jsonl", {"text": "y", "n": 2})]
    catalog.register("docs", paths, properties={"n": "n"}, exclude=["c*"])
    return catalog.dataset("docs")


def test_what_is_published_is_read_back(catalog: Catalog, docs: Dataset) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    removal = Removal(where="n = 'ü'", reason="a\nb", user="me", removed_at=moment, num_samples=7)
    later = [replace(part, number=number) for part in docs.parts for number in (5, 2)]
    changed = replace(docs, options={"a": [1, {"b": None}]}, removals=(removal, removal), parts=tuple(later))
    assert publish(catalog.lake, {"docs": changed}, version=1, action="test", details={"why": "so"}) == 2
    (found,) = read_datasets(catalog.lake.table(schema.DATASETS))
    assert found == replace(changed, parts=tuple(reversed(later)))
    assert (found.num_files, found.num_samples, found.exclude) == (4, 4, ("c*",))
    row = catalog.history().to_pylist()[0]
    assert (row["action"], row["dataset"], row["num_samples"], row["change"]) == ("test", "docs", 4, 2)
    assert row["details"] == '{"why": "so"}'


def test_several_datasets_change_in_one_version(catalog: Catalog, docs: Dataset) -> None:
    more = replace(docs, name="more")
    assert publish(catalog.lake, {"docs": None, "more": more}, version=1, action="rename") == 2
    assert catalog.list_datasets() == (more,)
    assert catalog.at(version=1).list_datasets() == (docs,)


@pytest.mark.parametrize("names", [["docs"], ["more", "docs"]])
def test_a_change_made_from_a_version_that_is_not_the_last_about_a_dataset_is_refused(
    catalog: Catalog, docs: Dataset, names: list[str]
) -> None:
    publish(catalog.lake, {"docs": docs}, version=1, action="first")
    with pytest.raises(LakeError, match=r"^datasets@2: another process did second first \(dataset:docs\)$"):
        publish(catalog.lake, dict.fromkeys(names), version=1, action="second")
    assert catalog.version == 2


def test_a_part_without_an_index_is_not_published(catalog: Catalog, docs: Dataset) -> None:
    lost = replace(docs, parts=(replace(docs.parts[0], registration="docs-lost"),))
    message = "samples: gc has collected registration 'docs-lost' before it was published; begin again"
    with pytest.raises(LakeError, match=f"^{re.escape(message)}$"):
        publish(catalog.lake, {"docs": lost}, version=1, action="test")
    assert catalog.version == 1


def test_the_files_of_a_registration_are_found_by_their_ids(catalog: Catalog, docs: Dataset) -> None:
    files = registered_files(catalog.lake, "docs", docs.registrations[0])
    assert {file_id: file.path for file_id, file in files.items()} == {0: "a.jsonl", 1: "b.jsonl"}
    with pytest.raises(LakeError, match=r"^files@1 holds no registration 'x' of dataset 'docs' any more: gc has"):
        registered_files(catalog.lake, "docs", "x")


def test_registrations_never_have_the_same_id() -> None:
    assert len({new_registration("docs") for _ in range(1000)}) == 1000
