"""The ``csv`` format: records, their byte ranges, what is refused, and reading them back."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import Catalog, ConfigError, DataError, DataFile, Span, csv_records
from mixlake.catalog.format_csv import CsvFormat
from mixlake.catalog.listing import find_files
from mixlake.catalog.problems import OnError, Problems
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, FieldPath
from mixlake.loaders import SampleDataset
from mixlake.mixing import Mixture, Run

LETTERS = st.sampled_from(["a", "é", "猫", '"', ",", "\t", "\n", "\r", "\r\n", " ", "'", "\\", "NA", "0"])
TEXTS = st.lists(LETTERS, max_size=6).map("".join)
ENDS = st.sampled_from(["\n", "\r\n"])
Row = list[str | None]


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def write(path: Path, content: bytes | str) -> DataFile:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    (file,) = find_files([str(path)], format_name="csv")[1]
    return file


def scan(
    file: DataFile, *names: str, options: dict[str, Any] | None = None, problems: Problems | None = None
) -> list[Block]:
    data_format = CsvFormat()
    fields: dict[FieldPath, pa.DataType] = {(name,): pa.null() for name in names}
    problems = problems or Problems()
    parts = data_format.parts(0, file, options or {}, problems)
    return list(data_format.scan(parts, fields, options or {}, problems))


def values(blocks: list[Block], name: str) -> list[str | None]:
    return [value for block in blocks if len(block.rows) for value in block.columns[(name,)].to_pylist()]


def spans_of(blocks: list[Block]) -> list[Span]:
    return [
        Span(row_start=row, row_stop=row + 1, byte_start=start, byte_stop=stop)
        for block in blocks
        if block.byte_starts is not None and block.byte_stops is not None
        for row, start, stop in zip(
            block.rows.tolist(), block.byte_starts.tolist(), block.byte_stops.tolist(), strict=True
        )
    ]


def merged(first: Span, last: Span) -> Span:
    return Span(
        row_start=first.row_start, row_stop=last.row_stop, byte_start=first.byte_start, byte_stop=last.byte_stop
    )


def read(
    file: DataFile, spans: list[Span], *, wanted: list[str] | None = None, options: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    fields = None if wanted is None else [(name,) for name in wanted]
    return CsvFormat().read(file, spans, fields, options or {}, ReadCache())


def quoted(value: str | None, delimiter: str, *, is_quoted: bool) -> str:
    if value is None:
        return ""
    needs_quotes = is_quoted or not value or any(letter in value for letter in (delimiter, '"', "\n", "\r"))
    return '"' + value.replace('"', '""') + '"' if needs_quotes else value


def is_blank(row: Row) -> bool:
    return row == [None]


def test_each_record_is_a_sample_whose_bytes_are_the_record_without_the_line_end(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", 'text,n\r\n"ä\n""b""",1\r\n\r\nc,\nd,""')
    (block,) = scan(file, "text", "n")
    assert values([block], "text") == ['ä\n"b"', "c", "d"]
    assert values([block], "n") == ["1", None, ""]
    assert [(span.row_start, span.byte_start, span.byte_stop) for span in spans_of([block])] == [
        (0, 8, 20),
        (1, 24, 26),
        (2, 27, 31),
    ]
    assert [block.place(index) for index in range(3)] == ["line 2", "line 5", "line 6"]
    assert block.num_bytes == file.num_bytes
    assert block.num_records == 3


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    delimiter=st.sampled_from([",", "\t", ";"]),
    num_fields=st.integers(1, 3),
    end=ENDS,
    is_ended=st.booleans(),
    num_bytes=st.sampled_from([1, 7, 2 << 20]),
    suffix=st.sampled_from([".csv", ".csv.gz"]),
)
def test_every_record_is_scanned_and_read_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    delimiter: str,
    num_fields: int,
    end: str,
    is_ended: bool,
    num_bytes: int,
    suffix: str,
) -> None:
    names = ["text", "second", "third"][:num_fields]
    row = st.lists(st.none() | TEXTS, min_size=num_fields, max_size=num_fields)
    rows: list[Row] = data.draw(st.lists(row, max_size=8))
    lines = [delimiter.join(names)] + [
        delimiter.join(quoted(value, delimiter, is_quoted=data.draw(st.booleans())) for value in values)
        for values in rows
    ]
    content = (end.join(lines) + (end if is_ended else "")).encode()
    path = tmp_path_factory.getbasetemp() / f"ganz beliebig ä{suffix}"
    file = write(path, gzip.compress(content) if suffix.endswith("gz") else content)
    wanted = [dict(zip(names, values, strict=True)) for values in rows if not is_blank(values)]
    options = {"delimiter": delimiter}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_records, "_BYTES_PER_REGION", num_bytes)
        blocks = scan(file, *names, options=options)
    spans = spans_of(blocks)
    assert [span.row_start for span in spans] == list(range(len(wanted)))
    assert sum(block.num_records for block in blocks) == len(wanted)
    if wanted:
        assert [
            dict(zip(names, row, strict=True)) for row in zip(*(values(blocks, n) for n in names), strict=True)
        ] == wanted
    assert read(file, spans, options=options) == wanted
    order = data.draw(st.permutations(range(len(spans))))
    assert read(file, [spans[i] for i in order], wanted=names[-1:], options=options) == [
        {names[-1]: wanted[i][names[-1]]} for i in order
    ]
    for first in range(len(spans)):
        last = data.draw(st.integers(first, len(spans) - 1))
        assert read(file, [merged(spans[first], spans[last])], options=options) == wanted[first : last + 1]


