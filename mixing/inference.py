"""Weights that are inferred from how much there is: natural shares, temperature, floors, UniMax."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datafusion import DataFrame

from mixlake.catalog import ConfigError
from mixlake.catalog.errors import listed
from mixlake.catalog.sql import unknown_property
from mixlake.mixing.mixture import Inference, UniMax
from mixlake.mixing.simplex import within

FloatArray = npt.NDArray[np.float64]
_MAX_COMPONENTS = 4_096


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The samples that have one combination of values."""

    name: str
    predicates: tuple[str, ...]
    """One for each property."""
    num_units: int


def find_groups(samples: DataFrame, by: Sequence[str], units: str, path: str, where: str) -> list[Group]:
    """Return the combinations of values that some properties have, ordered by value, none first.

    Args:
        samples: the samples, filtered.
        by: the properties, of any type: lists are equal where all of their items are.
        units: SQL expression of what a sample counts.
        path: where ``by`` is declared.
        where: what is queried, for messages.

    Raises:
        ConfigError: a property is unknown, or there are too many combinations.
    """
    columns = samples.schema()
    for name in by:
        if name not in columns.names:
            raise ConfigError(f"{path}: {unknown_property(name, columns.names, where)}")
    keys = [_Key.of(columns.field(name)) for name in by]
    grouped = samples.aggregate(
        [samples.parse_sql_expr(key.expression).alias(f"key_{number}") for number, key in enumerate(keys)],
        [samples.parse_sql_expr(f"sum({units})").alias("units")],
    ).to_arrow_table()
    if len(grouped) > _MAX_COMPONENTS:
        raise ConfigError(
            f"{path}: there are {len(grouped):,} combinations of values of {listed(by)} in {where}; at most "
            f"{_MAX_COMPONENTS:,} can be components: leave a property out, or make a coarser one"
        )
    rows = sorted(grouped.to_pylist(), key=lambda row: [_sort_key(row[f"key_{n}"]) for n in range(len(keys))])
    return list(_groups(rows, keys, path))


def inferred_shares(num_units_K: Sequence[float], inference: Inference, path: str) -> list[float]:
    """Return the shares of K components that hold some units each; those that hold none have none.

    Raises:
        ConfigError: the floor is more than there is to share.
    """
    units = np.asarray(num_units_K, np.float64)
    holds = units > 0
    if not holds.any():
        raise ConfigError(f"{path}: no component holds any units")
    shares = np.zeros(len(units))
    if inference.unimax is not None:
        shares[holds] = unimax(units[holds], inference.unimax)
    else:
        if inference.floor * holds.sum() > 1:
            raise ConfigError(
                f"{path}.floor is {inference.floor:g}, but there are {holds.sum()} components: at most "
                f"{1 / holds.sum():.4g} is possible"
            )
        shares[holds] = within(tempered(units[holds], inference.temperature), inference.floor, 1.0)
    return [float(share) for share in shares]


def tempered(units_K: FloatArray, temperature: float) -> FloatArray:
    """Return shares in proportion to units^(1/temperature).

    >>> tempered(np.array([1.0, 9.0]), 2.0).tolist()
    [0.25, 0.75]
    """
    logs = np.log(units_K) / temperature
    weights = np.exp(logs - logs.max())
    shares: FloatArray = weights / weights.sum()
    return shares


def unimax(units_K: FloatArray, rule: UniMax) -> FloatArray:
    """Return the shares of algorithm 1 of Chung et al. 2023, arXiv 2304.09151.

    The budget is shared out evenly, the smallest component first; none gets more than its passes hold, and what it does
    not take is left for the larger ones.

    >>> unimax(np.array([10.0, 100.0, 1000.0]), UniMax(budget=300, max_passes=4)).round(3).tolist()
    [0.133, 0.433, 0.433]
    """
    taken = np.zeros(len(units_K))
    budget = rule.budget
    for place, index in enumerate(np.argsort(units_K, kind="stable")):
        taken[index] = min(budget / (len(units_K) - place), units_K[index] * rule.max_passes)
        budget -= taken[index]
    shares: FloatArray = taken / taken.sum()
    return shares


@dataclass(frozen=True, kw_only=True, slots=True)
class _Key:
    """How a property's values are grouped and told in SQL."""

    column: str
    expression: str
    is_plain: bool
    """Whether values are written as they are, as numbers and truths are."""

    @classmethod
    def of(cls, field: pa.Field) -> _Key:
        column = '"' + field.name.replace('"', '""') + '"'
        is_plain = pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)
        is_text = pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        is_text = is_text or pa.types.is_string_view(field.type)
        expression = column if is_plain or is_text else f"CAST({column} AS VARCHAR)"
        return cls(column=column, expression=expression, is_plain=is_plain)

    def predicate(self, value: object) -> str:
        """Return the predicate that holds for samples of a value."""
        if value is None:
            return f"{self.column} IS NULL"
        literal = _shown(value) if self.is_plain else "'" + str(value).replace("'", "''") + "'"
        return f"{self.expression} = {literal}"


def _groups(rows: Sequence[dict[str, object]], keys: Sequence[_Key], path: str) -> Iterator[Group]:
    seen: dict[str, tuple[object, ...]] = {}
    for row in rows:
        values = tuple(row[f"key_{number}"] for number in range(len(keys)))
        name = ".".join(map(_shown, values))
        if name in seen:
            raise ConfigError(f"{path}: {values} and {seen[name]} would both be called {name!r}; rename a value")
        seen[name] = values
        units = row["units"]
        assert isinstance(units, int) or units is None
        yield Group(
            name=name,
            predicates=tuple(key.predicate(value) for key, value in zip(keys, values, strict=True)),
            num_units=units or 0,
        )


def _shown(value: object) -> str:
    if value is None:
        return "(none)"
    return str(value).lower() if isinstance(value, bool) else str(value) or "(empty)"


def _sort_key(value: object) -> tuple[bool, bool, float, str]:
    is_number = isinstance(value, (int, float))
    return value is not None, not is_number, float(value) if isinstance(value, (int, float)) else 0.0, str(value)
