"""From declared properties to typed columns: SQL expressions and batch functions over records."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from datafusion import SessionConfig, SessionContext

from mixlake.catalog.errors import ConfigError, DataError, listed, nearest
from mixlake.catalog.fields import field_names, is_path, mentioned_fields, nest, parse_path
from mixlake.catalog.records import BatchFunction, Block, DataFile, FieldPath, RecordFunction
from mixlake.catalog.schema import RESERVED_COLUMNS, TIMESTAMP
from mixlake.catalog.sql import first_line, refuse_impure

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_ROW: FieldPath = ("_row",)
_PATH: FieldPath = ("_path",)
_NUM_BYTES: FieldPath = ("_num_bytes",)
SYSTEM_FIELDS = frozenset([_ROW, _PATH, _NUM_BYTES])
"""Fields that every record has: its row and path, and its length where the format knows byte ranges."""
_STAND_INS = (pa.null(), pa.string(), pa.list_(pa.string()), TIMESTAMP)
"""Types to try for a field that has had no value yet: some functions take no column of Arrow's null type."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Declared:
    """A property as the user declares it."""

    name: str
    expression: str
    function: RecordFunction | None
    fields: tuple[FieldPath, ...]


def declare(properties: Mapping[str, str | RecordFunction]) -> list[Declared]:
    """Check names and expressions, and find the fields they need.

    Raises:
        ConfigError: a name is not lower_snake_case or is taken, or an expression is empty.
    """
    declared = []
    for name, source in properties.items():
        if not _NAME.fullmatch(name):
            raise ConfigError(f"property name {name!r}: expected lower_snake_case, such as num_chars")
        if name in RESERVED_COLUMNS:
            raise ConfigError(
                f"property name {name!r} is taken; samples already has: {listed(sorted(RESERVED_COLUMNS))}"
            )
        if isinstance(source, str) and source.strip():
            refuse_impure(source, f"property {name!r}")
            declared.append(
                Declared(name=name, expression=source, function=None, fields=tuple(mentioned_fields(source)))
            )
        elif not isinstance(source, str) and callable(source) and hasattr(source, "fields"):
            paths = tuple(parse_path(field) for field in source.fields)
            declared.append(Declared(name=name, expression=_qualified_name(source), function=source, fields=paths))
        else:
            raise ConfigError(f"property {name!r}: expected an SQL expression or a BatchFunction, got {source!r}")
    return declared


