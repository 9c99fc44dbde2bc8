"""The ``files`` format: whole files as samples."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mixlake.catalog import ConfigError, DataError, DataFile, Span, format_files
from mixlake.catalog.format_files import FilesFormat
from mixlake.catalog.listing import find_files
from mixlake.catalog.problems import Problems
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, FilePart

ALL_FIELDS = [("path",), ("name",), ("extension",), ("num_bytes",), ("modified",), ("text",)]
ONE = Span(row_start=0, row_stop=1)


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def write(folder: Path, contents: Mapping[str, bytes]) -> list[DataFile]:
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(0, 1_500_000_000_000_001_000))
    return find_files([str(folder)], format_name="files")[1]


def scan(files: list[DataFile], **options: Any) -> list[Block]:
    parts = [FilePart(file_id=index, file=file) for index, file in enumerate(files)]
    return list(FilesFormat().scan(parts, dict.fromkeys(ALL_FIELDS, pa.null()), options, Problems()))


def read(file: DataFile, **options: Any) -> dict[str, Any]:
    (record,) = FilesFormat().read(file, [ONE], None, options, ReadCache())
    return record


def test_each_file_is_one_sample_with_its_name_parts_and_its_text(tmp_path: Path) -> None:
    files = write(tmp_path, {"a.PY": b"x = 1\n", "sub/größe.tar.gz": "ä".encode(), "Makefile": b""})
    (block,) = scan(files)
    assert block.file_ids.tolist() == [0, 1, 2]
    assert block.rows.tolist() == [0, 0, 0]
    assert block.byte_starts is not None
    assert block.byte_stops is not None
    assert block.byte_starts.tolist() == [0, 0, 0]
    assert block.byte_stops.tolist() == [0, 6, 2]
    assert block.num_bytes == 8
    columns = {path[0]: column.to_pylist() for path, column in block.columns.items()}
    assert columns == {
        "path": ["Makefile", "a.PY", "sub/größe.tar.gz"],
        "name": ["Makefile", "a.PY", "größe.tar.gz"],
        "extension": ["", "py", "gz"],
        "num_bytes": [0, 6, 2],
        "modified": [datetime(2017, 7, 14, 2, 40, 0, 1, tzinfo=UTC)] * 3,
        "text": ["", "x = 1\n", "ä"],
    }


def test_the_record_of_a_file_holds_the_same_values_as_its_columns(tmp_path: Path) -> None:
    files = write(tmp_path, {"a.py": b"x = 1\n", "sub/b.md": "# Größe".encode()})
    (block,) = scan(files)
    columns = {path[0]: column.to_pylist() for path, column in block.columns.items()}
    assert [read(file) for file in files] == [
        {name: values[index] for name, values in columns.items()} for index in range(2)
    ]


def test_the_text_is_not_read_when_nobody_asks_for_it(tmp_path: Path) -> None:
    files = write(tmp_path, {"a.bin": b"\xff\xfe"})
    (block,) = FilesFormat().scan([FilePart(file_id=0, file=files[0])], {("num_bytes",): pa.null()}, {}, Problems())
    assert block.columns == {("num_bytes",): pa.array([2])}
    (record,) = FilesFormat().read(files[0], [ONE], [("name",)], {}, ReadCache())
    assert "text" not in record


def test_files_are_put_into_blocks_up_to_a_number_of_bytes_and_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(format_files, "_BYTES_PER_BLOCK", 10)
    monkeypatch.setattr(format_files, "_FILES_PER_BLOCK", 3)
    sizes = [4, 6, 1, 30, 0, 0, 0, 0, 10, 1]
    files = write(tmp_path, {f"{index}.txt": b"x" * size for index, size in enumerate(sizes)})
    blocks = scan(files)
    assert [block.file_ids.tolist() for block in blocks] == [[0, 1], [2], [3], [4, 5, 6], [7, 8], [9]]
    assert [block.num_bytes for block in blocks] == [10, 1, 30, 0, 10, 1]


def test_another_encoding_is_an_option(tmp_path: Path) -> None:
    (file,) = write(tmp_path, {"a.txt": "Größe".encode("latin-1")})
    assert read(file, encoding="latin-1")["text"] == "Größe"


def test_bytes_that_are_no_text_are_kept_by_surrogateescape_and_shown_as_one_mark_each_to_expressions(
    tmp_path: Path,
) -> None:
    content = b"a\xff\xfeb\xe4\xb8"
    files = write(tmp_path, {"a.txt": content})
    text = read(files[0], encoding_errors="surrogateescape")["text"]
    assert text.encode("utf-8", "surrogateescape") == content
    (block,) = scan(files, encoding_errors="surrogateescape")
    (shown,) = block.columns[("text",)].to_pylist()
    assert shown == "a\ufffd\ufffdb\ufffd\ufffd"
    assert len(shown) == len(text)


def test_bytes_that_are_no_text_are_refused_with_their_line_and_the_remedy(tmp_path: Path) -> None:
    files = write(tmp_path, {"a.txt": b"fine", "b.txt": b"one\ntwo\nthr\xffee"})
    message = (
        f"{files[1].uri}, line 3: not utf-8 text (invalid start byte at byte 11); "
        "exclude the file, or register with options.encoding_errors=surrogateescape"
    )
    with pytest.raises(DataError, match=exactly(message)):
        scan(files)
    with pytest.raises(DataError, match=exactly(message)):
        read(files[1])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"encoding": "utf-99"}, "unknown encoding: utf-99"),
        ({"encoding_errors": "shrug"}, "unknown error handler name 'shrug'"),
    ],
)
def test_an_option_that_python_does_not_know_is_refused(tmp_path: Path, options: dict[str, str], reason: str) -> None:
    files = write(tmp_path, {"a.txt": b"fine"})
    with pytest.raises(ConfigError, match=exactly(f"options of format 'files': {reason}")):
        scan(files, **options)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    (file,) = write(tmp_path, {"a.txt": b"fine"})
    os.remove(file.uri)
    with pytest.raises(DataError, match=exactly(f"{file.uri}: cannot be read (No such file or directory)")):
        read(file)
