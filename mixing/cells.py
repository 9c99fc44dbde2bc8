"""Cells: samples that answer every predicate of a run alike, counted per block with one aggregate query.

Planning holds no list of samples: per cell and block it knows how many there are and how many units they hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datafusion import DataFrame, Expr, column

from mixlake.catalog import Catalog, ConfigError, QueryError
from mixlake.catalog.errors import listed, nearest
from mixlake.catalog.records import IntArray
from mixlake.catalog.sql import first_line
from mixlake.mixing.mixture import Unit
from mixlake.mixing.program import Leaf, Program

_BITS_PER_WORD = 62
_ADDRESS = ("registration", "file_id", "block", "row", "byte_start", "byte_stop")
CONSUMED = "word_consumed"
"""How often a row was drawn before the run began."""


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
    num_samples_C: IntArray
    num_units_C: IntArray
    num_passes_C: IntArray
    """How often the cell's samples were drawn before the run began: by those that it goes on from."""

    @property
    def num_cells(self) -> int:
        """The number of cells."""
        return len(self.num_samples_C)

    def owners(self, leaves: Sequence[Leaf]) -> IntArray:
        """Return which of some components each cell belongs to: the first that it matches, or -1."""
        column = {predicate: index for index, predicate in enumerate(self.predicates)}
        requires_PL, excludes_PL = (np.zeros((len(column), len(leaves)), np.float32) for _ in range(2))
        for index, leaf in enumerate(leaves):
            requires_PL[[column[predicate] for predicate in leaf.requires], index] = 1
            excludes_PL[[column[predicate] for predicate in leaf.excludes], index] = 1
        matches_CP = self.matches_CP.astype(np.float32)
        is_all_CL = matches_CP @ requires_PL == requires_PL.sum(axis=0)
        owned_CL = is_all_CL & (matches_CP @ excludes_PL == 0)
        return np.where(owned_CL.any(axis=1), owned_CL.argmax(axis=1), -1).astype(np.int64)

    def matching(self, leaf: Leaf) -> npt.NDArray[np.bool_]:
        """Return which cells match what a component is declared as, whether they belong to it or not."""

        def columns(predicates: Sequence[str]) -> list[int]:
            return [self.predicates.index(predicate) for predicate in predicates]

        is_required = self.matches_CP[:, columns(leaf.requires)].all(axis=1)
        is_left_over = ~self.matches_CP[:, columns(leaf.excludes if leaf.is_rest else ())].any(axis=1)
        return np.asarray(is_required & is_left_over)


def index_frame(
    catalog: Catalog, program: Program, consumed: pa.Table | None = None, *, values: Sequence[str] | None = None
) -> DataFrame:
    """Return the filtered samples with the columns that planning needs: address, answer words, units.

    Args:
        catalog: at the run's version.
        program: what the run draws.
        consumed: rows that were drawn before the run began, and how many times, in a word of their own.
        values: columns to return in place of the answers.

    Raises:
        ConfigError: the property that holds the units is missing.
    """
    samples = catalog.samples() if consumed is None else _with_consumed(catalog, consumed)
    unit = program.unit_property
    check_unit_property(samples.schema(), program.unit, unit, f"samples@{catalog.version}")
    if program.filter is not None:
        samples = samples.filter(samples.parse_sql_expr(program.filter))
    units = "CAST(1 AS BIGINT)" if unit is None else f'CAST("{unit}" AS BIGINT)'
    answers = word_expressions(samples, program.predicates, is_consumed=consumed is not None)
    if values is not None:
        answers = [column(f'"{name}"') for name in values if name not in _ADDRESS]
    return samples.select(*_ADDRESS, *answers, samples.parse_sql_expr(units).alias("units"))


def word_expressions(frame: DataFrame, predicates: Sequence[str], *, is_consumed: bool) -> list[Expr]:
    """Return the answers to predicates as whole numbers, some dozens in each; and how often a row was drawn before."""
    predicates = predicates or ("true",)
    words = [
        frame.parse_sql_expr(_word(predicates[start : start + _BITS_PER_WORD])).alias(f"word_{number}")
        for number, start in enumerate(range(0, len(predicates), _BITS_PER_WORD))
    ]
    return [*words, *([frame.parse_sql_expr(CONSUMED)] if is_consumed else [])]


def _with_consumed(catalog: Catalog, consumed: pa.Table) -> DataFrame:
    context = catalog.session()
    context.from_arrow(consumed, "consumed")
    return context.sql(
        f"SELECT s.*, coalesce(c.times, 0) AS {CONSUMED} FROM samples s LEFT JOIN consumed c "
        "ON s.registration = c.registration AND s.file_id = c.file_id AND s.row = c.row"
    )


def find_cells(catalog: Catalog, program: Program, consumed: pa.Table | None = None) -> CellPlan:
    """Find the cells of a program and count them per block; rows that were consumed equally often are apart.

    Raises:
        QueryError: the filter or a predicate fails on a sample.
        ConfigError: samples lack the property that the unit counts.
    """
    frame = index_frame(catalog, program, consumed)
    words = [name for name in frame.schema().names if name.startswith("word_")]
    counts = _count(frame, ["registration", "block", *words], f"samples@{catalog.version}")
    _check_units(counts, program, catalog.version)
    return _plan(counts, words, program.predicates, _registrations(catalog))


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


def check_unit_property(columns: pa.Schema, unit: Unit, name: str | None, where: str) -> None:
    """Refuse a unit whose property is missing or holds no whole numbers.

    Args:
        columns: of the samples.
        unit: what the mixture counts.
        name: the property that counts it; None where every sample counts one.
        where: whose columns they are, for messages.
    """
    if name is None:
        return
    if name not in columns.names:
        estimate = (
            "; or give a tokenizer (or tokens_per_byte), to estimate it from num_bytes" if name == "num_tokens" else ""
        )
        raise ConfigError(
            f"mixture.unit is {unit.value}, so every sample needs a property {name!r}; {where} has: "
            f"{listed(columns.names)}.{nearest(name, columns.names)}{estimate}"
        )
    if not pa.types.is_integer(columns.field(name).type):
        raise ConfigError(
            f"mixture.unit is {unit.value}, but property {name!r} is {columns.field(name).type} in {where}; it must be "
            "a whole number: cast it when the dataset is registered"
        )


def _word(predicates: Sequence[str]) -> str:
    bits = [f"CASE WHEN (\n{where}\n) THEN {1 << bit} ELSE 0 END" for bit, where in enumerate(predicates)]
    return " + ".join(f"CAST({bit} AS BIGINT)" for bit in bits)


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
        num_samples_C=np.bincount(cell_E, samples_E, minlength=num_cells).astype(np.int64),
        num_units_C=np.bincount(cell_E, units_E, minlength=num_cells).astype(np.int64),
        num_passes_C=words_CW[:, -1] if words[-1] == CONSUMED else np.zeros(num_cells, np.int64),
    )
