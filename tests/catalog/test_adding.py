"""Properties that are added to what is registered: from the index, from the files, from both, and groups."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixlake.catalog import (
    BatchFunction,
    Catalog,
    ConfigError,
    DataError,
    ExactDuplicates,
    LakeError,
    Language,
    Quality,
    segments,
)

WriteLines = Callable[..., str]


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def values(catalog: Catalog, *names: str, dataset: str = "docs") -> list[Any]:
    query = f"SELECT {', '.join(names)} FROM samples WHERE dataset = '{dataset}' ORDER BY file_id, row"
    rows = [tuple(row.values()) for row in catalog.sql(query).to_pylist()]
    return [row[0] for row in rows] if len(names) == 1 else rows


def upper(records: pa.RecordBatch) -> pa.Array:
    return pa.array([text.upper() for text in records.column(0).to_pylist()])


@pytest.fixture
def docs(catalog: Catalog, write_lines: WriteLines) -> Catalog:
    """A dataset of two files with three and two samples, of which one is removed, and one more by a refresh."""
    for name, numbers in {"a": [1, 2, 3], "b": [4, 5]}.items():
        path = write_lines(f"docs/{name}.jsonl", *({"text": f"t{n}", "n": n, "meta": {"x": 10 * n}} for n in numbers))
    catalog.register("docs", str(Path(path).parent), properties={"n": "n"})
    catalog.remove("n = 2", reason="test")
    write_lines("docs/c.jsonl", {"text": "t6", "n": 6, "meta": {"x": 60}})
    catalog.refresh("docs")
    return catalog


# Where it is computed from


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("n * 2", [2, 6, 8, 10, 12]),
        ("CAST(n AS VARCHAR)", ["1", "3", "4", "5", "6"]),
        ("meta.x", [10, 30, 40, 50, 60]),
        ("meta.x + n", [11, 33, 44, 55, 66]),
        ("upper(text)", ["T1", "T3", "T4", "T5", "T6"]),
        (
            "upper(_text) || CAST(_row AS STRING) || _path",
            ["T10a.jsonl", "T32a.jsonl", "T40b.jsonl", "T51b.jsonl", "T60c.jsonl"],
        ),
        ("n > 3", [False, False, True, True, True]),
        ("1", [1] * 5),
        (BatchFunction(function=upper, fields=("text",)), ["T1", "T3", "T4", "T5", "T6"]),
        (BatchFunction(function=lambda records: records["n"], fields=("n",)), [1, 3, 4, 5, 6]),
        (
            BatchFunction(
                function=lambda records: pa.array([str(record) for record in records.to_pylist()]),
                fields=("n", "meta.x"),
            ),
            [str({"n": n, "meta": {"x": 10 * n}}) for n in (1, 3, 4, 5, 6)],
        ),
        ({"expression": "meta.x / 4", "type": "double", "nullable": False}, [2.5, 7.5, 10.0, 12.5, 15.0]),
    ],
)
def test_a_property_is_computed_from_properties_and_fields(docs: Catalog, source: Any, expected: list[Any]) -> None:
    source = {**source, "expression": "CAST(meta.x AS DOUBLE) / 4"} if isinstance(source, Mapping) else source
    before = docs.version
    assert docs.add_property("new", source) == before + 1
    assert values(docs, "new") == expected
    assert values(docs, "n") == [1, 3, 4, 5, 6]


def test_what_the_index_suffices_for_reads_no_file(docs: Catalog, tmp_path: Path) -> None:
    for path in (tmp_path / "data" / "docs").iterdir():
        path.unlink()
    docs.add_property("double", "n * 2")
    docs.add_property("again", "CAST(double AS BIGINT) + n")
    assert values(docs, "again") == [3, 9, 12, 15, 18]
    with pytest.raises(DataError, match=r"a\.jsonl of dataset 'docs' is gone; it was there when it was registered$"):
        docs.add_property("other", "meta.x")


def test_older_versions_do_not_have_it_and_no_file_is_touched(docs: Catalog, tmp_path: Path) -> None:
    files = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.jsonl")}
    before = docs.version
    frozen = docs.at(version=before).sql("SELECT * FROM samples ORDER BY file_id, row").to_pylist()
    docs.add_property("new", "n + 1")
    assert docs.at(version=before).sql("SELECT * FROM samples ORDER BY file_id, row").to_pylist() == frozen
    assert {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.jsonl")} == files
    (row, *_) = docs.history().to_pylist()
    assert (row["action"], row["dataset"], row["num_samples"], row["change"]) == ("add property", "docs", 5, 0)
    assert json.loads(row["details"]) == {"property": "new", "expression": "n + 1", "columns": "new"}


def test_parts_files_and_addresses_stay_as_they_were(docs: Catalog) -> None:
    address = "file_id, block, row, byte_start, byte_stop"
    before = (
        docs.dataset("docs"),
        values(docs, address),
        docs.sql("SELECT file_id, uri, num_samples FROM files ORDER BY 1"),
    )
    files = before[2].to_pylist()
    docs.add_property("new", "meta.x")
    after = docs.dataset("docs")
    assert values(docs, address) == before[1]
    assert docs.sql("SELECT file_id, uri, num_samples FROM files ORDER BY 1").to_pylist() == files
    assert [(p.number, p.num_files, p.num_samples, p.num_bytes) for p in after.parts] == [
        (p.number, p.num_files, p.num_samples, p.num_bytes) for p in before[0].parts
    ]
    assert after.removals == before[0].removals
    assert not set(after.registrations) & set(before[0].registrations)


def test_records_that_were_left_out_stay_out(catalog: Catalog, write_lines: WriteLines) -> None:
    path = write_lines("a.jsonl", {"text": "a", "n": 1}, "{broken", {"text": "c", "n": 3}, {"n": 4, "text": None})
    catalog.register("docs", path, on_error="skip")
    catalog.add_property("n", "n")
    assert values(catalog, "row", "n") == [(0, 1), (2, 3), (3, 4)]
    assert catalog.sql("SELECT place FROM skipped").to_pylist() == [{"place": "line 2"}]


def test_a_field_that_turns_out_wider_is_the_same_for_all_samples(catalog: Catalog, write_lines: WriteLines) -> None:
    for index in range(40):
        path = write_lines(f"{index:02}.jsonl", {"text": "x", "n": 0.5 if index == 33 else 3})
    catalog.register("docs", str(Path(path).parent), properties={"one": "1"})
    catalog.add_property("alone", "n / 2")
    catalog.add_property("mixed", "n / 2 + one")
    assert set(values(catalog, "alone", "mixed")) == {(1.5, 2.5), (0.25, 1.25)}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_rows_are_matched_whatever_was_removed(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("lake")
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    numbers = iter(range(100))
    kept = []
    for index, size in enumerate(sizes):
        chosen = [next(numbers) for _ in range(size)]
        kept += chosen
        (folder / f"{index}.jsonl").write_text("".join(json.dumps({"text": str(n), "n": n}) + "\n" for n in chosen))
    catalog = Catalog.open(str(folder / "lake"), create=True)
    catalog.register("docs", str(folder / "*.jsonl"), properties={"n": "n"})
    removed = data.draw(st.sets(st.sampled_from(kept)))
    if removed:
        catalog.remove(f"n IN ({', '.join(map(str, removed))})", reason="test")
    catalog.add_property("again", "CAST(text AS BIGINT)")
    left = [n for n in kept if n not in removed]
    assert values(catalog, "n", "again") == [(n, n) for n in left]


# Several datasets, several columns


def test_all_datasets_get_it_in_one_version(docs: Catalog, write_lines: WriteLines) -> None:
    docs.register("more", write_lines("more.jsonl", {"body": "four", "text": 1}), text="body")
    before = docs.version
    assert docs.add_property("size", "character_length(_text)") == before + 1
    assert (values(docs, "size"), values(docs, "size", dataset="more")) == ([2] * 5, [4])


def test_one_dataset_gets_it_and_the_others_do_not(docs: Catalog, write_lines: WriteLines) -> None:
    docs.register("more", write_lines("more.jsonl", {"text": "x"}))
    docs.add_property("size", "character_length(text)", dataset="docs")
    assert values(docs, "size", dataset="more") == [None]
    assert docs.dataset("more").properties == ()


def test_two_datasets_must_agree_on_the_type(docs: Catalog, write_lines: WriteLines) -> None:
    docs.register("more", write_lines("more.jsonl", {"text": "x", "meta": {"x": "ten"}}))
    message = (
        "property 'new' is string in 'more', but int64 in 'docs'; cast it, or add it to each under a name of its own"
    )
    with pytest.raises(ConfigError, match=exactly(message)):
        docs.add_property("new", "meta.x")


def test_a_function_with_several_outputs_gives_several_columns(docs: Catalog) -> None:
    docs.add_property("quality", Quality(signals=("num_words", "has_javascript")))
    assert values(docs, "quality_num_words", "quality_has_javascript") == [(1, False)] * 5


def test_functions_may_be_over_properties(docs: Catalog) -> None:
    docs.add_property("greeting", "'Guten Tag, wie geht es Ihnen heute, mein Freund ' || CAST(n AS STRING)")
    docs.add_property("language", Language(text="greeting"))
    assert values(docs, "language") == ["de"] * 5


# Later files


def test_files_that_come_later_have_it_too(docs: Catalog, write_lines: WriteLines) -> None:
    docs.add_property("double", "n * 2")
    docs.add_property("mixed", "double + meta.x")
    docs.add_property("shout", BatchFunction(function=upper, fields=("text",)))
    docs.add_property("quality", Quality(signals=("num_words",)))
    docs.add_property("strict", {"expression": "mixed", "type": "int64", "nullable": False})
    write_lines("docs/d.jsonl", {"text": "t 7", "n": 7, "meta": {"x": 70}})
    docs.refresh("docs")
    assert values(docs, "n", "double", "mixed", "shout", "quality_num_words", "strict")[-1] == (7, 14, 84, "T 7", 2, 84)


# Groups


def test_duplicates_are_found_over_datasets_and_survive_removal(catalog: Catalog, write_lines: WriteLines) -> None:
    by_dataset: dict[str, list[str | None]] = {"one": ["a b", "c", "A  b"], "two": ["d", "c", "a b", None]}
    for name, texts in by_dataset.items():
        catalog.register(name, write_lines(f"{name}.jsonl", *({"text": text} for text in texts)), text="text")
    catalog.remove("dataset = 'one' AND row = 0", reason="test")
    before = catalog.version
    assert catalog.add_property("dup", ExactDuplicates()) == before + 1
    assert values(catalog, "dup_group", "dup_rank", dataset="one") == [(0, 0), (1, 0)]
    assert values(catalog, "dup_group", "dup_rank", dataset="two") == [(None, 0), (0, 1), (1, 1), (None, 0)]
    assert catalog.sql("SELECT count(*) AS n FROM samples WHERE dup_rank = 0").to_pylist() == [{"n": 4}]


def test_duplicates_among_some_datasets_leave_the_others_alone(catalog: Catalog, write_lines: WriteLines) -> None:
    for name in ("one", "two", "three"):
        catalog.register(name, write_lines(f"{name}.jsonl", {"text": "same"}))
    catalog.add_property("dup", ExactDuplicates(), ["one", "three"])
    assert [values(catalog, "dup_group", dataset=name) for name in ("one", "two", "three")] == [[0], [None], [0]]


def test_duplicates_of_a_property_need_no_file(docs: Catalog, tmp_path: Path) -> None:
    docs.add_property("parity", "CAST(n % 2 AS STRING)")
    for path in (tmp_path / "data" / "docs").iterdir():
        path.unlink()
    docs.add_property("same", ExactDuplicates(text="parity"))
    assert values(docs, "same_group") == [0, 0, 2, 0, 2]


def test_groups_of_new_samples_are_null_until_they_are_added_again(docs: Catalog, write_lines: WriteLines) -> None:
    docs.add_property("dup", ExactDuplicates())
    write_lines("docs/d.jsonl", {"text": "t1", "n": 7, "meta": {"x": 70}})
    refreshed = docs.refresh("docs")
    assert refreshed.outdated == ("dup_group", "dup_rank")
    assert str(refreshed).endswith("null for new samples until they are added again: dup_group, dup_rank")
    assert values(docs, "dup_rank")[-1] is None
    docs.add_property("dup", ExactDuplicates(), replace=True)
    assert values(docs, "dup_group", "dup_rank") == [(0, 0), *[(None, 0)] * 4, (0, 1)]


# Refused


@pytest.mark.parametrize(
    ("name", "source", "error", "message"),
    [
        (
            "n",
            "1",
            ConfigError,
            r"dataset 'docs' has a property 'n' already \(n\); pass replace=True to compute it anew",
        ),
        (
            "x",
            "nn + 1",
            ConfigError,
            r"property 'x' of 'docs': no record has a field 'nn'; fields: .* Did you mean 'n'\?",
        ),
        ("x", "meta.y", ConfigError, r"property 'x' of 'docs': no record has a field 'meta.y'; fields: .*"),
        ("x", "text +", ConfigError, r"property 'x' of 'docs': 'text \+' is not an expression over the record: .*"),
        ("x", "random()", Exception, "property 'x': random gives another answer at each call.*"),
        ("X", "1", ConfigError, "property name 'X': expected lower_snake_case, such as num_chars"),
        (
            "Dup",
            ExactDuplicates(),
            ConfigError,
            "property name 'Dup_group': expected lower_snake_case, such as num_chars",
        ),
        (
            "x",
            "1 / (n - 4)",
            DataError,
            r"/.*/b\.jsonl, row 0: property 'x' of 'docs' cannot be computed: Divide by zero.*",
        ),
        (
            "x",
            "meta.x / (n - 4)",
            DataError,
            r"/.*/b\.jsonl, row 0: property 'x' of 'docs' cannot .*: Divide by zero.*",
        ),
        ("x", "1 / (meta.x - 40)", DataError, r"/.*/b\.jsonl, line 1: property 'x' of 'docs' cannot .*: Divide by .*"),
        (
            "x",
            {"expression": "nullif(n, 5)", "nullable": False},
            DataError,
            r"/.*/b\.jsonl, row 1: property 'x' of 'docs' is null here, but declared to have a value always",
        ),
    ],
)
def test_what_cannot_be_added_changes_nothing(
    docs: Catalog, name: str, source: Any, error: type[Exception], message: str
) -> None:
    before = (docs.version, os.listdir(docs.lake.path("samples")))
    with pytest.raises(error, match=f"^{message}$"):
        docs.add_property(name, source)
    assert (docs.version, os.listdir(docs.lake.path("samples"))) == before


def test_a_record_that_is_not_there_any_more_is_an_error(catalog: Catalog, write_lines: WriteLines) -> None:
    path = write_lines("a.jsonl", {"text": "a", "n": 1}, {"text": "b", "n": 2})
    catalog.register("docs", path, properties={"n": "n"})
    status = os.stat(path)
    Path(path).write_text(Path(path).read_text().replace('{"text": "b"', '["text", "b"'))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match=rf"^{re.escape(path)}, line 2: "):
        catalog.add_property("text", "text")
    os.utime(path)
    with pytest.raises(DataError, match="was modified since it was registered"):
        catalog.add_property("text", "text")


def test_a_pinned_catalog_and_an_unknown_dataset_are_refused(docs: Catalog) -> None:
    with pytest.raises(LakeError, match="is read-only; add properties through"):
        docs.at(version=1).add_property("x", "1")
    with pytest.raises(LakeError, match=r"no dataset 'doc' in datasets@\d; there are: docs\. Did you mean 'docs'\?"):
        docs.add_property("x", "1", "doc")


def test_an_empty_catalog_has_nothing_to_add_to(catalog: Catalog) -> None:
    with pytest.raises(LakeError, match=exactly("datasets@0 holds no dataset that could get the property 'x'")):
        catalog.add_property("x", "1")


# Replaced


def test_a_property_is_replaced_where_it_stands(docs: Catalog) -> None:
    docs.add_property("double", "n * 2")
    docs.add_property("quadruple", "double * 2")
    docs.add_property("double", "n + n", replace=True)
    assert [(prop.name, prop.expression) for prop in docs.dataset("docs").properties] == [
        ("n", "n"),
        ("double", "n + n"),
        ("quadruple", "double * 2"),
    ]
    with pytest.raises(ConfigError, match="no record has a field 'quadruple'"):
        docs.add_property("double", "quadruple / 2", replace=True)
    with pytest.raises(ConfigError, match="property 'double' is string in 'docs', but int64 in"):
        docs.add_property("double", "text", replace=True)


def test_a_function_of_a_piece_at_a_time_sees_every_text_once(docs: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_BYTES_PER_PIECE", 3)
    docs.add_property("quality", Quality(signals=("num_words",)))
    assert values(docs, "quality_num_words") == [1] * 5
