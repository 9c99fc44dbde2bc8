"""What is foretold is what a run then does."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from mixlake.catalog import Catalog
from mixlake.mixing import Run, explain

NewName = Callable[[], str]
Draws = Callable[[Run], pd.DataFrame]
FEW = {"where": "n % 24 = 0", "weight": 1, "on_exhausted": "repeat", "max_passes": 4}
GERMAN = {"where": "language = 'de'", "weight": 1}
REST = {"weight": 2, "on_exhausted": "redistribute"}
GOOD = {"components": {"good": {"where": "quality > 0.5", "weight": 3}, "rest": {"weight": 1}}}


@pytest.mark.parametrize("unit", ["samples", "bytes"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"length": {"samples": 900}},
        {"curriculum": {"stages": {"a": {"until": {"chunks": 9}}, "b": {"weights": {"few": 0.5}}}}},
        {
            "curriculum": {
                "stages": {"a": {"until": {"fraction": 0.5}}, "b": {"mixture": GOOD, "ramp": {"over": {"chunks": 8}}}}
            },
            "length": {"chunks": 60},
        },
    ],
)
def test_stages_give_what_was_foretold(
    catalog: Catalog, new_name: NewName, draws: Draws, settings: Any, unit: str
) -> None:
    mixture = {"unit": unit, "components": {"few": FEW, "german": GERMAN, "rest": REST}, "on_exhausted": "redistribute"}
    expected = explain(catalog, mixture, chunk_size=20, **settings).forecast
    run = Run.start(catalog, new_name(), mixture, chunk_size=20, **settings)
    run.schedule(10_000)
    found = draws(run)
    units = found.num_bytes if unit == "bytes" else pd.Series(1, index=found.index)
    assert units.sum() == pytest.approx(expected.num_units, rel=0.02)
    for number, stage in enumerate(expected.stages):
        mine = found[found.stage == number]
        totals = units[mine.index].groupby(mine.component).sum()
        assert {c.name: c.num_units for c in stage.components} == pytest.approx(totals.to_dict(), rel=0.06, abs=160)
        assert {c.name: c.num_samples for c in stage.components} == pytest.approx(
            mine.component.value_counts().to_dict(), rel=0.1, abs=6 if unit == "samples" else 16
        )
    assert run.chunks.last()[0] + 1 == pytest.approx(sum(s.num_chunks for s in expected.stages), abs=1.5)
    few = expected.stages[-1].components[0]
    if few.name == "few":
        assert few.passes == pytest.approx((found.component == "few").sum() / 100, abs=0.1)


def test_a_run_without_an_end_is_foretold_as_such(catalog: Catalog) -> None:
    found = explain(catalog, {"components": {"all": {"weight": 1, "on_exhausted": "repeat"}}})
    assert found.forecast.num_units == float("inf")
    assert found.notes()[-1] == "The run has no end: its components are repeated, and it has no length."


def test_what_one_would_regret_is_said(catalog: Catalog) -> None:
    few = {"where": "n < 10", "weight": 1, "on_exhausted": "repeat"}
    found = explain(catalog, {"components": {"few": few, "rest": {"weight": 1}}}, length={"samples": 9_000})
    assert found.warnings == (
        "few is seen 239 times; more than four passes help little (arXiv 2305.16264)",
        "the run ends before its length, because rest runs out",
    )
    found = explain(catalog, {"components": {"few": {"where": "n < 10", "weight": 1}}})
    assert found.warnings == ("100% of the samples that pass the filter belong to no component",)


def test_printed_a_run_with_stages_has_a_table_of_them(catalog: Catalog, frame: pd.DataFrame) -> None:
    curriculum = {"stages": {"warm": {"until": {"fraction": 0.5}}, "cold": {"weights": {"german": 0.75}}}}
    mixture = {"components": {"german": GERMAN, "rest": REST}}
    text = str(explain(catalog, mixture, curriculum=curriculum, length={"chunks": 10}, chunk_size=40))
    lines = [line.split() for line in text.split("stages\n")[1].splitlines()]
    title = ["stage", "component", "share", "samples", "bytes", "tokens", "passes", "runs", "out", "(samples)"]
    assert [*title, "overlaps", "cells"] in lines
    rows = {(line[0], line[1]): line[2:] for line in lines if len(line) == 9}
    assert [rows["warm", "german"][i] for i in (0, 1, 4, 5, 6)] == ["33.33%", "67", "0.11", "0", "1"]
    assert [rows["cold", "german"][i] for i in (0, 1, 4, 5, 6)] == ["75.00%", "150", "0.35", "0", "1"]
    is_german = frame.language == "de"
    for place, name in ((2, "num_bytes"), (3, "num_tokens")):
        expected = 150 * frame[name][is_german].mean()
        assert float(rows["cold", "german"][place].replace(",", "")) == pytest.approx(expected, abs=1)
    assert "The run ends after about 400 samples." in text


def test_a_stage_that_ends_within_a_chunk_is_foretold_to_be_skipped(
    catalog: Catalog, new_name: NewName, draws: Draws
) -> None:
    short = {"components": {"few": {"where": "n < 10", "weight": 1}}}
    stages = {"a": {"until": {"bytes": 100}}, "b": {"until": {"bytes": 200}, "mixture": short}, "c": {}, "d": {}}
    stages["c"] = {"until": {"bytes": 5_000}}
    mixture = {"unit": "bytes", "components": {"all": {"weight": 1}}}
    curriculum: dict[str, Any] = {"stages": stages}
    found = explain(catalog, mixture, curriculum=curriculum, chunk_size=50)
    assert found.warnings == ("stage b never comes: it ends in the chunk that the one before it ends with",)
    run = Run.start(catalog, new_name(), mixture, curriculum=curriculum, chunk_size=50)
    run.schedule(100)
    drawn = draws(run)
    assert [stage.num_chunks for stage in found.forecast.stages] == pytest.approx(
        [drawn[drawn.stage == stage].chunk.nunique() for stage in range(4)], abs=1
    )


def test_a_stage_before_which_the_run_ends_is_told(catalog: Catalog) -> None:
    curriculum = {"stages": {"a": {"until": {"samples": 20_000}}, "b": {}}}
    found = explain(catalog, {"components": {"all": {"weight": 1}}}, curriculum=curriculum)
    assert found.warnings == ("stage b never comes: the run ends before it",)


def test_hundreds_of_components_run_out_one_after_the_other(catalog: Catalog) -> None:
    components = {f"c{k}": {"where": f"n % 400 = {k}", "weight": 1 + k} for k in range(400)}
    found = explain(catalog, {"components": components, "on_exhausted": "redistribute"}).forecast
    assert [name for name, _ in found.exhausted] == [f"c{k}" for k in reversed(range(400))]
    assert found.num_units == pytest.approx(2_400)
    for (
        name,
        units,
    ) in found.exhausted:  # those of larger weights have run out too; of one of weight v, 6 v / w are drawn
        weight = 1 + int(name[1:])
        assert units == pytest.approx(6 * (401 - weight) + 3 * (weight - 1))
    assert all(c.passes == pytest.approx(1) for c in found.stages[0].components)


def test_what_an_ordered_component_leaves_to_the_next_stage_is_foretold(
    catalog: Catalog, new_name: NewName, draws: Draws
) -> None:
    easy = {"components": {"easy": {"where": "quality < 0.5", "weight": 1}, "hard": {"weight": 1}}}
    stages = {"first": {"until": {"samples": 900}}, "then": {"mixture": easy}}
    mixture = {"components": {"all": {"weight": 1}}, "order_by": "quality"}
    expected = explain(catalog, mixture, curriculum={"stages": stages}, chunk_size=20).forecast
    run = Run.start(catalog, new_name(), mixture, curriculum={"stages": stages}, chunk_size=20)
    run.schedule(1000)
    assert expected.stopped_by == "easy"
    assert expected.num_units == pytest.approx(len(draws(run)), abs=40)
    assert expected.num_units < 2_000, "the easy ones are nearly gone when the stage begins"


def test_each_stage_has_its_own_overlaps_cells_and_ends_of_components(catalog: Catalog, frame: pd.DataFrame) -> None:
    rules = {"weight": 1, "on_exhausted": "redistribute"}
    fine = {"few": {"where": "n < 60", **rules}, "code": {"where": "kind = 'code'", **rules}}
    curriculum = {"stages": {"a": {"until": {"chunks": 5}}, "b": {"mixture": {"components": fine}}}}
    mixture = {"components": {"german": GERMAN}, "on_exhausted": "redistribute"}
    found = explain(catalog, mixture, curriculum=curriculum, chunk_size=40)
    is_few, is_code = frame.n < 60, frame.kind == "code"
    few, code = found.stages[1].components
    assert (few.num_samples, code.num_samples, code.num_overlaps) == (
        60,
        (is_code & ~is_few).sum(),
        (is_code & is_few).sum(),
    )
    assert found.stages[1].num_unmatched == (~is_few & ~is_code).sum()
    text = str(found)
    unmatched = (frame.language != "de").sum(), found.stages[1].num_unmatched
    assert f"match no component: {unmatched[0]:,}; in stage b: {unmatched[1]:,}." in text
    lines = [line.split() for line in text.split("stages\n")[1].splitlines()]
    (row,) = (line for line in lines if line[:2] == ["b", "few"])
    left = 60 - 200 * (is_few & (frame.language == "de")).sum() / (frame.language == "de").sum()
    assert float(row[7].replace(",", "")) == pytest.approx(200 + 2 * left, abs=2)
    assert row[8:] == ["0", str(few.num_cells)]
