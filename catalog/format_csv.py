"""The ``csv`` format: comma- or tab-separated values in UTF-8, plain or compressed, as RFC 4180 describes them.

The first record names the fields. Every value is a string, and an empty one without quotes is null; types are a matter
of expressions: ``CAST(score AS DOUBLE)``. Blank lines are not samples. A sample's byte range is its record without the
line end, so a run of rows is one ranged read.

Options: ``delimiter`` (one character; default a comma, a tab for ``.tsv``), ``quote`` (one character, default ``"``;
null where quotes are characters like others), ``header`` (default true), and with ``header: false`` the list ``names``.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

from mixlake.catalog.compression import with_compressions
from mixlake.catalog.csv_records import Dialect, Records, records
from mixlake.catalog.errors import ConfigError, DataError
from mixlake.catalog.problems import Problems
from mixlake.catalog.ranged_reads import read_ranges
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, DataFile, FieldPath, FilePart, IntArray, Problem, Span


class CsvFormat:
    """Reads records in regions of some megabytes."""

    name = "csv"
    suffixes: tuple[str, ...] = with_compressions(".csv", ".tsv")
    companions: tuple[str, ...] = ()
    content = "text"
    options = frozenset(["delimiter", "quote", "header", "names"])

    def parts(self, file_id: int, file: DataFile, options: Mapping[str, Any], problems: Problems) -> Sequence[FilePart]:
        """Return the file as one part: whether a byte lies within quotes depends on all before it."""
        del problems
        dialect_of(file, options)
        return [FilePart(file_id=file_id, file=file)]

    def scan(
        self,
        parts: Sequence[FilePart],
        fields: Mapping[FieldPath, pa.DataType],
        options: Mapping[str, Any],
        problems: Problems,
    ) -> Iterator[Block]:
        """Yield the records of every file, region by region."""
        for part in parts:
            try:
                yield from _blocks(part, fields, options, problems)
            except DataError as error:
                problems.note(error, part.file)

    def read(
        self,
        file: DataFile,
        spans: Sequence[Span],
        fields: Sequence[FieldPath] | None,
        options: Mapping[str, Any],
        cache: ReadCache,
    ) -> list[dict[str, Any]]:
        """Return the records of the spans, in their order, with as few reads as their ranges allow."""
        dialect, given = dialect_of(file, options)
        names = given or cache.get((file.uri, file.modified_us, dialect), lambda: _sized_names(file, dialect))
        pieces = read_ranges(file, spans, cache)
        wanted = names if fields is None else [name for name in names if (name,) in fields]
        num_records = sum(span.row_stop - span.row_start for span in spans)
        if not wanted or not num_records:
            return [{} for _ in range(num_records)]
        place = f"{file.uri}, rows {spans[0].row_start} to {spans[-1].row_stop}"
        try:
            table = _parse(b"\n".join(pieces), names, wanted, dialect)
        except pa.ArrowInvalid as error:
            raise DataError(f"{place}: not records of {len(names)} fields any more ({error})") from error
        if len(table) != num_records:
            raise DataError(f"{place}: found {len(table)} records in their place")
        try:
            found: list[dict[str, Any]] = table.to_pylist()
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: not UTF-8 any more ({error.reason} in {error.object[:40]!r})") from error
        return found


def _blocks(
    part: FilePart, fields: Mapping[FieldPath, pa.DataType], options: Mapping[str, Any], problems: Problems
) -> Iterator[Block]:
    dialect, names = dialect_of(part.file, options)
    row = 0
    for region in records(part.file, dialect):
        if names is not None:
            yield _block(region, part, row, names, dialect, fields, problems)
            row += len(region.starts)
        elif len(region.starts):
            names = _names(region, dialect, part.file)
            rest = region.without_first()
            yield _block(rest, part, row, names, dialect, fields, problems)
            row += len(rest.starts)


def dialect_of(file: DataFile, options: Mapping[str, Any]) -> tuple[Dialect, tuple[str, ...] | None]:
    """Return how a file is written, and the names of its fields where not the file itself says them.

    Raises:
        ConfigError: an option is not one.
    """
    is_tabbed = re.search(r"[.]tsv([.]|$)", file.path.lower()) is not None
    delimiter = _character("delimiter", options.get("delimiter", "\t" if is_tabbed else ","))
    quote = _character("quote", options.get("quote", '"')) if options.get("quote", '"') is not None else b""
    if delimiter == quote:
        raise ConfigError(f"options of format 'csv': delimiter and quote are both {delimiter.decode()!r}")
    header, names = options.get("header", True), options.get("names")
    if not isinstance(header, bool) or header != (names is None):
        raise ConfigError(
            f"options of format 'csv': header is {header!r} and names {names!r}; "
            "pass header=false together with names where files have no header, otherwise neither"
        )
    if names is not None and not (isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)):
        raise ConfigError(f"option 'names' of format 'csv' takes a list of names, got {names!r}")
    if names is not None and (twice := _repeated(names)) is not None:
        raise ConfigError(f"option 'names' of format 'csv' has {twice!r} twice")
    return Dialect(delimiter=delimiter, quote=quote), None if names is None else tuple(names)


def _character(option: str, value: Any) -> bytes:
    value = "\t" if value == "\\t" else value  # as it comes from a shell
    if isinstance(value, str) and len(value) == 1 and (value == "\t" or (value.isascii() and value.isprintable())):
        return value.encode()
    raise ConfigError(f"option {option!r} of format 'csv' takes one ASCII character, got {value!r}")


def _repeated(names: Sequence[str]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)


def _names(region: Records, dialect: Dialect, file: DataFile) -> tuple[str, ...]:
    """Return the names that the first record of a file gives."""
    problem = partial(Problem, file=file, place=f"line {region.lines[0]}")
    if 0 in region.flaws:
        raise DataError(problem(reason=region.flaws[0]))
    header = str(region.content[region.starts[0] : region.stops[0]], "utf-8")
    quoting: Any = {"quotechar": dialect.quote.decode()} if dialect.quote else {"quoting": csv.QUOTE_NONE}
    names = next(csv.reader(io.StringIO(header, newline=""), delimiter=dialect.delimiter.decode(), **quoting))
    if (twice := _repeated(names)) is not None:
        raise DataError(problem(reason=f"two fields are called {twice!r}"))
    return tuple(names)


def _sized_names(file: DataFile, dialect: Dialect) -> tuple[tuple[str, ...], int]:
    with closing(records(file, dialect)) as regions:
        names = next((_names(region, dialect, file) for region in regions if len(region.starts)), None)
    if names is None:
        raise DataError(f"{file.uri}: has no header any more")
    return names, sum(map(len, names))


def _block(
    region: Records,
    part: FilePart,
    row: int,
    names: Sequence[str],
    dialect: Dialect,
    fields: Mapping[FieldPath, pa.DataType],
    problems: Problems,
) -> Block:
    num_records = len(region.starts)
    kept = np.delete(np.arange(num_records), _report_flaws(region, part.file, len(names), problems))
    starts, stops = region.starts[kept], region.stops[kept]
    wanted = [name for name in names if (name,) in fields] if len(kept) else []
    columns: dict[FieldPath, pa.Array] = {}
    if wanted:
        if len(kept) == num_records:
            content = region.content[starts[0] : region.num_bytes]
        else:
            content = memoryview(
                b"\n".join(region.content[a:b] for a, b in zip(starts.tolist(), stops.tolist(), strict=True))
            )
        table = _parse(content, names, wanted, dialect)
        assert len(table) == len(kept), f"{part.file.uri}: Arrow found {len(table)} records, not {len(kept)}"
        columns = {(name,): table.column(name).combine_chunks() for name in wanted}
    return Block(
        file_ids=np.full(len(kept), part.file_id, np.int64),
        rows=kept + row,
        byte_starts=starts + region.offset,
        byte_stops=stops + region.offset,
        columns=columns,
        num_bytes=region.num_bytes,
        num_records=num_records,
        place=partial(_place, region.lines[kept]),
        continues=part.file.compression is not None and region.offset > 0,
    )


def _place(lines: IntArray, index: int) -> str:
    return f"line {lines[index]}"


def _report_flaws(region: Records, file: DataFile, num_fields: int, problems: Problems) -> list[int]:
    """Report the records that are not as they must be; return which these are."""
    counts = region.num_fields
    flaws = {int(i): f"{counts[i]} fields, and not {num_fields}" for i in np.flatnonzero(counts != num_fields)}
    flaws |= region.flaws
    for index in sorted(flaws):
        problems.report(
            Problem(
                file=file,
                place=f"line {region.lines[index]}",
                reason=flaws[index],
                byte_start=region.offset + int(region.starts[index]),
                byte_stop=region.offset + int(region.stops[index]),
            )
        )
    return sorted(flaws)


def _parse(content: bytes | memoryview, names: Sequence[str], wanted: Sequence[str], dialect: Dialect) -> pa.Table:
    """Return some fields of records that have all of them; outside the interpreter lock, for the most part."""
    if content[-1] != ord("\n"):  # without it, Arrow takes an empty last field for a quoted one if one before it is
        content = bytes(content) + b"\n"
    return pc.read_csv(
        pa.BufferReader(pa.py_buffer(content)),
        pc.ReadOptions(column_names=names, use_threads=False, block_size=len(content) + 1),
        pc.ParseOptions(
            delimiter=dialect.delimiter.decode(), quote_char=dialect.quote.decode() or False, newlines_in_values=True
        ),
        pc.ConvertOptions(
            column_types=dict.fromkeys(wanted, pa.string()),
            include_columns=wanted,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            check_utf8=False,  # the records have been checked, as a whole
        ),
    )
