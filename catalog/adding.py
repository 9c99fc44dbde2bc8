"""Adds properties to what is registered: computed from the index alone where that suffices, else from the files too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa

from mixlake.catalog import schema
from mixlake.catalog.declaring import Declared, PropertySource, check_name, declare
from mixlake.catalog.duplicates import OUTPUTS, Grouping, Groups, KeySpill
from mixlake.catalog.errors import ConfigError, DataError
from mixlake.catalog.fields import is_path, nest, parse_path
from mixlake.catalog.function_references import reference
from mixlake.catalog.index_copy import copy_files, index_columns, write_rows
from mixlake.catalog.lake import Lake
from mixlake.catalog.properties import (
    ROW,
    SYSTEM_FIELDS,
    FieldWidenedError,
    PropertyColumns,
    PropertyTypes,
    common_type,
)
from mixlake.catalog.publishing import new_registration, publish, registered_files
from mixlake.catalog.records import Dataset, FieldPath, Part, Progress, Property
from mixlake.catalog.registration import settle_types
from mixlake.catalog.rereading import Rereading, as_declared, column_name, index_rows
from mixlake.catalog.sample_writer import SampleWriter
from mixlake.catalog.scanning import probe_types

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """How a property of one dataset is computed."""

    dataset: Dataset
    declared: tuple[Declared, ...]
    """The columns that it gets."""
    fields: tuple[FieldPath, ...]
    """What has to be read from the files for them."""
    met: dict[FieldPath, pa.DataType] = field(default_factory=dict)
    """The fields that records turn out to have."""

    @property
    def kept(self) -> list[Property]:
        """The properties that the dataset has and keeps."""
        names = {prop.name for prop in self.declared}
        return [prop for prop in self.dataset.properties if prop.name not in names]

    @property
    def columns(self) -> PropertyColumns:
        return PropertyColumns(self.dataset.name, self.declared, text=parse_path(self.dataset.text))

    @property
    def is_scanned(self) -> bool:
        """Whether scanning computes it, in threads: nothing of the index is needed."""
        return bool(self.fields) and not any(prop.uses or prop.origin == "group" for prop in self.declared)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Written:
    """A part whose new index is written, but not committed."""

    plan: _Plan
    part: Part
    registration: str
    writer: SampleWriter
    counts: Counter[int]


def add_property(
    lake: Lake,
    datasets: Sequence[Dataset],
    live: Sequence[Dataset],
    name: str,
    source: PropertySource | Grouping,
    *,
    version: int,
    is_replaced: bool = False,
    progress: Progress | None = None,
) -> int:
    """Replace the parts of datasets by copies of their index with one property more, in one catalog version.

    Args:
        lake: where to.
        datasets: those that get the property.
        live: all datasets of the catalog version that the new one follows.
        name: the property's name.
        source: see `Catalog.add_property`.
        version: that catalog version.
        is_replaced: whether it may take the place of a property of that name.
        progress: called with samples done and samples in all.

    Returns:
        The new catalog version.
    """
    plans = [_plan(lake, dataset, name, source, is_replaced) for dataset in datasets]
    is_group = _is_grouping(source)
    report = _Report(progress, (1 + is_group) * sum(dataset.num_samples for dataset in datasets))
    groups = _find_groups(lake, plans, source, report) if is_group else None
    num_done = 0
    with ExitStack() as stack:
        written: list[_Written] = []
        types: dict[str, dict[str, pa.DataType]] = {}
        for plan in plans:
            met = PropertyTypes(plan.dataset.name, [prop.name for prop in plan.declared])
            for part in plan.dataset.parts:
                registration = new_registration(plan.dataset.name)
                writer = stack.enter_context(SampleWriter(lake, registration))
                if groups is None:
                    counts = _write_computed(lake, plan, part, writer, met, report)
                else:
                    counts = write_rows(writer, _grouped(lake, plan, part, groups, num_done, met, report))
                    num_done += counts.total()
                writer.finish(_stored(lake, plan, met.types))
                written.append(_Written(plan=plan, part=part, registration=registration, writer=writer, counts=counts))
            _check_fields(lake, plan)
            types[plan.dataset.name] = met.types
        settled = settle_types(lake, ", ".join(types), _united(types), live)
        changes = {plan.dataset.name: _changed(lake, plan, written, settled) for plan in plans}
    details = {
        "property": name,
        "expression": plans[0].declared[0].expression,
        "columns": ", ".join(prop.name for prop in plans[0].declared),
    }
    return publish(lake, changes, version=version, action="add property", details=details)


def _plan(lake: Lake, dataset: Dataset, name: str, source: PropertySource | Grouping, is_replaced: bool) -> _Plan:
    names = [prop.name for prop in _declared(name, source, ())]
    existing = [prop.name for prop in dataset.properties]
    taken = [one for one in names if one in existing]
    if taken and not is_replaced:
        expression = dataset.properties[existing.index(taken[0])].expression
        raise ConfigError(
            f"dataset {dataset.name!r} has a property {taken[0]!r} already ({expression}); "
            "pass replace=True to compute it anew"
        )
    # What takes the place of a property must not need one that comes later: those may be computed from it.
    known = existing[: min(map(existing.index, taken))] if taken else existing
    declared = _declared(name, source, known)
    fields = tuple(dict.fromkeys(path for prop in declared for path in prop.fields))
    plan = _Plan(dataset=dataset, declared=tuple(declared), fields=fields)
    return _from_index_alone(lake, plan) or plan


def _declared(name: str, source: PropertySource | Grouping, known: Sequence[str]) -> list[Declared]:
    if not _is_grouping(source):
        return declare({name: source}, known)  # type: ignore[dict-item]
    inputs = tuple(parse_path(path) for path in source.fields)  # type: ignore[union-attr]
    columns = [f"{name}_{output}" for output in OUTPUTS]
    for column in columns:
        check_name(column)
    uses = frozenset(path[0] for path in inputs if len(path) == 1 and path[0] in known)
    return [
        Declared(name=column, expression=reference(source), origin="group", inputs=inputs, uses=uses)
        for column in columns
    ]


def _is_grouping(source: Any) -> bool:
    return not isinstance(source, Mapping) and not callable(source) and hasattr(source, "keys")


def _from_index_alone(lake: Lake, plan: _Plan) -> _Plan | None:
    """Return the plan without fields, if SQL makes sense without them: names of types look like fields too."""
    if not plan.fields:
        return plan
    if any(prop.function or prop.origin == "group" or is_path(prop.expression) for prop in plan.declared):
        return None
    declared = tuple(replace(p, inputs=tuple(path for path in p.inputs if path[0] in p.uses)) for p in plan.declared)
    alone = replace(plan, declared=declared, fields=())
    try:
        alone.columns.evaluate(_columns(alone, index_columns(lake, plan.kept).empty_table()), lambda: "")
    except (ConfigError, DataError):
        return None
    return alone


def _write_computed(
    lake: Lake, plan: _Plan, part: Part, writer: SampleWriter, types: PropertyTypes, report: _Report
) -> Counter[int]:
    scanned = plan.declared if plan.is_scanned else tuple(map(as_declared, plan.fields))
    kept = index_columns(lake, plan.kept).names
    columns = plan.columns

    def rows(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        for table in tables:
            computed = table
            if not plan.is_scanned:
                computed = table.select(kept)
                for name, values in _evaluate(lake, plan, part, columns, table).items():
                    computed = computed.append_column(name, values)
            yield types.widen(computed, partial(_place, lake, plan, part, computed), _refuse)
            report(len(table))

    return _read(lake, plan, part, scanned, lambda tables: write_rows(writer, rows(tables)), writer.restart)


def _find_groups(lake: Lake, plans: Sequence[_Plan], source: Any, report: _Report) -> Groups:
    num_done = 0
    with KeySpill() as spill:
        for plan in plans:
            for part in plan.dataset.parts:
                spilled = partial(_spill_keys, spill, source, plan, num_done, report)
                num_done += _read(lake, plan, part, tuple(map(as_declared, plan.fields)), spilled, lambda: None)
        return spill.groups()


def _spill_keys(
    spill: KeySpill, source: Any, plan: _Plan, first: int, report: _Report, tables: Iterator[pa.Table]
) -> int:
    num_done = 0
    for table in tables:
        columns = _columns(plan, table)
        records = nest({path: columns[path] for path in plan.declared[0].inputs}, len(table))
        index, keys = source.keys(records)
        spill.write(index + first + num_done, keys)
        num_done += len(table)
        report(len(table))
    return num_done


def _grouped(
    lake: Lake, plan: _Plan, part: Part, groups: Groups, first: int, types: PropertyTypes, report: _Report
) -> Iterator[pa.Table]:
    for table in index_rows(lake, plan.dataset, part, plan.kept):
        with_groups = table
        for prop, values in zip(plan.declared, groups.columns(first, len(table)), strict=True):
            with_groups = with_groups.append_column(prop.name, values)
            types.types[prop.name] = values.type
        yield with_groups
        first += len(table)
        report(len(table))


def _read(
    lake: Lake,
    plan: _Plan,
    part: Part,
    scanned: Sequence[Declared],
    consume: Callable[[Iterator[pa.Table]], _Result],
    restart: Callable[[], None],
) -> _Result:
    """Consume the index rows of a part, with what is scanned beside them; anew where a field's type turns out wider."""
    if not scanned or not plan.fields:
        return consume(index_rows(lake, plan.dataset, part, plan.kept))
    reading = Rereading(lake, plan.dataset, part, scanned)
    known = probe_types(reading.scan)
    while True:
        try:
            result = consume(reading.beside(index_rows(lake, plan.dataset, part, plan.kept), known))
        except FieldWidenedError as widened:
            known[widened.path] = widened.kind
            restart()
        else:
            plan.met.update(reading.met)
            return result


