"""What it costs a rank to know what it reads, with 1 to 256 ranks of 8 workers each; reading itself is left out.

Every worker of every rank is gone through, one after the other, each with a run and a lake of its own: it follows the
log, picks its lanes' chunks, puts their samples in order and groups them for reading. Every sample must come once. What
it takes to learn of new chunks while the run is scheduled is measured apart: a worker looks at the lake once for all
chunks that have been committed meanwhile, at worst for each of its chunks.

python -m tests.benchmarks.ranks [ranks …]     default: 1 4 16 64 256 (two minutes)
"""

import gc
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from mixlake.catalog import Catalog
from mixlake.catalog.records import IntArray
from mixlake.loaders.documents import LaneChunks
from mixlake.loaders.feed import Supply
from mixlake.loaders.lanes import Lanes, Reading
from mixlake.mixing import Run
from tests.benchmarks.generated import SAMPLES_PER_FILE, five_components, make_lake
from tests.benchmarks.report import Line, alone, show

_NUM_SAMPLES = 10_000_000
_CHUNK_SIZE = 1_000
_LANES = 2_048
_WORKERS = 8
_COMMITS, _CHUNKS_PER_COMMIT = 10, 262


class Addresses(Lanes[IntArray]):
    """Yields chunks as the addresses of their samples, in delivery order: everything is done but reading."""

    def __init__(self, run: Run, rank: int, world_size: int) -> None:
        placement: dict[str, Any] = {"rank": rank, "world_size": world_size, "group": None, "schedules": False}
        self.opening = self.opening_here = 0.0
        """Seconds to open what files are read with: of all threads, and of this one."""
        super().__init__(
            run, "addresses", Reading.of(run, **placement, lookahead=None, timeout=60, cache_bytes=256 << 20)
        )

    def fields(self) -> tuple[str, ...]:
        return ()

    def _open(self, numbers: Sequence[int], supply: Supply) -> dict[int, Iterator[tuple[IntArray, Any]]]:
        began, began_here = time.process_time(), time.thread_time()
        opened = super()._open(numbers, supply)
        self.opening, self.opening_here = time.process_time() - began, time.thread_time() - began_here
        return opened

    def open_lane(self, chunks: LaneChunks, state: dict[str, Any] | None) -> Iterator[tuple[IntArray, Any]]:
        index = chunks.first if state is None else state["queue"][0]
        while (opened := chunks.get(index)) is not None:
            chunks.close_before(index)
            files = opened.chunk.intervals.file_id[opened.order.interval]
            index += 1
            yield files * SAMPLES_PER_FILE + opened.order.row, {"queue": [index, 0]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Processor time of all processes of a world."""

    num_ranks: int
    opening_ms: float
    """To open the lake, the run, its log and what files are read with, per process."""
    chunk_ms: float
    """Per chunk of a rank."""
    slowest_ms: float
    """Per chunk, of the rank for which it was most."""
    is_once: bool
    """Whether every sample came exactly once."""

    @property
    def num_processes(self) -> int:
        return self.num_ranks * _WORKERS


def generate(folder: str) -> None:
    catalog = make_lake(folder, _NUM_SAMPLES)
    Run.start(catalog, "run", five_components(), chunk_size=_CHUNK_SIZE, lanes=_LANES).schedule(10 * _LANES)


def cost(folder: str, num_ranks: int) -> Cost:
    gc.freeze()  # as in every worker
    times = np.zeros(_NUM_SAMPLES, np.uint8)
    opening = np.zeros(num_ranks)
    work = np.zeros(num_ranks)
    num_chunks = np.zeros(num_ranks)
    for rank in range(num_ranks):
        for worker in range(_WORKERS):
            began = time.process_time()
            run = Run.load(Catalog.open(folder), "run")
            run.chunks.end()
            opened = time.process_time()
            dataset = Addresses(run, rank, num_ranks)
            deliveries = dataset.deliveries(worker, _WORKERS)
            opening[rank] += opened - began
            while True:
                resumed = time.thread_time()  # no other thread has a part in it; some still tidy up after opening
                delivery = next(deliveries, None)
                work[rank] += time.thread_time() - resumed
                if delivery is None:
                    break
                num_chunks[rank] += 1
                np.add.at(times, delivery.item, 1)
            opening[rank] += dataset.opening
            work[rank] -= dataset.opening_here
    per_chunk = work / num_chunks * 1e3
    return Cost(
        num_ranks=num_ranks,
        opening_ms=float(opening.sum()) / num_ranks / _WORKERS * 1e3,
        chunk_ms=float(work.sum() / num_chunks.sum()) * 1e3,
        slowest_ms=float(per_chunk.max()),
        is_once=bool((times == 1).all()),
    )


def following(folder: str) -> float:
    """Milliseconds to learn of a commit that a scheduler has made; its own threads are at work beside this one."""
    catalog = Catalog.open(folder)
    run = Run.start(catalog, "followed", five_components(), chunk_size=_CHUNK_SIZE, lanes=_LANES)
    follower = Run.load(Catalog.open(folder), "followed")
    follower.chunks.end()
    seconds = []
    for _ in range(_COMMITS):
        run.schedule(_CHUNKS_PER_COMMIT)
        began = time.thread_time()
        newest, _ = follower.chunks.end()
        seconds.append(time.thread_time() - began)
    assert newest == _COMMITS * _CHUNKS_PER_COMMIT - 1
    return min(seconds) * 1e3


def main() -> None:
    worlds = [int(argument) for argument in sys.argv[1:]] or [1, 4, 16, 64, 256]
    with tempfile.TemporaryDirectory() as folder:
        alone(generate, f"{folder}/lake")
        costs: list[Cost] = [alone(cost, f"{folder}/lake", num_ranks)[0] for num_ranks in worlds]
        to_follow: float = alone(following, f"{folder}/lake")[0]
    table = Table(
        box=box.SIMPLE_HEAD, title="What a rank of 8 workers spends on knowing what it reads", title_justify="left"
    )
    for column in (
        "ranks",
        "processes",
        "chunks per process",
        "to open a process, ms",
        "per chunk, ms",
        "of the slowest rank, ms",
    ):
        table.add_column(column, justify="right")
    for each in costs:
        row = (
            each.num_ranks,
            each.num_processes,
            f"{_NUM_SAMPLES / _CHUNK_SIZE / each.num_processes:,.1f}",
            *(f"{x:.2f}" for x in (each.opening_ms, each.chunk_ms, each.slowest_ms)),
        )
        table.add_row(*map(str, row))
    Console(width=120).print(table)
    last = costs[-1]
    show(
        f"{last.num_ranks} ranks, {_LANES:,} lanes, chunks of {_CHUNK_SIZE:,}",
        [
            Line(what="metadata work per rank and chunk", ours=last.chunk_ms, limit=1, unit="ms"),
            Line(what="and a look at the lake for each of them", ours=last.chunk_ms + to_follow, limit=1, unit="ms"),
            Line(
                what="worlds in which every sample came once",
                ours=sum(c.is_once for c in costs),
                limit=len(costs),
                unit="",
                at_least=True,
            ),
        ],
    )


if __name__ == "__main__":
    main()
