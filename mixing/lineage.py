"""Which samples are in a chunk, and which chunks have a sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from datafusion import DataFrame

from mixlake.catalog import Catalog
from mixlake.catalog.sql import check_predicate
from mixlake.mixing.chunks import Chunk, Delivery


def chunk_samples(catalog: Catalog, chunk: Chunk, components: Sequence[str], order: Delivery) -> DataFrame:
    """Return a frame of a chunk's samples in delivery order (columns: see `Run.samples`)."""
    intervals = chunk.intervals
    addresses = pa.table(
        {
            "position": pa.array(np.arange(chunk.num_samples)),
            "component": pa.array(components).take(pa.array(order.component)),
            "registration": pa.array(chunk.registrations).take(pa.array(intervals.registration[order.interval])),
            "file_id": pa.array(intervals.file_id[order.interval], pa.int32()),
            "row": pa.array(order.row),
            "pass": pa.array(intervals.pass_number[order.interval], pa.int32()),
            "weights_version": pa.array(np.full(chunk.num_samples, chunk.weights_version)),
        }
    )
    context = catalog.session()
    context.from_arrow(addresses, "drawn")
    return context.sql(
        "SELECT d.position, d.component, f.dataset, d.registration, d.file_id, d.row, f.uri, d.pass, "
        "d.weights_version FROM drawn d "
        "JOIN files f ON d.registration = f.registration AND d.file_id = f.file_id ORDER BY d.position"
    )


def chunks_of_samples(catalog: Catalog, predicate: str, whose_chunks: str) -> DataFrame:
    """Return a frame of the chunks that drew the samples which match a predicate (columns: see `Run.lineage`).

    Raises:
        QueryError: the predicate is wrong.
    """
    check_predicate(catalog.samples(), predicate, "lineage", f"samples@{catalog.version}")
    return catalog.sql(
        "WITH hits AS (SELECT dataset, registration, file_id, row FROM samples WHERE (\n" + predicate + "\n)), "
        "pieces AS (SELECT chunk, weights_version, unnest(intervals) AS interval FROM chunks "
        f"WHERE {whose_chunks}) "
        "SELECT p.chunk, p.interval['component'] AS component, p.interval['pass'] AS pass, p.weights_version, "
        "h.dataset, h.registration, h.file_id, h.row, f.uri FROM hits h "
        "JOIN pieces p ON p.interval['registration'] = h.registration AND p.interval['file_id'] = h.file_id "
        "AND h.row >= p.interval['row_start'] AND h.row < p.interval['row_stop'] "
        "JOIN files f ON f.registration = h.registration AND f.file_id = h.file_id "
        "ORDER BY chunk, dataset, h.file_id, h.row"
    )
