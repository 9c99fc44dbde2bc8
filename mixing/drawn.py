"""What a run has drawn, chunk by chunk and component by component: samples, and the units that its mixture counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixlake.catalog import schema
from mixlake.catalog.records import IntArray
from mixlake.mixing.inference import FloatArray
from mixlake.mixing.quotas import SCALE
from mixlake.mixing.run import Run


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Drawn:
    """What was drawn. N chunks that are scheduled, K components of the run."""

    chunk_N: IntArray
    stage_N: IntArray
    weights_version_N: IntArray
    samples_NK: FloatArray
    units_NK: FloatArray
    """Bytes or tokens, as the mixture counts them; samples where it counts these."""
    weights_NK: FloatArray
    """The weights in force: parts of 1."""

    @property
    def asked(self) -> FloatArray:
        """The weights in force on average over the units that were drawn, shape (K,)."""
        units_N = self.units_NK.sum(axis=1)
        return np.asarray(units_N @ self.weights_NK / max(units_N.sum(), 1e-300), np.float64)

    @property
    def shares(self) -> FloatArray:
        """Each component's part of all units, shape (K,)."""
        return np.asarray(self.units_NK.sum(axis=0) / max(self.units_NK.sum(), 1e-300), np.float64)


def drawn(run: Run) -> Drawn:
    """Return what the chunks of a run have drawn, those of the runs that it goes on from included."""
    chunks = pa.concat_tables(_chunks(part, first, stop) for part, first, stop in _parts(run)).sort_by("chunk")
    counts = pa.concat_tables(_counts(part, first, stop) for part, first, stop in _parts(run))
    chunk_N = chunks["chunk"].to_numpy()
    place = np.searchsorted(chunk_N, counts["chunk"].to_numpy())
    component = pc.index_in(counts["component"], pa.array(run.components)).to_numpy()
    samples_NK, units_NK = (np.zeros((len(chunk_N), len(run.components))) for _ in range(2))
    samples_NK[place, component] = counts["num_samples"].to_numpy()
    units_NK[place, component] = counts["num_units"].to_numpy()
    ratios = run.program.tokens_per_byte
    if ratios is not None:
        units_NK *= [ratios.get(name, 0.0) for name in run.components]
    versions = chunks["weights_version"].to_numpy()
    weights = {version: np.array(run.shares(version)) / SCALE for version in np.unique(versions).tolist()}
    return Drawn(
        chunk_N=chunk_N,
        stage_N=chunks["stage"].to_numpy(),
        weights_version_N=versions,
        samples_NK=samples_NK,
        units_NK=units_NK,
        weights_NK=np.array([weights[version] for version in versions.tolist()]).reshape(samples_NK.shape),
    )


def _parts(run: Run, stop: int | None = None) -> Iterator[tuple[Run, int, int | None]]:
    """Yield the runs whose chunks a run has: each with its first one, and where they stop (None is not at all)."""
    first = run.config.at_chunk if run.parent is not None else 0
    if run.parent is not None:
        yield from _parts(run.parent, first if stop is None else min(first, stop))
    yield run, first, stop


def _where(run: Run, first: int, stop: int | None) -> str:
    return f"run = '{run.name}' AND chunk >= {first}" + ("" if stop is None else f" AND chunk < {stop}")


def _chunks(run: Run, first: int, stop: int | None) -> pa.Table:
    where = _where(run, first, stop)
    return run.catalog.sql(f"SELECT chunk, stage, weights_version FROM chunks WHERE {where}").to_arrow_table()


def _counts(run: Run, first: int, stop: int | None) -> pa.Table:
    """Return, by chunk and component, the samples and the units before any estimate."""
    pieces = f"SELECT chunk, unnest(intervals) AS piece FROM chunks WHERE {_where(run, first, stop)}"
    rows = (
        "SELECT chunk, piece['component'] AS component, piece['registration'] AS registration, "
        f"piece['file_id'] AS file_id, piece['row_start'] AS first, piece['row_stop'] AS stop FROM ({pieces})"
    )
    unit = run.program.unit_property
    if unit is None:
        query = (
            f"SELECT chunk, component, sum(stop - first) AS num_samples, sum(stop - first) AS num_units FROM ({rows})"
        )
    else:
        query = (
            "SELECT chunk, component, count(*) AS num_samples, sum(s.num_units) AS num_units FROM "
            f"(SELECT chunk, component, registration, file_id, unnest(range(first, stop)) AS row FROM ({rows})) d "
            f"JOIN (SELECT registration, file_id, row, {unit} AS num_units FROM samples) s "
            "ON s.registration = d.registration AND s.file_id = d.file_id AND s.row = d.row"
        )
    context = run.catalog.session([schema.SAMPLES, schema.CHUNKS])
    return context.sql(f"{query} GROUP BY chunk, component").to_arrow_table()
