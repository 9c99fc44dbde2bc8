"""The runs that a lake holds: their rows in `runs`."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
from datafusion import DataFrame

from mixlake.catalog import Catalog, LakeError, schema
from mixlake.catalog.errors import listed, nearest
from mixlake.catalog.lake import Fence, arrow_dataset
from mixlake.catalog.pins import closed_error, is_collected, pin_fence
from mixlake.mixing.run_config import RunConfig


def list_runs(catalog: Catalog) -> DataFrame:
    """Return a frame of all runs of the lake."""
    return catalog.sql(
        "SELECT run, catalog_version, seed, chunk_size, lanes, config_hash, created_at FROM runs ORDER BY run"
    )


def check_new(catalog: Catalog, name: str) -> None:
    """Refuse a name that a run has.

    Raises:
        LakeError: there is a run of that name.
    """
    if name in _names(catalog):
        raise LakeError(f"run {name!r} exists already in {catalog.lake.uri}; choose another name, or load it")


def read_config(catalog: Catalog, name: str) -> RunConfig:
    """Return what a run was declared with.

    Raises:
        LakeError: there is none of that name.
    """
    stored = arrow_dataset(catalog.lake.table(schema.RUNS)).to_table(filter=pads.field("run") == name)
    rows: list[dict[str, Any]] = stored.to_pylist()
    if not rows:
        names = _names(catalog)
        raise LakeError(f"no run {name!r} in {catalog.lake.uri}; there are: {listed(names)}.{nearest(name, names)}")
    return RunConfig.from_row(rows[0])


def write_config(catalog: Catalog, config: RunConfig) -> None:
    """Write a new run down, which keeps its catalog version from being collected.

    Raises:
        LakeError: there is a run of that name meanwhile, or the version has been collected.
    """
    row = pa.Table.from_pylist([config.to_row()], schema=schema.TABLES[schema.RUNS].columns)
    lake, version = catalog.lake, config.catalog_version
    fences = [Fence(application=f"run:{config.name}", seen=-1, number=0), pin_fence(version)]
    try:
        lake.append(schema.RUNS, row, action=f"start {config.name}", fence=fences)
    except LakeError as error:
        raise closed_error(lake, version) if is_collected(lake, version) else error from error


def _names(catalog: Catalog) -> list[str]:
    return sorted(arrow_dataset(catalog.lake.table(schema.RUNS)).to_table(columns=["run"])["run"].to_pylist())