def _columns(plan: _Plan, table: pa.Table) -> dict[FieldPath, pa.Array]:
    """Return the properties and fields of some index rows by path, and their rows."""
    columns: dict[FieldPath, pa.Array] = {(prop.name,): table[prop.name].combine_chunks() for prop in plan.kept}
    columns |= {path: table[column_name(path)].combine_chunks() for path in plan.fields}
    return {**columns, ROW: table["row"].combine_chunks()}


def _evaluate(lake: Lake, plan: _Plan, part: Part, columns: PropertyColumns, table: pa.Table) -> dict[str, pa.Array]:
    try:
        return columns.evaluate(_columns(plan, table), lambda: _place(lake, plan, part, table, 0))
    except DataError as error:
        if len(table) == 1:
            raise DataError(f"{_place(lake, plan, part, table, 0)}: {error}") from error
        middle = len(table) // 2
        for half in (table.slice(0, middle), table.slice(middle)):
            _evaluate(lake, plan, part, columns, half)
        raise


def _place(lake: Lake, plan: _Plan, part: Part, table: pa.Table, index: int) -> str:
    files = registered_files(lake, plan.dataset.name, part.registration)
    return f"{files[table['file_id'][index].as_py()].uri}, row {table['row'][index]}"


def _refuse(_: int, reason: str) -> None:
    raise DataError(reason)


