"""Registration: every sample is in the index once and can be read back, or nothing is registered."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import (
    BatchFunction,
    Catalog,
    ConfigError,
    DataError,
    arrow_blocks,
    format_jsonl,
    scanning,
    schema,
    text_regions,
)

WriteLines = Callable[..., str]
ReadBack = Callable[[str], list[dict[str, Any]]]
LINES = st.lists(
    st.builds(json.dumps, st.fixed_dictionaries({"text": st.text(max_size=30), "n": st.integers(0, 9)}))
    | st.sampled_from(["", "         ", "\r"]),
    max_size=8,
)


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def fill(folder: Path, *names: str) -> Path:
    """Write one sample into each file, whatever its format; its text is the name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pq.write_table(pa.table({"text": [name]}), path)
        else:
            path.write_text(json.dumps({"text": name}, ensure_ascii=False) if path.suffix == ".jsonl" else name)
    return folder


def index_rows(catalog: Catalog, name: str) -> list[dict[str, Any]]:
    return catalog.sql(f"SELECT * FROM samples WHERE dataset = '{name}' ORDER BY file_id, row").to_pylist()


def state(catalog: Catalog) -> dict[str, Any]:
    """All that a refused registration must not change."""
    folders = {
        name: sorted(path.name for path in Path(catalog.lake.path(name)).iterdir()) for name in ("samples", "files")
    }
    rows = {name: catalog.lake.table(name).to_pyarrow_table().num_rows for name in ("datasets", "samples", "files")}
    return {"version": catalog.version, "folders": folders, "rows": rows}


# What is registered


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "txt"])
@pytest.mark.parametrize(
    ("uris", "paths"),
    [
        ("data", ["a", "deep/er/c d", "größe/雪"]),
        ("data/**/*.{suffix}", ["a", "deep/er/c d", "größe/雪"]),
        ("data/*.{suffix}", ["a"]),
        ("data/deep/er/c d.{suffix}", ["c d"]),
        (["data/größe", "data/deep/**/*.{suffix}", "data/a.{suffix}"], ["a", "er/c d", "雪"]),
    ],
)
def test_samples_of_folders_globs_lists_and_paths_are_read_back_from_their_files(
    catalog: Catalog, tmp_path: Path, read_back: ReadBack, suffix: str, uris: str | list[str], paths: list[str]
) -> None:
    names = [f"{name}.{suffix}" for name in ("a", "deep/er/c d", "größe/雪")]
    fill(tmp_path / "data", *names, f".hidden/x.{suffix}", f".y.{suffix}")
    full = [f"{tmp_path}/{uri}".format(suffix=suffix) for uri in ([uris] if isinstance(uris, str) else uris)]
    data_format = "files" if suffix == "txt" else None
    catalog.register("docs", full if isinstance(uris, list) else full[0], format=data_format)
    files = catalog.sql("SELECT * FROM files ORDER BY file_id").to_pylist()
    assert [file["path"] for file in files] == [f"{path}.{suffix}" for path in paths]
    assert [file["num_samples"] for file in files] == [1] * len(paths)
    assert [(row["file_id"], row["row"]) for row in index_rows(catalog, "docs")] == [(i, 0) for i in range(len(paths))]
    by_end = {name.rsplit("/", 1)[-1]: name for name in names}
    assert [record["text"] for record in read_back("docs")] == [
        by_end[f"{path.rsplit('/', 1)[-1]}.{suffix}"] for path in paths
    ]


def test_a_symlinked_file_and_an_excluded_one(catalog: Catalog, tmp_path: Path, read_back: ReadBack) -> None:
    fill(tmp_path / "elsewhere", "real.jsonl")
    fill(tmp_path / "data", "a.jsonl", "test/b.jsonl")
    (tmp_path / "data" / "link.jsonl").symlink_to(tmp_path / "elsewhere" / "real.jsonl")
    catalog.register("docs", str(tmp_path / "data"), exclude=["test/*"])
    assert [record["text"] for record in read_back("docs")] == ["a.jsonl", "real.jsonl"]


def test_the_files_of_the_lake_are_no_samples_of_a_folder_it_lies_in(catalog: Catalog, tmp_path: Path) -> None:
    fill(tmp_path, "a.txt")
    catalog.register("one", str(tmp_path), format="files")
    catalog.register("two", str(tmp_path), format="files")
    assert [dataset.num_files for dataset in catalog.list_datasets()] == [1, 1]


