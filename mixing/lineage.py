"""Which samples are in a chunk, and which chunks have a sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from datafusion import DataFrame

from mixlake.catalog import Catalog, schema
from mixlake.catalog.sql import check_predicate, run_query
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


def chunks_of_samples(catalogs: Sequence[Catalog], predicate: str, whose_chunks: str) -> DataFrame:
    """Return a frame of the chunks that drew the samples which match a predicate (columns: see `Run.lineage`).

    Args:
        catalogs: of the run, whose samples the predicate is about, and of the runs that it goes on from. A sample is
            the same in all of them if its dataset, its file's URI and its number are.
        predicate: over the columns of `samples`.
        whose_chunks: predicate of the chunks.

    Raises:
        QueryError: the predicate is wrong.
    """
    catalog = catalogs[0]
    where = f"samples@{catalog.version}"
    check_predicate(catalog.samples(), predicate, "lineage", where)
    context = catalog.session([schema.SAMPLES, schema.FILES, schema.CHUNKS])
    is_alone = all(other.version == catalog.version for other in catalogs)
    if not is_alone:
        context.from_arrow(_files_of_all(catalogs), "files_of_all")
    query = (
        "WITH hits AS (SELECT dataset, registration, file_id, row FROM samples WHERE (\n" + predicate + "\n)), "
        "named AS (SELECT h.dataset, f.uri, h.registration, h.file_id, h.row FROM hits h "
        "JOIN files f ON f.registration = h.registration AND f.file_id = h.file_id), "
        + (
            "drawn AS (SELECT * FROM named), "
            if is_alone
            else "drawn AS (SELECT n.dataset, n.uri, o.registration, o.file_id, n.row FROM named n "
            "JOIN files_of_all o ON o.dataset = n.dataset AND o.uri = n.uri), "
        )
        + "pieces AS (SELECT chunk, weights_version, unnest(intervals) AS interval FROM chunks "
        f"WHERE {whose_chunks}) "
        "SELECT p.chunk, p.interval['component'] AS component, p.interval['pass'] AS pass, p.weights_version, "
        "d.dataset, d.registration, d.file_id, d.row, d.uri FROM drawn d "
        "JOIN pieces p ON p.interval['registration'] = d.registration AND p.interval['file_id'] = d.file_id "
        "AND d.row >= p.interval['row_start'] AND d.row < p.interval['row_stop'] "
        "ORDER BY chunk, dataset, d.file_id, d.row"
    )
    return run_query(context, query, f"catalog@{catalog.version}")


def _files_of_all(catalogs: Sequence[Catalog]) -> pa.Table:
    """Return dataset, registration, file_id and uri of every file of some catalog versions, each once."""
    tables = [c.sql("SELECT dataset, registration, file_id, uri FROM files").to_arrow_table() for c in catalogs]
    together = pa.concat_tables(tables)
    return together.group_by(together.column_names).aggregate([])
