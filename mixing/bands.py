"""Bands of an ordered component: predicates that cut it, by a property, into parts of about equal size."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from datafusion import DataFrame

from mixlake.catalog import ConfigError
from mixlake.catalog.sql import unknown_property
from mixlake.mixing.components import OrderBy
from mixlake.mixing.program import Leaf

_MAX_PROBES = 200_000
"""Samples that the bands of a component are measured on."""


def find_bands(samples: DataFrame, leaf: Leaf, order: OrderBy, where: str) -> tuple[str, ...]:
    """Return the predicates of a component's bands, the first one's first.

    They are measured on samples that are chosen by their address, so that they are always the same. The last band has
    no predicate: it has what matches none, samples without a value or whose value is no number among them.

    Args:
        samples: those that pass the filter.
        leaf: the component.
        order: what it is ordered by.
        where: whose samples they are, for messages: ``samples@12``.

    Raises:
        ConfigError: there is no such property, or its values have no order.
    """
    names = samples.schema().names
    path = f"{leaf.path}.order_by"
    if order.property not in names:
        raise ConfigError(f"{path}: {unknown_property(order.property, names, where)}")
    kind = samples.schema().field(order.property).type
    if pa.types.is_nested(kind):
        raise ConfigError(
            f"{path}: property {order.property!r} is {kind} in {where}; expected numbers, text, dates, or true or false"
        )
    column = '"' + order.property.replace('"', '""') + '"'
    is_number = f" AND NOT isnan({column})" if pa.types.is_floating(kind) else ""
    conditions = [f"({p}\n)" for p in leaf.requires] + [f"(({p}\n) IS NOT TRUE)" for p in leaf.excludes]
    mine = samples.filter(samples.parse_sql_expr(" AND ".join([*conditions, f"{column} IS NOT NULL{is_number}"])))
    every = -(-mine.count() // _MAX_PROBES)
    if every > 1:
        mine = mine.filter(mine.parse_sql_expr(f"(row * 2654435761 + file_id * 40503) % {every} = 0"))
    values = np.sort(mine.select(order.property).to_arrow_table()[order.property].to_numpy())
    if order.descending:
        values = values[::-1]
    sign = ">=" if order.descending else "<="
    last = [-(-len(values) * band // order.bands) - 1 for band in range(1, order.bands)] if len(values) else []
    also = is_number if order.descending else ""  # for the engine, what is no number is above all numbers
    return tuple(f"{column} {sign} {_literal(cut)}{also}" for cut in dict.fromkeys(values[last]))


def _literal(value: object) -> str:
    if isinstance(value, (bool, np.bool_)):
        return str(value).lower()
    if isinstance(value, (float, np.floating)) and not np.isfinite(value):
        return f"CAST('{value}' AS DOUBLE)"
    if isinstance(value, (int, float, np.number)):
        return repr(value.item() if isinstance(value, np.number) else value)
    return "'" + str(value).replace("'", "''") + "'"