@settings(max_examples=10, deadline=None)
@given(files=st.lists(LINES, min_size=1, max_size=3), num_bytes=st.sampled_from([1, 64, 4 << 20]))
def test_every_line_that_is_registered_is_read_back_by_its_row(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[str]], num_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    wanted = [json.loads(line) for lines in files for line in lines if line.strip()]
    (folder / "data").mkdir()
    for index, lines in enumerate(files):
        (folder / "data" / f"{index}.jsonl").write_text("\n".join(lines))
    catalog = Catalog.create(str(folder / "lake"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_regions, "_BYTES_PER_REGION", num_bytes)
        patch.setattr(format_jsonl, "BYTES_PER_PART", 3 * num_bytes)
        patch.setattr(scanning, "_BYTES_PER_TASK", 5 * num_bytes)
        patch.setattr(scanning, "_BYTES_PER_BLOCK", num_bytes)
        if not wanted or not all(path.stat().st_size for path in (folder / "data").iterdir()):
            with pytest.raises(DataError, match=r"but not one sample in them|the file is empty"):
                catalog.register("docs", str(folder / "data"))
            return
        catalog.register("docs", str(folder / "data"), properties={"n": "n", "twice": "n + n"})
    rows = index_rows(catalog, "docs")
    assert [(row["n"], row["twice"]) for row in rows] == [(record["n"], 2 * record["n"]) for record in wanted]
    uris = [row["uri"] for row in catalog.sql("SELECT uri FROM files ORDER BY file_id").to_pylist()]
    contents = [Path(uris[row["file_id"]]).read_bytes()[row["byte_start"] : row["byte_stop"]] for row in rows]
    assert [json.loads(content) for content in contents] == wanted
    blocks = [row["block"] for row in rows]
    assert blocks == sorted(blocks)


def test_a_file_without_samples_is_listed_beside_others(catalog: Catalog, write_lines: WriteLines) -> None:
    write_lines("a.jsonl", "")
    write_lines("b.jsonl", {"text": "x"})
    path = Path(write_lines("c.jsonl", "   "))
    catalog.register("docs", str(path.parent), properties={"n": "_num_bytes"})
    files = catalog.sql("SELECT file_id, num_samples FROM files ORDER BY 1").to_pylist()
    assert [(file["file_id"], file["num_samples"]) for file in files] == [(0, 0), (1, 1), (2, 0)]
    assert [(row["file_id"], row["row"], row["n"]) for row in index_rows(catalog, "docs")] == [(1, 0, 13)]


def test_any_delta_reader_sees_the_columns_of_the_schema_and_the_properties(
    catalog: Catalog, write_lines: WriteLines
) -> None:
    expressions = {"s": "text", "i": "n", "f": "n / 2.0", "b": "n > 1", "l": "tags", "t": "CAST(at AS TIMESTAMP)"}
    record = {"text": "x", "n": 1, "tags": ["a"], "at": "2024-01-02T03:04:05"}
    catalog.register("docs", write_lines("a.jsonl", record, {"text": "y"}), properties=expressions)
    for name in (schema.DATASETS, schema.FILES, schema.SAMPLES):
        table = DeltaTable(catalog.lake.path(name)).to_pyarrow_table()
        assert table.schema.names[: len(schema.TABLES[name].columns)] == schema.TABLES[name].columns.names
    table = DeltaTable(catalog.lake.path(schema.SAMPLES)).to_pyarrow_table().sort_by("row")
    assert {name: str(table.schema.field(name).type) for name in expressions} == {
        "s": "string",
        "i": "int64",
        "f": "double",
        "b": "bool",
        "l": "list<element: string>",
        "t": "timestamp[us, tz=UTC]",
    }
    (dataset,) = catalog.list_datasets()
    assert set(table["registration"].to_pylist()) == set(dataset.registrations)
    assert table["s"].to_pylist() == ["x", "y"]
    assert table["l"].to_pylist() == [["a"], None]


# Blocks


def test_blocks_collect_what_is_read_together_up_to_some_megabytes(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, *(f"data/{index}.jsonl" for index in range(5)))  # each 23 bytes long
    monkeypatch.setattr(scanning, "_BYTES_PER_BLOCK", 50)
    catalog.register("docs", str(tmp_path / "data"))
    assert [(row["file_id"], row["block"]) for row in index_rows(catalog, "docs")] == [
        (0, 0),
        (1, 0),
        (2, 1),
        (3, 1),
        (4, 2),
    ]


@pytest.mark.parametrize(("num_bytes", "blocks"), [(1, [0, 0, 0, 1, 1, 1, 2]), (4 << 20, [0] * 7)])
def test_a_block_never_parts_a_row_group(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_bytes: int, blocks: list[int]
) -> None:
    monkeypatch.setattr(scanning, "_BYTES_DECODED", num_bytes)
    monkeypatch.setattr(arrow_blocks, "_BYTES_TOGETHER", num_bytes)
    pq.write_table(pa.table({"text": list("abcdefg")}), tmp_path / "a.parquet", row_group_size=3)
    catalog.register("docs", str(tmp_path / "a.parquet"))
    rows = index_rows(catalog, "docs")
    assert [row["block"] for row in rows] == blocks
    assert [row["byte_start"] for row in rows] == [None] * 7


def test_progress_rises_to_the_bytes_of_all_files(catalog: Catalog, tmp_path: Path) -> None:
    fill(tmp_path, *(f"data/{index}.jsonl" for index in range(3)))
    calls: list[tuple[int, int, str]] = []
    catalog.register("docs", str(tmp_path / "data"), progress=lambda *call: calls.append(call))
    total = 3 * len('{"text": "data/0.jsonl"}')
    assert calls == [(total // 3 * (index + 1), total, "bytes") for index in range(3)]


# Types across files and datasets


def test_a_property_has_one_type_in_all_datasets(catalog: Catalog, write_lines: WriteLines) -> None:
    catalog.register("halves", write_lines("a.jsonl", {"text": "x", "n": 0.5}), properties={"n": "n"})
    catalog.register("wholes", write_lines("b.jsonl", {"text": "x", "n": 2}), properties={"n": "n"})
    catalog.register("none", write_lines("c.jsonl", {"text": "x", "n": None}), properties={"n": "n"})
    types = {row["dataset"]: row["type"] for row in catalog.properties().to_pylist()}
    assert types == {"halves": "double", "wholes": "double", "none": "double"}
    rows = catalog.sql("SELECT n FROM samples ORDER BY n NULLS LAST").to_pylist()
    assert [row["n"] for row in rows] == [0.5, 2.0, None]


@pytest.mark.parametrize(("first", "second"), [([], ["a"]), (["a"], []), ([], [])])
def test_lists_that_are_all_empty_are_lists_of_strings(
    catalog: Catalog, write_lines: WriteLines, first: list[str], second: list[str]
) -> None:
    catalog.register("one", write_lines("a.jsonl", {"text": "x", "tags": first}), properties={"tags": "tags"})
    catalog.register("two", write_lines("b.jsonl", {"text": "x", "tags": second}), properties={"tags": "tags"})
    rows = catalog.sql("SELECT tags FROM samples ORDER BY dataset").to_pylist()
    assert [row["tags"] for row in rows] == [first, second]


def test_types_that_do_not_go_together_are_refused_with_both_datasets(
    catalog: Catalog, write_lines: WriteLines
) -> None:
    catalog.register("words", write_lines("a.jsonl", {"text": "x", "n": "one"}), properties={"n": "n"})
    before = state(catalog)
    message = (
        "property 'n' is int64 in 'numbers', but string in dataset 'words' (samples@2); "
        "cast it, or give it another name"
    )
    path = write_lines("b.jsonl", {"text": "x", "n": 1})
    with pytest.raises(ConfigError, match=exactly(message)):
        catalog.register("numbers", path, properties={"n": "n"})
    assert state(catalog) == before
    catalog.register("numbers", path, properties={"n": "CAST(n AS STRING)"})
    assert [row["n"] for row in catalog.sql("SELECT n FROM samples ORDER BY n").to_pylist()] == ["1", "one"]


def test_a_type_that_only_an_earlier_registration_had_is_still_taken(catalog: Catalog, write_lines: WriteLines) -> None:
    catalog.register("docs", write_lines("a.jsonl", {"text": "x", "n": 1}), properties={"n": "n"})
    message = (
        "property 'n' is double in 'docs', but int64 in an earlier registration (samples@2); "
        "cast it, or give it another name"
    )
    path = write_lines("b.jsonl", {"text": "x", "n": 0.5})
    with pytest.raises(ConfigError, match=exactly(message)):
        catalog.register("docs", path, properties={"n": "n"}, replace=True)
    assert catalog.version == 1


# Refusals


def wrong_length(batch: pa.RecordBatch) -> pa.Array:
    return pa.array([1] * (batch.num_rows + 1))


@pytest.mark.parametrize(
    ("broken", "properties", "error", "reason"),
    [
        ('{"text": "torn', {}, DataError, r"{path}, line 2: not JSON \(.+\)"),
        ("[1]", {}, DataError, "{path}, line 2: a record must be a JSON object, got list"),
        ('{"n": "two"}', {"n": "n"}, DataError, r"{path}, line 2: field 'n' is a string \('two'\), which does .+"),
        ("{}", {"n": "nn"}, ConfigError, r"property 'n' of 'docs': no record has a field 'nn'; fields: .+"),
        ("{}", {"n": "n +"}, ConfigError, r"property 'n' of 'docs': 'n \+' is not an expression over the record: .+"),
        (
            "{}",
            {"n": "1 / (n - 1)"},
            DataError,
            r"{path}, line 1: property 'n' of 'docs' cannot be computed: Divide by .+",
        ),
        (
            "{}",
            {"n": BatchFunction(function=wrong_length, fields=("n",))},
            ConfigError,
            r"property 'n' of 'docs': .+wrong_length must return an Arrow array of 2 values, got 3 values at .+",
        ),
    ],
)
def test_a_refused_registration_leaves_nothing(
    catalog: Catalog, write_lines: WriteLines, broken: str, properties: Any, error: type[Exception], reason: str
) -> None:
    catalog.register("other", write_lines("other.jsonl", {"text": "x"}))
    write_lines("docs/a.jsonl", {"text": "x", "n": 5}, {"text": "y", "n": 6})
    path = write_lines("docs/b.jsonl", {"text": "x", "n": 1}, broken)
    before = state(catalog)
    with pytest.raises(error, match=f"^{reason.replace('{path}', re.escape(path))}$"):
        catalog.register("docs", str(Path(path).parent), properties=properties)
    assert state(catalog) == before


def test_a_torn_parquet_file_is_refused_and_leaves_nothing(catalog: Catalog, tmp_path: Path) -> None:
    fill(tmp_path / "data", "a.parquet", "b.parquet")
    path = tmp_path / "data" / "b.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    before = state(catalog)
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: not a readable Parquet file \(.+\)$"):
        catalog.register("docs", str(tmp_path / "data"))
    assert state(catalog) == before


@pytest.mark.parametrize("lines", [[""], ["", "     ", "             "]])
def test_files_without_one_sample_are_refused(catalog: Catalog, write_lines: WriteLines, lines: list[str]) -> None:
    path = write_lines("a.jsonl", *lines)
    before = state(catalog)
    with pytest.raises(DataError, match=exactly(f"['{path}']: 1 files, but not one sample in them")):
        catalog.register("docs", path)
    assert state(catalog) == before


@pytest.mark.parametrize(
    ("record", "text", "hint"),
    [
        ({"txt": "x", "n": 1}, "text", "txt, n. Did you mean 'txt'?"),
        ({"text": 17}, "text", "text. Did you mean 'text'?"),
        ({"meta": {"text": "x"}}, "meta.body", "meta, meta.text. Did you mean 'meta'?"),
        ({"meta": {"text": "x"}}, "text", "meta, meta.text. Did you mean 'meta.text'?"),
        ({"meta": "x"}, "meta.body", "meta. Did you mean 'meta'?"),
    ],
)
def test_a_text_field_that_the_first_record_lacks_is_refused(
    catalog: Catalog, write_lines: WriteLines, record: dict[str, Any], text: str, hint: str
) -> None:
    path = write_lines("a.jsonl", record)
    before = state(catalog)
    message = f"text={text!r}: the first record of 'docs' has no such text or tokens; its fields: {hint}"
    with pytest.raises(ConfigError, match=exactly(message)):
        catalog.register("docs", path, text=text)
    assert state(catalog) == before


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"meta": {"body": "x"}}, "meta.body"),
        ({"meta": {"body": None}}, "meta.body"),
        ({"odd name": "x"}, '"odd name"'),
        ({"text": None}, "text"),
        ({"meta": None}, "meta.body"),
    ],
)
def test_a_text_field_may_be_nested_or_null(
    catalog: Catalog, write_lines: WriteLines, record: dict[str, Any], text: str
) -> None:
    catalog.register("docs", write_lines("a.jsonl", record), text=text)
    assert catalog.dataset("docs").text == text


def test_an_option_that_the_format_does_not_take_is_refused(catalog: Catalog, write_lines: WriteLines) -> None:
    message = "format 'jsonl' has no option 'encoding'; it takes: none."
    with pytest.raises(ConfigError, match=exactly(message)):
        catalog.register("docs", write_lines("a.jsonl", {"text": "x"}), options={"encoding": "utf-8"})


def test_options_are_kept_with_the_dataset_and_used(catalog: Catalog, tmp_path: Path, read_back: ReadBack) -> None:
    (tmp_path / "a.txt").write_bytes("Größe".encode("latin-1"))
    catalog.register(
        "docs",
        str(tmp_path / "a.txt"),
        format="files",
        options={"encoding": "latin-1"},
        properties={"n": "length(text)"},
    )
    assert catalog.dataset("docs").options == {"encoding": "latin-1"}
    assert [record["text"] for record in read_back("docs")] == ["Größe"]
    assert [row["n"] for row in index_rows(catalog, "docs")] == [5]
