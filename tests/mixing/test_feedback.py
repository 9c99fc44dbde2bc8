"""Every reported step is stored once: whoever reports it how often, in whatever batches, killed at whatever moment."""

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixlake.catalog.lake import Lake
from mixlake.mixing.feedback import FeedbackLog, StepLosses

COMPONENTS = ("a", "b", "c")


def losses(step: int) -> StepLosses:
    """What step ``step`` reports: the same whenever it is asked for."""
    tokens = np.array([step % 3, step % 2 * 5, step % 5 // 4], np.int64)
    loss_sum = np.asarray(tokens * (0.1 + step), np.float64)
    return StepLosses(step=step, loss_sum=loss_sum, num_tokens=tokens, weights_version=1 + step // 7, chunk=step // 2)


def as_rows(steps: Sequence[StepLosses]) -> list[tuple[object, ...]]:
    return [(s.step, s.loss_sum.tolist(), s.num_tokens.tolist(), s.weights_version, s.chunk) for s in steps]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake(str(tmp_path / "lake"))
    made.create()
    return made


def test_what_is_stored_is_read_again_to_the_bit_and_runs_are_apart(lake: Lake) -> None:
    log, other = FeedbackLog(lake, "exp1", COMPONENTS), FeedbackLog(lake, "exp2", COMPONENTS)
    steps = [losses(step) for step in (0, 1, 2, 5, 30)]
    assert log.last_step() == -1
    assert log.append(steps[:3]) == steps[:3]
    assert log.append(steps[3:]) == steps[3:]
    other.append([losses(4)])
    assert as_rows(log.read()) == as_rows(steps)
    assert as_rows(log.read(after=2)) == as_rows(steps[3:])
    assert as_rows(other.read()) == as_rows([losses(4)])
    assert (log.last_step(), other.last_step()) == (30, 4)


def test_a_step_without_losses_is_a_step(lake: Lake) -> None:
    log = FeedbackLog(lake, "exp1", COMPONENTS)
    assert not losses(30).num_tokens.any()
    log.append([losses(30)])
    assert as_rows(log.read()) == as_rows([losses(30)])


def test_many_steps_are_one_commit_and_many_commits_are_joined(lake: Lake) -> None:
    log = FeedbackLog(lake, "exp1", COMPONENTS)
    before = lake.table("feedback").version()
    log.append([losses(step) for step in range(1000)])
    assert lake.table("feedback").version() == before + 1
    for step in range(1000, 1110):
        log.append([losses(step)])
    assert len(lake.table("feedback").file_uris()) < 20
    assert as_rows(FeedbackLog(lake, "exp1", COMPONENTS).read()) == as_rows([losses(s) for s in range(1110)])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), min_size=1, max_size=8))
def test_whatever_is_reported_again_each_step_is_there_once(lake: Lake, batches: list[tuple[int, int]]) -> None:
    run = f"run-{time.monotonic_ns()}"
    expected: dict[int, StepLosses] = {}
    for first, num in batches:
        steps = [losses(step) for step in range(first, first + num)]
        new = FeedbackLog(lake, run, COMPONENTS).append(steps)
        assert as_rows(new) == as_rows([s for s in steps if s.step > max(expected, default=-1)])
        expected.update((s.step, s) for s in new)
    assert as_rows(FeedbackLog(lake, run, COMPONENTS).read()) == as_rows(list(expected.values()))


def test_of_several_that_report_the_same_steps_each_step_is_taken_from_one(lake: Lake) -> None:
    def report(first: int) -> None:
        log = FeedbackLog(Lake(lake.uri), "exp1", COMPONENTS)
        for start in range(first, 60, 4):
            log.append([losses(step) for step in range(start, start + 4)])

    threads = [threading.Thread(target=report, args=(first,)) for first in (0, 0, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert as_rows(FeedbackLog(lake, "exp1", COMPONENTS).read()) == as_rows([losses(step) for step in range(60)])


REPORT = """
import sys
import numpy as np
from mixlake.catalog.lake import Lake
from mixlake.mixing.feedback import FeedbackLog, StepLosses
log = FeedbackLog(Lake(sys.argv[1]), "exp1", ("a", "b", "c"))
start = 0 if len(sys.argv) < 3 else int(sys.argv[2])
for first in range(start, 10_000, 5):
    batch = []
    for step in range(first, first + 5):
        tokens = np.array([step % 3, step % 2 * 5, step % 5 // 4], np.int64)
        batch.append(StepLosses(step=step, loss_sum=tokens * (0.1 + step), num_tokens=tokens,
                                weights_version=1 + step // 7, chunk=step // 2))
    log.append(batch)
    print(first, flush=True)
"""


def test_a_reporter_that_is_killed_again_and_again_loses_and_doubles_nothing(lake: Lake) -> None:
    log = FeedbackLog(lake, "exp1", COMPONENTS)
    rng = np.random.default_rng(0)
    resumed = 0
    for _ in range(3):
        command = [sys.executable, "-c", REPORT, lake.uri, str(resumed)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            time.sleep(float(rng.uniform(0.05, 0.3)))
            process.kill()
        resumed = max(0, log.last_step() - 12)  # the trainer's checkpoint is older than what it has reported
    assert log.last_step() > 10
    assert as_rows(log.read()) == as_rows([losses(step) for step in range(log.last_step() + 1)])
