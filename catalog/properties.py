"""From declared properties to typed columns: SQL expressions and batch functions over records."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datafusion import SessionConfig, SessionContext

from mixlake.catalog.declaring import Declared
from mixlake.catalog.errors import ConfigError, DataError, listed, nearest
from mixlake.catalog.fields import field_names, is_path, nest
from mixlake.catalog.records import Block, DataFile, FieldPath
from mixlake.catalog.schema import TIMESTAMP
from mixlake.catalog.sql import first_line

ROW: FieldPath = ("_row",)
_PATH: FieldPath = ("_path",)
_NUM_BYTES: FieldPath = ("_num_bytes",)
_TEXT: FieldPath = ("_text",)
SYSTEM_FIELDS = frozenset([ROW, _PATH, _NUM_BYTES, _TEXT])
"""Fields that every record has: its row, path and text, and its length where the format knows byte ranges."""
_STAND_INS = (pa.null(), pa.string(), pa.list_(pa.string()), TIMESTAMP)
"""Types to try for a field that has had no value yet: some functions take no column of Arrow's null type."""


class FieldWidenedError(Exception):
    """A field that expressions use has values of a wider type than was assumed so far."""

    def __init__(self, path: FieldPath, kind: pa.DataType) -> None:
        super().__init__(f"{'.'.join(path)} is {kind}")
        self.path = path
        self.kind = kind


