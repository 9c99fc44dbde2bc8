"""Fields of many JSON lines as columns, by Arrow's parser: the fast way, taken only where it cannot err.

Arrow's parser runs outside the interpreter lock and is several times as fast as Python objects, but it is laxer than
JSON, it does not tell lines from records, and it says little about what is wrong. So it gets regions that have been
looked at, and whatever it stumbles over is parsed again line by line, with exact messages. Long records go to simdjson
where that is faster.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from mixlake.catalog import json_views
from mixlake.catalog.records import FieldPath, IntArray
from mixlake.catalog.text_regions import Region

_OPEN, _CLOSE, _RETURN = ord("{"), ord("}"), ord("\r")


def fast_columns(
    region: Region, starts: IntArray, stops: IntArray, fields: Mapping[FieldPath, pa.DataType]
) -> dict[FieldPath, pa.Array] | None:
    """Return the fields of the lines from ``starts`` to ``stops``, or None where the lines must be parsed one by one.

    Args:
        region: the lines, and blank ones between them.
        starts: first byte of each line that is not blank.
        stops: the byte behind each.
        fields: the fields, each with the type that it is known to have. One of which nothing is known must not occur
            in these lines, for its type, and whether a record has it, is for the other way to say.
    """
    unknown = [path[-1] for path, kind in fields.items() if pa.types.is_null(kind)]
    known = {path: kind for path, kind in fields.items() if not pa.types.is_null(kind)}
    tree = _tree(fields)
    if tree is None or not all(map(_is_plain, known.values())) or not _are_objects(region, starts, stops):
        return None
    if any(region.holds(json.dumps(name, ensure_ascii=False).encode()) for name in unknown):
        return None
    if json_views.is_faster(region, known):
        return json_views.viewed_columns(region.content, len(starts), known)
    if not is_utf8(region.content):
        return None
    try:
        table = pj.read_json(
            pa.BufferReader(pa.py_buffer(region.content)),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(region) + 1),
            parse_options=pj.ParseOptions(explicit_schema=_schema(tree), unexpected_field_behavior="ignore"),
        )
    except pa.ArrowInvalid:
        return None
    if len(table) != len(starts):  # an object more or less than lines
        return None
    return {path: _column(table, path) for path in known}


def is_utf8(content: memoryview) -> bool:
    """Say whether some bytes are valid UTF-8, at the speed of memory."""
    offsets = pa.py_buffer(np.array([0, len(content)], np.int64))
    whole = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(content)])
    try:
        whole.cast(pa.large_string())
    except pa.ArrowInvalid:
        return False
    return True


def _are_objects(region: Region, starts: IntArray, stops: IntArray) -> bool:
    """Say whether every line begins and ends as an object.

    Then no record can reach over lines: a newline within one would stand between ``}`` and ``{``, which is no JSON.
    """
    array = np.frombuffer(region.content, np.uint8)
    if not len(starts) or not (array[starts] == _OPEN).all():
        return False
    last = array[stops - 1]
    return bool((np.where(last == _RETURN, array[stops - 2], last) == _CLOSE).all())


_Tree = dict[str, "pa.DataType | _Tree"]


def _tree(fields: Mapping[FieldPath, pa.DataType]) -> _Tree | None:
    """Return the fields as nested dicts; None where one lies within another."""
    top: _Tree = {}
    for path, kind in fields.items():
        level = top
        for name in path[:-1]:
            below = level.setdefault(name, {})
            if not isinstance(below, dict):
                return None
            level = below
        if path[-1] in level:
            return None
        level[path[-1]] = kind
    return top


def _schema(tree: _Tree) -> pa.Schema:
    return pa.schema([pa.field(name, _type(kind)) for name, kind in tree.items()])


def _type(kind: pa.DataType | _Tree) -> pa.DataType:
    if isinstance(kind, dict):
        return pa.struct([pa.field(name, _type(below)) for name, below in kind.items()])
    return kind


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        return not pa.types.is_list(kind.value_type) and _is_plain(kind.value_type)
    return kind in (pa.string(), pa.int64(), pa.float64(), pa.bool_())


def _column(table: pa.Table, path: FieldPath) -> pa.Array:
    column = table.column(path[0]).combine_chunks()
    return pc.struct_field(column, list(path[1:])) if len(path) > 1 else column
