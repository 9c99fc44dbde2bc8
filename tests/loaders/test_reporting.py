"""What training reports is in the lake once per step, and moves the weights; also of trainers that are killed."""

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixlake.catalog import Catalog, ConfigError
from mixlake.loaders import Loader, make_loader
from mixlake.mixing import Mixture, Run
from mixlake.mixing.adaptation import replay

LOSSES = torch.tensor([3.0, 1.0, 2.0])
ODM = {"_target_": "mixlake.mixing.policy_bandit.OnlineDataMixing"}
ADAPT = {"policy": ODM, "interval": 5, "tolerance": 0.0, "delay": 8}
MIXTURE = {
    "components": {
        "english": {"where": "language = 'en'", "weight": 0.5},
        "notes": {"where": "kind = 'note'", "weight": 0.2},
        "others": {"where": "language IN ('de', 'fr')", "weight": 0.3},
    },
    "unit": "bytes",
    "on_exhausted": "repeat",
}


@pytest.fixture(scope="module")
def start(catalog: Catalog) -> Callable[..., Run]:
    numbers = itertools.count()

    def declare(**settings: Any) -> Run:
        name = f"reported-{next(numbers)}"
        return Run.start(
            catalog, name, Mixture.from_dict(MIXTURE), **{"chunk_size": 8, "lanes": 4, "adapt": ADAPT, **settings}
        )

    return declare