def test_a_tab_separates_where_the_name_says_so_and_a_mark_of_the_encoding_is_no_text(tmp_path: Path) -> None:
    file = write(tmp_path / "a.TSV.gz", gzip.compress("\ufefftext\tn\na,b\t1\n".encode()))
    blocks = scan(file, "text", "n")
    assert values(blocks, "text") == ["a,b"]
    assert read(file, spans_of(blocks)) == [{"text": "a,b", "n": "1"}]


def test_names_come_from_an_option_where_there_is_no_header(tmp_path: Path) -> None:
    options = {"header": False, "names": ["text", "n"]}
    file = write(tmp_path / "a.csv", "a,1\nb,2\n")
    blocks = scan(file, "n", options=options)
    assert values(blocks, "n") == ["1", "2"]
    assert read(file, spans_of(blocks), options=options) == [{"text": "a", "n": "1"}, {"text": "b", "n": "2"}]


def test_quotes_are_letters_like_others_where_the_option_says_so(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", 'text,n\n5" pipe,1\n"open,2\n')
    blocks = scan(file, "text", options={"quote": None})
    assert values(blocks, "text") == ['5" pipe', '"open']
    assert read(file, spans_of(blocks), wanted=["text"], options={"quote": None}) == [
        {"text": '5" pipe'},
        {"text": '"open'},
    ]


def test_a_field_that_is_not_asked_for_is_not_parsed_and_one_that_is_not_there_is_absent(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "text,n\na,1\n")
    (block,) = scan(file, "n", "nosuch")
    assert block.columns.keys() == {("n",)}
    assert read(file, spans_of([block]), wanted=["nosuch"]) == [{}]


BAD_QUOTES = "a quote is not closed, or stands within a field (options.quote=null takes quotes for letters)"
LONE_RETURN = "a carriage return that belongs to no line end stands outside quotes"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"a", "1 fields, and not 2"),
        (b"a,b,c", "3 fields, and not 2"),
        (b'5" pipe,1', BAD_QUOTES),
        (b'"a"b,1', BAD_QUOTES),
        (b'"never closed,1', BAD_QUOTES),
        (b"a\rb,1", LONE_RETURN),
        (b"a\0b,1", "a NUL byte"),
        (b"\xff,1", "not UTF-8 text (invalid start byte at byte 0 of the record)"),
        ("text,1".encode("utf-16-le"), "a NUL byte"),
    ],
)
@pytest.mark.parametrize("num_bytes", [16, 2 << 20])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_damaged_record_is_refused_or_left_out_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: Any, num_bytes: int, record: bytes, reason: str
) -> None:
    monkeypatch.setattr(csv_records, "_BYTES_PER_REGION", num_bytes)
    before, after = b'text,n\n"first\none",0\n', b'\n"second\n""one""",2\nthird,3\n'
    file = write(tmp_path / ("a.csv" if compress is bytes else "a.csv.gz"), compress(before + record + after))
    with pytest.raises(DataError, match=exactly(f"{file.uri}, line 4: {reason}")):
        scan(file, "text")
    problems = Problems(OnError.SKIP)
    blocks = scan(file, "text", problems=problems)
    (problem,) = problems.found
    assert (problem.place, problem.reason) == ("line 4", reason)
    assert (problem.byte_start, problem.byte_stop) == (len(before), len(before) + len(record))
    assert values(blocks, "text") == ["first\none", 'second\n"one"', "third"]
    assert [span.row_start for span in spans_of(blocks)] == [0, 2, 3]
    assert [record["n"] for record in read(file, spans_of(blocks))] == ["0", "2", "3"]


