"""A curriculum is what its config says, and what is drawn follows it."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import Catalog, ConfigError
from mixlake.mixing import Curriculum, Mixture, Run
from mixlake.mixing.cell_rows import CellRows
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.chunks import delivery
from mixlake.mixing.cursor import Cursor
from mixlake.mixing.index import IndexReader
from mixlake.mixing.quotas import SCALE
from mixlake.mixing.resolution import plan_cells
from mixlake.mixing.run_config import RunConfig
from mixlake.mixing.scheduler import Scheduler

NewName = Callable[[], str]
Draws = Callable[[Run], pd.DataFrame]
BASE = Mixture.from_dict(
    {
        "components": {
            "german": {"where": "language = 'de'", "weight": 1},
            "english": {"where": "language = 'en'", "weight": 1},
            "rest": {"weight": 2},
        },
        "on_exhausted": "redistribute",
    }
)
DEFAULTS: Any = dict.fromkeys(["length", "step", "tokens_per_byte", "tokenizer", "composed"]) | {"lanes": 1}
OTHER = {
    "components": {
        "good": {"where": "quality > 0.7", "weight": 3},
        "english": {"where": "language = 'en'", "weight": 1},
        "german": {"where": "language = 'de' AND kind <> 'code'", "weight": 0},
        "rest": {"weight": 1},
    },
    "on_exhausted": "redistribute",
}


def weights(run: Run) -> list[tuple[int, str, dict[str, float]]]:
    return [
        (row["chunk"], row["cause"], {w["component"]: round(w["weight"], 6) for w in row["weights"] if w["weight"]})
        for row in run.weights().to_pylist()
    ]


# What is declared


def test_a_curriculum_written_out_declares_itself_also_through_json(tmp_path: Path) -> None:
    declared = {
        "stages": {
            "warmup": {"until": {"steps": 10}, "weights": {"german": 0.6}},
            "main": {"until": {"fraction": 0.5}, "mixture": OTHER, "ramp": {"over": {"chunks": 3}, "changes": 2}},
            "end": {"ramp": {"over": {"fraction": 0.1}, "shape": "cosine"}},
        }
    }
    curriculum = Curriculum.from_dict(declared, BASE)
    assert Curriculum.from_dict(json.loads(json.dumps(curriculum.to_dict())), BASE) == curriculum
    (tmp_path / "c.yaml").write_text(json.dumps(declared))
    assert Curriculum.from_yaml(tmp_path / "c.yaml", BASE) == curriculum


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({}, "curriculum.stages: expected at least one named stage, got {}"),
        ({"a": {}, "b": {}}, "curriculum.stages.a lacks 'until'; only the last stage ends with the run"),
        ({"a": {"untill": {}}}, r"stages.a has no key 'untill'; allowed: until, .* mean 'until'\?"),
        ({"a": {"until": {"epochs": 1}}}, "stages.a.until has no key 'epochs'; allowed: steps, chunks, samples"),
        ({"a": {"until": {"steps": 1, "chunks": 1}}}, "stages.a.until is .*; expected one of steps, chunks"),
        ({"a": {"until": {"steps": 0}}}, "stages.a.until.steps is 0; expected a number of steps, 1 or more"),
        ({"a": {"until": {"fraction": 1.5}}}, "stages.a.until.fraction is 1.5; expected a number from 0 to 1"),
        ({"a": {"ramp": {"over": {"chunks": 1}}}}, "stages.a.ramp: there is no stage before the first"),
        ({"a": {"weights": {"german": "x"}}}, "stages.a.weights.german is 'x'; expected a number"),
        ({"a": {"weights": {"german": 1}, "mixture": OTHER}}, "stages.a has both mixture and weights"),
        ({"a": {"mixture": {**OTHER, "unit": "bytes"}}}, "a.mixture.unit is 'bytes', but the run's mixture has 'samp"),
        ({"a": {"mixture": {"components": {"x": {}}}}}, "stages.a.mixture.components.x lacks 'weight'"),
        ({"a": {"until": {"chunks": 1}}, "b": {"ramp": {"shape": "linear"}}}, "stages.b.ramp lacks 'over'"),
    ],
)
def test_a_wrong_curriculum_is_refused_with_its_path(stages: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Curriculum.from_dict({"stages": stages}, BASE)


@pytest.mark.parametrize(
    ("stages", "settings", "message"),
    [
        ({"a": {"until": {"steps": 5}}, "b": {}}, {}, "a.until.steps is 5, but what a step takes is not declared"),
        ({"a": {"until": {"fraction": 0.5}}, "b": {}}, {}, "a.until.fraction is 0.5 of the run, whose length is not"),
        ({"a": {"until": {"tokens": 5}}, "b": {}}, {}, "is a number of tokens, but the mixture counts samples"),
        ({"a": {"until": {"steps": 5}}, "b": {}}, {"step": {"tokens": 9}}, "a.until.steps is a number of tokens, but"),
        ({"a": {"until": {"chunks": 5}}, "b": {"until": {"chunks": 5}}, "c": {}}, {}, "b.until is 5 chunks, where the"),
        ({"a": {"until": {"chunks": 5}}, "b": {}}, {"length": {"chunks": 5}}, "a.until is 5 chunks, but the run ends"),
        ({"a": {"until": {"chunks": 5}}}, {"length": {"chunks": 6}}, "a.until is 5 chunks, but the run's length is 6"),
        ({"a": {"weights": {"germn": 0.5}}}, {}, r"a.weights: no component 'germn'; .* Did you mean 'german'\?"),
        ({"a": {"weights": {"german": 1.5}}}, {}, "a.weights: the shares sum to 1.5; at most 1 is possible"),
        (
            {"a": {"until": {"chunks": 2}}, "b": {"until": {"chunks": 4}, "ramp": {"over": {"chunks": 3}}}, "c": {}},
            {},
            "b.ramp.over is 3 chunks, the stage has 2 chunks; it must fit in",
        ),
        (
            {"a": {"until": {"chunks": 2}}, "b": {"mixture": {"components": {"x": {"where": "lang", "weight": 1}}}}},
            {},
            "curriculum.stages.b.mixture.components.x.where: unknown property 'lang'",
        ),
    ],
)
def test_what_cannot_be_known_is_refused(
    catalog: Catalog, new_name: NewName, stages: Any, settings: Any, message: str
) -> None:
    before = catalog.lake.table("runs").version()
    with pytest.raises(ValueError, match=message):
        Run.start(catalog, new_name(), BASE, curriculum={"stages": stages}, **settings)
    assert catalog.lake.table("runs").version() == before


# What is drawn


def test_stages_have_their_weights_and_are_recorded(catalog: Catalog, new_name: NewName, draws: Draws) -> None:
    stages = {"a": {"until": {"samples": 50}}, "b": {"until": {"chunks": 8}, "weights": {"german": 0.5}}, "c": {}}
    run = Run.start(catalog, new_name(), BASE, curriculum={"stages": stages}, chunk_size=20, length={"chunks": 10})
    assert run.schedule(100) == 10
    assert weights(run) == [
        (0, "declared", {"german": 0.25, "english": 0.25, "rest": 0.5}),
        (3, "curriculum", {"german": 0.5, "english": 0.166667, "rest": 0.333333}),
        (8, "curriculum", {"german": 0.25, "english": 0.25, "rest": 0.5}),
    ]
    found = draws(run)
    assert found.groupby("chunk").stage.first().tolist() == [0] * 3 + [1] * 5 + [2] * 2
    assert found[found.stage == 1].component.value_counts().to_dict() == {"german": 50, "rest": 33, "english": 17}
    assert run.chunks.last()[2]


def test_a_ramp_is_a_stair_whose_mean_is_halfway(catalog: Catalog, new_name: NewName) -> None:
    ramp = {"over": {"chunks": 10}, "changes": 5}
    stages = {"a": {"until": {"chunks": 2}}, "b": {"weights": {"german": 0.75}, "ramp": ramp}}
    run = Run.start(catalog, new_name(), BASE, curriculum={"stages": stages}, chunk_size=5)
    run.schedule(15)
    found = weights(run)
    assert [chunk for chunk, _, _ in found] == [0, 2, 4, 6, 8, 10, 12]
    assert {cause for _, cause, _ in found[1:]} == {"curriculum"}
    assert [shares["german"] for _, _, shares in found] == [0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75]


def test_a_stage_that_ends_after_bytes_ends_with_the_chunk_that_reaches_them(
    catalog: Catalog, new_name: NewName, draws: Draws
) -> None:
    base = Mixture.from_dict({**BASE.to_dict(), "unit": "bytes"})
    ramp = {"over": {"bytes": 9_000}, "changes": 7}
    stages = {
        "a": {"until": {"fraction": 0.25}},
        "b": {"until": {"steps": 6}, "weights": {"german": 0.75}, "ramp": ramp},
        "c": {"weights": {"english": 0.75}},
    }
    settings: dict[str, Any] = {"chunk_size": 10, "length": {"bytes": 40_000}, "step": {"bytes": 5_000}}
    run = Run.start(catalog, new_name(), base, curriculum={"stages": stages}, **settings)
    run.schedule(1000)
    found = draws(run).groupby("chunk").agg(num_bytes=("num_bytes", "sum"), stage=("stage", "first"))
    reached = found.num_bytes.cumsum()
    before = reached - found.num_bytes
    assert found.stage.tolist() == np.searchsorted([10_000, 30_000], before, side="right").tolist()
    assert before.iloc[-1] < 40_000 <= reached.iloc[-1]
    ramps = [chunk for chunk, cause, _ in weights(run) if cause == "curriculum"]
    assert len(ramps) == 9
    starts = [int((before >= at).idxmax()) for at in (*(10_000 + 9_000 * k // 7 for k in range(7)), 19_000, 30_000)]
    assert ramps == starts


def test_in_a_ramp_old_components_leave_their_shares_to_those_that_take_their_samples(
    catalog: Catalog, frame: pd.DataFrame, new_name: NewName
) -> None:
    good = {"components": {"good": {"where": "quality > 0.5", "weight": 3}, "bad": {"weight": 1}}}
    ramp = {"over": {"chunks": 2}}
    stages = {"a": {"until": {"chunks": 2}}, "b": {"mixture": good, "ramp": ramp}}
    run = Run.start(catalog, new_name(), BASE, curriculum={"stages": stages}, chunk_size=20)
    run.schedule(5)
    names = frame.language.map({"de": "german", "en": "english"}).fillna("rest")
    part_good = (frame.quality > 0.5).groupby(names).mean()
    old = 0.25 * part_good["german"] + 0.25 * part_good["english"] + 0.5 * part_good["rest"]
    found = {chunk: shares for chunk, _, shares in weights(run)}
    assert found[2]["good"] == pytest.approx(0.75 * old + 0.25 * 0.75, abs=1e-5)
    assert found[3]["good"] == pytest.approx(0.25 * old + 0.75 * 0.75, abs=1e-5)
    assert found[4] == {"good": 0.75, "bad": 0.25}


stages_strategy = st.lists(
    st.tuples(
        st.integers(1, 12),
        st.sampled_from([{}, {"weights": {"german": 0.9}}, {"weights": {"rest": 0.0}}, {"mixture": OTHER}]),
        st.sampled_from([None, "linear", "cosine"]),
    ),
    min_size=1,
    max_size=4,
)


def drawn(catalog: Catalog, config: RunConfig, plan: CellPlan, cuts: Iterator[int]) -> tuple[list[Any], pd.DataFrame]:
    """Every weights version and every sample, drawn in pieces, each by a new scheduler from a stored cursor."""
    program = config.program()
    reader = IndexReader(catalog, program, plan)
    cursor, changes, parts = Cursor.start(program, plan, config.lanes), [], []
    while not cursor.is_ended:
        rows = CellRows(plan, reader, seed=config.seed, window=program.window, lanes=config.lanes)
        found = Scheduler(program, plan, rows, chunk_size=config.chunk_size).draw(cursor, next(cuts))
        cursor = Cursor.from_dict(json.loads(json.dumps(found.cursor.to_dict())))
        changes += found.changes
        for chunk in found.chunks:
            order = delivery(chunk, seed=config.seed, shuffled=True)
            i = chunk.intervals
            keys = {"registration": i.registration[order.interval], "file_id": i.file_id[order.interval]}
            more = {"chunk": chunk.number, "stage": chunk.stage, "version": chunk.weights_version}
            part = pd.DataFrame({**keys, "row": order.row, "component": order.component, "last": chunk.is_last})
            parts.append(part.assign(**more))
    return changes, pd.concat(parts, ignore_index=True)


@settings(deadline=None, max_examples=25)
@given(stages=stages_strategy, chunk_size=st.sampled_from([10, 37, 90]), cut=st.integers(1, 7), data=st.data())
def test_nothing_repeats_quotas_are_carried_and_any_restart_gives_the_same(
    catalog: Catalog, stages: Any, chunk_size: int, cut: int, data: st.DataObject
) -> None:
    declared: dict[str, Any] = {}
    at = 0
    for number, (length, change, ramp) in enumerate(stages):
        at += length
        over = {"chunks": data.draw(st.integers(1, length))}
        ramps = {"ramp": {"shape": ramp, "over": over}} if ramp and number else {}
        declared[f"s{number}"] = {**change, **ramps, "until": {"chunks": at}}
    config = RunConfig.declare(
        catalog, "exp1", BASE, curriculum={"stages": declared}, chunk_size=chunk_size, seed=at, **DEFAULTS
    )
    plan = plan_cells(catalog, config.program())
    config = config.settled(plan)
    program = config.program()
    changes, found = drawn(catalog, config, plan, itertools.repeat(1 << 20))
    again, pieces = drawn(catalog, config, plan, itertools.repeat(cut))
    assert found.equals(pieces)
    assert changes == again
    assert not found.duplicated(["registration", "file_id", "row"]).any()
    assert found["last"].iloc[-1]
    assert found["last"].sum() == found.chunk.value_counts()[found.chunk.max()]
    is_over = found.chunk.max() + 1 == at
    assert (
        is_over
        or len(found) == 2400
        or stages[found.stage.max()][1] in ({"weights": {"rest": 0.0}}, {"mixture": OTHER})
    )
    shares = {1: program.segments[0].shares} | {change.version: change.shares for change in changes}
    exhausted = [change.chunk for change in changes if change.cause == "exhausted"]
    owed = np.zeros(len(program.components))
    for (chunk, version), part in found.groupby(["chunk", "version"], sort=True):
        if chunk >= min([*exhausted, found.chunk.max() + 1]) - 1:  # one that ends the run makes no version
            break
        exact = np.array(shares[int(version)]) / SCALE
        owed += exact * len(part) - np.bincount(part.component, minlength=len(owed))
        owed = np.where(exact > 0, owed + owed[exact == 0].sum() * exact, 0)
        assert abs(owed).max() <= 2  # one sample, and less than one that was owed when the weights changed