def sums(batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """What a model would report: losses that depend on the batch alone, and add up without rounding."""
    ids = batch["component_ids"]
    num_tokens = torch.bincount(ids[ids >= 0], minlength=3)
    return num_tokens * LOSSES, num_tokens


def train(loader: Loader[Any], first: int, stop: int) -> None:
    """Report steps ``first`` to ``stop``."""
    batches = iter(loader)
    for step in range(first, stop):
        loader.report(step, *sums(next(batches)))
    batches.close()  # type: ignore[attr-defined]


def recorded(run: Run, *tables: str) -> list[dict[str, Any]]:
    columns = {
        "weights": "version, step, chunk, cause, weights, details",
        "chunks": "chunk, weights_version, intervals, component_order",
        "feedback": "step, component, loss_sum, num_tokens, weights_version, chunk",
    }
    queries = [f"SELECT {columns[t]} FROM {t} WHERE run = '{run.name}' ORDER BY 1, 2" for t in tables]
    return [dict(row) for query in queries for row in run.catalog.sql(query).to_pylist()]


def test_reports_move_the_weights_and_batches_say_so(start: Callable[..., Run]) -> None:
    run = start()
    loader = make_loader(run, batch_size=4, sequence_length=64)
    seen = []
    for step, batch in enumerate(loader):
        seen.append(max(batch["weights_versions"]))
        loader.report(step, *sums(batch))
        if step == 240:
            break
    loader.flush()
    feedback = run.feedback.read()
    assert [losses.step for losses in feedback] == list(range(241))
    assert [losses.weights_version for losses in feedback] == np.maximum.accumulate(seen).tolist()
    assert seen[0] == 1
    assert seen[-1] > 5
    first, last = run.shares(1), run.shares(seen[-1])
    assert sum(abs(b - a) for a, b in zip(first, last, strict=True)) > 0.05 * sum(first)
    assert all(json.loads(row["details"])["chunks_late"] == 0 for row in recorded(run, "weights") if row["details"])


def test_workers_that_are_ahead_delay_decisions_by_what_they_have_ready_and_that_is_recorded(
    start: Callable[..., Run],
) -> None:
    run = start(adapt={**ADAPT, "delay": 2})
    batch_size, length = 4, 64
    loader = make_loader(run, batch_size=batch_size, sequence_length=length, num_workers=2)
    train(loader, 0, 300)
    loader.flush()
    made = [row for row in recorded(run, "weights") if row["cause"] == "adapt"]
    details = [json.loads(row["details"]) for row in made]
    for row, told in zip(made, details, strict=True):
        assert row["chunk"] == told["reached_chunk"] + told["delay_chunks"] + told["chunks_late"]
        assert told["delay_chunks"] == 2
    # Four bundles are ready, one is made, one sent and one taken, each of up to eight times its part of a batch; and a
    # lane that looks for a component has some chunks open.
    num_bytes, lanes = bytes_of_chunks(run), run.config.lanes
    most = 7 * 8 * batch_size * length + 4 * lanes * np.mean(num_bytes)
    assert all(
        sum(num_bytes[told["reached_chunk"] : row["chunk"]]) <= most for row, told in zip(made, details, strict=True)
    )
    assert len(made) > 5
    assert max(told["chunks_late"] for told in details) > 0  # with so short a delay


def bytes_of_chunks(run: Run) -> list[int]:
    """What each chunk's samples count."""
    query = f"""
        SELECT chunk, sum(s.num_bytes) AS n
        FROM (SELECT chunk, unnest(intervals) AS i FROM chunks WHERE run = '{run.name}')
        JOIN samples s ON s.registration = i['registration'] AND s.file_id = i['file_id']
            AND s.row >= i['row_start'] AND s.row < i['row_stop']
        GROUP BY 1 ORDER BY 1"""
    return [int(row["n"]) for row in run.catalog.sql(query).to_pylist()]


def test_the_same_losses_give_the_same_chunks(start: Callable[..., Run]) -> None:
    runs = [start(), start()]
    for run in runs:
        train(make_loader(run, batch_size=4, sequence_length=64), 0, 240)
    num = min(run.chunks.last()[0] for run in runs)
    first, second = ([row for row in recorded(run, "weights", "chunks") if row["chunk"] < num] for run in runs)
    assert first == second
    assert len({row["weights_version"] for row in first if "weights_version" in row}) > 3
    assert runs[0].config.adapt is not None
    again = replay(runs[0].config.adapt, runs[0].program, runs[0].delay, runs[0].feedback.read())
    assert again == runs[0].decisions.read()


def test_a_step_is_taken_once_and_a_state_comes_after_what_it_knows(start: Callable[..., Run]) -> None:
    run = start()
    loader = make_loader(run, batch_size=4, sequence_length=64)
    train(loader, 0, 13)
    state = loader.state_dict()
    assert run.feedback.last_step() == 12
    train(loader, 13, 21)
    before = recorded(run, "feedback")
    again = make_loader(Run.load(run.catalog, run.name), batch_size=4, sequence_length=64)
    again.load_state_dict(state)
    train(again, 13, 30)
    assert recorded(run, "feedback")[: len(before)] == before
    assert [losses.step for losses in run.feedback.read()] == list(range(30))


def test_a_fork_numbers_steps_on_from_those_that_its_policy_knows(start: Callable[..., Run]) -> None:
    run = start()
    loader = make_loader(run, batch_size=4, sequence_length=64)
    train(loader, 0, 13)
    run.schedule(8)  # so that the steps are in front of the fork
    fork = run.fork(f"{run.name}-on", at_chunk=run.chunks.last()[0] + 1)
    on = make_loader(fork, batch_size=4, sequence_length=64)
    batch = next(iter(on))
    with pytest.raises(ConfigError, match=f"step is 0, but run '{fork.name}' goes on from step 12 of '{run.name}'"):
        on.report(0, *sums(batch))
    on.load_state_dict(loader.state_dict())
    train(on, 13, 21)
    assert [losses.step for losses in fork.feedback.read()] == list(range(21))
    assert [losses.step for losses in run.feedback.read()] == list(range(13))


def test_samples_are_reported_with_the_weights_of_their_chunks(start: Callable[..., Run]) -> None:
    run = start()
    loader = make_loader(run, batch_size=8, tokenizer=None)
    names = {name: index for index, name in enumerate(run.components)}
    for step, batch in enumerate(loader):
        counts = torch.bincount(torch.tensor([names[name] for name in batch["component"]]), minlength=3)
        loader.report(step, counts * LOSSES, counts)
        if step == 80:
            break
    loader.flush()
    feedback = run.feedback.read()
    opened = [losses.chunk - run.config.lanes for losses in feedback]
    chunks = {chunk.number: chunk.weights_version for chunk in run.chunks.read(0, 1000)}
    assert [losses.weights_version for losses in feedback] == [chunks[max(0, number)] for number in opened]
    assert feedback[-1].weights_version > 3


def test_a_step_before_the_first_batch_has_the_weights_that_the_run_begins_with(start: Callable[..., Run]) -> None:
    run = start()
    loader = make_loader(run, batch_size=4, sequence_length=64)
    loader.report(0, LOSSES, torch.ones(3, dtype=torch.int64))
    loader.flush()
    (losses,) = run.feedback.read()
    assert (losses.step, losses.weights_version, losses.chunk) == (0, 1, 0)


def test_a_lake_that_stands_still_never_blocks_the_trainer_and_loses_no_sum(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(adapt=None)
    monkeypatch.setattr("mixlake.loaders.reporting._MAX_QUEUED", 50)
    loader = make_loader(run, batch_size=4, sequence_length=64)
    batch = next(iter(loader))
    go_on, append = threading.Event(), run.feedback.append

    def stand_still(steps: Any) -> Any:
        go_on.wait()
        return append(steps)

    monkeypatch.setattr(run.feedback, "append", stand_still)
    longest = 0.0
    for step in range(500):
        started = time.perf_counter()
        loader.report(step, *sums(batch))
        longest = max(longest, time.perf_counter() - started)
    assert longest < 1
    go_on.set()
    loader.flush()
    feedback = run.feedback.read()
    assert len(feedback) < 200
    assert feedback[-1].step == 499
    expected = sums(batch)
    assert np.sum([losses.loss_sum for losses in feedback], 0).tolist() == (500 * expected[0]).tolist()
    assert np.sum([losses.num_tokens for losses in feedback], 0).tolist() == (500 * expected[1]).tolist()


def test_what_fails_in_the_thread_is_raised_in_the_trainer(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start()
    loader = make_loader(run, batch_size=4, sequence_length=64)
    batch = next(iter(loader))

    def fail(_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(run.feedback, "append", fail)
    for step in range(5):
        loader.report(step, *sums(batch))
    with pytest.raises(OSError, match="the disk is full"):
        loader.flush()
    with pytest.raises(OSError, match="the disk is full"):
        loader.report(5, *sums(batch))


@pytest.mark.parametrize(
    ("step", "loss_sum", "message"),
    [
        (-1, [1.0, 1.0, 1.0], "step is -1; expected the number of the training step"),
        (1.5, [1.0, 1.0, 1.0], "step is 1.5"),
        (0, [1.0, 1.0], r"loss_sum has shape \(2,\); run '.*' has 3 components"),
    ],
)
def test_a_wrong_report_is_refused(start: Callable[..., Run], step: Any, loss_sum: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_loader(start(), batch_size=4).report(step, loss_sum, [1, 1, 1])


TRAIN = """
import json, os, sys
import torch
from mixlake.catalog import Catalog
from mixlake.loaders import make_loader
from mixlake.mixing import Run

def main(lake, name, stop, folder):
    loader = make_loader(Run.load(Catalog.open(lake), name), batch_size=4, sequence_length=64)
    first, state = 0, f"{folder}/state.json"
    if os.path.exists(state):
        first, positions = json.load(open(state))
        loader.load_state_dict(positions)
    for step, batch in enumerate(loader, first):
        ids = batch["component_ids"]
        num_tokens = torch.bincount(ids[ids >= 0], minlength=3)
        loader.report(step, num_tokens * torch.tensor([3.0, 1.0, 2.0]), num_tokens)
        print(step, flush=True)
        if step + 1 == stop:
            break
        if step % 7 == 6:
            with open(state + ".new", "w") as file:
                json.dump([step + 1, loader.state_dict()], file)
            os.replace(state + ".new", state)
    loader.flush()

main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
"""


RANK = """
import json, sys
import torch
from torch import distributed
from mixlake.catalog import Catalog
from mixlake.loaders import all_reduce_losses, make_loader
from mixlake.mixing import Run

def main(lake, name, rank, world_size, store):
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    run = Run.load(Catalog.open(lake), name)
    loader = make_loader(run, batch_size=8, tokenizer=None, rank=rank, world_size=world_size)
    seen = {}
    for step, batch in enumerate(loader):
        counts = torch.tensor([batch["component"].count(name) for name in run.components])
        loader.report(step, *all_reduce_losses(counts * torch.tensor([3.0, 1.0, 2.0]), counts))
        chunk = loader.dataset.chunks_reached() - run.config.lanes
        seen[chunk] = run.chunks.read(chunk, chunk + 1)[0].weights_version
        if step == 49:
            break
    loader.flush()
    print(json.dumps(seen))
    distributed.barrier()
    distributed.destroy_process_group()

main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
"""


def start_process(code: str, run: Run, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, run.catalog.lake.uri, run.name, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("world_size", [2, 4])
def test_all_ranks_see_the_same_weights_versions(start: Callable[..., Run], tmp_path: Path, world_size: int) -> None:
    run = start()
    ranks = [start_process(RANK, run, rank, world_size, tmp_path / "store") for rank in range(world_size)]
    outputs = [rank.communicate(timeout=240)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * world_size
    seen = [{int(chunk): version for chunk, version in json.loads(output).items()} for output in outputs]
    feedback = run.feedback.read()
    assert [losses.step for losses in feedback] == list(range(50))
    assert {int(losses.num_tokens.sum()) for losses in feedback} == {world_size * 8}
    drawn = {chunk.number: chunk.weights_version for chunk in run.chunks.read(0, 1000)}
    for versions in seen:
        assert versions == {chunk: drawn[chunk] for chunk in versions}
        assert len(set(versions.values())) > 3
    assert not set(seen[0]) & set(seen[1])  # no chunk is of two ranks
    assert all(json.loads(row["details"])["chunks_late"] == 0 for row in recorded(run, "weights") if row["details"])


def test_a_trainer_that_is_killed_again_and_again_draws_and_reports_what_another_one_does(
    start: Callable[..., Run], tmp_path: Path
) -> None:
    whole, killed = start(), start()
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    with start_process(TRAIN, whole, 70, tmp_path / "whole") as process:
        assert process.wait(timeout=120) == 0
    rng = np.random.default_rng(1)
    for number in (0, 1, 2):
        with start_process(TRAIN, killed, 70, tmp_path / "killed") as process:
            assert process.stdout is not None
            lines = iter(process.stdout)
            if number < 2:
                for _ in range(int(rng.integers(10, 25))):
                    next(lines)
                process.kill()
            printed = list(lines)  # to the end, or its pipe would break
            assert number < 2 or printed[-1] == "69\n"
    assert recorded(killed, "feedback", "weights") == recorded(whole, "feedback", "weights")
    num = min(run.chunks.last()[0] for run in (whole, killed))
    of_both = [[row for row in recorded(run, "chunks") if row["chunk"] < num] for run in (whole, killed)]
    assert of_both[0] == of_both[1]