@settings(max_examples=300, deadline=None)
@given(
    letters=st.lists(st.sampled_from([b"a", b'"', b'"', b",", b"\n", b"\r", b"\xff", b"\0", b"\xc3\xa4"]), max_size=40),
    quote=st.sampled_from(['"', None]),
)
def test_whatever_the_bytes_all_regions_agree_and_what_is_sound_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, letters: list[bytes], quote: str | None
) -> None:
    file = write(tmp_path_factory.getbasetemp() / "noise.csv", b"x,y\n" + b"".join(letters))
    found = []
    for num_bytes in (1, 7, 2 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(csv_records, "_BYTES_PER_REGION", num_bytes)
            problems = Problems(OnError.SKIP)
            blocks = scan(file, "x", "y", options={"quote": quote}, problems=problems)
        spans = spans_of(blocks)
        pairs = zip(values(blocks, "x"), values(blocks, "y"), strict=True)
        assert read(file, spans, options={"quote": quote}) == [{"x": x, "y": y} for x, y in pairs]
        found.append((spans, [(problem.place, problem.reason, problem.byte_start) for problem in problems.found]))
    assert found[0] == found[1] == found[2]


def test_memory_is_bounded_where_a_quote_is_never_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_records, "_BYTES_PER_REGION", 64)
    monkeypatch.setattr(csv_records, "_MAX_RECORD", 256)
    file = write(tmp_path / "a.csv", 'text\n"open\n' + "line\n" * 1000)
    problems = Problems(OnError.SKIP)
    blocks = scan(file, "text", problems=problems)
    assert [(problem.place, problem.reason) for problem in problems.found] == [("line 2", BAD_QUOTES)]
    assert values(blocks, "text") == ["line"] * 1000
    assert max(block.num_bytes for block in blocks) < 2000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": the file is empty"),
        (b"a,b,a\n1,2,3\n", ", line 1: two fields are called 'a'"),
        (b"\n\xff,b\n1,2\n", ", line 2: not UTF-8 text (invalid start byte at byte 0 of the record)"),
        (
            gzip.compress(b"a\n1\n", mtime=0),
            ": its name says that it is not compressed, its content that it is gzip; rename it",
        ),
    ],
)
def test_a_file_without_a_sound_header_is_refused_or_left_out(tmp_path: Path, content: bytes, message: str) -> None:
    file = write(tmp_path / "a.csv", content)
    with pytest.raises(DataError, match=exactly(f"{file.uri}{message}")):
        scan(file)
    problems = Problems(OnError.SKIP)
    assert spans_of(scan(file, problems=problems)) == []
    assert len(problems.found) == 1


def test_what_came_before_a_torn_end_is_kept(tmp_path: Path) -> None:
    content = gzip.compress(b"text\n" + b"".join(b"%d\n" % index for index in range(100_000)))
    file = write(tmp_path / "a.csv.gz", content[:-20_000])
    problems = Problems(OnError.SKIP)
    found = values(scan(file, "text", problems=problems), "text")
    assert found == [str(index) for index in range(len(found))]
    assert [problem.reason for problem in problems.found] == ["cannot be decompressed (it ends too early)"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delimiter": ";;"}, "option 'delimiter' of format 'csv' takes one ASCII character, got ';;'"),
        ({"delimiter": "é"}, "option 'delimiter' of format 'csv' takes one ASCII character, got 'é'"),
        ({"quote": ""}, "option 'quote' of format 'csv' takes one ASCII character, got ''"),
        ({"quote": ","}, "options of format 'csv': delimiter and quote are both ','"),
        ({"header": False, "names": "ab"}, "option 'names' of format 'csv' takes a list of names, got 'ab'"),
        ({"header": False, "names": ["a", "a"]}, "option 'names' of format 'csv' has 'a' twice"),
    ],
)
def test_a_wrong_option_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=exactly(message)):
        scan(write(tmp_path / "a.csv", "a\n1\n"), options=options)


@pytest.mark.parametrize("options", [{"header": False}, {"names": ["a"]}, {"header": "no", "names": ["a"]}])
def test_names_are_given_where_there_is_no_header_and_only_there(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="pass header=false together with names where files have no header"):
        scan(write(tmp_path / "a.csv", "a\n1\n"), options=options)


def test_a_file_that_has_changed_since_is_refused_when_it_is_read(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "text,n\none,1\ntwo,2\n")
    spans = spans_of(scan(file))
    write(tmp_path / "a.csv", "text,n\nonetwothree\n")
    with pytest.raises(
        DataError, match=rf"^{re.escape(file.uri)}, rows 0 to 2: not records of 2 fields any more \(.+\)$"
    ):
        read(file, spans)
    write(tmp_path / "a.csv", "text,n\none,1\n\n\n\n\n\n\n")
    with pytest.raises(DataError, match=exactly(f"{file.uri}, rows 0 to 2: found 1 records in their place")):
        read(file, spans)


def test_a_csv_collection_is_registered_and_loaded_through_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "data und ä"
    folder.mkdir()
    for number in range(3):
        rows = "".join(f'"text {number}, {i}\nends",{i / 2},{"de" if i % 3 else ""}\n' for i in range(50))
        write(folder / f"part {number}.csv", "caption,score,language\n" + rows)
    catalog = Catalog.open(str(tmp_path / "lake"), create=True)
    properties = {"language": "language", "score": "CAST(score AS DOUBLE)", "num_bytes": "_num_bytes"}
    catalog.register("captions", str(folder), text="caption", properties=properties)
    counted = catalog.sql("SELECT language, count(*) AS n, sum(score) AS score FROM samples GROUP BY 1 ORDER BY 1")
    assert counted.to_pylist() == [
        {"language": "de", "n": 99, "score": 1225.5},
        {"language": None, "n": 51, "score": 612.0},
    ]
    mixture = Mixture.from_dict({"components": {"german": {"where": "language = 'de'", "weight": 1}}})
    run = Run.start(catalog, "run", mixture, chunk_size=8, lanes=2)
    loaded = sorted(sample["text"] for sample in SampleDataset(run))
    assert loaded == sorted(f"text {number}, {i}\nends" for number in range(3) for i in range(50) if i % 3)