class PropertyColumns:
    """Computes the declared properties of blocks; may be used from several threads.

    Every block is computed as if all records of the dataset had been seen: a field has the type that holds all its
    values, in each block, so that an expression means the same everywhere (``score / 2`` of the score 3 is 1.5 where
    another record's score is 0.5). ``field_types`` says which type that is as far as is known. A block that knows
    better refuses to be computed, and everything is computed anew.
    """

    def __init__(
        self,
        dataset: str,
        declared: Sequence[Declared],
        field_types: Mapping[FieldPath, pa.DataType] | None = None,
        *,
        text: FieldPath = ("text",),
    ) -> None:
        self.dataset = dataset
        self._text = text
        self.declared = list(declared)
        self._mentioned = list(dict.fromkeys(path for prop in self.declared for path in prop.fields))
        known = dict(field_types or {})
        fields = dict.fromkeys(text if path == _TEXT else path for path in self._mentioned)
        self.fields = {path: known.get(path, pa.null()) for path in fields if path not in SYSTEM_FIELDS}
        """The fields to take out of the records, each with its type as far as it is known."""
        self.in_expressions = {
            path for prop in self.declared if prop.function or not is_path(prop.expression) for path in prop.fields
        }
        """The fields whose types decide what an expression means; the others are taken as they are."""
        self._local = threading.local()

    @property
    def mentions_row(self) -> bool:
        """Whether a property depends on the sample's row."""
        return ROW in self._mentioned

    def compute(self, block: Block, files: Sequence[DataFile]) -> dict[str, pa.Array]:
        """Return one column per property, in a type that a Delta table can store.

        Raises:
            DataError: a value does not fit the expression, or the type that the field has elsewhere.
            ConfigError: an expression is not valid SQL.
            FieldWidenedError: a field has a wider type than ``field_types`` says.
        """
        return self.evaluate(self._columns(block, files), partial(_first_place, block, files))

    def evaluate(self, columns: Mapping[FieldPath, pa.Array], place: Callable[[], str]) -> dict[str, pa.Array]:
        """Return one column per property, given the fields (their rows among them) and properties that they need.

        Args:
            columns: by path, or by a property's name.
            place: names where they come from, for messages.
        """
        computed: dict[str, pa.Array] = {}
        several: dict[tuple[str, tuple[FieldPath, ...]], pa.Array] = {}
        num_rows = len(columns[ROW])
        for prop in self.declared:
            inputs = {path: _input(path, prop, columns, computed) for path in prop.inputs}
            if prop.function is not None and prop.output is not None:
                key = (prop.expression, prop.inputs)
                if key not in several:
                    several[key] = self._call(prop, nest(inputs, num_rows), place)
                values = pc.struct_field(several[key], prop.output)
            elif prop.function is not None:
                values = self._call(prop, nest(inputs, num_rows), place)
            elif is_path(prop.expression):
                values = inputs[prop.inputs[0]]
            else:
                values = self._evaluate(prop, {ROW: columns[ROW], **inputs})
            computed[prop.name] = _as_declared(prop, values, f"property {prop.name!r} of {self.dataset!r}")
        return computed

    def check_fields(self, met: Mapping[FieldPath, pa.DataType], example: Mapping[str, Any]) -> None:
        """Refuse expressions that name a field which no record had.

        Args:
            met: the fields that records had.
            example: a record.

        Raises:
            ConfigError: naming the property, the field and the nearest field of ``example``.
        """
        met = {**met, _TEXT: met.get(self._text, pa.null())}
        lacking = {path for path in self._mentioned if path not in met}
        available = field_names(example) + sorted(path[0] for path in SYSTEM_FIELDS - lacking)
        for prop in self.declared:
            for path in prop.fields:
                if path not in lacking:
                    continue
                if prop.function is not None or is_path(prop.expression) or not self._plans(prop, met):
                    name = ".".join(path)
                    raise ConfigError(
                        f"property {prop.name!r} of {self.dataset!r}: no record has a field {name!r}; "
                        f"fields: {listed(available)}.{nearest(name, available)}"
                    )

    def _columns(self, block: Block, files: Sequence[DataFile]) -> dict[FieldPath, pa.Array]:
        """Return every field that a property mentions, with nulls for those that the block does not have."""
        columns = _system_columns(block, files, self._mentioned)
        for path, known in self.fields.items():
            column = block.columns.get(path)
            if column is None or pa.types.is_null(column.type):
                columns[path] = pa.nulls(len(block.rows), known)
            else:
                columns[path] = self._typed(path, column, known)
        for path in self._mentioned:
            found = columns.get(self._text) if path == _TEXT else None
            columns.setdefault(path, pa.nulls(len(block.rows)) if found is None else found)
        return columns

    def _typed(self, path: FieldPath, column: pa.Array, known: pa.DataType) -> pa.Array:
        """Return a field in the type that it has throughout the dataset."""
        target = storable_type(column.type)
        if target is None:  # objects, bytes: whatever a function or expression makes of them
            return column
        what = f"field {'.'.join(path)!r}"
        column = fitted(column, target, what)
        if path not in self.in_expressions:
            return column
        wider = common_type(known, target)
        if wider is None:  # the expression may well make one type of them, as CAST(x AS STRING) does
            return column
        if wider != known:
            raise FieldWidenedError(path, wider)
        return fitted(column, known, what)

    def _plans(self, prop: Declared, met: Mapping[FieldPath, pa.DataType]) -> bool:
        """Say whether the expression makes sense without the fields that no record had."""
        columns = {path: pa.nulls(0, met[path]) for path in prop.inputs if path in met}
        try:
            self._evaluate(prop, {ROW: pa.array([], pa.int64()), **columns})
        except (ConfigError, DataError):
            return False
        return True

    def _evaluate(self, prop: Declared, columns: Mapping[FieldPath, pa.Array]) -> pa.Array:
        unknown = [path for path, column in columns.items() if pa.types.is_null(column.type)]
        num_rows = len(columns[ROW])
        refusal: ConfigError | DataError | None = None
        for kind in _STAND_INS if unknown else _STAND_INS[:1]:
            stand_ins = dict.fromkeys(unknown, pa.nulls(num_rows, kind))
            try:
                return self._select(prop, nest({**columns, **stand_ins}, num_rows))
            except (ConfigError, DataError) as error:
                refusal = refusal or error
        assert refusal is not None
        raise refusal

    def _select(self, prop: Declared, batch: pa.RecordBatch) -> pa.Array:
        context = self._context()
        frame = context.from_arrow(batch, "record")
        try:
            expression = frame.parse_sql_expr(prop.expression)
        except Exception as error:  # datafusion raises bare Exception for SQL that does not parse
            raise ConfigError(
                f"property {prop.name!r} of {self.dataset!r}: {prop.expression!r} is not an expression over the "
                f"record: {first_line(error)}"
            ) from error
        finally:
            context.deregister_table("record")
        try:
            table = frame.select(expression.alias(prop.name)).to_arrow_table()
        except Exception as error:  # the same for values that an expression cannot take
            raise DataError(
                f"property {prop.name!r} of {self.dataset!r} cannot be computed: {first_line(error)}"
            ) from error
        if table.num_rows != batch.num_rows:
            raise ConfigError(
                f"property {prop.name!r}: {prop.expression!r} gives {table.num_rows} values "
                f"for {batch.num_rows} records"
            )
        return table.column(0).combine_chunks()

    def _call(self, prop: Declared, batch: pa.RecordBatch, place: Callable[[], str]) -> pa.Array:
        assert prop.function is not None
        called = prop.expression.partition(" ")[0]
        try:
            values = prop.function(batch)
        except Exception as error:
            error.add_note(f"while {called} computed property {prop.name!r} of {self.dataset!r} at {place()}")
            raise
        if not isinstance(values, pa.Array) or len(values) != batch.num_rows:
            got = f"{len(values)} values" if isinstance(values, pa.Array) else type(values).__name__
            raise ConfigError(
                f"property {prop.name!r} of {self.dataset!r}: {called} must return an Arrow array of "
                f"{batch.num_rows} values, got {got} at {place()}"
            )
        return values

    def _context(self) -> SessionContext:
        """Return this thread's own engine."""
        if not hasattr(self._local, "context"):
            # Keys of records are case-sensitive, so identifiers must stay as they are written.
            config = SessionConfig({"datafusion.sql_parser.enable_ident_normalization": "false"})
            self._local.context = SessionContext(config.with_target_partitions(1))
        context: SessionContext = self._local.context
        return context


