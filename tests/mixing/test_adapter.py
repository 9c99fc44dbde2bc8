"""Feedback decides: the same reports give the same weights versions, whoever adapts, killed and resumed at any step."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mixlake.catalog import Catalog, ConfigError
from mixlake.mixing import Adapter, Mixture, Run
from mixlake.mixing.adaptation import replay
from mixlake.mixing.feedback import StepLosses
from mixlake.mixing.quotas import SCALE
from mixlake.mixing.tilting import prior, setting, tilted

NewName = Callable[[], str]
ODM = {"_target_": "mixlake.mixing.policy_bandit.OnlineDataMixing"}
MIXTURE = Mixture.from_dict(
    {
        "components": {
            "german": {"where": "language = 'de'", "weight": 1},
            "english": {"where": "language = 'en'", "weight": 2},
            "rest": {"weight": 1},
        },
        "on_exhausted": "repeat",
    }
)
SETTINGS: dict[str, Any] = {"chunk_size": 10, "lanes": 2, "length": {"chunks": 60}, "seed": 7}


def declare(catalog: Catalog, name: str, **settings: Any) -> Run:
    adapt = {"policy": ODM, "interval": 5, "delay": 3, "tolerance": 0.0}
    return Run.start(catalog, name, MIXTURE, **{**SETTINGS, "adapt": adapt, **settings})


def losses(step: int, chunk: int | None = None) -> StepLosses:
    tokens = np.array([40, 60 + step % 7, 20], np.int64)
    means = np.array([3.0 + np.sin(step), 1.0, 2.0])
    reached = step if chunk is None else chunk
    return StepLosses(step=step, loss_sum=means * tokens, num_tokens=tokens, weights_version=1, chunk=reached)


def train(run: Run, steps: Iterable[int]) -> None:
    """Report steps of one chunk each, and draw chunks as a loader does: three ahead of what is reached."""
    adapter = Adapter(run)
    adapter.catch_up()
    for step in steps:
        run.feedback.append([losses(step)])
        adapter.catch_up()
        run.schedule(max(0, step + 3 - run.chunks.last()[0] - 1))


def recorded(run: Run) -> list[tuple[Any, ...]]:
    """Every weights version and every chunk."""
    query = "SELECT version, step, chunk, cause, weights, details FROM weights WHERE run = '{}' ORDER BY version"
    versions = [tuple(map(str, row.values())) for row in run.catalog.sql(query.format(run.name)).to_pylist()]
    chunks = "SELECT chunk, weights_version, intervals, component_order FROM chunks WHERE run = '{}' ORDER BY chunk"
    return [*versions, *(tuple(map(str, row.values())) for row in run.catalog.sql(chunks.format(run.name)).to_pylist())]


def versions(run: Run, *causes: str) -> list[dict[str, Any]]:
    return [row for row in run.weights().to_pylist() if row["cause"] in causes]


def test_decisions_are_weights_versions_from_their_chunk_on(catalog: Catalog, new_name: NewName) -> None:
    run = declare(catalog, new_name())
    train(run, range(30))
    adapted = versions(run, "adapt")
    assert [(row["step"], row["chunk"]) for row in adapted] == [(s, s + 3) for s in (4, 9, 14, 19, 24)]
    details = json.loads(adapted[0]["details"])
    expected = {"policy": ODM["_target_"], "reached_chunk": 4, "delay_chunks": 3, "chunks_late": 0}
    assert expected.items() <= details.items()
    assert details["reported_weights_version"] == 1
    assert details["german"]["reward"] > details["english"]["reward"]
    shares = {w["component"]: w["weight"] for w in adapted[-1]["weights"]}
    assert shares["german"] > 0.26
    newest = run.chunks.read(27, 28)[0]
    assert newest.weights_version == adapted[-1]["version"]


def test_the_same_feedback_gives_the_same_versions_and_chunks(catalog: Catalog, new_name: NewName) -> None:
    first, second = declare(catalog, new_name()), declare(catalog, new_name())
    train(first, range(40))
    for step in range(40):  # another trainer, which stops and resumes after every step
        train(Run.load(catalog, second.name), [step - 1, step] if step else [0])
    assert recorded(first) == recorded(second)


def test_replaying_a_finished_run_gives_its_weights_versions_bit_for_bit(catalog: Catalog, new_name: NewName) -> None:
    run = declare(catalog, new_name())
    train(run, range(80))
    assert run.chunks.last()[2]
    again = replay(run.config.adapt, run.program, run.delay, run.feedback.read())  # type: ignore[arg-type]
    assert again == run.decisions.read()
    prior_K, segment = prior(run.program), run.program.segments[0]
    made = versions(run, "adapt")
    assert len(made) > 8
    for row, decision in zip(made, again, strict=False):
        shares = tilted(segment.shares, list(decision.weights.values()), prior_K)
        assert [w["weight"] for w in row["weights"]] == [share / SCALE for share in shares]
        assert (row["step"], row["chunk"]) == (decision.step, decision.chunk)


def test_a_stored_state_and_the_rest_give_what_the_whole_feedback_gives(
    catalog: Catalog, new_name: NewName, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = declare(catalog, new_name())
    train(whole, range(33))
    monkeypatch.setattr("mixlake.mixing.adapter._STEPS_PER_STATE", 10)
    parts = declare(catalog, new_name())
    taken = []
    for step in range(33):
        parts.feedback.append([losses(step)])
        adapter = Adapter(Run.load(catalog, parts.name))
        taken.append(step - adapter.last_step)
        adapter.catch_up()
    assert max(taken) <= 11  # what lies before the state is not replayed
    assert parts.decisions.read() == whole.decisions.read()


def test_a_change_within_the_tolerance_is_no_version(catalog: Catalog, new_name: NewName) -> None:
    adapt = {"policy": ODM, "interval": 5, "delay": 3, "tolerance": 0.2}
    run = declare(catalog, new_name(), adapt=adapt)
    train(run, range(30))
    decisions = [np.array(list(decision.weights.values())) for decision in run.decisions.read()]
    path = [prior(run.program), *decisions]
    assert len(decisions) < 5
    assert all(np.abs(b - a).sum() / 2 > 0.2 for a, b in itertools.pairwise(path))


def test_no_version_changes_more_than_the_bounds_allow_and_none_comes_before_or_after_their_steps(
    catalog: Catalog, new_name: NewName
) -> None:
    bounds = {"floor": 0.2, "cap": 0.5, "max_change": 0.03, "warm_up_steps": 8, "freeze_step": 31}
    average = {"_target_": "mixlake.mixing.policy_average.AverageLoss"}
    run = declare(catalog, new_name(), adapt={"policy": average, "interval": 5, "delay": 3, "bounds": bounds})
    train(run, range(50))
    decisions = run.decisions.read()
    assert [decision.step for decision in decisions] == [9, 14, 19, 24, 29]
    path = [prior(run.program), *(np.array(list(decision.weights.values())) for decision in decisions)]
    moves = [np.abs(b - a).sum() / 2 for a, b in itertools.pairwise(path)]
    assert max(moves) <= 0.03 + 1e-12
    assert moves[0] == pytest.approx(0.03)
    assert all(shares.min() >= 0.2 and shares.max() <= 0.5 for shares in path)
    assert decisions == replay(run.config.adapt, run.program, run.delay, run.feedback.read())  # type: ignore[arg-type]


def test_a_curriculum_goes_on_and_is_tilted(catalog: Catalog, new_name: NewName) -> None:
    stages = {
        "a": {"until": {"chunks": 20}},
        "b": {"ramp": {"over": {"chunks": 5}, "changes": 5}, "weights": {"german": 0.6, "english": 0.4, "rest": 0.0}},
    }
    run = declare(catalog, new_name(), curriculum={"stages": stages})
    train(run, range(40))
    policy = {decision.chunk: list(decision.weights.values()) for decision in run.decisions.read()}
    by_chunk = {row["chunk"]: [w["weight"] for w in row["weights"]] for row in versions(run, "curriculum", "adapt")}
    assert {row["cause"] for row in versions(run, "curriculum", "adapt")} == {"curriculum", "adapt"}
    prior_K = prior(run.program)
    assert prior_K.tolist() == [0.25, 0.5, 0.25]
    for segment in run.program.segments[1:]:
        newest = policy[max(chunk for chunk in policy if chunk <= segment.start)]
        wanted = np.array(segment.shares) / SCALE * newest / prior_K
        assert by_chunk[segment.start] == pytest.approx(wanted / wanted.sum(), abs=1e-12)
    assert by_chunk[max(by_chunk)][2] == 0.0  # what a stage leaves out stays out


def test_what_has_run_out_gets_nothing_and_makes_no_versions(catalog: Catalog, new_name: NewName) -> None:
    mixture = {
        "components": {
            "few": {"where": "n < 20", "weight": 1},
            "german": {"where": "language = 'de'", "weight": 2},
            "rest": {"weight": 1},
        },
        "on_exhausted": "redistribute",
    }
    adapt = {"policy": ODM, "interval": 5, "delay": 3, "tolerance": 0.0}
    run = Run.start(catalog, new_name(), Mixture.from_dict(mixture), adapt=adapt, **SETTINGS)
    train(run, range(40))
    made = versions(run, "exhausted", "adapt")
    gone = next(index for index, row in enumerate(made) if row["cause"] == "exhausted")
    assert all(row["cause"] == "adapt" and row["weights"][0]["weight"] == 0.0 for row in made[gone + 1 :])
    assert len(made) > gone + 3


def test_a_decision_that_comes_too_late_says_by_how_much(catalog: Catalog, new_name: NewName) -> None:
    run = declare(catalog, new_name())
    run.schedule(20)
    run.feedback.append([losses(step, chunk=2) for step in range(5)])
    Adapter(run).catch_up()
    run.schedule(1)
    (row,) = versions(run, "adapt")
    assert (row["chunk"], json.loads(row["details"])["chunks_late"]) == (20, 15)


def test_a_run_that_is_not_adapted_has_no_adapter(catalog: Catalog, new_name: NewName) -> None:
    with pytest.raises(ConfigError, match="does not adapt its weights; declare it with adapt="):
        Adapter(Run.start(catalog, new_name(), MIXTURE, **SETTINGS))


def test_a_wrong_policy_starts_no_run_and_another_one_has_another_hash(catalog: Catalog, new_name: NewName) -> None:
    name = new_name()
    with pytest.raises(ConfigError, match=r"adapt\.policy has no 'speed'"):
        declare(catalog, name, adapt={"policy": {**ODM, "speed": 3}})
    run, plain = declare(catalog, name), Run.start(catalog, new_name(), MIXTURE, **SETTINGS)
    other = declare(catalog, new_name(), adapt={"policy": ODM, "interval": 6})
    assert len({run.config.config_hash, plain.config.config_hash, other.config.config_hash}) == 3
    assert Run.load(catalog, name).config == run.config
    fork = run.fork(new_name(), at_chunk=0)
    assert fork.config.adapt == run.config.adapt
    assert run.fork(new_name(), at_chunk=0, adapt={}).config.adapt is None


def test_a_policy_knows_how_much_a_pass_over_each_component_is(
    catalog: Catalog, new_name: NewName, frame: pd.DataFrame
) -> None:
    few = {"few": {"where": "n < 20", "weight": 1}, "rest": {"weight": 1}}
    stages = {
        "a": {"until": {"chunks": 20}},
        "b": {"mixture": {"components": {"few": {"where": "n < 50", "weight": 1}, "late": {"weight": 1}}}},
    }
    adapt = {"policy": ODM, "interval": 5}
    declared = {"components": few, "unit": "tokens"}
    name = new_name()
    Run.start(catalog, name, declared, adapt=adapt, curriculum={"stages": stages})
    sizes = setting(Run.load(catalog, name).program).tokens_per_pass
    tokens = frame["num_tokens"]
    assert sizes is not None
    assert sizes.tolist() == [
        tokens[frame["n"] < 50].sum(),
        tokens[frame["n"] >= 20].sum(),
        tokens[frame["n"] >= 50].sum(),
    ]
    of_samples = Run.start(catalog, new_name(), {**declared, "unit": "samples"}, adapt=adapt)
    assert setting(of_samples.program).tokens_per_pass is None
    plain = Run.start(catalog, new_name(), declared)
    assert setting(plain.program).tokens_per_pass is None


def test_a_fork_goes_on_adapting_as_the_run_would_have(catalog: Catalog, new_name: NewName) -> None:
    whole, parent = declare(catalog, new_name()), declare(catalog, new_name())
    train(whole, range(45))
    train(parent, range(24))
    fork = parent.fork(new_name(), at_chunk=20)
    train(parent, range(24, 30))  # what it learns from now on is its own
    assert [steps.step for steps in fork.feedback.read()] == list(range(21))
    train(fork, range(21, 45))
    assert [steps.step for steps in Run.load(catalog, fork.name).feedback.read()] == list(range(45))
    parts = [{row["chunk"]: row["weights"] for row in versions(run, "adapt")} for run in (whole, parent, fork)]
    assert len(parts[0]) > 6
    assert {chunk: w for chunk, w in parts[0].items() if chunk >= 20} == {c: w for c, w in parts[2].items() if c > 20}
    turns = [[chunk.component_order.tolist() for chunk in run.chunks.read(0, 45)] for run in (whole, fork)]
    assert turns[0] == turns[1]  # which samples a fork draws in them is another matter


def test_a_fork_with_another_policy_knows_the_losses_and_one_with_other_components_does_not(
    catalog: Catalog, new_name: NewName
) -> None:
    parent = declare(catalog, new_name())
    train(parent, range(24))
    average = {"policy": {"_target_": "mixlake.mixing.policy_average.AverageLoss"}, "interval": 5, "delay": 3}
    other = parent.fork(new_name(), at_chunk=20, adapt=average)
    Adapter(other).catch_up()
    other.schedule(10)
    made = versions(other, "adapt")
    assert [row["chunk"] for row in made] == [20, 22]  # of what it would have decided for earlier chunks, the last
    expected = replay(other.config.adapt, other.program, other.delay, other.feedback.read())[-2:]  # type: ignore[arg-type]
    for row, decision in zip(made, expected, strict=True):
        assert [w["weight"] for w in row["weights"]] == pytest.approx(list(decision.weights.values()))
    assert versions(other, "declared")[0]["weights"] == versions(parent, "declared")[0]["weights"]
    plain = parent.fork(new_name(), at_chunk=20, adapt={})
    plain.schedule(10)
    assert versions(plain, "adapt") == []
    mixture = {"components": {"german": {"where": "language = 'de'", "weight": 1}, "rest": {"weight": 1}}}
    anew = parent.fork(new_name(), at_chunk=20, mixture=Mixture.from_dict(mixture))
    assert anew.feedback.read() == []


FOLLOW = """
import sys
from mixlake.catalog import Catalog
from mixlake.mixing import Adapter, Run
print("ready", flush=True)
Adapter(Run.load(Catalog.open(sys.argv[1]), sys.argv[2])).follow(poll_seconds=0.01)
"""


def test_an_adapter_that_is_killed_again_and_again_decides_as_one_that_is_not(
    register_data: Callable[[Path], Catalog], tmp_path: Path
) -> None:
    own = register_data(tmp_path / "lake")
    run = declare(own, "exp1", length={"chunks": 1000})
    rng = np.random.default_rng(0)
    step, num_kills = 0, 0
    while num_kills < 3:
        command = [sys.executable, "-c", FOLLOW, own.lake.uri, "exp1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            until = time.monotonic() + float(rng.uniform(0.2, 0.6))
            while time.monotonic() < until:
                run.feedback.append([losses(s) for s in range(step, step + 4)])
                step += 4
                time.sleep(0.01)
            process.kill()
        num_kills += 1
    Adapter(run).catch_up()
    decisions = run.decisions.read()
    assert len(decisions) == step // 5
    assert decisions == replay(run.config.adapt, run.program, run.delay, run.feedback.read())  # type: ignore[arg-type]
