"""The ``webdataset`` format: tar files, plain or compressed, in which the members of one sample follow one another.

The key of a member is its path up to the first dot of the base name, its field what comes behind that dot, in lower
case, as the webdataset library has it: ``images/0017.seg.png`` is field ``seg.png`` of sample ``images/0017``. Members
without a key (``README``, ``.hidden``) and those whose path starts with a name like ``__meta__`` belong to no sample.

The part of the field behind its last dot decides on the value: ``json`` is parsed; ``txt``, ``text``, ``caption`` and
``transcript`` are strings; ``cls``, ``cls2``, ``class``, ``count`` and ``index`` integers; images and all others bytes.
A member that a sample lacks is null. Every record also has ``__key__``, and properties may use
``__num_bytes__.jpg``, the size of a member, which costs no reading.

A sample's byte range reaches from its first header to its last padding, so any sample is one ranged read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from mixlake.catalog.compression import TAR_SUFFIXES, with_compressions
from mixlake.catalog.errors import DataError
from mixlake.catalog.fields import columns_of
from mixlake.catalog.problems import Problems
from mixlake.catalog.ranged_reads import read_ranges
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, DataFile, FieldPath, FilePart, IntArray, Problem, Span
from mixlake.catalog.tar_members import TarContent, TarPiece, members, opened_tar

KEY = "__key__"
NUM_BYTES = "__num_bytes__"
_BYTES_PER_BLOCK = 8 << 20
_TEXTS = frozenset(["txt", "text", "caption", "transcript"])
_INTEGERS = frozenset(["cls", "cls2", "class", "count", "index"])
_INTEGER = re.compile(rb"\s*[+-]?[0-9]+\s*")
_RESERVED = re.compile(r"__[^/]*__($|/)")

Report = Callable[[str, str, int, int], None]
"""Called with a place in a tar (``member 'a/1.txt'``), what is wrong there, and its range of bytes."""


@dataclass(slots=True)
class Sample:
    """Members with one key, one after another."""

    key: str
    row: int
    start: int
    stop: int
    sizes: dict[str, int]
    """Bytes of every member, by field."""
    contents: dict[str, bytes]
    """Content of the members that were asked for."""
    is_sound: bool = True
    """Whether all members can be used."""


class WebDatasetFormat:
    """Reads headers and the members that are needed, and jumps over the rest."""

    name = "webdataset"
    suffixes: tuple[str, ...] = (*with_compressions(".tar"), *TAR_SUFFIXES)
    companions: tuple[str, ...] = ()
    content = "txt"
    options: frozenset[str] = frozenset()

    def parts(self, file_id: int, file: DataFile, options: Mapping[str, Any], problems: Problems) -> Sequence[FilePart]:
        """Return the file as one part: where a header starts is known from the one before alone."""
        del options, problems
        return [FilePart(file_id=file_id, file=file)]

    def scan(
        self,
        parts: Sequence[FilePart],
        fields: Mapping[FieldPath, pa.DataType],
        options: Mapping[str, Any],
        problems: Problems,
    ) -> Iterator[Block]:
        """Yield the samples of every tar; only members that the fields name are read."""
        del options
        for part in parts:
            try:
                yield from _blocks(part, fields, problems)
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
        del options
        pieces = read_ranges(file, spans, cache)
        wanted = None if fields is None else {path[0] for path in fields}
        return [
            record
            for piece, span in zip(pieces, spans, strict=True)
            for record in _read_span(file, piece, span, wanted)
        ]


def _blocks(part: FilePart, fields: Mapping[FieldPath, pa.DataType], problems: Problems) -> Iterator[Block]:
    def report(place: str, reason: str, start: int, stop: int) -> None:
        problems.report(Problem(file=part.file, place=place, reason=reason, byte_start=start, byte_stop=stop))

    wanted = {path[0] for path in fields}
    begin = row = 0
    batch: list[Sample] = []
    with opened_tar(part.file) as content:
        try:
            for sample in samples(part.file, content, wanted, report):
                batch.append(sample)
                if sample.stop - begin >= _BYTES_PER_BLOCK:
                    yield _block(batch, part, begin, row, fields, report)
                    begin, row, batch = sample.stop, sample.row + 1, []
        except DataError:
            if batch:
                yield _block(batch, part, begin, row, fields, report)
            raise
    if batch:
        yield _block(batch, part, begin, row, fields, report)


def _block(
    batch: Sequence[Sample],
    part: FilePart,
    begin: int,
    row: int,
    fields: Mapping[FieldPath, pa.DataType],
    report: Report,
) -> Block:
    """Return a block of samples; ``begin`` and ``row`` are the byte and the row where it starts."""
    records = list(_records(batch, {path[0] for path in fields}, report))

    def report_misfit(index: int, reason: str) -> None:
        sample = records[index][0]
        report(f"sample {sample.key!r}", reason, sample.start, sample.stop)

    columns, kept = columns_of([record for _, record in records], fields, report_misfit)
    sound = [records[index][0] for index in kept]
    return Block(
        file_ids=np.full(len(sound), part.file_id, np.int64),
        rows=_ints(sample.row for sample in sound),
        byte_starts=_ints(sample.start for sample in sound),
        byte_stops=_ints(sample.stop for sample in sound),
        columns=columns,
        num_bytes=batch[-1].stop - begin,
        num_records=batch[-1].row + 1 - row,
        place=partial(_place, sound),
        continues=part.file.compression is not None and begin > 0,
    )


def _ints(values: Iterator[int]) -> IntArray:
    return np.fromiter(values, np.int64)


def _place(batch: Sequence[Sample], index: int) -> str:
    return f"sample {batch[index].key!r}"


def _records(
    batch: Sequence[Sample], wanted: Collection[str], report: Report
) -> Iterator[tuple[Sample, dict[str, Any]]]:
    """Yield the samples, each with a record of the members that were asked for, where these are sound."""
    has_key, has_sizes = KEY in wanted, NUM_BYTES in wanted
    for sample in batch:
        record: dict[str, Any] = {KEY: sample.key} if has_key else {}
        if has_sizes:
            record[NUM_BYTES] = sample.sizes
        try:
            for field, content in sample.contents.items():
                record[field] = value_of(field, content)
        except ValueError as error:
            member = f"{sample.key}.{field}"
            report(f"member {member!r}", str(error), sample.start, sample.stop)
            continue
        yield sample, record


def samples(
    file: DataFile,
    content: TarContent,
    wanted: Collection[str] | None,
    report: Report,
    start: int = 0,
    stop: int = -1,
) -> Iterator[Sample]:
    """Group the members of a tar by key; those of which a member cannot be used are reported and left out.

    Args:
        file: the tar, for messages.
        content: of it.
        wanted: the fields whose content to read; None for all.
        report: told of members that cannot be used.
        start: where to start.
        stop: where to stop; -1 is the end of the tar.

    Raises:
        DataError: the rest of the tar cannot be read, from within a sample that has not been yielded.
    """
    seen: set[str] = set()
    sample: Sample | None = None
    for member in members(file, content, start, stop):
        key, field = split_name(member.name)
        flaw = member.flaw
        if key is None:
            if flaw:
                report(f"member {member.name!r}", flaw, member.start, member.stop)
            continue
        if sample is None or key != sample.key:
            if sample is not None and sample.is_sound:
                yield sample
            row = 0 if sample is None else sample.row + 1
            sample = Sample(key, row, member.start, member.stop, {}, {})
            if key in seen:
                flaw = flaw or "its key came before; members of a sample must follow one another"
            seen.add(key)
        elif field in sample.sizes:
            flaw = flaw or f"its sample has a member {field!r} already"
        sample.stop = member.stop
        sample.sizes[field] = member.num_bytes
        if flaw and sample.is_sound:
            report(f"member {member.name!r}", flaw, member.start, member.stop)
            sample.is_sound = False
        if sample.is_sound and (wanted is None or field in wanted):
            sample.contents[field] = content.read(member.data, member.num_bytes)
    if sample is not None and sample.is_sound:
        yield sample


def split_name(name: str) -> tuple[str | None, str]:
    """Return the key of a member's sample, None where it belongs to none, and its field.

    >>> split_name("images/v1.0/0017.Seg.png"), split_name("README")
    (('images/v1.0/0017', 'seg.png'), (None, ''))
    """
    base = name.rfind("/") + 1
    dot = name.find(".", base)
    if dot <= base or (name.startswith("__") and _RESERVED.match(name)):
        return None, ""
    return name[:dot], name[dot + 1 :].lower()


def value_of(field: str, content: bytes) -> Any:
    """Return what a member holds: an object, a string, an integer, or its bytes, by its extension.

    Raises:
        ValueError: it does not hold that.

    >>> value_of("caption.txt", b"a dog"), value_of("cls", b"7"), value_of("jpg", b"...")
    ('a dog', 7, b'...')
    """
    extension = field.rpartition(".")[2]
    if extension == "json":
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"not JSON ({error})") from None
    if extension in _TEXTS:
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8 text ({error.reason} at byte {error.start})") from None
    if extension in _INTEGERS:
        if not _INTEGER.fullmatch(content):
            raise ValueError(f"not an integer, but {content[:40]!r}")
        return int(content)
    return content


def _read_span(file: DataFile, piece: memoryview, span: Span, wanted: Collection[str] | None) -> list[dict[str, Any]]:
    def refuse(place: str, reason: str, start: int, stop: int) -> None:
        raise DataError(Problem(file=file, place=place, reason=reason, byte_start=start, byte_stop=stop))

    content = TarPiece(piece, span.byte_start)
    found = list(samples(file, content, wanted, refuse, span.byte_start, span.byte_stop))
    if len(found) != span.row_stop - span.row_start:
        raise DataError(
            f"{file.uri}, rows {span.row_start} to {span.row_stop}: found {len(found)} samples in their place"
        )
    everything = _records(found, wanted or (), refuse)
    return [{KEY: sample.key, **record} for sample, record in everything]
