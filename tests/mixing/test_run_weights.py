"""Weights that are set while a run goes on are a version of their own, at the chunk that was asked for."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixlake.catalog import Catalog, ConfigError, ScheduleError
from mixlake.mixing import Mixture, Run, precedence, schedule

NewName = Callable[[], str]
MIXTURE = Mixture.from_dict(
    {
        "components": {
            "german": {"where": "language = 'de'", "weight": 1},
            "code": {
                "where": "kind = 'code'",
                "weight": 1,
                "components": {"good": {"where": "quality > 0.5", "weight": 3}, "rest": {"weight": 1}},
            },
            "rest": {"weight": 2},
        },
        "on_exhausted": "redistribute",
    }
)


def rows(run: Run, table: str = "chunks") -> list[dict[str, Any]]:
    columns = {
        "chunks": "chunk, weights_version, stage, num_samples, intervals, component_order, is_last",
        "weights": "version, chunk, cause, weights, step, details",
    }[table]
    found = run.catalog.sql(f"SELECT {columns} FROM {table} WHERE run = '{run.name}' ORDER BY 1").to_pylist()
    return [dict(row) for row in found]


def weights(run: Run) -> list[tuple[int, int, str, dict[str, float]]]:
    return [
        (row["version"], row["chunk"], row["cause"], {w["component"]: round(w["weight"], 4) for w in row["weights"]})
        for row in rows(run, "weights")
    ]


def test_shares_that_are_set_hold_from_the_chunk_on_and_the_others_keep_their_proportions(
    catalog: Catalog, new_name: NewName
) -> None:
    run = Run.start(catalog, new_name(), MIXTURE, chunk_size=20)
    run.schedule(3)
    nested: Any = {"code": {"good": 0.5}}
    assert run.set_weights({"german": 0.4}, from_chunk=6) == 6
    assert run.set_weights(nested, step=17, details={"why": "loss"}) == 4
    run.schedule(5)
    assert weights(run) == [
        (1, 0, "declared", {"german": 0.25, "code.good": 0.1875, "code.rest": 0.0625, "rest": 0.5}),
        (2, 4, "manual", {"german": 0.1538, "code.good": 0.5, "code.rest": 0.0385, "rest": 0.3077}),
        (3, 6, "manual", {"german": 0.4, "code.good": 0.3545, "code.rest": 0.0273, "rest": 0.2182}),
    ]
    assert (rows(run, "weights")[1]["step"], rows(run, "weights")[1]["details"]) == (17, '{"why": "loss"}')
    assert [row["weights_version"] for row in rows(run)] == [1] * 4 + [2] * 2 + [3] * 4
    assert Run.load(catalog, run.name).set_weights({"code": 0.9}) == 10
    assert weights(run)[-1] == (
        4,
        10,
        "manual",
        {"german": 0.0647, "code.good": 0.8357, "code.rest": 0.0643, "rest": 0.0353},
    )


def test_a_change_may_be_the_first_thing_that_happens(catalog: Catalog, new_name: NewName) -> None:
    run = Run.start(catalog, new_name(), MIXTURE, chunk_size=20)
    assert run.set_weights({"german": 1, "code": 0, "rest": 0}) == 0
    assert {name for row in rows(run) for name in (i["component"] for i in row["intervals"])} == {"german"}


@pytest.mark.parametrize(
    ("given", "from_chunk", "message"),
    [
        (
            {"german": 0.4},
            1,
            "from_chunk is 1, but run '.*' is scheduled up to chunk 1; weights can change from chunk 2",
        ),
        ({"germn": 0.4}, None, r"weights: no component 'germn'; there are: .* Did you mean 'german'\?"),
        ({"german": 1.4}, None, "the shares sum to 1.4; at most 1 is possible"),
        ({"german": -1}, None, "weights.german is -1; expected a number"),
        ({"german": "much"}, None, "weights.german is 'much'; expected a number"),
        ({}, None, "expected at least one component with a number"),
        ({"code": 0.1, "code.good": 0.1}, None, "'code.good' sets code.good a second time"),
    ],
)
def test_what_cannot_be_set_is_refused(
    catalog: Catalog, new_name: NewName, given: Any, from_chunk: int | None, message: str
) -> None:
    run = Run.start(catalog, new_name(), MIXTURE, chunk_size=20)
    run.schedule(2)
    with pytest.raises(ConfigError, match=message):
        run.set_weights(given, from_chunk=from_chunk)
    assert len(rows(run)) == 2


def test_a_run_that_has_ended_is_refused(catalog: Catalog, new_name: NewName) -> None:
    run = Run.start(catalog, new_name(), MIXTURE, chunk_size=100, length={"chunks": 2})
    run.schedule(2)
    with pytest.raises(ScheduleError, match="has ended with chunk 1"):
        run.set_weights({"german": 0.4})


def test_a_scheduler_that_is_overtaken_by_a_change_takes_it_up(catalog: Catalog, new_name: NewName) -> None:
    settings: dict[str, Any] = {"chunk_size": 20, "seed": 3}
    plain = Run.start(catalog, new_name(), MIXTURE, **settings)
    plain.schedule(4)
    plain.set_weights({"german": 0.9}, from_chunk=9)
    plain.schedule(1000)
    running = Run.start(catalog, new_name(), MIXTURE, **settings)
    running.schedule(4)
    Run.load(Catalog.open(catalog.lake.uri), running.name).set_weights({"german": 0.9}, from_chunk=9)
    running.schedule(1000)
    assert rows(running) == rows(plain)
    assert weights(running) == weights(plain)


def test_versions_that_an_overtaken_scheduler_left_are_replaced(
    register_data: Callable[[Path], Catalog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = register_data(tmp_path / "lake")
    plain = Run.start(own, "plain", MIXTURE, chunk_size=100)
    plain.schedule(1)
    plain.set_weights({"german": 1.0 - 1e-6}, from_chunk=3)
    plain.schedule(1000)
    killed = Run.start(own, "killed", MIXTURE, chunk_size=100)
    killed.schedule(1)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(killed.chunks), "append", die)  # it has written its weights versions, but not its chunks
    with pytest.raises(KeyboardInterrupt):
        killed.schedule(1000)
    monkeypatch.undo()
    left = weights(killed)
    assert len(left) > 2
    killed.set_weights({"german": 1.0 - 1e-6}, from_chunk=3)
    killed.schedule(1000)
    assert weights(killed) == weights(plain) != left
    assert rows(killed) == rows(plain)


@pytest.mark.parametrize("is_same_object", [False, True])
def test_changes_get_in_between_the_chunks_of_a_scheduler_that_never_rests(
    register_data: Callable[[Path], Catalog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_same_object: bool
) -> None:
    monkeypatch.setattr(schedule, "_SAMPLES_PER_COMMIT", 6)
    own = register_data(tmp_path / "lake")
    run = Run.start(own, "exp1", MIXTURE, chunk_size=2, length={"chunks": 240})
    other = run if is_same_object else Run.load(Catalog.open(own.lake.uri), "exp1")
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(other.schedule(1_000)))
    thread.start()
    asked = [run.set_weights({"german": 0.1 + number / 10}) for number in range(5)]
    assert thread.is_alive()
    thread.join()
    assert done == [240 - 5]
    found = weights(run)
    assert [chunk for _, chunk, cause, _ in found if cause == "manual"] == asked
    assert [row["chunk"] for row in rows(run)] == list(range(240))
    versions = {version: (chunk, shares) for version, chunk, _, shares in found}
    assert all(versions[row["weights_version"]][0] <= row["chunk"] for row in rows(run))


def test_a_scheduler_goes_on_when_somebody_dies_who_was_about_to_set_weights(
    register_data: Callable[[Path], Catalog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = register_data(tmp_path / "lake")
    run = Run.start(own, "exp1", MIXTURE, chunk_size=20)
    run.schedule(1)
    die = f"""
