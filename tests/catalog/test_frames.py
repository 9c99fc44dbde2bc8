"""Frames over exactly the files of a version."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

from datafusion import DataFrame, SessionContext

from mixlake.catalog import Catalog
from mixlake.catalog.frames import files_frame, samples_frame

INDEX = ["dataset", "registration", "file_id", "block", "row", "byte_start", "byte_stop"]


def test_datasets_are_united_over_all_their_properties(catalog: Catalog, write_lines: Callable[..., str]) -> None:
    path = write_lines("a.jsonl", {"text": "a", "x": 1}, {"text": "b", "x": 2})
    catalog.register("one", path, properties={"x": "x", "size": "_num_bytes"})
    catalog.register("two", path, properties={"flag": "x > 1", "size": "_num_bytes"})
    frame = catalog.samples()
    assert frame.schema().names == [*INDEX, "flag", "size", "x"]
    rows = frame.sort("dataset", "row").to_pylist()
    assert [(row["dataset"], row["row"], row["flag"], row["size"], row["x"]) for row in rows] == [
        ("one", 0, None, 21, 1),
        ("one", 1, None, 21, 2),
        ("two", 0, False, 21, None),
        ("two", 1, True, 21, None),
    ]


def test_the_frames_of_an_empty_catalog_have_columns_and_no_rows(catalog: Catalog) -> None:
    context = SessionContext()
    assert samples_frame(context, catalog.lake, []).schema().names == INDEX
    assert samples_frame(context, catalog.lake, []).count() == 0
    assert files_frame(context, catalog.lake, []).count() == 0


def test_only_the_files_of_live_registrations_are_in_a_frame(catalog: Catalog, write_lines: Callable[..., str]) -> None:
    catalog.register("one", write_lines("a.jsonl", {"text": "a"}))
    catalog.register("one", write_lines("b.jsonl", {"text": "b"}, {"text": "c"}), replace=True)
    (live,) = catalog.list_datasets()
    assert {row["registration"] for row in catalog.samples().to_pylist()} == set(live.registrations)
    assert catalog.sql("SELECT path FROM files").to_pylist() == [{"path": "b.jsonl"}]


def test_a_frame_outlives_the_session_and_the_catalog_that_made_it(
    tmp_path: Path, catalog: Catalog, write_lines: Callable[..., str]
) -> None:
    catalog.register("one", write_lines("a.jsonl", {"text": "a"}))

    def frames_of_a_catalog() -> list[DataFrame]:
        opened = Catalog.open(str(tmp_path / "lake"))
        query = "SELECT s.row, d.format FROM samples s JOIN datasets d ON s.dataset = d.dataset"
        return [opened.sql(query), opened.samples(), opened.history()]

    kept = frames_of_a_catalog()
    gc.collect()
    joined, samples, history = [frame.to_pylist() for frame in kept]
    assert joined == [{"row": 0, "format": "jsonl"}]
    assert len(samples) == 1
    assert len(history) == 2


def test_a_frame_keeps_showing_the_version_it_was_made_at(catalog: Catalog, write_lines: Callable[..., str]) -> None:
    catalog.register("one", write_lines("a.jsonl", {"text": "a"}))
    before = catalog.sql("SELECT count(*) AS n FROM samples")
    catalog.register("one", write_lines("b.jsonl", {"text": "b"}, {"text": "c"}), replace=True)
    assert before.to_pylist() == [{"n": 1}]
    assert catalog.sql("SELECT count(*) AS n FROM samples").to_pylist() == [{"n": 2}]


def test_frames_of_many_registrations_are_planned(catalog: Catalog, write_lines: Callable[..., str]) -> None:
    catalog.register("one", write_lines("a.jsonl", {"text": "a"}))
    catalog.register("two", write_lines("b.jsonl", {"text": "b"}, {"text": "c"}))
    live = catalog.list_datasets() * 150
    assert samples_frame(SessionContext(), catalog.lake, live).count() == 450
    assert samples_frame(SessionContext(), catalog.lake, live[:3]).count() == 4
