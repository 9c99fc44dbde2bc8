"""Scanning files for registration: the same result however files are cut, and what happens to what cannot be read."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import (
    BatchFunction,
    Catalog,
    ConfigError,
    DataError,
    format_jsonl,
    json_views,
    scanning,
    text_regions,
)
from mixlake.catalog.declaring import declare
from mixlake.catalog.listing import find_files
from mixlake.catalog.properties import FieldWidenedError
from mixlake.catalog.scanning import Scan, ScannedBlock, probe_types, scan_files

WriteLines = Callable[..., str]


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def scan_of(folder: Path, **properties: str | BatchFunction) -> Scan:
    data_format, files = find_files([str(folder)], format_name=None)
    return Scan(dataset="docs", format=data_format, options={}, declared=tuple(declare(properties)), files=tuple(files))


def samples(catalog: Catalog, columns: str) -> list[dict[str, Any]]:
    return catalog.sql(f"SELECT {columns} FROM samples ORDER BY file_id, row").to_pylist()


def skipped(catalog: Catalog) -> list[tuple[str, str, str]]:
    rows = catalog.sql("SELECT dataset, uri, place, reason FROM skipped ORDER BY file_id, byte_start").to_pylist()
    return [(Path(row["uri"]).name, row["place"], row["reason"]) for row in rows]


# The same result however files are cut


@settings(max_examples=15, deadline=None)
@given(
    files=st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=40), min_size=1, max_size=4),
    num_bytes=st.sampled_from([1, 50, 1 << 20]),
    num_threads=st.sampled_from([1, 3]),
    is_compressed=st.booleans(),
    max_cores=st.sampled_from([0, 1_000_000]),
)
def test_rows_and_bytes_do_not_depend_on_parts_and_threads(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[list[int]],
    num_bytes: int,
    num_threads: int,
    is_compressed: bool,
    max_cores: int,
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    for index, sizes in enumerate(files):
        lines = b"".join(json.dumps({"n": size, "pad": "x" * size}).encode() + b"\n" * (1 + size % 2) for size in sizes)
        name, content = (f"{index}.jsonl.gz", gzip.compress(lines)) if is_compressed else (f"{index}.jsonl", lines)
        (folder / name).write_bytes(content)
    scan = scan_of(folder, n="n", odd="n % 2 = 1", size="_num_bytes", where="_path")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_regions, "_BYTES_PER_REGION", num_bytes)
        patch.setattr(format_jsonl, "BYTES_PER_PART", 2 * num_bytes)
        patch.setattr(format_jsonl, "_MIN_BYTES_FOR_THREADS", 0)
        patch.setattr(json_views, "_MAX_CORES", max_cores)
        patch.setattr(json_views, "_MIN_RECORD_BYTES", 20)
        patch.setattr(scanning, "_BYTES_PER_TASK", 3 * num_bytes)
        blocks = [
            block for block in scan_files(scan, probe_types(scan), num_threads) if isinstance(block, ScannedBlock)
        ]
    rows = pa.concat_tables([block.rows for block in blocks if len(block.rows)])
    wanted = [(file_id, row, size) for file_id, sizes in enumerate(files) for row, size in enumerate(sizes)]
    assert list(zip(*(rows[name].to_pylist() for name in ("file_id", "row", "n")), strict=True)) == wanted
    assert rows["odd"].to_pylist() == [size % 2 == 1 for _, _, size in wanted]
    assert rows["size"].to_pylist() == [len(json.dumps({"n": size, "pad": "x" * size})) for _, _, size in wanted]
    assert (np.diff(rows["block"].to_numpy()) >= 0).all()


def test_an_expression_over_the_row_sees_the_row_in_the_whole_file(
    catalog: Catalog, write_lines: WriteLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_regions, "_BYTES_PER_REGION", 16)
    monkeypatch.setattr(format_jsonl, "BYTES_PER_PART", 40)
    monkeypatch.setattr(scanning, "_BYTES_PER_TASK", 40)
    path = write_lines("a.jsonl", *({"text": f"t{number}"} for number in range(50)))
    catalog.register("docs", path, properties={"number": "_row + 1"})
    assert [row["number"] for row in samples(catalog, "number")] == list(range(1, 51))


def test_a_compressed_file_is_one_block_and_plain_ones_are_cut(
    catalog: Catalog, write_lines: WriteLines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(text_regions, "_BYTES_PER_REGION", 64)
    monkeypatch.setattr(scanning, "_BYTES_PER_BLOCK", 64)
    plain = write_lines("a.jsonl", *({"text": f"t{number}"} for number in range(50)))
    (tmp_path / "data" / "b.jsonl.gz").write_bytes(gzip.compress(Path(plain).read_bytes()))
    catalog.register("docs", str(tmp_path / "data"))
    blocks = catalog.sql("SELECT file_id, count(DISTINCT block) AS n FROM samples GROUP BY 1 ORDER BY 1").to_pylist()
    assert blocks[0]["n"] > 5
    assert blocks[1]["n"] == 1


# An expression means the same in every block


def test_an_expression_sees_a_field_in_the_type_that_holds_all_its_values(
    catalog: Catalog, write_lines: WriteLines
) -> None:
    write_lines("a.jsonl", {"text": "a", "score": 3})
    write_lines("b.jsonl", {"text": "b", "score": 0.5})
    write_lines("c.jsonl", {"text": "c"})
    folder = Path(write_lines("d.jsonl", {"text": "d", "score": 5})).parent
    catalog.register("docs", str(folder), properties={"half": "score / 2"})
    assert [row["half"] for row in samples(catalog, "half")] == [1.5, 0.25, None, 2.5]


def test_a_wider_type_that_comes_late_makes_the_scan_begin_again(
    catalog: Catalog, write_lines: WriteLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_regions, "_BYTES_PER_REGION", 64)
    records = [{"text": "a", "score": number} for number in range(40)]
    path = write_lines("a.jsonl", *records, {"text": "b", "score": 0.5})
    scan = scan_of(Path(path).parent, half="score / 2")
    known = probe_types(scan)
    assert known == {("score",): pa.int64()}
    with pytest.raises(FieldWidenedError) as caught:
        list(scan_files(scan, known))
    assert (caught.value.path, caught.value.kind) == (("score",), pa.float64())
    catalog.register("docs", path, properties={"half": "score / 2"})
    assert [row["half"] for row in samples(catalog, "half")] == [number / 2 for number in range(40)] + [0.25]


# What cannot be read


def test_what_is_wrong_in_the_middle_of_a_large_file_is_named_by_its_line(
    catalog: Catalog, write_lines: WriteLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_regions, "_BYTES_PER_REGION", 64)
    monkeypatch.setattr(format_jsonl, "BYTES_PER_PART", 200)
    monkeypatch.setattr(scanning, "_BYTES_PER_TASK", 200)
    good = [{"text": "a", "n": 1}] * 60
    path = write_lines("a.jsonl", *good, "", {"text": "b", "n": 0}, *good)
    message = f"{path}, line 62: property 'x' of 'docs' cannot be computed: Divide by zero error"
    with pytest.raises(DataError, match=exactly(message)):
        catalog.register("docs", path, properties={"x": "1 / n"})


def test_with_skip_the_rest_is_registered_and_what_was_left_out_can_be_queried(
    catalog: Catalog, write_lines: WriteLines, tmp_path: Path
) -> None:
    path = write_lines(
        "a.jsonl",
        {"text": "good", "n": 1},
        '{"text": "torn',
        {"text": "zero", "n": 0},
        "[1]",
        {"text": "list", "n": [1]},
        {"text": "good too", "n": 2},
    )
    (tmp_path / "data" / "b.jsonl").write_bytes(b"")
    (tmp_path / "data" / "c.jsonl").write_bytes(b'{"text": "\xff", "n": 1}\n{"text": "after", "n": 4}\n')
    version = catalog.register("docs", str(tmp_path / "data"), properties={"x": "8 / n"}, on_error="skip")
    assert [(row["file_id"], row["row"], row["x"]) for row in samples(catalog, "file_id, row, x")] == [
        (0, 0, 8),
        (0, 5, 4),
        (2, 1, 2),
    ]
    left_out = skipped(catalog)
    assert [(name, place) for name, place, _ in left_out] == [
        ("a.jsonl", "line 2"),
        ("a.jsonl", "line 3"),
        ("a.jsonl", "line 4"),
        ("a.jsonl", "line 5"),
        ("b.jsonl", ""),
        ("c.jsonl", "line 1"),
    ]
    assert "not JSON" in left_out[0][2]
    assert "Divide by zero" in left_out[1][2]
    assert left_out[2][2] == "a record must be a JSON object, got list"
    assert "does not fit the values before it" in left_out[3][2]
    assert left_out[4][2] == "the file is empty"
    history = catalog.history().to_pylist()
    assert json.loads(history[0]["details"])["num_skipped"] == 6
    start, stop = samples(catalog, "byte_start, byte_stop")[1].values()
    assert json.loads(Path(path).read_bytes()[start:stop]) == {"text": "good too", "n": 2}
    assert catalog.at(version=version).sql("SELECT count(*) AS n FROM skipped").to_pylist() == [{"n": 6}]
    catalog.register("docs", path, properties={"n": "1"}, on_error="skip", replace=True)
    assert [place for _, place, _ in skipped(catalog)] == ["line 2", "line 4"]


def test_with_skip_what_lies_before_a_truncation_is_registered(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    whole = gzip.compress(b"".join(b'{"text": "%d"}\n' % number for number in range(300_000)))
    (tmp_path / "data" / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "data" / "b.jsonl").write_text('{"text": "b"}\n')
    folder = str(tmp_path / "data")
    where, reason = re.escape(f"{folder}/a.jsonl.gz, behind line "), "cannot be decompressed (it ends too early)"
    with pytest.raises(DataError, match=f"^{where}\\d+: {re.escape(reason)}$"):
        catalog.register("docs", folder, format="jsonl")
    catalog.register("docs", folder, format="jsonl", on_error="skip")
    counts = catalog.sql("SELECT file_id, num_samples FROM files ORDER BY 1").to_pylist()
    assert 100_000 < counts[0]["num_samples"] < 300_000
    assert counts[1]["num_samples"] == 1
    assert skipped(catalog) == [("a.jsonl.gz", f"behind line {counts[0]['num_samples']}", reason)]


def test_with_skip_files_of_another_type_are_left_out_row_by_row(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"text": ["a", "b"], "n": [1, 2]}), tmp_path / "data" / "a.parquet")
    pq.write_table(pa.table({"text": ["c", "d"], "n": ["x", None]}), tmp_path / "data" / "b.parquet")
    folder = str(tmp_path / "data")
    reason = "property 'n' of 'docs' is string here but int64 in "
    with pytest.raises(DataError, match=f"^{re.escape(f'{folder}/b.parquet, row 0: {reason}{folder}/a.parquet')}"):
        catalog.register("docs", folder, properties={"n": "n"})
    catalog.register("docs", folder, properties={"n": "n"}, on_error="skip")
    assert [row["n"] for row in samples(catalog, "n")] == [1, 2, None]
    assert [(name, place) for name, place, _ in skipped(catalog)] == [("b.parquet", "row 0")]


def test_with_skip_a_dataset_of_nothing_but_damage_is_refused(catalog: Catalog, write_lines: WriteLines) -> None:
    path = write_lines("a.jsonl", "torn", "torn")
    with pytest.raises(DataError, match=r"1 files, but not one sample in them \(.+a\.jsonl, line 1: not JSON .+\)$"):
        catalog.register("docs", path, on_error="skip")
    assert catalog.version == 0


def test_an_error_in_a_batch_function_is_not_taken_for_damage(catalog: Catalog, write_lines: WriteLines) -> None:
    def broken(_: pa.RecordBatch) -> pa.Array:
        raise KeyError("txt")

    with pytest.raises(KeyError, match="txt"):
        catalog.register(
            "docs",
            write_lines("a.jsonl", {"text": "a"}),
            properties={"n": BatchFunction(function=broken, fields=("text",))},
            on_error="skip",
        )


def test_an_unknown_policy_is_refused(catalog: Catalog, write_lines: WriteLines) -> None:
    message = "on_error is 'skipp'; allowed: raise, skip. Did you mean 'skip'?"
    with pytest.raises(ConfigError, match=exactly(message)):
        catalog.register("docs", write_lines("a.jsonl", {"text": "a"}), on_error="skipp")
