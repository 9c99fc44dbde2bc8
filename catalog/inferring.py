"""Proposes properties for files that nobody has described: from a sample of their records, with a reason for each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from mixlake.catalog.errors import ConfigError, DataError
from mixlake.catalog.fields import parse_path, value_at
from mixlake.catalog.formats import Format, check_options
from mixlake.catalog.listing import find_files
from mixlake.catalog.problems import OnError, Problems
from mixlake.catalog.properties import storable_type
from mixlake.catalog.read_cache import ReadCache
from mixlake.catalog.records import Block, DataFile, FieldPath, Span
from mixlake.catalog.schema import RESERVED_COLUMNS
from mixlake.catalog.showing import Shown

_NUM_FILES = 16
_FEW = 20
"""So many values, or one in ten records, are a category; more are an id, or free text."""
_SHORT_CHARS = 64
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_ID_NAME = re.compile(r"(^|_)(id|ids|uuid|guid|hash|sha\d*|md5|digest|key|idx|index|offset)$", re.IGNORECASE)
_URL = re.compile(r"(https?|ftp|s3|gs|file)://|www\.", re.IGNORECASE)
_PLAIN_KEY = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """A field of the records, and whether it is worth being a property."""

    name: str
    expression: str
    type: str
    null_share: float
    """Of the sampled records, those without a value."""
    num_values: int
    """Distinct values among them."""
    is_chosen: bool
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Proposals(Shown):
    """What was found in a sample of records; printed, a table."""

    num_records: int
    num_files: int
    rows: tuple[Proposal, ...]

    @property
    def properties(self) -> dict[str, str]:
        """The chosen ones, as registration takes them."""
        return {row.name: row.expression for row in self.rows if row.is_chosen}

    def __str__(self) -> str:
        head = ("", "property", "expression", "type", "null", "values", "why")
        cells = [head, *map(_cells, self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(head) - 1)]
        lines = [
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
            for row in cells
        ]
        return "\n".join([f"{self.num_records:,} records of {self.num_files:,} files:", *lines])


def propose_properties(
    uris: str | Sequence[str],
    *,
    format: str | None = None,
    text: str | None = None,
    exclude: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    num_records: int = 2000,
) -> Proposals:
    """Return which fields of the records in some files are worth being properties, and why.

    Categories, numbers, booleans, times and lists of tags are; ids, URLs, free text and objects are not. Texts get
    their length in bytes, which ``unit: bytes`` counts.

    Args:
        uris: as in `Catalog.register`; so are ``format``, ``text``, ``exclude`` and ``options``.
        format: of the files.
        text: the field that holds the text.
        exclude: what to leave out.
        options: of the format.
        num_records: how many records to look at, at most, spread over several files.

    Raises:
        ConfigError: a path, format or option is wrong.
        DataError: no file holds a record that can be read.
    """
    data_format, files = find_files((uris,) if isinstance(uris, str) else uris, format_name=format, exclude=exclude)
    check_options(data_format, options or {})
    content = data_format.content if text is None else text
    return propose(data_format, files, text=content, options=options or {}, num_records=num_records)


def propose(
    data_format: Format, files: Sequence[DataFile], *, text: str, options: Mapping[str, Any], num_records: int = 2000
) -> Proposals:
    """Return proposals for listed files; see `propose_properties`."""
    if num_records < 1:
        raise ConfigError(f"num_records is {num_records}; expected 1 or more")
    chosen = np.unique(np.linspace(0, len(files) - 1, _NUM_FILES).round().astype(int)).tolist()
    each = -(-num_records // len(chosen))
    records = [record for index in chosen for record in _sample(data_format, files[index], options, each)]
    if not records:
        raise DataError(f"not one record can be read in {len(chosen)} of {len(files)} files, such as {files[0].uri}")
    content = parse_path(text)
    paths = [path for path in _leaves(records) if path != content]
    rows = [_proposal(name, path, records) for name, path in _names(paths).items()]
    if any(isinstance(value_at(record, content), str) for record in records) and "num_bytes" not in _names(paths):
        rows.insert(0, _length(content, records))
    return Proposals(num_records=len(records), num_files=len(chosen), rows=tuple(rows))


def _length(path: FieldPath, records: Sequence[Mapping[str, Any]]) -> Proposal:
    lengths = {len(str(value_at(record, path)).encode("utf-8", "replace")) for record in records}
    return Proposal(
        name="num_bytes",
        expression=f"octet_length({_expression(path)})",
        type="int64",
        null_share=_null_share(records, path),
        num_values=len(lengths),
        is_chosen=True,
        reason="the length of the text, which unit: bytes counts",
    )


def _sample(data_format: Format, file: DataFile, options: Mapping[str, Any], num: int) -> list[dict[str, Any]]:
    """Return some records of a file, spread over its first block."""
    problems = Problems(OnError.SKIP)  # registration will say what is wrong
    parts = data_format.parts(0, file, options, problems)[:1]
    blocks = data_format.scan(parts, {}, options, problems)
    block = next((block for block in blocks if len(block.rows)), None)
    if block is None:
        return []
    rows = np.unique(np.linspace(0, len(block.rows) - 1, num).round().astype(int)).tolist()
    return data_format.read(file, [_span(block, row) for row in rows], None, options, ReadCache())


def _span(block: Block, index: int) -> Span:
    return Span(
        row_start=int(block.rows[index]),
        row_stop=int(block.rows[index]) + 1,
        byte_start=-1 if block.byte_starts is None else int(block.byte_starts[index]),
        byte_stop=-1 if block.byte_stops is None else int(block.byte_stops[index]),
    )


def _leaves(records: Sequence[Mapping[str, Any]]) -> list[FieldPath]:
    """Return the paths of the fields that are no objects in any record, in the order in which they come."""
    found: dict[FieldPath, None] = {}
    for record in records:
        found.update(dict.fromkeys(_walk(record, ())))
    inner = {path[:depth] for path in found for depth in range(1, len(path))}
    return [path for path in found if path not in inner]


def _walk(record: Mapping[str, Any], above: FieldPath) -> Iterator[FieldPath]:
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from _walk(value, (*above, name))
        else:
            yield (*above, name)


def _proposal(name: str, path: FieldPath, records: Sequence[Mapping[str, Any]]) -> Proposal:
    values = [value for value in (value_at(record, path) for record in records) if value is not None]
    distinct = {repr(value) for value in values}
    kind = _type(values)
    is_chosen, reason = _judge(path[-1], values, len(distinct), kind)
    expression = _expression(path)
    if is_chosen and reason.startswith("times"):
        expression, kind = f"CAST({expression} AS TIMESTAMP)", "timestamp"
    return Proposal(
        name=name,
        expression=expression,
        type=kind,
        null_share=_null_share(records, path),
        num_values=len(distinct),
        is_chosen=is_chosen,
        reason=reason,
    )


def _null_share(records: Sequence[Mapping[str, Any]], path: FieldPath) -> float:
    return sum(value_at(record, path) is None for record in records) / len(records)


def _type(values: Sequence[Any]) -> str:
    try:
        kind = storable_type(pa.array(values).type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return "mixed"
    return "object" if kind is None else str(kind)


def _judge(name: str, values: Sequence[Any], num_distinct: int, kind: str) -> tuple[bool, str]:
    """Say whether a field is worth being a property, and why."""
    is_category = num_distinct <= max(_FEW, len(values) // 10)
    if not values:
        return False, "never has a value"
    if kind in ("mixed", "object") or "binary" in kind:
        return (
            False,
            "objects or bytes" if kind != "mixed" else "values of several types; CAST(… AS STRING) makes them one",
        )
    if kind.startswith("list"):
        num_items = len({repr(item) for value in values for item in value})
        is_category = num_items <= max(_FEW, len(values) // 10)
        return is_category, f"tags: {num_items:,} different ones" if is_category else "lists of ever other values"
    if num_distinct == len(values) and _ID_NAME.search(name):
        return False, "an id: every record has another one"
    if kind == "string":
        return _judge_strings(name, values, num_distinct, is_category)
    if kind == "int64" and num_distinct == len(values) >= _FEW and sorted(values) == list(values):
        return False, "an id: every record has another one, in order"
    return True, {"bool": "yes or no", "int64": "a number", "double": "a number"}.get(kind, "times")


def _judge_strings(name: str, values: Sequence[str], num_distinct: int, is_category: bool) -> tuple[bool, str]:
    if sum(_URL.match(value) is not None for value in values) * 10 >= len(values) * 9:
        return False, "URLs"
    if all(map(_is_time, values)):
        return True, "times in ISO 8601"
    mean_chars = sum(map(len, values)) / len(values)
    if mean_chars > _SHORT_CHARS and num_distinct > 1:
        return False, f"free text: {mean_chars:,.0f} characters on average"
    if _ID_NAME.search(name) and num_distinct * 2 > len(values) > 1:
        return False, "an id: nearly every record has another one"
    if is_category:
        return True, "the same in every record" if num_distinct == 1 else f"a category: {num_distinct:,} values"
    if sum(" " in value.strip() for value in values) * 2 > len(values):
        return False, f"free text: {num_distinct:,} values in {len(values):,} records"
    return False, f"an id or a name: {num_distinct:,} values in {len(values):,} records"


def _is_time(text: str) -> bool:
    if len(text) < len("2024-01-01") or text[4:5] != "-":
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _expression(path: FieldPath) -> str:
    """Return SQL for a field.

    >>> _expression(("meta", "odd key")), _expression(("Größe",))
    ("meta['odd key']", '"Größe"')
    """
    first = path[0] if _IDENTIFIER.fullmatch(path[0]) and path[0].isascii() else '"' + path[0].replace('"', '""') + '"'
    below = (f".{name}" if _PLAIN_KEY.fullmatch(name) else "['" + name.replace("'", "''") + "']" for name in path[1:])
    return first + "".join(below)


def _property_name(path: FieldPath) -> str:
    """Return lower_snake_case for a field.

    >>> _property_name(("meta", "pileSetName")), _property_name(("2nd",))
    ('meta_pile_set_name', 'field_2nd')
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", "_".join(path))
    name = re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")
    name = name if re.match(r"[a-z]", name) else f"field_{name}".rstrip("_")
    return f"field_{name}" if name in RESERVED_COLUMNS else name


def _names(paths: Sequence[FieldPath]) -> dict[str, FieldPath]:
    """Return a name for each field: that of its last part, or all of it, or numbered, until no two are the same."""
    last = [_property_name(path[-1:]) for path in paths]
    names: dict[str, FieldPath] = {}
    for path, short in zip(paths, last, strict=True):
        name = base = short if last.count(short) == 1 else _property_name(path)
        number = 1
        while name in names:
            number += 1
            name = f"{base}_{number}"
        names[name] = path
    return names


def _cells(row: Proposal) -> tuple[str, ...]:
    mark = "+" if row.is_chosen else "-"
    share = "" if not row.null_share else f"{row.null_share:.0%}"
    return (mark, row.name, row.expression, row.type, share, f"{row.num_values:,}", row.reason)
