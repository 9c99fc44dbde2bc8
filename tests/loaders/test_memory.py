"""What a worker holds in memory is bounded by ``cache_bytes``, however much it reads."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixlake.catalog import Catalog
from mixlake.loaders import make_loader
from mixlake.mixing import Run

_NUM_TEXTS, _TEXT_BYTES = 8000, 15_000
_CACHE_BYTES = 4 << 20
_EXPANSION = 3
"""Of what is decoded: groups of texts that are read, those that become batches, and what allocators keep."""
_FIXED_BYTES = 48 << 20
"""For chunks, code that is loaded when it is first used, and what allocators do not give back at once."""


def texts(numbers: range) -> Iterator[str]:
    return (f"{number:05} {'text ' * (_TEXT_BYTES // 5)}" for number in numbers)


def write(folder: Path, name: str) -> None:
    """Write 120 megabytes as eight files."""
    folder.mkdir()
    for number in range(8):
        mine = texts(range(number * _NUM_TEXTS // 8, (number + 1) * _NUM_TEXTS // 8))
        path = folder / f"{number}.{name}"
        if name == "parquet":
            pq.write_table(pa.table({"text": list(mine)}), path, row_group_size=50)  # a thousandth of the texts
            continue
        content = b"".join(orjson.dumps({"text": text}) + b"\n" for text in mine)
        path.write_bytes(pa.Codec("zstd").compress(content, asbytes=True) if name.endswith("zst") else content)


def held_bytes(workers: Mapping[str, int]) -> list[int]:
    """Return the memory that the worker holds as its own, until it has ended.

    Pages of files, which the kernel may take back whenever it wants, are not among it.
    """
    status = "".join(Path(f"/proc/{worker}/status").read_text(encoding="utf-8") for worker in workers.values())
    return [int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon")]


@pytest.mark.parametrize("name", ["jsonl", "jsonl.zst", "parquet"])
def test_a_worker_that_reads_for_long_holds_no_more_than_it_may(
    tmp_path: Path, name: str, workers: Callable[[], dict[str, int]]
) -> None:
    write(tmp_path / "data", name)
    catalog = Catalog.create(str(tmp_path / "lake"))
    catalog.register("data", str(tmp_path / "data"))
    run = Run.start(catalog, "run", {"components": {"all": {"where": "true", "weight": 1}}}, lanes=2, chunk_size=200)
    loader = make_loader(run, batch_size=20, tokenizer=None, num_workers=1, cache_bytes=_CACHE_BYTES, timeout=60)
    held: list[int] = []
    numbers: list[int] = []
    for batch in loader:
        numbers += [int(text[:5]) for text in batch["text"]]
        held += held_bytes(workers())
    assert sorted(numbers) == list(range(_NUM_TEXTS))
    assert len(held) > _NUM_TEXTS // 40
    assert max(held) - held[0] < _EXPANSION * _CACHE_BYTES + _FIXED_BYTES < _NUM_TEXTS * _TEXT_BYTES / 1.4
    half = len(held) // 2
    assert max(held[half:]) - max(held[:half]) < _FIXED_BYTES / 2  # nor does it grow with what is read
