"""Samples read back by column: of each field that is asked for, a list with one value per row.

A format that decodes whole columns gives them so (`ReadsColumns`); of any other the records are turned. Either way a
value is what Python works with at once: a text is a ``str``, bytes are ``bytes``, and where a format holds lists of
integers by column, such as token ids, each is a numpy array. Who only passes texts on can have them as the UTF-8 that
some formats hold: making a ``str`` of it and UTF-8 of that again takes longer than reading it.
"""

from __future__ import annotations

from codecs import utf_16_le_decode, utf_16_le_encode
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, Protocol, TypeAlias, TypeGuard, runtime_checkable

from mixlake.catalog.fields import value_at
from mixlake.catalog.formats import Format
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import DataFile, FieldPath
from mixlake.catalog.spans import Spans
from mixlake.catalog.token_ranges import TokenRanges

Columns: TypeAlias = dict[FieldPath, Any]
"""Of each field a list, or TokenRanges, which are a sequence of arrays too."""

_LONG = 64
"""Shorter texts, such as names, take less time as they are."""
WHOLE: FieldPath = ()
"""The path of a record itself."""


@runtime_checkable
class ReadsColumns(Protocol):
    """A format that has columns to give; it need not."""

    def read_columns(
        self,
        file: DataFile,
        spans: Spans,
        fields: Sequence[FieldPath],
        options: Mapping[str, Any],
        cache: ReadCache,
    ) -> Columns | None:
        """Return the fields of the rows, which come in the spans' order; None where a record has no such field.

        None in place of all of them says that the format has records to give of these fields, and no columns. A text
        may be a memoryview of valid UTF-8, which is how bytes never come. Several threads may read at a time.

        Raises:
            DataError: the file is not what it was when it was scanned.
        """


@runtime_checkable
class FetchesColumns(Protocol):
    """A format that can read first, and parse later: in a thread what waits, and where it is needed what does not.

    Where nothing has to be waited for, as the file is in memory, no thread is needed at all.
    """

    def fetch_columns(
        self,
        file: DataFile,
        spans: Spans,
        fields: Sequence[FieldPath],
        options: Mapping[str, Any],
        cache: ReadCache,
        *,
        may_wait: bool,
        as_utf8: bool,
    ) -> Callable[[], Columns] | None:
        """Read, and return what parses it to what `ReadsColumns.read_columns` returns.

        Args:
            file: the file.
            spans: which rows.
            fields: which fields.
            options: of the format.
            cache: for what the format keeps.
            may_wait: whether it may take its time. If not, and it would have to wait for a disk, or to decompress or
                decode anything, it returns None.
            as_utf8: whether texts are to be memoryviews of UTF-8, if that is what the format has; it must be valid.

        Raises:
            DataError: the file is not what it was when it was scanned; what is returned may raise it too.
        """


@runtime_checkable
class SizesSamples(Protocol):
    """A format that knows how long samples are of which the index does not say it."""

    def bytes_per_sample(self, file: DataFile) -> int:
        """Return about how many bytes a sample of a file takes when it is decoded.

        Raises:
            DataError: the file is not what it was when it was scanned.
        """


def as_text(value: Any) -> Any:
    """Return a text as a ``str``, and anything else as it is.

    >>> as_text(memoryview("größer".encode())), as_text(as_sent("größer" * 20)) == "größer" * 20, as_text(b"bytes")
    ('größer', True, b'bytes')
    """
    if type(value) is not memoryview:
        return value
    return utf_16_le_decode(value, "surrogatepass", True)[0] if value.format == "H" else str(value, "utf-8")


def as_sent(value: Any) -> Any:
    """Return a long text as a memoryview of what a ``str`` is made of the fastest, and anything else as it is.

    That is UTF-8 if it is in ASCII, and otherwise UTF-16, a memoryview of 16-bit numbers: writing and reading it takes
    half the time of UTF-8.
    """
    if type(value) is not str or len(value) < _LONG:
        return value
    if value.isascii():
        return memoryview(value.encode())
    return memoryview(utf_16_le_encode(value, "surrogatepass")[0]).cast("H")


def read_columns(
    data_format: Format,
    file: DataFile,
    spans: Spans,
    fields: Sequence[FieldPath],
    options: Mapping[str, Any],
    cache: ReadCache,
    *,
    form: Callable[[Any], Any] = as_text,
) -> Columns:
    """Return some fields of the rows of many spans of a file; see `fetch_columns`."""
    return fetch_columns(data_format, file, spans, fields, options, cache, form=form)()


def fetch_columns(
    data_format: Format,
    file: DataFile,
    spans: Spans,
    fields: Sequence[FieldPath],
    options: Mapping[str, Any],
    cache: ReadCache,
    *,
    form: Callable[[Any], Any] = as_text,
) -> Callable[[], Columns]:
    """Read some fields of the rows of many spans of a file; return what gives them, in the spans' order.

    What would hold the interpreter lock all the time, so that a thread is of no use, is left to that: parsing of JSON,
    and making strings. `WHOLE` is the record as a dict.

    Args:
        data_format: of the file.
        file: the file.
        spans: which rows.
        fields: which fields.
        options: of the format.
        cache: for what the format keeps.
        form: what texts are to be: `as_text` or `as_sent`.

    Raises:
        DataError: the file is not what it was when it was scanned; what is returned may raise it too.
    """
    parse: Callable[[], Columns] | None = None
    if WHOLE not in fields and _fetches(data_format):
        parse = data_format.fetch_columns(file, spans, fields, options, cache, may_wait=True, as_utf8=form is as_sent)
    elif isinstance(data_format, ReadsColumns) and WHOLE not in fields:
        columns = data_format.read_columns(file, spans, fields, options, cache)
        parse = None if columns is None else (lambda: columns)
    if parse is None:
        records = data_format.read(file, spans, None if WHOLE in fields else fields, options, cache)
        return lambda: {path: _column(records, path) for path in fields}
    return partial(_formed, parse, form)


def columns_at_hand(
    data_format: Format,
    file: DataFile,
    spans: Spans,
    fields: Sequence[FieldPath],
    options: Mapping[str, Any],
    cache: ReadCache,
    *,
    form: Callable[[Any], Any] = as_text,
) -> Callable[[], Columns] | None:
    """Do what `fetch_columns` does where that need not wait for anything; return None where it would have to."""
    if WHOLE in fields or not _fetches(data_format):
        return None
    parse = data_format.fetch_columns(file, spans, fields, options, cache, may_wait=False, as_utf8=form is as_sent)
    return None if parse is None else partial(_formed, parse, form)


def _fetches(data_format: Format) -> TypeGuard[FetchesColumns]:
    return _has_methods(type(data_format), FetchesColumns)


@cache
def _has_methods(kind: type, protocol: type) -> bool:
    """Say whether a class has what a protocol asks for; asking takes 30 µs, and is done for every file of a group."""
    return issubclass(kind, protocol)


def _formed(parse: Callable[[], Columns], form: Callable[[Any], Any]) -> Columns:
    return {path: _texts(column, form) for path, column in parse().items()}


def _texts(column: list[Any] | TokenRanges, form: Callable[[Any], Any]) -> list[Any] | TokenRanges:
    if isinstance(column, TokenRanges) or (form is as_text and memoryview not in set(map(type, column))):
        return column
    return list(map(form, column))


def _column(records: Sequence[dict[str, Any]], path: FieldPath) -> list[Any]:
    if len(path) == 1:
        name = path[0]
        return [record.get(name) for record in records]
    return [value_at(record, path) for record in records]
