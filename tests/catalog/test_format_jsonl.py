"""The ``jsonl`` format: lines of JSON objects, their byte ranges, and reading them back."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mixlake.catalog import DataError, DataFile, Span, format_jsonl, json_views, text_regions
from mixlake.catalog.format_jsonl import JsonLinesFormat
from mixlake.catalog.listing import find_files
from mixlake.catalog.problems import OnError, Problems
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, FieldPath, FilePart

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)
RECORDS = st.dictionaries(st.text(max_size=5), VALUES | st.text(min_size=60, max_size=90), max_size=3)
JSON_LINES = st.builds(lambda record, ascii: json.dumps(record, ensure_ascii=ascii), RECORDS, st.booleans())
PADDED = st.builds(
    lambda before, line, after: before + line + after,
    st.sampled_from(["", " ", "\t  "]),
    JSON_LINES,
    st.sampled_from(["", "  "]),
)
BLANK = st.sampled_from(["", " ", "\t", "            ", " \t \r"])
LINES = st.lists(PADDED | BLANK, max_size=12)
ENDS = st.sampled_from(["\n", "\r\n"])


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def write(path: Path, content: bytes | str) -> DataFile:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    (file,) = find_files([str(path)], format_name="jsonl")[1]
    return file


def scan(file: DataFile, *fields: FieldPath) -> list[Block]:
    parts = [FilePart(file_id=0, file=file)]
    return list(JsonLinesFormat().scan(parts, dict.fromkeys(fields, pa.null()), {}, Problems()))


def spans_of(blocks: list[Block]) -> list[Span]:
    return [
        Span(row_start=row, row_stop=row + 1, byte_start=start, byte_stop=stop)
        for block in blocks
        if block.byte_starts is not None and block.byte_stops is not None
        for row, start, stop in zip(
            block.rows.tolist(), block.byte_starts.tolist(), block.byte_stops.tolist(), strict=True
        )
    ]


def read(file: DataFile, spans: list[Span]) -> list[dict[str, Any]]:
    return JsonLinesFormat().read(file, spans, None, {}, ReadCache())


def merged(first: Span, last: Span) -> Span:
    return Span(
        row_start=first.row_start,
        row_stop=last.row_stop,
        byte_start=first.byte_start,
        byte_stop=last.byte_stop,
    )


def test_each_line_is_a_sample_whose_bytes_are_the_line_without_the_newline(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"text": "ä"}\n\n{"text": "b"}\r\n{"text": "c"}\n')
    (block,) = scan(file, ("text",))
    spans = [(span.row_start, span.byte_start, span.byte_stop) for span in spans_of([block])]
    assert spans == [(0, 0, 14), (1, 16, 30), (2, 31, 44)]
    assert block.file_ids.tolist() == [0, 0, 0]
    assert block.columns[("text",)].to_pylist() == ["ä", "b", "c"]
    assert block.num_bytes == file.num_bytes == 45


@settings(max_examples=60, deadline=None)
@given(data=st.data(), lines=LINES, ends=st.lists(ENDS, min_size=12, max_size=12), is_ended=st.booleans())
@pytest.mark.parametrize("num_bytes", [1, 37, 4 << 20])
def test_every_record_is_read_back_by_its_row_and_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    num_bytes: int,
    data: st.DataObject,
    lines: list[str],
    ends: list[str],
    is_ended: bool,
) -> None:
    content = "".join(line + end for line, end in zip(lines, ends, strict=False))
    content = content if is_ended else content.rstrip("\r\n")
    file = write(tmp_path_factory.getbasetemp() / f"any{num_bytes}.jsonl", content)
    wanted = [json.loads(line) for line in lines if line.strip()]
    assume(file.num_bytes)  # an empty file is refused
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_regions, "_BYTES_PER_REGION", num_bytes)
        blocks = scan(file)
        spans = spans_of(blocks)
        assert [span.row_start for span in spans] == list(range(len(wanted)))
        assert sum(block.num_bytes for block in blocks) == file.num_bytes
        assert read(file, spans) == wanted
        order = data.draw(st.permutations(range(len(spans))))
        assert read(file, [spans[i] for i in order]) == [wanted[i] for i in order]
        for first in range(len(spans)):
            last = data.draw(st.integers(first, len(spans) - 1))
            assert read(file, [merged(spans[first], spans[last])]) == wanted[first : last + 1]


def test_a_line_longer_than_a_region_is_one_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_regions, "_BYTES_PER_REGION", 64)
    long = json.dumps({"text": "x" * 1000})
    file = write(tmp_path / "a.jsonl", f'{{"text": "a"}}\n{long}\n{{"text": "b"}}\n')
    blocks = scan(file)
    assert [span.byte_stop - span.byte_start for span in spans_of(blocks)] == [13, 1012, 13]
    assert [record["text"] for record in read(file, spans_of(blocks))] == ["a", "x" * 1000, "b"]


def test_regions_are_at_most_so_long_and_hold_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_regions, "_BYTES_PER_REGION", 40)
    file = write(tmp_path / "a.jsonl", '{"text": "a"}\n' * 10)
    assert [block.num_bytes for block in scan(file)] == [28] * 5


@pytest.mark.parametrize("content", ["\n", " \n\t\n\r\n", "            \n            "])
def test_a_file_of_blank_lines_has_no_sample(tmp_path: Path, content: str) -> None:
    assert spans_of(scan(write(tmp_path / "a.jsonl", content), ("text",))) == []


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", "")
    with pytest.raises(DataError, match=exactly(f"{file.uri}: the file is empty")):
        scan(file)


def test_a_field_is_present_where_a_record_has_it_if_only_as_null(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"a": null, "m": {"b": null}}\n{}\n')
    (block,) = scan(file, ("a",), ("m", "b"), ("m", "c"), ("d",))
    assert {path: column.to_pylist() for path, column in block.columns.items()} == {
        ("a",): [None, None],
        ("m", "b"): [None, None],
    }


def test_the_last_of_two_equal_keys_counts(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"a": 1, "a": 2}\n')
    (block,) = scan(file, ("a",))
    assert block.columns[("a",)].to_pylist() == [2]
    assert read(file, spans_of([block])) == [{"a": 2}]


@pytest.mark.parametrize("kind", [pa.null(), pa.float64()])
def test_what_python_writes_for_numbers_that_json_lacks_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    file = write(tmp_path / "a.jsonl", '{"x": NaN}\n{"x": -Infinity, "y": NaN}\n{"x": 0.5}\n')
    parts = [FilePart(file_id=0, file=file)]
    (block,) = JsonLinesFormat().scan(parts, {("x",): kind}, {}, Problems())
    assert str(block.columns[("x",)].to_pylist()) == "[nan, -inf, 0.5]"
    assert [str(record) for record in read(file, spans_of([block]))] == [
        "{'x': nan}",
        "{'x': -inf, 'y': nan}",
        "{'x': 0.5}",
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "torn', r"not JSON \(unexpected end of data at column \d+\)"),
        (b"text", r"not JSON \(.+\)"),
        (b'{"a": 1} {"a": 2}', r"not JSON \(.+\)"),
        (b'{"a": NaN', r"not JSON \(.+\)"),
        (b'{"a": "\xff"}', r"not JSON \(not UTF-8: invalid start byte at byte 8\)"),
        (b'["text"]', "a record must be a JSON object, got list"),
        (b"17", "a record must be a JSON object, got int"),
        (b"null", "a record must be a JSON object, got null"),
    ],
)
@pytest.mark.parametrize("num_bytes", [16, 4 << 20])
def test_an_unreadable_line_is_refused_with_its_number_and_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_bytes: int, line: bytes, reason: str
) -> None:
    monkeypatch.setattr(text_regions, "_BYTES_PER_REGION", num_bytes)
    file = write(tmp_path / "a.jsonl", b'{"text": "a"}\n\n{"text": "b"}\n' + line + b'\n{"text": "c"}\n')
    with pytest.raises(DataError, match=f"^{re.escape(file.uri)}, line 4: {reason}$"):
        scan(file)


def test_a_value_that_fits_no_column_is_refused_with_its_line(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"x": 1}\n\n\n{"x": "two"}\n')
    message = f"{file.uri}, line 4: field 'x' is a string ('two'), which does not fit the values before it ("
    with pytest.raises(DataError, match=f"^{re.escape(message)}.+\\)$"):
        scan(file, ("x",))
    assert len(spans_of(scan(file, ("y",)))) == 2  # where no property mentions the field, it does no harm


ODD_LINES = st.sampled_from(
    [
        b'{"n": 1, "n": 2}',
        b'{"n": 1, "\\u006e": 2}',
        b'{"m": {"s": "a", "s": "b"}}',
        b'{"m": {"s": "a"}, "m": {}}',
        b'{"n": 9223372036854775808}',
        b'{"n": 18446744073709551616}',
        b'{"n": 1.0}',
        b'{"n": true}',
        b'{"x": NaN, "n": 3}',
        b'{"x": -inf}',
        b'{"other": nAn}',
        b'{"x": 1e999}',
        b'{"x": 1e5}',
        b'{"x": -0}',
        b'{"other": 01}',
        b'{"other": [1, ]}',
        b'{"other": "\\ud800", "x": NaN}',
        b'{"other": "\xff"}',
        b'{"\xff": 1}',
        b'{"other": "\x01"}',
        b'{"n": 1} {"n": 2}',
        b'{"n": 1}{"n": 2}',
        b'{"other": [{}',
        b"{}]}",
        b"{},{}",
        b'{"other": [{},',
        b'{"m": "flat"}',
        b'{"m": ["flat"]}',
        b'{"m": {"s": {"s": 1}}}',
        b'{"m": {"s": 5}}',
        b'{"l": ["a", null]}',
        b'{"l": []}',
        b'{"l": [1]}',
        b'{"l": "a"}',
        b'\xef\xbb\xbf{"n": 1}',
        b'{"n": 1}\x00',
        b'{"other": ' + b"[" * 500 + b"]" * 500 + b"}",
        b"[]",
        b"NaN",
        b" ",
    ]
)
FITTING_LINES = st.builds(
    lambda n, x, s: json.dumps({"n": n, "x": x, "m": {"s": s}, "l": [s]}).encode(),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53),
    st.none() | st.text(max_size=3),
)


@settings(max_examples=150, deadline=None)
@given(lines=st.lists(FITTING_LINES | ODD_LINES, min_size=1, max_size=5), is_compressed=st.booleans())
def test_what_is_found_does_not_depend_on_the_parser(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], is_compressed: bool
) -> None:
    content = b"\n".join(lines)
    folder = tmp_path_factory.mktemp("lines")
    file = write(folder / "a.jsonl.gz", gzip.compress(content)) if is_compressed else write(folder / "a.jsonl", content)
    kinds = {("n",): pa.int64(), ("x",): pa.float64(), ("m", "s"): pa.string(), ("l",): pa.list_(pa.string())}
    one_by_one = found_with(file, dict.fromkeys(kinds, pa.null()), max_cores=0)
    assert found_with(file, kinds, max_cores=0) == one_by_one
    assert found_with(file, kinds, max_cores=1_000_000) == one_by_one


def found_with(file: DataFile, kinds: dict[FieldPath, pa.DataType], max_cores: int) -> list[Any]:
    """Return the rows with their values, and what is wrong with others, found with simdjson on up to ``max_cores``."""
    problems = Problems(OnError.SKIP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(format_jsonl, "_MIN_BYTES_FOR_THREADS", 0)
        patch.setattr(json_views, "_MAX_CORES", max_cores)
        patch.setattr(json_views, "_MIN_RECORD_BYTES", 0)
        patch.setattr(json_views, "_MIN_RATIO", 0)
        blocks = list(JsonLinesFormat().scan([FilePart(file_id=0, file=file)], kinds, {}, problems))
    values = [
        ["NaN" if value != value else value for value in column]
        for block in blocks
        for path, column in ((path, block.columns.get(path)) for path in kinds)
        for column in [[None] * len(block.rows) if column is None else column.to_pylist()]
    ]
    return [spans_of(blocks), values, [(problem.place, problem.reason) for problem in problems.found]]


def test_a_file_that_has_changed_since_is_refused_when_it_is_read(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"text": "one"}\n{"text": "two"}\n')
    spans = spans_of(scan(file))
    write(tmp_path / "a.jsonl", '{"text": "o"}\n{"text": "n"}\n{"text": "e"}\n')
    message = f"{file.uri}, row 1: not JSON any more ("
    with pytest.raises(DataError, match=f"^{re.escape(message)}.+\\)$"):
        read(file, spans[1:])
    write(tmp_path / "a.jsonl", "\n" * 40)
    with pytest.raises(DataError, match=exactly(f"{file.uri}, rows 0 to 2: found 0 records in their place")):
        read(file, [merged(*spans)])


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", "{}\n")
    spans = spans_of(scan(file))
    os.remove(file.uri)
    message = exactly(f"{file.uri}: cannot be read (No such file or directory)")
    with pytest.raises(DataError, match=message):
        scan(file)
    with pytest.raises(DataError, match=message):
        read(file, spans)
