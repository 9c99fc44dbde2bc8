"""The index as planning reads it: where each sample is, what it answers to the predicates of a run, what it counts."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa
from datafusion import DataFrame, Expr, column

from mixlake.catalog import Catalog, ConfigError
from mixlake.catalog.errors import listed, nearest
from mixlake.catalog.sql import properties_first
from mixlake.mixing.consumed import Consumed
from mixlake.mixing.mixture import Unit
from mixlake.mixing.program import Program

BITS_PER_WORD = 62
ADDRESS = ("registration", "file_id", "block", "row", "byte_start", "byte_stop")
_REMEDIES = {
    "num_tokens": " Or give a tokenizer (or tokens_per_byte), to estimate it from num_bytes.",
    "num_bytes": " mixlake add-property name=num_bytes source='octet_length(text)' adds it.",
}
"""By property that counts units, what to do where there is none."""
CONSUMED = "word_consumed"
"""How often a row was drawn before the run began."""


def named_columns(predicates: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return those of some columns that predicates can be about: every name that is in them as a word, wherever.

    >>> named_columns(["language = 'kind'"], ["row", "kind", "language"])
    ['kind', 'language']
    """
    text = "\n".join(predicates).lower()
    return [name for name in columns if re.search(rf"(?<!\w){re.escape(name.lower())}(?!\w)", text)]


def index_frame(
    catalog: Catalog, program: Program, consumed: Consumed | None = None, *, values: Sequence[str] | None = None
) -> DataFrame:
    """Return the filtered samples with the columns that planning needs: address, answer words, units.

    Args:
        catalog: at the run's version.
        program: what the run draws.
        consumed: what was drawn before the run began; how often, is a word of its own.
        values: columns to return in place of the answers.

    Raises:
        ConfigError: the property that holds the units is missing.
    """
    samples = catalog.samples()
    if consumed is not None:
        samples = samples.with_column(CONSUMED, consumed.expression())
    unit = program.unit_property
    check_unit_property(samples.schema(), program.unit, unit, f"samples@{catalog.version}")
    if program.filter is not None:
        samples = samples.filter(samples.parse_sql_expr(program.filter))
    units = "CAST(1 AS BIGINT)" if unit is None else f'CAST("{unit}" AS BIGINT)'
    answers = word_expressions(samples, program.predicates, is_consumed=consumed is not None)
    if values is not None:
        answers = [column(f'"{name}"') for name in values if name not in ADDRESS]
    return samples.select(*ADDRESS, *answers, samples.parse_sql_expr(units).alias("units"))


def word_expressions(frame: DataFrame, predicates: Sequence[str], *, is_consumed: bool) -> list[Expr]:
    """Return the answers to predicates as whole numbers, some dozens in each; and how often a row was drawn before."""
    predicates = predicates or ("true",)
    words = [
        frame.parse_sql_expr(_word(predicates[start : start + BITS_PER_WORD])).alias(f"word_{number}")
        for number, start in enumerate(range(0, len(predicates), BITS_PER_WORD))
    ]
    return [*words, *([frame.parse_sql_expr(CONSUMED)] if is_consumed else [])]


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
        remedy = _REMEDIES.get(name, "")
        raise ConfigError(
            f"mixture.unit is {unit.value}, so every sample needs a property {name!r}; {where} has: "
            f"{listed(properties_first(columns.names))}.{nearest(name, columns.names)}{remedy}"
        )
    if not pa.types.is_integer(columns.field(name).type):
        raise ConfigError(
            f"mixture.unit is {unit.value}, but property {name!r} is {columns.field(name).type} in {where}; it must be "
            "a whole number: cast it when the dataset is registered"
        )


def _word(predicates: Sequence[str]) -> str:
    bits = [f"CASE WHEN (\n{where}\n) THEN {1 << bit} ELSE 0 END" for bit, where in enumerate(predicates)]
    return " + ".join(f"CAST({bit} AS BIGINT)" for bit in bits)
