"""Cells: samples that answer every predicate of a run alike, counted per block with one aggregate query.

Planning holds no list of samples: per cell and block it knows how many there are and how many units they hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datafusion import DataFrame

from mixlake.catalog import Catalog, ConfigError, QueryError
from mixlake.catalog.errors import listed, nearest
from mixlake.catalog.records import IntArray
from mixlake.catalog.sql import check_predicate, first_line
from mixlake.mixing.mixture import Mixture, Unit

_BITS_PER_WORD = 62


@dataclass(frozen=True, kw_only=True, slots=True)
class CellPlan:
    """What a run can draw from.

    Axes: C cells, P predicates, B blocks, E entries (pairs of a cell and a block where it has samples).
    """

    predicates: tuple[str, ...]
    matches_CP: npt.NDArray[np.bool_]
    words_CW: IntArray
    """The answers packed into integers, as the index queries return them; rows are sorted."""
    registrations: tuple[str, ...]
    """By dataset name and part, so that nothing depends on how registration ids come out."""
    block_registration_B: IntArray
    """Index into ``registrations``."""
    block_number_B: IntArray
    """The block's number within its registration; blocks are in storage order."""
    num_rows_B: IntArray
    """Samples of the block that pass the filter."""
    entry_cell_E: IntArray
    entry_block_E: IntArray
    entry_samples_E: IntArray
    entry_units_E: IntArray
    num_samples_C: IntArray
    num_units_C: IntArray

    @property
    def num_cells(self) -> int:
        """The number of cells."""
        return len(self.num_samples_C)

    def components(self, mixture: Mixture) -> IntArray:
        """Return the component of each cell: the first whose predicate it matches, or -1."""
        columns = [self.predicates.index(component.where) for component in mixture.components]
        matches = self.matches_CP[:, columns]
        return np.where(matches.any(axis=1), matches.argmax(axis=1), -1).astype(np.int64)


def index_frame(catalog: Catalog, mixture: Mixture, predicates: Sequence[str]) -> DataFrame:
    """Return the filtered samples with the columns that planning needs: address, answer words, units.

    Raises:
        QueryError: the filter or a predicate is wrong.
        ConfigError: the property that holds the units is missing.
    """
    samples = catalog.samples()
    where = f"samples@{catalog.version}"
    unit = mixture.unit.property_name
    if unit is not None:
        _check_unit_property(samples.schema(), unit, where)
    if mixture.filter is not None:
        check_predicate(samples, mixture.filter, "mixture.filter", where)
    for component in mixture.components:
        check_predicate(samples, component.where, f"mixture.components.{component.name}.where", where)
    if mixture.filter is not None:
        samples = samples.filter(samples.parse_sql_expr(mixture.filter))
    words = [
        samples.parse_sql_expr(_word(predicates[start : start + _BITS_PER_WORD])).alias(f"word_{number}")
        for number, start in enumerate(range(0, len(predicates), _BITS_PER_WORD))
    ]
    units = "CAST(1 AS BIGINT)" if unit is None else f'CAST("{unit}" AS BIGINT)'
    columns = ["registration", "file_id", "block", "row", "byte_start", "byte_stop"]
    return samples.select(*columns, *words, samples.parse_sql_expr(units).alias("units"))


def find_cells(catalog: Catalog, mixture: Mixture) -> CellPlan:
    """Find the cells of a mixture and count them per block.

    Raises:
        QueryError: the filter or a predicate is wrong.
        ConfigError: a component has no sample, or samples lack the property that the unit counts.
    """
    predicates = tuple(dict.fromkeys(component.where for component in mixture.components))
    frame = index_frame(catalog, mixture, predicates)
    words = [name for name in frame.schema().names if name.startswith("word_")]
    counts = _count(frame, ["registration", "block", *words], f"samples@{catalog.version}")
    _check_units(counts, mixture.unit, catalog.version)
    plan = _plan(counts, words, predicates, _registrations(catalog))
    _check_components(plan, mixture, catalog.version)
    return plan


def _registrations(catalog: Catalog) -> tuple[str, ...]:
    return tuple(registration for dataset in catalog.list_datasets() for registration in dataset.registrations)


def _count(frame: DataFrame, groups: Sequence[str], where: str) -> pa.Table:
    counts = frame.aggregate(
        [frame.parse_sql_expr(name) for name in groups],
        [
            frame.parse_sql_expr("count(*)").alias("num_samples"),
            frame.parse_sql_expr("count(units)").alias("num_counted"),
            frame.parse_sql_expr("coalesce(sum(units), 0)").alias("num_units"),
            frame.parse_sql_expr("coalesce(min(units), 0)").alias("least_units"),
        ],
    )
    try:
        return counts.to_arrow_table()
    except Exception as error:  # datafusion raises bare Exception for values that an expression fails on: n / 0
        raise QueryError(f"mixture: the filter or a predicate fails on {where}: {first_line(error)}") from error


