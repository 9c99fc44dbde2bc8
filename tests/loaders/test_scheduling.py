"""Scheduling in the background: as far ahead as is wanted and no further, with errors that surface."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from mixlake.catalog import ScheduleError
from mixlake.loaders import SampleDataset
from mixlake.loaders.scheduling import BackgroundScheduler
from mixlake.mixing import Run


def settled(run: Run, last: int) -> int:
    """Return the last chunk when it has not changed for a while; ``last`` is what it should become."""
    deadline = time.monotonic() + 20
    while run.chunks.end()[0] < last and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    return run.chunks.end()[0]


def test_it_stays_the_lookahead_ahead_and_no_further(make_run: Callable[..., Run]) -> None:
    run = make_run(chunk_size=4)
    with BackgroundScheduler(run, lookahead=6) as scheduler:
        assert settled(run, 5) == 5
        scheduler.reach(3)
        assert settled(run, 8) == 8
        scheduler.reach(2)  # another lane, that is less far
        assert settled(run, 8) == 8
        run.demand.raise_to(11)  # another process waits for a chunk
        assert settled(run, 11) == 11
    assert not [thread for thread in threading.enumerate() if thread.name == f"mixlake-schedule-{run.name}"]


def test_commits_are_of_several_chunks_unless_somebody_waits(make_run: Callable[..., Run]) -> None:
    run = make_run(chunk_size=4)
    with BackgroundScheduler(run, lookahead=16) as scheduler:
        assert settled(run, 15) == 15
        scheduler.reach(3)
        assert settled(run, 15) == 15
        scheduler.reach(4)
        assert settled(run, 19) == 19
        scheduler.want(20, 0.0)
        assert settled(run, 20) == 20


def wait_for(scheduler: BackgroundScheduler, number: int) -> None:
    for _ in range(200):
        scheduler.want(number, 0.0)


def test_its_error_reaches_whoever_waits(make_run: Callable[..., Run]) -> None:
    run = make_run(chunk_size=4)
    with BackgroundScheduler(run, lookahead=2) as scheduler:
        settled(run, 1)
        Run.load(run.catalog, run.name).schedule(1)
        with pytest.raises(ScheduleError, match=f"run '{run.name}': another scheduler wrote chunks after chunk 1"):
            wait_for(scheduler, 5)


def test_a_rank_that_is_left_alone_is_told_the_last_chunk_and_its_age(make_run: Callable[..., Run]) -> None:
    run = make_run(chunk_size=4)
    leader: Any = iter(SampleDataset(run, rank=0, world_size=2, lookahead=4))
    next(leader)
    leader.close()
    last = run.chunks.end()[0]
    with pytest.raises(
        ScheduleError, match=rf"run '{run.name}': waited 1 s for chunk \d+; the last one is {last}, written \d+ s ago"
    ):
        list(SampleDataset(run, rank=1, world_size=2, timeout=1.0))
    assert run.demand.last() > last
