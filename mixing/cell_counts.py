"""Samples and units of every block and cell, counted with one aggregate query.

Where the columns that the predicates are about hold few different values, samples are counted by these, and only the
groups are asked for their answers: with five components that takes a third of the time of asking every sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from datafusion import DataFrame, Expr, SessionContext, column

from mixlake.catalog import Catalog, ConfigError, schema
from mixlake.mixing.consumed import Consumed
from mixlake.mixing.index_frames import CONSUMED, index_frame, named_columns, word_expressions
from mixlake.mixing.predicates import failures_named
from mixlake.mixing.program import Program

_PROBES = 8
_SAMPLES_PER_GROUP = 64
"""Samples are counted by values where a group has as many, or more, in the mean of some blocks."""
_BLOCK = ("registration", "block")
_SUMS = {"num_samples": "sum", "num_counted": "sum", "num_units": "sum", "least_units": "min"}
"""What is counted, and how counts of groups become one."""


def count_cells(catalog: Catalog, program: Program, consumed: Consumed | None) -> pa.Table:
    """Return a table of the samples by registration, block and answers to predicates.

    Its columns are these, the answers packed into ``word_…``, then num_samples and num_units.

    Args:
        catalog: at the run's version.
        program: what the run draws.
        consumed: what was drawn before the run began; how often, is a word of its own.

    Raises:
        QueryError: the filter or a predicate fails on a sample.
        ConfigError: samples lack what the unit counts.
    """
    leaves = [leaf for segment in program.segments for leaf in segment.leaves]
    with failures_named(catalog.samples(), program.filter, leaves, f"samples@{catalog.version}"):
        counts = _count_values(catalog, program, consumed)
        if counts is None:
            frame = index_frame(catalog, program, consumed)
            words = [name for name in frame.schema().names if name.startswith("word_")]
            counts = _count(frame, words, catalog, program)
    _check_units(counts, program, catalog.version)
    return counts


def _count_values(catalog: Catalog, program: Program, consumed: Consumed | None) -> pa.Table | None:
    """Count samples by the values that predicates are about; return None where these are too many to be worth it."""
    values = named_columns(program.predicates, catalog.samples().schema().names)
    values = [name for name in values if name not in _BLOCK] + [CONSUMED] * (consumed is not None)
    frame = index_frame(catalog, program, consumed, values=values)
    kinds = frame.schema()
    probes = _probes(catalog)
    if not probes or any(pa.types.is_nested(kinds.field(name).type) for name in values) or set(values) & set(_SUMS):
        return None
    found = _count(frame.filter(frame.parse_sql_expr(probes)), values, catalog, program)
    if len(found) * _SAMPLES_PER_GROUP > sum(found["num_samples"].to_pylist()):
        return None
    groups = SessionContext().from_arrow(_count(frame, values, catalog, program))
    words = word_expressions(groups, program.predicates, is_consumed=consumed is not None)
    answered = groups.select(*_BLOCK, *words, *_SUMS)
    names = [name for name in answered.schema().names if name not in _SUMS]
    sums = [answered.parse_sql_expr(f"{how}({name})").alias(name) for name, how in _SUMS.items()]
    return answered.aggregate(_columns(names), sums).to_arrow_table()


def _probes(catalog: Catalog) -> str:
    """Return a predicate for some blocks, of index files all over the lake; none for a lake of before."""
    actions = pa.table(catalog.lake.table(schema.SAMPLES).get_add_actions(flatten=True))
    live = registrations_of(catalog)
    names = ("partition.registration", "min.block", "max.block")
    files = [
        (registration, range(first, last + 1))
        for registration, first, last in zip(*(actions[name].to_pylist() for name in names), strict=True)
        if registration in live and first is not None
    ]
    blocks = [(registration, numbers[:: -(-len(numbers) // _PROBES)]) for registration, numbers in files]
    found = [
        f"(registration = '{registration}' AND block = {block})" for registration, some in blocks for block in some
    ]
    return " OR ".join(found[:: max(1, len(found) // _PROBES)])


def _count(frame: DataFrame, values: Sequence[str], catalog: Catalog, program: Program) -> pa.Table:
    """Count samples by registration, block and values; where every sample counts one, its units are not looked at."""
    unit = program.unit_property
    counted = {
        "num_samples": "count(*)",
        "num_counted": "count(*)" if unit is None else "count(units)",
        "num_units": "count(*)" if unit is None else "coalesce(sum(units), 0)",
        "least_units": "1" if unit is None else "coalesce(min(units), 0)",
    }
    sums = [frame.parse_sql_expr(expression).alias(name) for name, expression in counted.items()]
    registrations = registrations_of(catalog)
    if len(registrations) > 1:
        return frame.aggregate(_columns([*_BLOCK, *values]), sums).to_arrow_table()
    counts = frame.aggregate(_columns([*_BLOCK[1:], *values]), sums).to_arrow_table()  # in two thirds of the time
    return counts.add_column(0, _BLOCK[0], pa.array(list(registrations) * len(counts), pa.string()))


def registrations_of(catalog: Catalog) -> tuple[str, ...]:
    """Return all registrations, by dataset name and part."""
    return tuple(registration for dataset in catalog.list_datasets() for registration in dataset.registrations)


def _columns(names: Sequence[str]) -> list[Expr]:
    return [column(f'"{name}"') for name in names]


def _check_units(counts: pa.Table, program: Program, version: int) -> None:
    missing = sum(counts["num_samples"].to_pylist()) - sum(counts["num_counted"].to_pylist())
    least = min(counts["least_units"].to_pylist(), default=0)
    if missing or least < 0:
        wrong = f"is null for {missing} samples" if missing else f"is negative ({least})"
        name = program.unit_property
        raise ConfigError(
            f"mixture.unit is {program.unit.value}, but property {name!r} {wrong} in samples@{version}; "
            f"leave them out with mixture.filter: {name} >= 0"
        )
