"""The bytes and tokens that cells hold, whatever a mixture counts: for people who want to know."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from datafusion import column

from mixlake.catalog import Catalog
from mixlake.catalog.records import IntArray
from mixlake.mixing.answers import find_rows
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.index_frames import word_expressions
from mixlake.mixing.mixture import Unit
from mixlake.mixing.program import Program


def find_contents(catalog: Catalog, program: Program, plan: CellPlan) -> Mapping[str, IntArray]:
    """Return what each cell holds, by name: bytes and tokens, as far as samples have properties that count them.

    Samples without a value hold none.

    Args:
        catalog: at the plan's version.
        program: what the plan is for.
        plan: the cells.
    """
    samples = catalog.samples()
    columns = samples.schema()
    names = {unit.value: unit.property_name for unit in (Unit.BYTES, Unit.TOKENS)}
    known = {unit: n for unit, n in names.items() if n in columns.names and pa.types.is_integer(columns.field(n).type)}
    if not known:
        return {}
    if program.filter is not None:
        samples = samples.filter(samples.parse_sql_expr(program.filter))
    counted = [samples.parse_sql_expr(f'CAST("{name}" AS BIGINT)').alias(unit) for unit, name in known.items()]
    answered = samples.select(*word_expressions(samples, plan.predicates, is_consumed=False), *counted)
    words = [name for name in answered.schema().names if name not in known]
    sums = [answered.parse_sql_expr(f"coalesce(sum({unit}), 0)").alias(unit) for unit in known]
    found = answered.aggregate([column(word) for word in words], sums).to_arrow_table()
    cell = find_rows(plan.words_CW, np.stack([found[word].to_numpy() for word in words], axis=1))
    contents = {}
    for unit in known:
        contents[unit] = np.zeros(plan.num_cells, np.int64)
        contents[unit][cell] = found[unit].to_numpy()
    return contents
