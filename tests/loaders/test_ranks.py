"""Many ranks and workers: every sample once, and resuming late costs what resuming early does."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixlake.catalog import Catalog
from mixlake.loaders import SampleDataset, make_loader
from mixlake.mixing import Run

MakeRun = Callable[..., Run]


def test_sixteen_ranks_of_two_workers_read_every_sample_once(make_run: MakeRun) -> None:
    run = make_run(chunk_size=4, lanes=32)
    run.schedule(1000)
    found = Counter(
        delivery.item["sample"]
        for rank in range(16)
        for worker in range(2)
        for delivery in SampleDataset(run, rank=rank, world_size=16, schedules=False).deliveries(worker, 2)
    )
    assert len(found) == 900
    assert set(found.values()) == {1}


def bytes_read() -> int:
    """Bytes that this process has read from files so far."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def cost_of_resuming(run: Run, state: dict[str, Any]) -> tuple[int, int]:
    """Bytes read from the lake and its data, and samples read, until the first batch."""
    again = Run.load(Catalog.open(run.catalog.lake.uri), run.name)
    loader = make_loader(again, batch_size=4, tokenizer=None)
    loader.load_state_dict(state)
    before = bytes_read()
    batches: Any = iter(loader)
    next(batches)
    read = bytes_read() - before
    num_samples = loader.stats().read.num_samples
    batches.close()
    return read, num_samples


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the kernel counts no bytes that a process reads")
def test_resuming_late_reads_no_more_than_resuming_early(make_run: MakeRun) -> None:
    run = make_run(chunk_size=4)
    run.schedule(1000)
    assert run.chunks.end() == (224, True)
    loader = make_loader(run, batch_size=4, tokenizer=None)
    states = [loader.state_dict() for _ in loader]
    (early, early_samples), (late, late_samples) = (cost_of_resuming(run, states[n]) for n in (10, 200))
    assert late <= 1.2 * early
    assert late_samples == early_samples == 4 * 2 * 4  # of the first batch's lanes, a chunk and the next one