class PropertyTypes:
    """Keeps track of the types that the properties of a dataset turn out to have."""

    def __init__(self, dataset: str, names: Sequence[str]) -> None:
        self._dataset = dataset
        self._first_place: dict[str, str] = {}
        self.types: dict[str, pa.DataType] = dict.fromkeys(names, pa.null())

    def widen(self, rows: pa.Table, place: Callable[[int], str], report: Callable[[int, str], None]) -> pa.Table:
        """Return index rows with their properties in the types that hold these and all earlier values.

        Args:
            rows: with a column per property.
            place: names the file of a row, for messages.
            report: told of each row whose value goes with no such type; if it returns, the row is left out.
        """
        kept = np.arange(len(rows))
        for name, known in self.types.items():
            column = rows[name]
            wider = common_type(known, column.type)
            if wider is None:
                misfits = np.flatnonzero(column.is_valid().to_numpy())
                for index in misfits.tolist():
                    report(
                        int(kept[index]),
                        f"property {name!r} of {self._dataset!r} is {column.type} here but {known} in "
                        f"{self._first_place[name]}; make it one type, for example with CAST(… AS STRING)",
                    )
                left = np.delete(np.arange(len(rows)), misfits)
                rows, kept = rows.take(left), kept[left]
                column, wider = pa.chunked_array([pa.nulls(len(rows), known)]), known
                rows = rows.set_column(rows.schema.get_field_index(name), name, column)
            if name not in self._first_place and column.null_count < len(column):
                self._first_place[name] = place(column.is_valid().to_pylist().index(True))
            self.types[name] = wider
            if wider != column.type:
                values = fitted(column, wider, f"{place(0)}: property {name!r} of {self._dataset!r}")
                rows = rows.set_column(rows.schema.get_field_index(name), name, values)
        return rows


def field_types(block: Block) -> dict[FieldPath, pa.DataType]:
    """Return the fields that the records of a block have, those that every record has among them, and their types."""
    types = {path: storable_type(column.type) or column.type for path, column in block.columns.items()}
    system: dict[FieldPath, pa.DataType] = {ROW: pa.int64(), _PATH: pa.string()}
    if block.byte_starts is not None:
        system[_NUM_BYTES] = pa.int64()
    return {**types, **system}


def _system_columns(
    block: Block, files: Sequence[DataFile], wanted: Collection[FieldPath]
) -> dict[FieldPath, pa.Array]:
    """Return those of the fields that every record has which the block can tell; its rows always."""
    columns: dict[FieldPath, pa.Array] = {ROW: pa.array(block.rows)}
    if _PATH in wanted:
        columns[_PATH] = pa.array([files[i].path for i in block.file_ids.tolist()], pa.string())
    if _NUM_BYTES in wanted and block.byte_starts is not None and block.byte_stops is not None:
        columns[_NUM_BYTES] = pa.array(block.byte_stops - block.byte_starts)
    return columns


def _input(
    path: FieldPath, prop: Declared, columns: Mapping[FieldPath, pa.Array], computed: Mapping[str, pa.Array]
) -> pa.Array:
    return computed[path[0]] if path[0] in prop.uses and path[0] in computed else columns[path]


def _as_declared(prop: Declared, values: pa.Array, what: str) -> pa.Array:
    """Return a property's values in a type that a Delta table can store: the declared one, if one is."""
    column = storable(values, what)
    if prop.type is not None:
        if common_type(prop.type, column.type) != prop.type:
            value = str(column.drop_null()[0].as_py())[:40]
            raise DataError(f"{what} is declared {prop.type}, but is {column.type} here: {value!r}")
        column = fitted(column, prop.type, what)
    if not prop.is_nullable and column.null_count:
        raise DataError(f"{what} is null here, but declared to have a value always")
    return column


def _first_place(block: Block, files: Sequence[DataFile]) -> str:
    return files[int(block.file_ids[0])].uri


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
    target = storable_type(values.type)
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


def storable_type(kind: pa.DataType) -> pa.DataType | None:
    """Return the one type that samples store for this kind of value, or None where a property cannot hold it."""
    types = pa.types
    if types.is_dictionary(kind):
        return storable_type(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = storable_type(kind.value_type)
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