def _check_unit_property(columns: pa.Schema, unit: str, where: str) -> None:
    if unit not in columns.names:
        raise ConfigError(
            f"mixture.unit is {unit.removeprefix('num_')}, so every sample needs a property {unit!r}; {where} has: "
            f"{listed(columns.names)}.{nearest(unit, columns.names)}"
        )
    if not pa.types.is_integer(columns.field(unit).type):
        raise ConfigError(
            f"mixture.unit is {unit.removeprefix('num_')}, but property {unit!r} is {columns.field(unit).type} in "
            f"{where}; it must be a whole number: cast it when the dataset is registered"
        )


def _word(predicates: Sequence[str]) -> str:
    bits = [f"CASE WHEN (\n{where}\n) THEN {1 << bit} ELSE 0 END" for bit, where in enumerate(predicates)]
    return " + ".join(f"CAST({bit} AS BIGINT)" for bit in bits)


def _check_units(counts: pa.Table, unit: Unit, version: int) -> None:
    missing = sum(counts["num_samples"].to_pylist()) - sum(counts["num_counted"].to_pylist())
    least = min(counts["least_units"].to_pylist(), default=0)
    if missing or least < 0:
        wrong = f"is null for {missing} samples" if missing else f"is negative ({least})"
        raise ConfigError(
            f"mixture.unit is {unit.value}, but property {unit.property_name!r} {wrong} in samples@{version}; "
            f"leave them out with mixture.filter: {unit.property_name} >= 0"
        )


def _check_components(plan: CellPlan, mixture: Mixture, version: int) -> None:
    component_C = plan.components(mixture)
    for index, component in enumerate(mixture.components):
        mine_C = component_C == index
        if component.weight and mine_C.any() and not plan.num_units_C[mine_C].any():
            raise ConfigError(
                f"mixture.components.{component.name} has weight {component.weight}, but its "
                f"{plan.num_samples_C[mine_C].sum()} samples hold no {mixture.unit.value} ({component.where}) in "
                f"samples@{version}"
            )
        if mine_C.any():
            continue
        matched = int(plan.num_samples_C[plan.matches_CP[:, plan.predicates.index(component.where)]].sum())
        why = f"all {matched} samples that match belong to components before it" if matched else "no sample matches"
        also = " after the filter" if mixture.filter else ""
        raise ConfigError(
            f"mixture.components.{component.name} is empty: {why}{also} ({component.where}) in samples@{version}"
        )


def _plan(
    counts: pa.Table, words: Sequence[str], predicates: tuple[str, ...], registrations: tuple[str, ...]
) -> CellPlan:
    words_EW = np.stack([counts[word].to_numpy() for word in words], axis=1).astype(np.int64)
    words_CW, cell_E = np.unique(words_EW, axis=0, return_inverse=True)
    ordinal = {registration: index for index, registration in enumerate(registrations)}
    registration_E = np.array([ordinal[r] for r in counts["registration"].to_pylist()], np.int64)
    key_E = np.stack([registration_E, counts["block"].to_numpy().astype(np.int64)], axis=1)
    key_B, block_E = np.unique(key_E.reshape(-1, 2), axis=0, return_inverse=True)
    samples_E = counts["num_samples"].to_numpy().astype(np.int64)
    units_E = counts["num_units"].to_numpy().astype(np.int64)
    order = np.lexsort((block_E.ravel(), cell_E.ravel()))
    cell_E, block_E = cell_E.ravel()[order].astype(np.int64), block_E.ravel()[order].astype(np.int64)
    samples_E, units_E = samples_E[order], units_E[order]
    num_cells = len(words_CW)
    bits = np.arange(len(predicates))
    return CellPlan(
        predicates=predicates,
        matches_CP=(words_CW[:, bits // _BITS_PER_WORD] >> (bits % _BITS_PER_WORD) & 1).astype(bool),
        words_CW=words_CW,
        registrations=registrations,
        block_registration_B=key_B[:, 0],
        block_number_B=key_B[:, 1],
        num_rows_B=np.bincount(block_E, samples_E, minlength=len(key_B)).astype(np.int64),
        entry_cell_E=cell_E,
        entry_block_E=block_E,
        entry_samples_E=samples_E,
        entry_units_E=units_E,
        num_samples_C=np.bincount(cell_E, samples_E, minlength=num_cells).astype(np.int64),
        num_units_C=np.bincount(cell_E, units_E, minlength=num_cells).astype(np.int64),
    )
