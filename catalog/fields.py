"""Fields of a record: which ones an SQL expression needs, and record batches of just those.

Only the fields that expressions mention are taken out of a record, so that odd values elsewhere in it do no harm and
cost nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mixlake.catalog.errors import ConfigError
from mixlake.catalog.records import FieldPath, IntArray

_NAME = r"""(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)"""
_STEP = rf"""(?:\s*\.\s*{_NAME}|\[\s*'(?:[^']|'')+'\s*\])"""
_TOKEN = re.compile(rf"""'(?:[^']|'')*'|--[^\n]*|(?P<path>{_NAME}{_STEP}*)(?P<call>\s*\()?|\d[\w.]*""")
_PATH = re.compile(rf"\s*{_NAME}{_STEP}*\s*")
_PART = re.compile(rf"""(?P<name>{_NAME})|\[\s*'(?P<key>(?:[^']|'')+)'\s*\]""")
_LITERALS = frozenset(["false", "null", "true"])
_KEYWORDS = _LITERALS | frozenset(
    """and as between case cast distinct else end exists for from ilike in interval is like not or regexp rlike similar
    then to try_cast when""".split()  # noqa: SIM905  (a list of strings would fill the screen)
)
"""Words of expressions; a record may still have a field of that name, written in quotes or standing alone."""


def parse_path(text: str) -> FieldPath:
    """Split a dotted or bracketed path into names.

    >>> parse_path("meta.language"), parse_path('"odd name"'), parse_path("meta['a.b']")
    (('meta', 'language'), ('odd name',), ('meta', 'a.b'))
    """
    if not _PATH.fullmatch(text):
        raise ConfigError(f"{text!r} is not a field: expected names joined by dots, such as meta.language")
    parts = []
    for match in _PART.finditer(text):
        if match["key"] is not None:
            parts.append(match["key"].replace("''", "'"))
        else:
            name = match["name"]
            parts.append(name[1:-1].replace('""', '"') if name.startswith('"') else name)
    return tuple(parts)


def is_path(expression: str) -> bool:
    """Say whether an expression is nothing but a field, so that it needs no SQL engine."""
    return _PATH.fullmatch(expression) is not None and expression.strip().lower() not in _LITERALS


def mentioned_fields(expression: str) -> list[FieldPath]:
    """Return every field that an SQL expression may mean, in order and without repeats.

    Type names (``CAST(x AS BIGINT)``) are among them: a name that no record has is decided on by the SQL engine.

    >>> mentioned_fields("CASE WHEN meta.language = 'en' THEN character_length(text) END")
    [('meta', 'language'), ('text',)]
    """
    if is_path(expression):
        return [parse_path(expression)]
    found: dict[FieldPath, None] = {}
    for match in _TOKEN.finditer(expression):
        path = match["path"]
        if path is None or match["call"] or path.lower() in _KEYWORDS:
            continue
        found[parse_path(path)] = None
    return list(found)


def value_at(record: Mapping[str, Any], path: FieldPath) -> Any:
    """Return the value of a field of one record, or None where the record has none."""
    value: Any = record
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def token_ids(value: Any) -> IntArray | None:
    """Return a field's value as token ids, or None where it is no list of integers.

    >>> token_ids([5, 6]), token_ids("text"), token_ids(["text"])
    (array([5, 6]), None, None)
    """
    if not isinstance(value, (list, np.ndarray)):
        return None
    try:
        ids = np.asarray(value)
    except ValueError:  # lists of different lengths
        return None
    return ids.astype(np.int64, copy=False) if ids.ndim == 1 and (ids.dtype.kind in "iu" or not len(ids)) else None


def has_field(record: Mapping[str, Any], path: FieldPath) -> bool:
    """Say whether a record has a field, if only with a null in it."""
    above = value_at(record, path[:-1])
    return isinstance(above, Mapping) and path[-1] in above