class PropertyColumns:
    """Computes the declared properties block by block, and keeps track of their types and of the fields met."""

    def __init__(self, dataset: str, declared: Sequence[Declared]) -> None:
        self.dataset = dataset
        self.declared = list(declared)
        self._mentioned = list(dict.fromkeys(path for prop in self.declared for path in prop.fields))
        self.fields = [path for path in self._mentioned if path not in SYSTEM_FIELDS]
        self.types: dict[str, pa.DataType] = {prop.name: pa.null() for prop in self.declared}
        self._met: dict[FieldPath, pa.DataType] = {}
        self._first_place: dict[str, str] = {}
        # Keys of records are case-sensitive, so identifiers must stay as they are written.
        config = SessionConfig({"datafusion.sql_parser.enable_ident_normalization": "false"})
        self._context = SessionContext(config.with_target_partitions(1))

    def compute(self, block: Block, files: Sequence[DataFile]) -> dict[str, pa.Array]:
        """Return one column per property, in a type that a Delta table can store.

        Raises:
            DataError: a value does not fit the expression or the type met in earlier blocks.
            ConfigError: an expression is not valid SQL.
        """
        place = files[int(block.file_ids[0])].uri
        columns = self._columns(block, files)
        computed = {}
        for prop in self.declared:
            inputs = {path: columns[path] for path in prop.fields}
            if prop.function is not None:
                values = self._call(prop, nest(inputs, len(block.rows)), place)
            elif is_path(prop.expression):
                values = inputs[prop.fields[0]]
            else:
                values = self._evaluate(prop, {_ROW: columns[_ROW], **inputs}, place)
            what = f"{place}: property {prop.name!r} of {self.dataset!r}"
            column = storable(values, what)
            self._widen(prop.name, column.type, place)
            computed[prop.name] = fitted(column, self.types[prop.name], what)
        return computed

    def check_fields(self, example: Mapping[str, Any]) -> None:
        """Refuse expressions that name a field which no record had.

        Raises:
            ConfigError: naming the property, the field and the nearest field of ``example``.
        """
        lacking = {path for path in self._mentioned if path not in self._met}
        available = field_names(example) + sorted(path[0] for path in SYSTEM_FIELDS - lacking)
        for prop in self.declared:
            for path in prop.fields:
                if path not in lacking:
                    continue
                if prop.function is not None or is_path(prop.expression) or not self._plans(prop):
                    name = ".".join(path)
                    raise ConfigError(
                        f"property {prop.name!r} of {self.dataset!r}: no record has a field {name!r}; "
                        f"fields: {listed(available)}.{nearest(name, available)}"
                    )

    def _columns(self, block: Block, files: Sequence[DataFile]) -> dict[FieldPath, pa.Array]:
        """Return every field that a property mentions, with nulls for those that the block does not have."""
        columns = {**block.columns, **self._system_columns(block, files)}
        for path, column in columns.items():
            if path not in self._met or not pa.types.is_null(column.type):
                self._met[path] = column.type
        for path in self._mentioned:
            if path not in columns or pa.types.is_null(columns[path].type):
                columns[path] = pa.nulls(len(block.rows), self._met.get(path, pa.null()))
        return columns

    def _system_columns(self, block: Block, files: Sequence[DataFile]) -> dict[FieldPath, pa.Array]:
        columns: dict[FieldPath, pa.Array] = {_ROW: pa.array(block.rows)}
        if _PATH in self._mentioned:
            columns[_PATH] = pa.array([files[i].path for i in block.file_ids.tolist()], pa.string())
        if _NUM_BYTES in self._mentioned and block.byte_starts is not None and block.byte_stops is not None:
            columns[_NUM_BYTES] = pa.array(block.byte_stops - block.byte_starts)
        return columns

    def _plans(self, prop: Declared) -> bool:
        """Say whether the expression makes sense without the fields that no record had."""
        met = {path: pa.nulls(0, self._met[path]) for path in (_ROW, *prop.fields) if path in self._met}
        try:
            self._evaluate(prop, met, "")
        except (ConfigError, DataError):
            return False
        return True

    def _evaluate(self, prop: Declared, columns: Mapping[FieldPath, pa.Array], place: str) -> pa.Array:
        unknown = [path for path, column in columns.items() if pa.types.is_null(column.type)]
        num_rows = len(columns[_ROW])
        refusal: ConfigError | DataError | None = None
        for kind in _STAND_INS if unknown else _STAND_INS[:1]:
            stand_ins = dict.fromkeys(unknown, pa.nulls(num_rows, kind))
            try:
                return self._select(prop, nest({**columns, **stand_ins}, num_rows), place)
            except (ConfigError, DataError) as error:
                refusal = refusal or error
        assert refusal is not None
        raise refusal

    def _select(self, prop: Declared, batch: pa.RecordBatch, place: str) -> pa.Array:
        frame = self._context.from_arrow(batch, "record")
        try:
            expression = frame.parse_sql_expr(prop.expression)
        except Exception as error:  # datafusion raises bare Exception for SQL that does not parse
            raise ConfigError(
                f"property {prop.name!r} of {self.dataset!r}: {prop.expression!r} is not an expression over the "
                f"record: {first_line(error)}"
            ) from error
        finally:
            self._context.deregister_table("record")
        try:
            table = frame.select(expression.alias(prop.name)).to_arrow_table()
        except Exception as error:  # the same for values that an expression cannot take
            raise DataError(
                f"{place}: property {prop.name!r} of {self.dataset!r} cannot be computed: {first_line(error)}"
            ) from error
        if table.num_rows != batch.num_rows:
            raise ConfigError(
                f"property {prop.name!r}: {prop.expression!r} gives {table.num_rows} values "
                f"for {batch.num_rows} records"
            )
        return table.column(0).combine_chunks()

    def _call(self, prop: Declared, batch: pa.RecordBatch, place: str) -> pa.Array:
        assert prop.function is not None
        try:
            values = prop.function(batch)
        except Exception as error:
            error.add_note(f"while {prop.expression} computed property {prop.name!r} of {self.dataset!r} at {place}")
            raise
        if not isinstance(values, pa.Array) or len(values) != batch.num_rows:
            got = f"{len(values)} values" if isinstance(values, pa.Array) else type(values).__name__
            raise ConfigError(
                f"property {prop.name!r} of {self.dataset!r}: {prop.expression} must return an Arrow array of "
                f"{batch.num_rows} values, got {got} at {place}"
            )
        return values

    def _widen(self, name: str, met: pa.DataType, place: str) -> None:
        known = self.types[name]
        wider = common_type(known, met)
        if wider is None:
            raise DataError(
                f"{place}: property {name!r} of {self.dataset!r} is {met} here but {known} in "
                f"{self._first_place[name]}; make it one type, for example with CAST(… AS STRING)"
            )
        if not pa.types.is_null(met):
            self._first_place.setdefault(name, place)
        self.types[name] = wider


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the type that holds the values of both without loss, or None.

    >>> common_type(pa.int64(), pa.float64()), common_type(pa.string(), pa.int64())
    (DataType(double), None)
    """
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if {one, other} == {pa.int64(), pa.float64()}:
        return pa.float64()
    if pa.types.is_list(one) and pa.types.is_list(other):
        inner = common_type(one.value_type, other.value_type)
        return None if inner is None else pa.list_(inner)
    return None


def storable(values: pa.Array, what: str) -> pa.Array:
    """Cast to the one type that samples store for this kind of value, such as int64 for every integer.

    Raises:
        DataError: the values are objects or another type that a property cannot have.
    """
    target = _storable_type(values.type)
    if target is None:
        raise DataError(
            f"{what} is {values.type}; a property is a string, number, boolean, date, timestamp, or a list of these"
        )
    return fitted(values, target, what)


def fitted(values: pa.Array, target: pa.DataType, what: str) -> pa.Array:
    """Cast to a type.

    Raises:
        DataError: it cannot hold a value.
    """
    try:
        return values if values.type == target else values.cast(target)
    except pa.ArrowInvalid as error:
        raise DataError(f"{what} does not fit {target}: {error}") from error


def _storable_type(kind: pa.DataType) -> pa.DataType | None:
    types = pa.types
    if types.is_dictionary(kind):
        return _storable_type(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = _storable_type(kind.value_type)
        return None if inner is None or types.is_list(inner) else pa.list_(inner)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_integer(kind):
        return pa.int64()
    if types.is_floating(kind):
        return pa.float64()
    if types.is_timestamp(kind):
        return TIMESTAMP
    return kind if types.is_null(kind) or types.is_boolean(kind) or types.is_date32(kind) else None


def _qualified_name(source: RecordFunction) -> str:
    function = source.function if isinstance(source, BatchFunction) else source
    named = function if hasattr(function, "__qualname__") else type(function)  # a functools.partial has no name
    return f"{named.__module__}.{named.__qualname__}"
