"""Writes the index of files: an index row for every sample, in storage order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from mixlake.catalog.problems import Problems
from mixlake.catalog.properties import FieldWidenedError, PropertyColumns, PropertyTypes
from mixlake.catalog.records import FieldPath, IntArray, Problem, Progress
from mixlake.catalog.sample_writer import SampleWriter
from mixlake.catalog.scanning import Scan, ScannedBlock, probe_types, scan_files


@dataclass(frozen=True, kw_only=True, slots=True)
class Indexed:
    """What was found in the files."""

    num_samples_per_file: IntArray
    property_types: Mapping[str, pa.DataType]
    field_types: Mapping[FieldPath, pa.DataType]
    """Of the fields that records had."""
    assumed_types: Mapping[FieldPath, pa.DataType]
    """Of the fields whose types decide what an expression means; each holds all values that there were."""
    problems: Sequence[Problem]
    """What was left out."""


def index_files(scan: Scan, writer: SampleWriter, progress: Progress | None = None) -> Indexed:
    """Scan files and write an index row for every sample.

    It begins again, with what it has learned, when it meets a field whose type is wider than the records before let
    expect, and an expression uses the field: see `PropertyColumns`.

    Raises:
        DataError: something cannot be read, or a property cannot be computed, with ``on_error=raise``.
        ConfigError: an expression is not valid SQL.
    """
    known_types = probe_types(scan)
    while True:
        try:
            return _index_once(scan, known_types, writer, progress)
        except FieldWidenedError as widened:
            known_types[widened.path] = widened.kind
            writer.restart()


def _index_once(
    scan: Scan, known_types: Mapping[FieldPath, pa.DataType], writer: SampleWriter, progress: Progress | None
) -> Indexed:
    counts = np.zeros(len(scan.files), np.int64)
    total = sum(file.num_bytes for file in scan.files)
    types = PropertyTypes(scan.dataset, [prop.name for prop in scan.declared])
    met: dict[FieldPath, pa.DataType] = {}
    problems = Problems(scan.on_error)
    done = 0
    with closing(scan_files(scan, known_types)) as blocks:
        for block in blocks:
            if not isinstance(block, ScannedBlock):
                problems.found += block
                continue
            problems.found += block.problems
            for path, kind in block.field_types.items():
                met[path] = kind if pa.types.is_null(met.get(path, pa.null())) else met[path]
            if len(block.rows):
                rows = types.widen(block.rows, block.place, partial(_report, problems, block))
                writer.write(rows)
                counts += np.bincount(rows["file_id"].to_numpy(), minlength=len(counts))
            done += block.num_bytes
            if progress is not None:
                progress(min(done, total), total, "bytes")
    in_expressions = PropertyColumns(scan.dataset, scan.declared).in_expressions
    return Indexed(
        num_samples_per_file=counts,
        property_types=types.types,
        field_types=met,
        assumed_types={path: kind for path, kind in known_types.items() if path in in_expressions},
        problems=problems.found,
    )


def _report(problems: Problems, block: ScannedBlock, index: int, reason: str) -> None:
    problems.report(block.problem(index, reason))
