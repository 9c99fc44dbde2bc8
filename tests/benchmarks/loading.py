"""How fast samples are loaded: a five-way mixture of documents, ours in place, others from their converted copies.

python -m tests.benchmarks.loading [megabytes] [folder]     default: 150, and mixlake-peers among the temporary files

What arrives is the same everywhere: a ``str`` per document, from five components by weight, in shuffled order. Every
number is beside that of a bare loop over the same ranges in one process: `pread` and `orjson`, decompression and
`orjson`, or decoded row groups turned into strings; and all are below that of making strings of UTF-8 that is there.
Peers are installed from the package index, one environment each, which the folder keeps.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from mixlake.catalog import Catalog
from mixlake.loaders import SampleDataset, make_loader
from mixlake.mixing import Run
from tests.benchmarks import loading_peers
from tests.benchmarks.corpus import write_documents
from tests.benchmarks.report import alone

_WEIGHTS = {"one": 0.3, "two": 0.25, "three": 0.2, "four": 0.15, "five": 0.1}
_NUM_FILES = 8
_RUNS = 3
"""The fastest of which counts: other processes only slow them down."""
_PACKAGES = {
    "hf_streaming": ["datasets"],
    "hf_arrow": ["datasets"],
    "mosaic": ["mosaicml-streaming"],
    "litdata": ["litdata"],
    "webdataset": ["webdataset"],
    "grain": ["grain", "array-record"],
    "zephon": ["zephon"],
}
_NEEDS_ITS_OWN_TORCH = {"mosaic"}
"""It loads torchvision's operators, made for one build of torch each. The others use Mixlake's torch."""
_FORMATS = ("jsonl", "zst", "parquet")


def prepare(folder: Path, num_bytes: int) -> float:
    """Write the documents as five components, and all of them mixed up in three formats; return million characters."""
    write_documents(folder / "documents.jsonl", max_bytes=num_bytes)
    lines = (folder / "documents.jsonl").read_bytes().splitlines()
    lines = [lines[index * 7919 % len(lines)] for index in range(len(lines))]  # so that files hold all languages
    names = [name for name, weight in _WEIGHTS.items() for _ in range(round(20 * weight))]
    rows: list[dict[str, Any]] = [
        {"text": orjson.loads(line)["text"], "part": part} for line, part in zip(lines, cycle(names), strict=False)
    ]
    for name in _WEIGHTS:
        mine = [orjson.dumps(row) for row in rows if row["part"] == name]
        (folder / "components" / name).mkdir(parents=True)
        for number in range(4):
            (folder / "components" / name / f"{number}.jsonl").write_bytes(b"\n".join(mine[number::4]) + b"\n")
    for kind in _FORMATS:
        (folder / kind).mkdir()
    for number in range(_NUM_FILES):
        mixed = rows[number::_NUM_FILES]
        content = b"".join(orjson.dumps(row) + b"\n" for row in mixed)
        (folder / "jsonl" / f"{number}.jsonl").write_bytes(content)
        (folder / "zst" / f"{number}.jsonl.zst").write_bytes(pa.Codec("zstd").compress(content, asbytes=True))
        pq.write_table(pa.Table.from_pylist(mixed), folder / "parquet" / f"{number}.parquet", row_group_size=1000)
    (folder / "weights.json").write_text(json.dumps(_WEIGHTS))
    return sum(len(row["text"]) for row in rows) / 1e6


def register(folder: Path, kind: str) -> float:
    """Register the documents of a format and schedule a run; return the seconds that registration took."""
    begun = time.perf_counter()
    catalog = Catalog.create(str(folder / f"lake-{kind}"))
    catalog.register("documents", str(folder / kind), properties={"part": "part"})
    seconds = time.perf_counter() - begun
    components = {name: {"where": f"part = '{name}'", "weight": weight} for name, weight in _WEIGHTS.items()}
    Run.start(catalog, "run", {"components": components, "on_exhausted": "redistribute"}, lanes=8).schedule(1 << 20)
    return seconds


def _run(folder: Path, kind: str) -> Run:
    return Run.load(Catalog.open(str(folder / f"lake-{kind}")), "run")


def ours(folder: Path, kind: str, workers: int) -> tuple[float, float]:
    """Return characters per second after the first sample, of the faster of two passes, and the seconds until it."""
    passes = []
    for _ in range(2):
        run = _run(folder, kind)
        begun = time.perf_counter()
        texts = _texts(run, workers)
        assert type(next(texts)) is str
        first = time.perf_counter() - begun
        begun = time.perf_counter()
        num = sum(map(len, texts))
        passes.append((num / (time.perf_counter() - begun), first))
    return max(passes)


def _texts(run: Run, workers: int) -> Iterator[str]:
    if not workers:
        yield from (sample["text"] for sample in SampleDataset(run))
        return
    for batch in make_loader(run, batch_size=loading_peers.BATCH, tokenizer=None, num_workers=workers):
        yield from batch["text"]


def bare(folder: Path, kind: str) -> float:
    """Return characters per second of a loop that does nothing but read and parse, in one process."""
    texts: dict[str, Callable[[Path], Iterator[str]]] = {"jsonl": _ranges, "zst": _decompressed, "parquet": _decoded}
    passes = []
    for _ in range(2):
        begun = time.perf_counter()
        num = sum(map(len, texts[kind](folder)))
        passes.append(num / (time.perf_counter() - begun))
    return max(passes)


def decoding(folder: Path) -> float:
    """Return characters per second of making strings of documents that lie in memory as UTF-8."""
    content = b"".join(path.read_bytes() for path in sorted((folder / "jsonl").iterdir()))
    texts = [orjson.loads(line)["text"].encode() for line in content.splitlines()]
    passes = []
    for _ in range(3):
        begun = time.perf_counter()
        num = sum(len(str(text, "utf-8")) for text in texts)
        passes.append(num / (time.perf_counter() - begun))
    return max(passes)


def _ranges(folder: Path) -> Iterator[str]:
    run = _run(folder, "jsonl")
    files = run.catalog.sql("SELECT file_id, uri FROM files").to_pylist()
    opened = {file["file_id"]: os.open(file["uri"], os.O_RDONLY) for file in files}
    for chunk in run.chunks.read(0, 1 << 20):
        intervals = chunk.intervals
        columns = (intervals.file_id.tolist(), intervals.byte_start.tolist(), intervals.byte_stop.tolist())
        for file_id, start, stop in zip(*columns, strict=True):
            for line in os.pread(opened[file_id], stop - start, start).split(b"\n"):
                yield orjson.loads(line)["text"]


def _decompressed(folder: Path) -> Iterator[str]:
    for path in sorted((folder / "zst").iterdir()):
        with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
            for line in stream.read().splitlines():
                yield orjson.loads(line)["text"]


def _decoded(folder: Path) -> Iterator[str]:
    for path in sorted((folder / "parquet").iterdir()):
        with pq.ParquetFile(path) as parquet:
            for group in range(parquet.num_row_groups):
                yield from parquet.read_row_group(group, columns=["text"], use_threads=False)["text"].to_pylist()


def peer(name: str, folder: Path, environments: Path, workers: int, millions: float) -> dict[str, float] | str:
    """Run a peer in its environment, made where it is not there yet; return what it prints, or why it does not run."""
    python = environments / "-".join(_PACKAGES[name]) / "bin" / "python"
    if not python.exists():
        venv.create(python.parent.parent, with_pip=True)
        install = [str(python), "-m", "pip", "install", "-q", *_PACKAGES[name]]
        if name not in _NEEDS_ITS_OWN_TORCH:
            site = next((python.parent.parent / "lib").glob("python*")) / "site-packages"
            (site / "torch_of_mixlake.pth").write_text(str(Path(torch.__file__).parent.parent))
            constraints = python.parent.parent / "constraints.txt"
            constraints.write_text(f"torch=={torch.__version__}\n")
            install += ["-c", str(constraints)]
        installed = subprocess.run(install, check=False, capture_output=True)
        if installed.returncode:
            shutil.rmtree(python.parent.parent)  # so that it is tried again
            return f"not installable: {installed.stderr.decode()[-60:]}"
    command = [str(python), loading_peers.__file__, name, str(folder), str(workers), str(millions)]
    done = subprocess.run(command, check=False, capture_output=True, cwd=folder, timeout=300)
    lines = [line for line in done.stdout.decode().splitlines() if line.startswith('{"rate"')]
    if not lines:
        return f"does not run: {done.stderr.decode().strip().splitlines()[-1:]}"
    result: dict[str, float] = json.loads(lines[-1])
    return result


def main() -> None:
    num_bytes = (int(sys.argv[1]) if len(sys.argv) > 1 else 150) * 1_000_000
    environments = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.gettempdir()) / "mixlake-peers"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        millions, _ = alone(prepare, folder, num_bytes)
        table = Table(box=box.SIMPLE_HEAD, title=f"Five-way mixture, {millions:,.0f} million characters of documents")
        for column in ("", "0 workers", "2 workers", "first sample", "prepared in", "on disk"):
            table.add_column(column, justify="left" if not column else "right")
        for kind in _FORMATS:
            _add_ours(table, folder, kind)
        fastest = max(alone(decoding, folder)[0] for _ in range(_RUNS))
        table.add_row("strings of UTF-8 in memory", f"{fastest / 1e6:,.0f} Mchar/s", "", "", "", "")
        for peer_name in _PACKAGES:
            found = [peer(peer_name, folder, environments, workers, millions) for workers in (0, 2)]
            _add_peer(table, peer_name, found)
        Console(width=120).print(table)


def _add_ours(table: Table, folder: Path, kind: str) -> None:
    registered, _ = alone(register, folder, kind)
    limit = max(alone(bare, folder, kind)[0] for _ in range(_RUNS))
    runs = [max(alone(ours, folder, kind, workers)[0] for _ in range(_RUNS)) for workers in (0, 2)]
    index = sum(path.stat().st_size for path in (folder / f"lake-{kind}" / "samples").rglob("*.parquet"))
    rates = [f"{rate / 1e6:,.0f} Mchar/s ({rate / limit:.2f})" for rate, _ in runs]
    table.add_row(f"Mixlake, {kind}", *rates, f"{runs[0][1]:.2f} s", f"{registered:.1f} s", f"{index / 1e6:.1f} MB")
    table.add_row(f"bare loop, {kind}", f"{limit / 1e6:,.0f} Mchar/s", "", "", "", "")


def _add_peer(table: Table, name: str, found: list[dict[str, float] | str]) -> None:
    rates = [result if isinstance(result, str) else f"{result['rate'] / 1e6:,.1f} Mchar/s" for result in found]
    details = next((result for result in found if not isinstance(result, str)), None)
    if details is None:
        table.add_row(name, *rates, "", "", "")
        return
    table.add_row(
        name, *rates, f"{details['first']:.2f} s", f"{details['converted']:.1f} s", f"{details['disk'] / 1e6:,.0f} MB"
    )


if __name__ == "__main__":
    main()