def field_names(record: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted names of a record's fields, also of those within objects.

    >>> field_names({"text": "Hallo", "meta": {"language": "de"}})
    ['text', 'meta', 'meta.language']
    """
    names = []
    for name, value in record.items():
        names.append(prefix + name)
        if isinstance(value, Mapping):
            names += field_names(value, f"{prefix}{name}.")
    return names


class MisfitError(Exception):
    """A record's field holds something that does not go with the other records."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index
        """Which of the records."""
        self.reason = reason


def column_of(records: Sequence[Mapping[str, Any]], path: FieldPath) -> pa.Array:
    """Return one field of many records as an Arrow array of the narrowest type that holds all its values.

    Raises:
        MisfitError: the values have no common type, or a record holds something else than an object on the way.
    """
    values: list[Any] = [record.get(path[0]) for record in records]
    for depth, name in enumerate(path[1:], start=1):
        try:
            values = [None if value is None else value.get(name) for value in values]
        except AttributeError:
            index = next(i for i, v in enumerate(values) if v is not None and not isinstance(v, Mapping))
            above = ".".join(path[:depth])
            raise MisfitError(index, f"field {above!r} is {_kind(values[index])}, so it has no {name!r}") from None
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        index = _first_misfit(values)
        reason = f"field {'.'.join(path)!r} is {_kind(values[index])}, which does not fit the values before it"
        raise MisfitError(index, f"{reason} ({error})") from error


def columns_of(
    records: Sequence[Mapping[str, Any]], paths: Collection[FieldPath], report: Callable[[int, str], None]
) -> tuple[dict[FieldPath, pa.Array], IntArray]:
    """Return those of the fields that the records have as columns, and which records these are of.

    Records with values that do not go with the others are left out, and ``report`` is told of each and why.
    """
    kept = list(range(len(records)))
    sound = list(records)
    columns: dict[FieldPath, pa.Array] = {}
    while len(columns) < len(paths):
        sound = [records[index] for index in kept]
        columns = {}
        for path in paths:
            try:
                columns[path] = column_of(sound, path)
            except MisfitError as misfit:
                report(kept.pop(misfit.index), misfit.reason)
                break
    present = {path: column for path, column in columns.items() if _is_present(column, sound, path)}
    return present, np.array(kept, np.int64)


def _is_present(column: pa.Array, records: Sequence[Mapping[str, Any]], path: FieldPath) -> bool:
    return column.null_count < len(column) or any(has_field(record, path) for record in records)


def _first_misfit(values: Sequence[Any]) -> int:
    low, high = 0, len(values)
    while high - low > 1:  # the longest prefix that converts, by bisection
        middle = (low + high) // 2
        try:
            pa.array(values[:middle])
            low = middle
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            high = middle
    return high - 1


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        int: "an integer",
        float: "a number",
    }
    return f"{names.get(type(value), type(value).__name__)} ({str(value)[:40]!r})"


def nest(columns: Mapping[FieldPath, pa.Array], num_rows: int) -> pa.RecordBatch:
    """Build a record batch in which every column lies at its path: structs within structs.

    Where both a struct and one of its fields are given, the struct gets the field if it lacks it.
    """
    if not columns:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * num_rows, pa.struct([])))
    names, arrays = _children(columns)
    return pa.RecordBatch.from_arrays(arrays, names)


def _children(columns: Mapping[FieldPath, pa.Array]) -> tuple[list[str], list[pa.Array]]:
    groups: dict[str, dict[FieldPath, pa.Array]] = {}
    for path, column in columns.items():
        groups.setdefault(path[0], {})[path[1:]] = column
    return list(groups), [_assemble(group) for group in groups.values()]


def _assemble(group: dict[FieldPath, pa.Array]) -> pa.Array:
    """Return one field: as it is given, or as a struct of the fields given below it, or both."""
    whole = group.pop((), None)
    if whole is not None and not (group and (pa.types.is_struct(whole.type) or pa.types.is_null(whole.type))):
        return whole
    if whole is not None and pa.types.is_struct(whole.type):
        for field, child in zip(whole.type, whole.flatten(), strict=True):
            group.setdefault((field.name,), child)
    names, children = _children(group)
    return pa.StructArray.from_arrays(children, names, mask=None if whole is None else whole.is_null())
