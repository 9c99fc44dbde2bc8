"""A process that schedules is killed at any moment; what follows is what an undisturbed run would have drawn."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mixlake.catalog import Catalog
from mixlake.mixing import Mixture, Run

NUM_KILLS = int(os.environ.get("MIXLAKE_KILLS", "30"))  # `make soak` sets more
SEED = int(os.environ.get("MIXLAKE_SEED", "0"))
MIXTURE = Mixture.from_dict(
    {
        "unit": "bytes",
        "components": {
            "few": {"where": "n % 50 = 0", "weight": 1, "on_exhausted": "repeat", "max_passes": 3},
            "german": {"where": "language = 'de'", "weight": 1, "order_by": "quality"},
            "code": {"where": "kind = 'code'", "weight": 1},
            "rest": {"weight": 1},
        },
        "on_exhausted": "redistribute",
    }
)
CURRICULUM = {
    "stages": {
        "first": {"until": {"bytes": 20_000}},
        "second": {"until": {"bytes": 70_000}, "weights": {"german": 0.6}, "ramp": {"over": {"bytes": 30_000}}},
        "last": {"mixture": {"components": {"good": {"where": "quality > 0.5", "weight": 2}, "rest": {"weight": 1}}}},
    }
}
FOLLOW_AGAIN_AND_AGAIN = """
import os, sys
from mixlake.catalog import Catalog
from mixlake.mixing import Run, schedule
schedule._SAMPLES_PER_COMMIT = 6  # many commits to be killed in
for line in sys.stdin:  # a fork before the lake is opened saves the imports
    if not (child := os.fork()):
        Run.load(Catalog.open(sys.argv[1]), line.strip()).follow(lookahead=1_000_000)
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


def rows(run: Run, columns: str, table: str) -> list[dict[str, Any]]:
    found = run.catalog.sql(f"SELECT {columns} FROM {table} WHERE run = '{run.name}' ORDER BY 1").to_pylist()
    return [dict(row) for row in found]


def everything(run: Run) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    columns = "chunk, weights_version, stage, num_samples, intervals, component_order, is_last"
    return rows(run, columns, "chunks"), rows(run, "version, step, chunk, weights, cause, details", "weights")


@pytest.fixture
def own(register_data: Callable[[Path], Catalog], tmp_path: Path) -> Catalog:
    return register_data(tmp_path / "lake")


@pytest.fixture
def follower(own: Catalog) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", FOLLOW_AGAIN_AND_AGAIN, own.lake.uri]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def test_a_scheduler_that_is_killed_at_any_moment_leaves_no_trace(
    own: Catalog, follower: "subprocess.Popen[str]"
) -> None:
    settings: dict[str, Any] = {"curriculum": CURRICULUM, "chunk_size": 2, "seed": SEED}
    whole = Run.start(own, "whole", MIXTURE, **settings)
    whole.schedule(1 << 20)
    chunks, weights = everything(whole)
    assert len({row["cause"] for row in weights}) == 3
    rng = random.Random(SEED)
    assert follower.stdin is not None
    assert follower.stdout is not None
    runs: list[Run] = []
    kills, kills_between_commits, reach = 0, 0, 0.5
    while kills < NUM_KILLS:
        if not runs or runs[-1].chunks.last()[2]:
            runs.append(Run.start(own, f"killed-{len(runs)}", MIXTURE, **settings))
        killed = runs[-1]
        before = killed.chunks.last()[0]
        follower.stdin.write(f"{killed.name}\n")
        child = int(follower.stdout.readline())
        time.sleep(rng.uniform(0.0, reach))
        with contextlib.suppress(ProcessLookupError):  # it came to the end of the run
            os.kill(child, signal.SIGKILL)
            kills += 1
        assert follower.stdout.readline() == "gone\n"
        last = killed.chunks.last()[0]
        assert last >= before
        kills_between_commits += last > before
        reach = max(0.4, reach * 0.8) if last > before else min(8.0, reach * 1.3)  # half of them after it has begun
        assert [row["intervals"] for row in rows(killed, "chunk, intervals", "chunks")] == [
            row["intervals"] for row in chunks[: last + 1]
        ]
    runs[-1].schedule(1 << 20)
    assert [everything(run) == (chunks, weights) for run in runs] == [True] * len(runs)
    assert kills_between_commits > kills / 5
    print(f"killed {kills} times in {len(runs)} runs, {kills_between_commits} times after commits")  # noqa: T201  (what a soak reports)
