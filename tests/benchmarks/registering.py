"""How fast files are registered: beside a bare loop over the same files.

python -m tests.benchmarks.registering [megabytes]     default: 2,000 (five minutes, 12 GB of disk)
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from mixlake.catalog import Catalog, schema
from tests.benchmarks.corpus import write_documents
from tests.benchmarks.report import Line, alone, show

_PROPERTIES = {"language": "meta.language", "source": "meta.source"}
_COLUMNS = {"language": "language", "source": "source"}
_RUNS = 3
_ZSTD = pa.Codec("zstd", compression_level=3)
"""As the zstd command compresses where it is not told otherwise."""
_OF_ZSTD = 0.7
"""Of the speed of decompressing alone, on one core."""
_MAX_MEMORY_MB = 1000
_MAX_BYTES_PER_SAMPLE = 15


def main() -> None:
    num_bytes = (int(sys.argv[1]) if len(sys.argv) > 1 else 2000) * 1_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        documents, _ = alone(_generate_documents, folder, num_bytes)
        show(f"{documents:,} documents, {num_bytes / 1e6:,.0f} MB of JSON lines", _documents(folder, num_bytes))
        small, _ = alone(_generate_small, folder, num_bytes // 2)
        show(f"{small:,} records of about 150 bytes", _small(folder, small))
        rows, _ = alone(_generate_tables, folder, num_bytes // 200)
        show(f"{rows:,} rows of about 100 bytes", _tables(folder, rows))


def _documents(folder: Path, num_bytes: int) -> list[Line]:
    bare, _ = alone(_fastest, _loads, folder / "documents.jsonl")
    (ours, size), memory = alone(_register, folder, "documents.jsonl", _PROPERTIES)
    (counted, _), _ = alone(
        _register, folder, "documents.jsonl", {**_PROPERTIES, "num_chars": "character_length(text)"}
    )
    decompressed, _ = alone(_fastest, _decompress, folder / "documents.jsonl.zst")
    (compressed, _), compressed_memory = alone(_register, folder, "documents.jsonl.zst", _PROPERTIES)
    megabytes = num_bytes / 1e6
    return [
        _at_least("two properties; 1.2 times orjson.loads", megabytes / ours, 1.2 * megabytes / bare, "MB/s"),
        _at_least("number of characters too; orjson.loads", megabytes / counted, megabytes / bare, "MB/s"),
        _at_least(
            "zst, two properties; 0.7 times zstd", megabytes / compressed, _OF_ZSTD * megabytes / decompressed, "MB/s"
        ),
        _at_least("zst, of the speed of zstd", decompressed / compressed, _OF_ZSTD, ""),
        _at_most("index", size, _MAX_BYTES_PER_SAMPLE, "bytes per sample"),
        _at_most("peak memory", memory, _MAX_MEMORY_MB, "MB"),
        _at_most("peak memory, zst", compressed_memory, _MAX_MEMORY_MB, "MB"),
    ]


def _small(folder: Path, num: int) -> list[Line]:
    (ours, size), memory = alone(_register, folder, "small.jsonl", _PROPERTIES)
    return [
        _at_least("two properties", num / ours, 400_000, "samples/s"),
        _at_most("index", size, _MAX_BYTES_PER_SAMPLE, "bytes per sample"),
        _at_most("peak memory", memory, _MAX_MEMORY_MB, "MB"),
    ]


def _tables(folder: Path, num: int) -> list[Line]:
    lines = []
    for name in ("table.parquet", "table.arrow"):
        (seconds, size), memory = alone(_register, folder, name, _COLUMNS)
        lines += [
            _at_least(f"{name}, two properties", num / seconds, 1_500_000, "rows/s"),
            _at_most(f"{name}, index", size, _MAX_BYTES_PER_SAMPLE, "bytes per sample"),
            _at_most(f"{name}, peak memory", memory, _MAX_MEMORY_MB, "MB"),
        ]
    return lines


def _at_least(what: str, ours: float, limit: float, unit: str) -> Line:
    return Line(what=what, ours=ours, limit=limit, unit=unit, at_least=True)


def _at_most(what: str, ours: float, limit: float, unit: str) -> Line:
    return Line(what=what, ours=ours, limit=limit, unit=unit)


def _generate_documents(folder: Path, num_bytes: int) -> int:
    num = write_documents(folder / "documents.jsonl", max_bytes=num_bytes)
    with (folder / "documents.jsonl").open("rb") as plain, (folder / "documents.jsonl.zst").open("wb") as compressed:
        while chunk := plain.read(64 << 20):  # a frame each
            compressed.write(_ZSTD.compress(chunk, asbytes=True))
    return num


def _generate_small(folder: Path, num_bytes: int) -> int:
    num = num_bytes // 150
    with (folder / "small.jsonl").open("wb") as target:
        for index in range(num):
            record = {
                "id": index,
                "text": f"record {index} of {num}, some words of a text that is short",
                "meta": {"language": "de" if index % 3 else "en", "source": f"source {index % 7}"},
            }
            target.write(orjson.dumps(record) + b"\n")
    return num


def _generate_tables(folder: Path, num: int) -> int:
    per_batch = 100_000
    columns = pa.schema([("text", pa.string()), ("language", pa.string()), ("source", pa.string())])
    with (
        pq.ParquetWriter(folder / "table.parquet", columns) as parquet,
        pa.ipc.new_file(folder / "table.arrow", columns) as arrow,
    ):
        for start in range(0, num, per_batch):
            index = np.arange(start, min(num, start + per_batch))
            table = pa.table(
                {
                    "text": [f"row {i} of {num}, some words of a text that is short, and some more" for i in index],
                    "language": pa.array(["en", "de", "fr"]).take(pa.array(index % 3)),
                    "source": pa.array([f"source {i}" for i in range(7)]).take(pa.array(index % 7)),
                },
                schema=columns,
            )
            parquet.write_table(table)
            arrow.write_table(table)
    return num


def _fastest(action: Callable[[Path], None], path: Path) -> float:
    """Seconds of the fastest of some runs; the first also brings the file into the page cache."""
    seconds = []
    for _ in range(_RUNS):
        began = time.perf_counter()
        action(path)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _loads(path: Path) -> None:
    with path.open("rb") as lines:
        for line in lines:
            orjson.loads(line)


def _decompress(path: Path) -> None:
    with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
        while stream.read(1 << 20):
            pass


def _register(folder: Path, name: str, properties: dict[str, str]) -> tuple[float, float]:
    """Seconds of the fastest of some registrations, and bytes of the index per sample."""
    with tempfile.TemporaryDirectory(dir=folder) as lake:
        catalog = Catalog.create(f"{lake}/lake")

        def register(path: Path) -> None:
            catalog.register("docs", str(path), properties=properties, replace=True)

        seconds = _fastest(register, folder / name)
        files = catalog.lake.table(schema.SAMPLES).get_add_actions(flatten=True)
        num_bytes = sum(pa.table(files)["size_bytes"].to_pylist()) / _RUNS
        return seconds, num_bytes / catalog.dataset("docs").num_samples


if __name__ == "__main__":
    main()
