"""The ``files`` format: one file is one sample, its text the whole content.

Fields of a record: path (relative to the registered folder), name, extension (lower case, no dot), num_bytes, modified
(timestamp), text (read only when an expression mentions it).

Options: ``encoding`` (default utf-8) and ``encoding_errors`` (default strict; ``surrogateescape`` keeps every byte).
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from mixlake.catalog.data_files import open_file
from mixlake.catalog.errors import ConfigError, DataError
from mixlake.catalog.problems import Problems
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, DataFile, FieldPath, FilePart, Problem, Span
from mixlake.catalog.schema import TIMESTAMP

_FILES_PER_BLOCK = 1024
_BYTES_PER_BLOCK = 4 << 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SURROGATE = re.compile("[\ud800-\udfff]")
"""What stands for a byte that is no text under ``surrogateescape``; an Arrow string cannot hold it."""


class FilesFormat:
    """Reads any file as one sample."""

    name = "files"
    suffixes: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    content = "text"
    options = frozenset(["encoding", "encoding_errors"])

    def parts(self, file_id: int, file: DataFile, options: Mapping[str, Any], problems: Problems) -> Sequence[FilePart]:
        """Return the file as one part."""
        del options, problems
        return [FilePart(file_id=file_id, file=file)]

    def scan(
        self,
        parts: Sequence[FilePart],
        fields: Mapping[FieldPath, pa.DataType],
        options: Mapping[str, Any],
        problems: Problems,
    ) -> Iterator[Block]:
        """Yield the files in blocks of some megabytes."""
        start, num_bytes = 0, 0
        for index, part in enumerate(parts):
            is_full = num_bytes + part.file.num_bytes > _BYTES_PER_BLOCK or index - start == _FILES_PER_BLOCK
            if index > start and is_full:
                yield from _block(parts[start:index], fields, options, problems)
                start, num_bytes = index, 0
            num_bytes += part.file.num_bytes
        if start < len(parts):
            yield from _block(parts[start:], fields, options, problems)

    def read(
        self,
        file: DataFile,
        spans: Sequence[Span],
        fields: Sequence[FieldPath] | None,
        options: Mapping[str, Any],
        cache: ReadCache,
    ) -> list[dict[str, Any]]:
        """Return the one record of a file, once per row that the spans name."""
        del cache
        record = _describe(file)
        if fields is None or ("text",) in fields:
            record["text"] = _text(file, options)
        return [record for span in spans for _ in range(span.row_start, span.row_stop)]


def _describe(file: DataFile) -> dict[str, Any]:
    name = file.path.rsplit("/", 1)[-1]
    _, extension = os.path.splitext(name)
    return {
        "path": file.path,
        "name": name,
        "extension": extension[1:].lower(),
        "num_bytes": file.num_bytes,
        "modified": _EPOCH + timedelta(microseconds=file.modified_us),
    }


def _text(file: DataFile, options: Mapping[str, Any]) -> str:
    with open_file(file) as stream:
        content = stream.readall()
    encoding, errors = str(options.get("encoding", "utf-8")), str(options.get("encoding_errors", "strict"))
    try:
        codecs.lookup_error(errors)
        return content.decode(encoding, errors)
    except LookupError as error:
        raise ConfigError(f"options of format 'files': {error}") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        reason = (
            f"not {encoding} text ({error.reason} at byte {error.start}); "
            "exclude the file, or register with options.encoding_errors=surrogateescape"
        )
        raise DataError(Problem(file=file, place=f"line {line}", reason=reason)) from None


def _block(
    parts: Sequence[FilePart],
    fields: Mapping[FieldPath, pa.DataType],
    options: Mapping[str, Any],
    problems: Problems,
) -> Iterator[Block]:
    """Yield a block of the files whose text is sound, if it is needed at all."""
    num_records = len(parts)
    texts: list[str] = []
    if ("text",) in fields:
        parts, texts = _with_text(parts, options, problems)
    if not parts:
        return
    files = [part.file for part in parts]
    described = [_describe(file) for file in files]
    columns: dict[FieldPath, pa.Array] = {}
    for path in fields:
        if path == ("text",):
            columns[path] = pa.array(texts, pa.string())
        elif path == ("modified",):
            columns[path] = pa.array([record["modified"] for record in described], TIMESTAMP)
        elif path in (("path",), ("name",), ("extension",)):
            columns[path] = pa.array([record[path[0]] for record in described], pa.string())
        elif path == ("num_bytes",):
            columns[path] = pa.array([record["num_bytes"] for record in described], pa.int64())
    yield Block(
        file_ids=np.array([part.file_id for part in parts], np.int64),
        rows=np.zeros(len(files), np.int64),
        byte_starts=np.zeros(len(files), np.int64),
        byte_stops=np.array([file.num_bytes for file in files], np.int64),
        columns=columns,
        num_bytes=sum(file.num_bytes for file in files),
        num_records=num_records,
        place=lambda _: "",
    )


def _with_text(
    parts: Sequence[FilePart], options: Mapping[str, Any], problems: Problems
) -> tuple[list[FilePart], list[str]]:
    kept, texts = [], []
    for part in parts:
        try:
            text = _text(part.file, options)
        except DataError as error:
            problems.note(error, part.file)
        else:
            kept.append(part)
            texts.append(_SURROGATE.sub("\ufffd", text))
    return kept, texts