import os, sys
from mixlake.catalog import Catalog
from mixlake.mixing.precedence import Precedence
with Precedence(Catalog.open({own.lake.uri!r}).lake, "exp1").taken():
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", die], check=False).returncode == -9
    monkeypatch.setattr(precedence, "_PATIENCE_SECONDS", 0.3)
    begin = time.monotonic()
    assert run.schedule(2) == 2
    assert time.monotonic() - begin > 0.3
    assert run.set_weights({"german": 0.3}) == 3
    assert Run.load(Catalog.open(own.lake.uri), "exp1").schedule(2) == 2
    assert [row["chunk"] for row in rows(run)] == list(range(6))


def test_a_manual_change_holds_until_the_curriculum_changes_the_weights(catalog: Catalog, new_name: NewName) -> None:
    stages = {"a": {"until": {"chunks": 4}}, "b": {"weights": {"rest": 0.2}}}
    run = Run.start(catalog, new_name(), MIXTURE, chunk_size=10, curriculum={"stages": stages})
    run.schedule(1)
    run.set_weights({"german": 0.7})
    run.schedule(5)
    assert [(chunk, cause, shares["german"]) for _, chunk, cause, shares in weights(run)] == [
        (0, "declared", 0.25),
        (1, "manual", 0.7),
        (4, "curriculum", 0.4),
    ]


FOLLOW = """
import sys
from mixlake.catalog import Catalog
from mixlake.mixing import Run
Run.load(Catalog.open(sys.argv[1]), sys.argv[2]).follow(lookahead=4)
"""


def test_a_process_that_follows_stays_ahead_of_those_that_wait_and_not_further(
    register_data: Callable[[Path], Catalog], tmp_path: Path
) -> None:
    own = register_data(tmp_path / "lake")
    run = Run.start(own, "exp1", MIXTURE, chunk_size=100)
    with subprocess.Popen([sys.executable, "-c", FOLLOW, own.lake.uri, "exp1"]) as follower:
        for wanted, last in ((None, 4), (6, 10), (8, 12), (1000, 23)):
            if wanted is not None:
                run.demand.raise_to(wanted)
            deadline = time.monotonic() + 60
            while run.chunks.last()[0] < last and time.monotonic() < deadline:
                time.sleep(0.02)
            if wanted != 1000:
                time.sleep(0.2)
            assert run.chunks.last()[0] == last
        assert follower.wait(timeout=60) == 0
    assert run.chunks.last()[2]