def _check_fields(lake: Lake, plan: _Plan) -> None:
    """Refuse names that are neither properties nor fields of any record."""
    if plan.fields and plan.dataset.num_samples:  # without a sample there is nothing to tell by
        uses = {name for prop in plan.declared for name in prop.uses}
        known: dict[FieldPath, pa.DataType] = {
            (one.name,): one.type for one in index_columns(lake, plan.kept) if one.name in uses
        }
        met = [".".join(path) for path in plan.met if path not in SYSTEM_FIELDS]
        names: dict[str, Any] = dict.fromkeys([*(prop.name for prop in plan.kept), *met])
        plan.columns.check_fields({**known, **plan.met}, names)


def _stored(lake: Lake, plan: _Plan, types: Mapping[str, pa.DataType]) -> pa.Schema:
    return pa.schema([*index_columns(lake, plan.kept), *(pa.field(name, kind) for name, kind in types.items())])


def _united(types: Mapping[str, Mapping[str, pa.DataType]]) -> dict[str, pa.DataType]:
    """Return the one type that each new column has in all datasets."""
    united: dict[str, pa.DataType] = {}
    owner: dict[str, str] = {}
    for dataset, of_dataset in types.items():
        for name, kind in of_dataset.items():
            wider = common_type(united.get(name, pa.null()), kind)
            if wider is None:
                raise ConfigError(
                    f"property {name!r} is {kind} in {dataset!r}, but {united[name]} in {owner[name]!r}; cast it, or "
                    "add it to each under a name of its own"
                )
            united[name] = wider
            owner.setdefault(name, dataset)
    return united


def _changed(lake: Lake, plan: _Plan, written: Sequence[_Written], types: Mapping[str, pa.DataType]) -> Dataset:
    """Commit the new index of a dataset's parts; return the dataset with them and with the property."""
    parts = []
    columns = _stored(lake, plan, types)
    if not plan.dataset.num_samples:  # a column all the same
        lake.add_files(schema.SAMPLES, [], columns, action="add property")
    for one in written:
        if one.plan is plan:
            one.writer.commit(columns)
            parts.append(copy_files(lake, one.part, one.registration, one.counts))
    new = {prop.name: prop.as_property(types[prop.name]) for prop in plan.declared}
    properties = [new.pop(prop.name, prop) for prop in plan.dataset.properties]
    return replace(plan.dataset, parts=tuple(parts), properties=(*properties, *new.values()))


class _Report:
    """Adds up the samples that are done."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def __call__(self, num: int) -> None:
        self._done = min(self._done + num, self._total)
        if self._progress is not None:
            self._progress(self._done, self._total, "samples")
