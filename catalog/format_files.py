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
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, DataFile, FieldPath, Span
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
    options = frozenset(["encoding", "encoding_errors"])

    def scan(
        self, files: Sequence[DataFile], fields: Sequence[FieldPath], options: Mapping[str, Any]
    ) -> Iterator[Block]:
        """Yield the files in blocks of some megabytes."""
        start, num_bytes = 0, 0
        for index, file in enumerate(files):
            if index > start and (num_bytes + file.num_bytes > _BYTES_PER_BLOCK or index - start == _FILES_PER_BLOCK):
                yield _block(files[start:index], start, num_bytes, fields, options)
                start, num_bytes = index, 0
            num_bytes += file.num_bytes
        if start < len(files):
            yield _block(files[start:], start, num_bytes, fields, options)

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
        raise DataError(
            f"{file.uri}, line {line}: not {encoding} text ({error.reason} at byte {error.start}); "
            "exclude the file, or register with options.encoding_errors=surrogateescape"
        ) from None


def _block(
    files: Sequence[DataFile],
    first_id: int,
    num_bytes: int,
    fields: Sequence[FieldPath],
    options: Mapping[str, Any],
) -> Block:
    described = [_describe(file) for file in files]
    columns: dict[FieldPath, pa.Array] = {}
    for path in fields:
        if path == ("text",):
            columns[path] = pa.array([_SURROGATE.sub("\ufffd", _text(file, options)) for file in files], pa.string())
        elif path == ("modified",):
            columns[path] = pa.array([record["modified"] for record in described], TIMESTAMP)
        elif path in (("path",), ("name",), ("extension",)):
            columns[path] = pa.array([record[path[0]] for record in described], pa.string())
        elif path == ("num_bytes",):
            columns[path] = pa.array([record["num_bytes"] for record in described], pa.int64())
    return Block(
        file_ids=np.arange(first_id, first_id + len(files), dtype=np.int64),
        rows=np.zeros(len(files), np.int64),
        byte_starts=np.zeros(len(files), np.int64),
        byte_stops=np.array([file.num_bytes for file in files], np.int64),
        columns=columns,
        num_bytes=num_bytes,
    )
