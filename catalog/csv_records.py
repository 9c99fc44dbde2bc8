"""Records of CSV files: where each starts and stops, and how many fields it has, found with numpy.

As RFC 4180 has it, a record ends at a newline outside quotes, a quote starts and ends a field, and is doubled within
one. Whether a byte lies within quotes follows from the number of quotes before it, which is exact as long as all quotes
stand where they may; where one does not, that stretch is gone through record by record.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from mixlake.catalog.errors import DataError
from mixlake.catalog.json_columns import is_utf8
from mixlake.catalog.records import DataFile, IntArray, Problem
from mixlake.catalog.text_regions import opened

_BYTES_PER_REGION = 2 << 20
_MAX_RECORD = 64 << 20
"""What a quote that is never closed may make of a file; memory stays within some times this."""
_MARK = b"\xef\xbb\xbf"
_NEWLINE, _RETURN = 10, 13
_LONE_RETURN = "a carriage return that belongs to no line end stands outside quotes"
_BAD_QUOTES = "a quote is not closed, or stands within a field (options.quote=null takes quotes for letters)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """How a CSV file is written."""

    delimiter: bytes
    """One byte."""
    quote: bytes
    """One byte, or none: quotes are characters like others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Records:
    """Whole records of a file, blank lines left out. The content is only there until the next ones are asked for."""

    offset: int
    """Of the content in the file; in the decompressed content, where the file is compressed."""
    content: memoryview
    starts: IntArray
    stops: IntArray
    """Where each record ends in the content, without the line end."""
    num_fields: IntArray
    flaws: Mapping[int, str]
    """What is wrong with which records."""
    lines: IntArray
    """Number of the line in which each record starts, counted from 1."""
    num_bytes: int
    """Size of the records with their line ends, and of the blank lines between them."""

    def without_first(self) -> Records:
        """Return the records behind the first."""
        return replace(
            self,
            starts=self.starts[1:],
            stops=self.stops[1:],
            num_fields=self.num_fields[1:],
            flaws={index - 1: reason for index, reason in self.flaws.items() if index},
            lines=self.lines[1:],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Split:
    """The whole records of some content, blank lines among them."""

    starts: IntArray
    stops: IntArray
    num_fields: IntArray
    flaws: dict[int, str]
    end: int
    """Where the line end of the last one lies behind."""


def records(file: DataFile, dialect: Dialect) -> Generator[Records]:
    """Yield the records of a file, some megabytes at a time.

    Raises:
        DataError: the file is empty, cannot be read or decompressed, or is not what its name says.
    """
    if not file.num_bytes:
        raise DataError(Problem(file=file, place="", reason="the file is empty"))
    buffer, have, offset, line = bytearray(2 * _BYTES_PER_REGION), 0, 0, 1
    with opened(file) as stream:
        while True:
            if have > len(buffer) // 2:  # a record longer than a region; views of the old buffer may be in use
                buffer = buffer + bytearray(len(buffer))
            num = stream.readinto(memoryview(buffer)[have : have + max(_BYTES_PER_REGION, have)]) or 0
            have += num
            is_last = not num or (file.compression is None and offset + have >= file.num_bytes)
            begin = len(_MARK) if offset == 0 and buffer.startswith(_MARK) else 0
            content = memoryview(buffer)[begin:have].toreadonly()
            split = _split(content, dialect, is_last=is_last)
            if split.end:
                newlines = np.flatnonzero(np.frombuffer(content[: split.end], np.uint8) == _NEWLINE)
                yield _records(content, split, offset + begin, line + np.searchsorted(newlines, split.starts))
                line += len(newlines)
                end = begin + split.end
                buffer[: have - end] = buffer[end:have]
                offset, have = offset + end, have - end
            if is_last:
                return


def _records(content: memoryview, split: _Split, offset: int, lines: IntArray) -> Records:
    """Leave blank lines out, and look for bytes that are no text."""
    has_text = split.starts < split.stops
    numbers = np.cumsum(has_text) - 1
    starts, stops = split.starts[has_text], split.stops[has_text]
    flaws = {int(numbers[index]): reason for index, reason in split.flaws.items()}
    return Records(
        offset=offset,
        content=content,
        starts=starts,
        stops=stops,
        num_fields=split.num_fields[has_text],
        lines=lines[has_text],
        flaws=flaws | _no_text(content[: split.end], starts, stops),
        num_bytes=split.end,
    )


def _no_text(content: memoryview, starts: IntArray, stops: IntArray) -> dict[int, str]:
    """Return which records hold bytes that are no text, and what is wrong."""
    nulls = np.flatnonzero(np.frombuffer(content, np.uint8) == 0)
    flaws = dict.fromkeys(_owners(starts, nulls), "a NUL byte")
    if not is_utf8(content):
        for index, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
            try:
                str(content[start:stop], "utf-8")
            except UnicodeDecodeError as error:
                flaws[index] = f"not UTF-8 text ({error.reason} at byte {error.start} of the record)"
    return flaws


def _owners(starts: IntArray, positions: IntArray) -> list[int]:
    """Return which of the records some bytes lie in."""
    owners: list[int] = (np.searchsorted(starts, positions, side="right") - 1).tolist()
    return owners


def _split(content: memoryview, dialect: Dialect, *, is_last: bool) -> _Split:
    """Find the whole records of some content that begins with one."""
    split = _split_by_parity(np.frombuffer(content, np.uint8), dialect, is_last=is_last)
    if split is None or (dialect.quote and not split.end and len(content) > _MAX_RECORD):
        return _split_one_by_one(bytes(content), dialect, is_last=is_last)
    return split


def _split_by_parity(array: np.ndarray, dialect: Dialect, *, is_last: bool) -> _Split | None:
    """Find records and count their fields; return None where a quote stands where none may, or is never closed."""
    delimiter, quote = dialect.delimiter[0], dialect.quote[0] if dialect.quote else -1
    is_mark = (array == _NEWLINE) | (array == delimiter)
    if dialect.quote:
        is_mark |= array == quote
    positions = np.flatnonzero(is_mark)
    marks = array[positions]
    is_quote = marks == quote
    is_outside = np.cumsum(is_quote, dtype=np.uint8) & 1 == 0
    is_cut = is_last and len(marks) > 0 and not is_outside[-1]
    if is_cut or not _are_quotes_sound(array, positions[is_quote], dialect):
        return None
    is_end = (marks == _NEWLINE) & is_outside
    delimiters = positions[(marks == delimiter) & is_outside]
    ends = positions[is_end]
    if is_last and len(array) and (not len(ends) or ends[-1] + 1 < len(array)):
        ends = np.append(ends, len(array))
    starts = np.concatenate([np.zeros(1, np.int64), ends + 1])[: len(ends)]
    has_return = (array[ends - 1] == _RETURN) & (ends > starts)
    end = min(int(ends[-1]) + 1, len(array)) if len(ends) else 0
    lone = _lone_returns(array[:end])
    if len(lone) and len(positions):
        before = np.searchsorted(positions, lone) - 1
        lone = lone[(before < 0) | is_outside[before]]
    return _Split(
        starts=starts,
        stops=ends - has_return,
        num_fields=np.diff(np.searchsorted(delimiters, ends), prepend=0) + 1,
        flaws=dict.fromkeys(_owners(starts, lone), _LONE_RETURN),
        end=end,
    )


def _lone_returns(array: np.ndarray) -> IntArray:
    """Return the carriage returns with something else than a newline or the end behind them."""
    returns = np.flatnonzero(array == _RETURN)
    followed = returns[returns < len(array) - 1]
    lone: IntArray = followed[array[followed + 1] != _NEWLINE]
    return lone


def _are_quotes_sound(array: np.ndarray, quotes: IntArray, dialect: Dialect) -> bool:
    """Say whether every quote starts a field, ends one, or is one of two that stand for one."""
    if not len(quotes):
        return True
    opening, closing = quotes[0::2], quotes[1::2]
    may_be_beside = np.zeros(256, bool)
    may_be_beside[[_NEWLINE, dialect.delimiter[0], dialect.quote[0]]] = True
    are_opening_sound = may_be_beside[array[opening - 1]] | (opening == 0)
    may_be_beside[_RETURN] = True
    behind = closing + 1
    return bool(are_opening_sound.all() and may_be_beside[array[behind[behind < len(array)]]].all())


def _split_one_by_one(content: bytes, dialect: Dialect, *, is_last: bool) -> _Split:
    """Find records one after another; where none can be made out, the line is one that is flawed."""
    record, quoted, is_open = _patterns(dialect)
    starts: list[int] = []
    stops: list[int] = []
    num_fields: list[int] = []
    flaws: dict[int, str] = {}
    at = 0
    while at < len(content):
        match = record.match(content, at)
        end = at if match is None else match.end()
        if content[end : end + 1] == b"\n" or (end == len(content) and is_last):
            stop = end - (end > at and content[end - 1] == _RETURN)
            outside = quoted.sub(b"", content[at:stop])
            num_fields.append(outside.count(dialect.delimiter) + 1)
            if b"\r" in outside:
                flaws[len(starts)] = _LONE_RETURN
        else:
            is_incomplete = end == len(content) or is_open.match(content, at) is not None
            end = content.find(b"\n", at)
            if not is_last and (end < 0 or (is_incomplete and len(content) - at <= _MAX_RECORD)):
                break
            stop = end = end if end >= 0 else len(content)
            flaws[len(starts)] = _BAD_QUOTES
            num_fields.append(0)
        starts.append(at)
        stops.append(stop)
        at = min(end + 1, len(content))
    return _Split(
        starts=np.array(starts, np.int64),
        stops=np.array(stops, np.int64),
        num_fields=np.array(num_fields, np.int64),
        flaws=flaws,
        end=at,
    )


@cache
def _patterns(dialect: Dialect) -> tuple[re.Pattern[bytes], re.Pattern[bytes], re.Pattern[bytes]]:
    """Return what matches a record, a quoted field, and a record that ends within a quoted field."""
    quote, delimiter = re.escape(dialect.quote), re.escape(dialect.delimiter)
    inner = rb"%b(?:[^%b]++|%b%b)*+" % (quote, quote, quote, quote)
    quoted = rb"%b%b" % (inner, quote)
    plain = rb"[^%b%b\n]*+" % (quote, delimiter)
    field = rb"(?:%b(?:\r%b)?|%b)" % (quoted, plain, plain)
    record = rb"%b(?:%b%b)*+" % (field, delimiter, field)
    return re.compile(record), re.compile(quoted), re.compile(rb"(?:%b%b)*+%b\Z" % (field, delimiter, inner))
