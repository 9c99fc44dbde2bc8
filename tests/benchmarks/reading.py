"""Read amplification: bytes decoded over bytes delivered, all ranks together, properties alternating from row to row.

python -m tests.benchmarks.reading [samples …]     default: 0.5 and 2 million
"""

import functools
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mixlake.catalog import Catalog
from mixlake.loaders import SampleDataset
from mixlake.mixing import Run, explain
from tests.benchmarks.generated import LANGUAGES, SHARES, five_components
from tests.benchmarks.report import Line, alone, show

_LANES = 8
_ROWS_PER_GROUP = 10_000
_TEXT_BYTES = 200
_SCHEMA = pa.schema([("text", pa.string()), ("language", pa.string())])
_LIMITS = {"parquet": 1.5, "jsonl": 1.1}


def generate(folder: str, num_samples: int, format: str) -> None:
    """Write samples and register them."""
    random = np.random.Generator(np.random.Philox(0))
    data = Path(folder) / "data"
    data.mkdir()
    tables = (_table(first, random) for first in range(0, num_samples, _ROWS_PER_GROUP))
    if format == "parquet":
        with pq.ParquetWriter(data / "0.parquet", _SCHEMA) as writer:
            for table in tables:
                writer.write_table(table)
    else:
        with open(data / "0.jsonl", "w", encoding="utf-8") as file:
            for table in tables:
                file.writelines(f"{json.dumps(record)}\n" for record in table.to_pylist())
    Catalog.create(f"{folder}/lake").register("data", str(data), properties={"language": "language"})


def _table(first: int, random: np.random.Generator) -> pa.Table:
    bounds = np.cumsum(SHARES)[:-1]
    languages = np.array(LANGUAGES)[np.searchsorted(bounds, random.random(_ROWS_PER_GROUP), side="right")]
    texts = [f"{number:0{_TEXT_BYTES}}" for number in range(first, first + _ROWS_PER_GROUP)]
    return pa.table([texts, languages.tolist()], schema=_SCHEMA)


def schedule(folder: str) -> float:
    """Draw everything; return the amplification that `explain` foretells where blocks are decoded as a whole."""
    catalog = Catalog.open(f"{folder}/lake")
    Run.start(catalog, "run", five_components(), lanes=_LANES).schedule(1 << 20)
    return explain(catalog, five_components(), lanes=_LANES).locality.read_amplification


@contextmanager
def counting(counts: list[int]) -> Iterator[None]:
    """Count the bytes of texts in decoded row groups, and those that are read from line files."""
    read_row_group, pread = pq.ParquetFile.read_row_group, os.pread

    @functools.wraps(read_row_group)
    def counted_group(*arguments: Any, **options: Any) -> pa.Table:
        table = read_row_group(*arguments, **options)
        counts.append(table.num_rows * _TEXT_BYTES)
        return table

    def counted_bytes(*arguments: Any) -> bytes:
        content = pread(*arguments)
        counts.append(len(content))
        return content

    pq.ParquetFile.read_row_group, os.pread = counted_group, counted_bytes
    try:
        yield
    finally:
        pq.ParquetFile.read_row_group, os.pread = read_row_group, pread


def decoded_bytes(folder: str, rank: int) -> tuple[int, int]:
    """Read a whole run as one of eight ranks, all settings left as they are; return bytes decoded, and samples."""
    run = Run.load(Catalog.open(f"{folder}/lake"), "run")
    counts: list[int] = []
    with counting(counts):
        num = sum(1 for _ in SampleDataset(run, rank=rank, world_size=_LANES))
    return sum(counts), num


def measure(num_samples: int, format: str) -> list[Line]:
    with tempfile.TemporaryDirectory() as folder:
        alone(generate, folder, num_samples, format)
        expected, _ = alone(schedule, folder)
        ranks = [alone(decoded_bytes, folder, rank)[0] for rank in range(_LANES)]
        is_parquet = format == "parquet"
        size = num_samples * _TEXT_BYTES if is_parquet else (Path(folder) / "data/0.jsonl").stat().st_size
    decoded, delivered = (sum(part) for part in zip(*ranks, strict=True))
    assert delivered == num_samples
    label = f"{num_samples / 1e6:g} million samples, {format}"
    if not is_parquet:
        return [Line(what=label, ours=decoded / size, limit=_LIMITS[format], unit="times")]
    groups = f"{label}, row groups of {_ROWS_PER_GROUP:,}"
    difference = abs(expected / (decoded / size) - 1)
    return [
        Line(what=groups, ours=decoded / size, limit=_LIMITS[format], unit="times"),
        Line(what="what explain foretells is off by", ours=100 * difference, limit=10, unit="%"),
    ]


def main() -> None:
    sizes = [int(argument) for argument in sys.argv[1:]] or [500_000, 2_000_000]
    lines = [line for size in sizes for format in _LIMITS for line in measure(size, format)]
    show(f"Bytes decoded over bytes delivered, {_LANES} ranks", lines)


if __name__ == "__main__":
    main()
