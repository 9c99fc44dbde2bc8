"""Read amplification: bytes decoded over bytes delivered, all ranks together, properties alternating from row to row.

python -m tests.benchmarks.reading [chunk_size …]     default: the default chunk size, and one chosen for the blocks
"""

import functools
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mixlake.catalog import Catalog
from mixlake.loaders import SampleDataset
from mixlake.mixing import Run
from tests.benchmarks.generated import LANGUAGES, SHARES, five_components
from tests.benchmarks.report import Line, alone, show

_LANES = 8
_NUM_SAMPLES = 400_000
_ROWS_PER_GROUP = 10_000
_TEXT_BYTES = 200
_CHUNK_SIZES = (1_024, 81_920)


def generate(folder: str) -> None:
    """Write samples as Parquet and register them."""
    random = np.random.Generator(np.random.Philox(0))
    languages = np.array(LANGUAGES)[np.searchsorted(np.cumsum(SHARES)[:-1], random.random(_NUM_SAMPLES), side="right")]
    texts = [f"{number:0{_TEXT_BYTES}}" for number in range(_NUM_SAMPLES)]
    data = Path(folder) / "data"
    data.mkdir()
    table = pa.table({"text": texts, "language": languages.tolist()})
    pq.write_table(table, data / "0.parquet", row_group_size=_ROWS_PER_GROUP)
    Catalog.create(f"{folder}/lake").register("data", str(data), properties={"language": "language"})


def decoded_and_delivered(folder: str, chunk_size: int, rank: int) -> tuple[int, int]:
    """Read a whole run as one of eight ranks; return the bytes that were decoded and those of the texts delivered."""
    catalog = Catalog.open(f"{folder}/lake")
    run = Run.load(catalog, f"run-{chunk_size}")
    decoded = 0
    read = pq.ParquetFile.read_row_group

    @functools.wraps(read)
    def counted(*arguments: object, **options: object) -> pa.Table:
        nonlocal decoded
        table = read(*arguments, **options)
        decoded += table.num_rows * _TEXT_BYTES
        return table

    pq.ParquetFile.read_row_group = counted
    delivered = sum(len(sample["text"]) for sample in SampleDataset(run, rank=rank, world_size=_LANES))
    return decoded, delivered


def schedule(folder: str, chunk_size: int) -> None:
    catalog = Catalog.open(f"{folder}/lake")
    run = Run.start(catalog, f"run-{chunk_size}", five_components(), chunk_size=chunk_size, lanes=_LANES)
    run.schedule(1 << 20)


def main() -> None:
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        alone(generate, folder)
        for chunk_size in [int(argument) for argument in sys.argv[1:]] or _CHUNK_SIZES:
            alone(schedule, folder, chunk_size)
            ranks = [alone(decoded_and_delivered, folder, chunk_size, rank)[0] for rank in range(_LANES)]
            decoded, delivered = (sum(part) for part in zip(*ranks, strict=True))
            label = f"Parquet, row groups of {_ROWS_PER_GROUP:,}, chunks of {chunk_size:,}"
            lines.append(Line(what=label, ours=decoded / delivered, limit=1.5, unit="times"))
    show(f"Bytes decoded over bytes delivered, {_LANES} ranks", lines)


if __name__ == "__main__":
    main()
