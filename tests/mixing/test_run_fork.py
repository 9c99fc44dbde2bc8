"""A fork goes on from a chunk of another run, and draws nothing again that was drawn before it in the same pass."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import Catalog, ConfigError, LakeError
from mixlake.mixing import Mixture, Run, list_runs

NewName = Callable[[], str]
Draws = Callable[[Run], pd.DataFrame]
MIXTURE = Mixture.from_dict(
    {
        "components": {
            "german": {"where": "language = 'de'", "weight": 1},
            "few": {"where": "n % 40 = 0", "weight": 1, "on_exhausted": "repeat", "max_passes": 4},
            "rest": {"weight": 2},
        },
        "on_exhausted": "redistribute",
    }
)
OTHERS: list[dict[str, Any]] = [
    {},
    {"seed": 99},
    {"mixture": {"components": {"rest": {"weight": 1}}}},
    {
        "mixture": {
            "components": {
                "good": {"where": "quality > 0.5", "weight": 3},
                "few": {"where": "n % 20 = 0", "weight": 1},
                "rest": {"weight": 1},
            },
            "on_exhausted": "redistribute",
        }
    },
    {"mixture": {"components": {"all": {"weight": 1, "on_exhausted": "repeat", "max_passes": 2}}}},
    {"curriculum": {"stages": {"a": {"until": {"chunks": 9}}, "b": {"weights": {"german": 0.8}}}}},
]


@settings(deadline=None, max_examples=8)
@given(
    other=st.sampled_from(OTHERS),
    at_chunk=st.integers(0, 14),
    ahead=st.integers(0, 6),
    cut=st.integers(5, 30),
)
def test_a_fork_draws_what_is_left(
    catalog: Catalog, new_name: NewName, draws: Draws, other: Any, at_chunk: int, ahead: int, cut: int
) -> None:
    parent = Run.start(catalog, new_name(), MIXTURE, chunk_size=60, seed=5)
    parent.schedule(at_chunk + ahead)
    fork = parent.fork(new_name(), at_chunk=at_chunk, **other)
    while fork.schedule(cut):
        fork = Run.load(catalog, fork.name)
    found = draws(fork)
    before, after = found[found.chunk < at_chunk], found[found.chunk >= at_chunk]
    assert len(before) == 60 * at_chunk
    assert not at_chunk or before.n.tolist() == draws(parent).n[: 60 * at_chunk].tolist()
    assert after.chunk.drop_duplicates().tolist() == list(range(at_chunk, found.chunk.max() + 1))
    drawn = Counter(before.n)
    after = after.sort_values(["chunk", "number"])  # inside a chunk the order is that of delivery
    for n, number in zip(after.n, after.number, strict=True):  # a pass says how often the sample was drawn before
        assert number == drawn[n]
        drawn[n] += 1
    assert set(drawn) == set(range(2400))


def test_time_and_what_is_owed_go_on(catalog: Catalog, new_name: NewName, draws: Draws) -> None:
    stages = {"a": {"until": {"bytes": 9_000}}, "b": {"weights": {"german": 0.6}}}
    declared: dict[str, Any] = {**MIXTURE.to_dict(), "unit": "bytes"}
    parent = Run.start(catalog, new_name(), declared, curriculum={"stages": stages}, chunk_size=20)
    parent.schedule(7)
    fork = parent.fork(new_name(), at_chunk=5, seed=1)
    fork.schedule(20)
    rows = fork.weights().to_pylist()
    assert [(row["version"], row["cause"]) for row in rows] == [(2, "declared"), (3, "curriculum")]
    found = draws(fork)
    reached = found.groupby("chunk").num_bytes.sum().cumsum()
    assert found[found.stage == 1].chunk.min() == (reached >= 9_000).idxmax() + 1
    assert found.groupby("chunk").version.first()[[0, 4, 5]].tolist() == [1, 1, 2]
    first = found[found.stage == 0]
    shares = first.groupby("component").num_bytes.sum() / first.num_bytes.sum()
    assert abs(shares - pd.Series({"german": 0.25, "few": 0.25, "rest": 0.5})).max() * first.num_bytes.sum() < 2 * 90


def test_a_fork_of_a_fork_knows_all_that_was_drawn(catalog: Catalog, new_name: NewName, draws: Draws) -> None:
    parent = Run.start(catalog, new_name(), MIXTURE, chunk_size=50)
    parent.schedule(10)
    middle = parent.fork(new_name(), at_chunk=8, mixture={"components": {"new": {"weight": 1}}})
    middle.schedule(6)
    assert middle.components == ("german", "few", "rest", "new")
    fork = Run.load(catalog, middle.fork(new_name(), at_chunk=12, mixture=MIXTURE).name)
    fork.schedule(1000)
    found = draws(fork)
    assert found.groupby("chunk").component.first()[11] == "new"
    assert not found.duplicated(["n", "number"]).any()
    assert [run.name for run in fork.ancestors()] == [middle.name, parent.name]
    sample = found[found.chunk == 3].iloc[0]
    lineage = fork.lineage(f"n = {sample.n}").to_pylist()
    assert lineage[0]["chunk"] == 3


def test_a_newer_catalog_version_adds_what_is_new_and_repeats_nothing(
    make_catalog: Callable[..., Catalog], tmp_path: Path
) -> None:
    records = [{"text": "x", "n": n} for n in range(300)]
    catalog = make_catalog(tmp_path, {"a": records[:200], "b": records[200:]}, {"n": "n"})
    parent = Run.start(catalog, "exp1", {"components": {"all": {"weight": 1}}}, chunk_size=20)
    parent.schedule(8)
    file = tmp_path / "data" / "c.jsonl"
    file.write_text("\n".join(json.dumps({"text": "y", "n": n}) for n in range(300, 350)))
    catalog.register("c", str(file), properties={"n": "n"})
    properties = {"n": "n", "is_even": "n % 2 = 0"}
    catalog.register("a", str(tmp_path / "data" / "a.jsonl"), properties=properties, replace=True)
    newer = Catalog.open(catalog.lake.uri)
    mixture = {
        "components": {"even": {"where": "is_even", "weight": 1}, "rest": {"weight": 1}},
        "on_exhausted": "redistribute",
    }
    fork = parent.fork("exp2", at_chunk=8, mixture=mixture, catalog=newer)
    fork.schedule(1000)
    numbers = []
    for run, chunks in ((parent, range(8)), (fork, range(8, fork.chunks.last()[0] + 1))):
        for chunk in chunks:
            keys = run.samples(chunk).to_pandas()[["registration", "file_id", "row"]]
            known = run.catalog.sql("SELECT registration, file_id, row, n FROM samples").to_pandas()
            numbers += keys.merge(known, how="left").n.tolist()
    assert sorted(numbers) == list(range(350))


def numbers_of(run: Run) -> list[int]:
    """The property ``n`` of every sample that a run and those that it goes on from have drawn."""
    found: list[int] = []
    for chunk in range(run.chunks.last()[0] + 1):
        owner = next(r for r in (run, *run.ancestors()) if chunk >= r.config.at_chunk)
        keys = run.samples(chunk).to_pandas()[["registration", "file_id", "row"]]
        known = owner.catalog.sql("SELECT registration, file_id, row, n FROM samples").to_pandas()
        found += keys.merge(known, how="left").n.astype(int).tolist()
    return found


def test_every_fork_of_a_fork_may_have_a_newer_version_still(
    make_catalog: Callable[..., Catalog], tmp_path: Path
) -> None:
    catalog = make_catalog(tmp_path, {"a": [{"text": "x", "n": n} for n in range(120)]}, {"n": "n"})
    run = Run.start(catalog, "v1", {"components": {"all": {"weight": 1}}}, chunk_size=20)
    run.schedule(2)
    for version in (2, 3):
        properties = {"n": "n", f"p{version}": "n % 2 = 0"}
        catalog.register("a", str(tmp_path / "data" / "a.jsonl"), properties=properties, replace=True)
        components = {f"c{version}": {"where": f"p{version}", "weight": 1}, "all": {"weight": 1}}
        mixture = {"components": components, "on_exhausted": "redistribute"}
        newer = Catalog.open(catalog.lake.uri)
        run = run.fork(f"v{version}", at_chunk=2 * version - 2, mixture=mixture, catalog=newer)
        assert run.schedule(2) == 2
    assert run.catalog.version == 3
    drawn = numbers_of(run)
    assert len(set(drawn)) == len(drawn) == 120
    found = run.lineage("p3 OR n = 1").to_pylist()
    assert [row["chunk"] for row in found] == sorted(
        place // 20 for place, n in enumerate(drawn) if n % 2 == 0 or n == 1
    )
    assert {row["registration"] for row in found} == {r for v in (1, 2, 3) for r in registrations(catalog, v)}


def registrations(catalog: Catalog, version: int) -> tuple[str, ...]:
    return catalog.at(version=version).dataset("a").registrations


def test_a_run_that_has_ended_goes_on_with_what_a_newer_version_adds(
    make_catalog: Callable[..., Catalog], write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    records = [{"text": "x", "n": n} for n in range(90)]
    catalog = make_catalog(tmp_path, {"a": records[:50]}, {"n": "n"})
    parent = Run.start(catalog, "exp1", {"components": {"all": {"weight": 1}}}, chunk_size=20)
    assert parent.schedule(9) == 3
    with pytest.raises(ConfigError, match=r"would begin with chunk 3, but nothing is left to draw .* in samples@1"):
        parent.fork("same", at_chunk=3)
    catalog.register("b", str(write_jsonl(tmp_path / "data" / "b.jsonl", records[50:])), properties={"n": "n"})
    fork = parent.fork("exp2", at_chunk=3, catalog=Catalog.open(catalog.lake.uri))
    assert fork.schedule(9) == 2
    assert sorted(numbers_of(fork)) == list(range(90))
    assert [chunk.is_last for chunk in fork.chunks.read(0, 9)] == [False, False, False, False, True]
    assert "same" not in {row["run"] for row in list_runs(catalog).to_pylist()}


def test_length_counts_from_the_beginning_of_the_parent(catalog: Catalog, new_name: NewName) -> None:
    parent = Run.start(catalog, new_name(), MIXTURE, chunk_size=20, length={"chunks": 4})
    parent.schedule(4)
    with pytest.raises(ConfigError, match="would begin with chunk 4, where its length is reached"):
        parent.fork(new_name(), at_chunk=4, seed=1)
    assert parent.fork(new_name(), at_chunk=4, length={"chunks": 6}).schedule(9) == 2
    assert parent.fork(new_name(), at_chunk=3, seed=1).schedule(9) == 1


def shares(run: Run) -> list[tuple[int, str, float]]:
    """Chunk, cause and german's share of every weights version."""
    rows = run.weights().to_pylist()
    return [(row["chunk"], row["cause"], round(row["weights"][0]["weight"], 3)) for row in rows]


def test_weights_that_were_set_hold_on_unless_something_else_is_declared(catalog: Catalog, new_name: NewName) -> None:
    parent = Run.start(catalog, new_name(), MIXTURE, chunk_size=20, length={"chunks": 20})
    parent.schedule(2)
    parent.set_weights({"german": 0.5}, step=7)
    parent.set_weights({"german": 0.6}, from_chunk=8)
    parent.schedule(1)
    fork = parent.fork(new_name(), at_chunk=5, seed=9)
    assert shares(fork) == [(5, "manual", 0.5)]
    again = fork.fork(new_name(), at_chunk=5, seed=10)  # before the first one has a chunk of its own
    again.schedule(4)
    assert shares(again) == [(5, "manual", 0.5), (8, "manual", 0.6)]
    assert shares(again.fork(new_name(), at_chunk=9)) == [(9, "manual", 0.6)]
    other = again.fork(new_name(), at_chunk=9, curriculum={"stages": {"a": {}}})
    assert shares(other) == [(9, "declared", 0.25)]
    fork.schedule(2)
    assert shares(parent.fork(new_name(), at_chunk=1)) == [(1, "declared", 0.25)]


def test_weights_that_were_set_end_where_the_curriculum_goes_on(catalog: Catalog, new_name: NewName) -> None:
    stages = {"a": {"until": {"chunks": 3}}, "b": {"weights": {"german": 0.4}}}
    parent = Run.start(catalog, new_name(), MIXTURE, chunk_size=20, curriculum={"stages": stages})
    parent.set_weights({"german": 0.5})
    parent.schedule(3)
    assert shares(parent.fork(new_name(), at_chunk=2)) == [(2, "manual", 0.5)]
    assert shares(parent.fork(new_name(), at_chunk=3)) == [(3, "declared", 0.4)]
    assert shares(parent.fork(new_name(), at_chunk=4)) == [(4, "declared", 0.4)]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"at_chunk": 4}, ConfigError, "at_chunk is 4; run '.*' is scheduled up to chunk 2"),
        ({"at_chunk": -1}, ConfigError, "at_chunk is -1"),
        ({"at_chunk": True}, ConfigError, "at_chunk is True"),
        ({"at_chunk": 1, "seed": -1}, ConfigError, "seed is -1"),
        ({"at_chunk": 1, "mixture": {"kind": "arbitrary", "unit": "bytes"}}, ConfigError, "unit is bytes, but run"),
        ({"at_chunk": 1, "mixture": {"components": {"a": {"where": "lang", "weight": 1}}}}, ValueError, "'lang'"),
    ],
)
def test_a_wrong_fork_is_refused(
    catalog: Catalog, new_name: NewName, arguments: Any, error: type[Exception], message: str
) -> None:
    parent = Run.start(catalog, new_name(), MIXTURE, chunk_size=20)
    parent.schedule(3)
    with pytest.raises(error, match=message):
        parent.fork(new_name(), **arguments)
    with pytest.raises(LakeError, match="exists already"):
        parent.fork(parent.name, at_chunk=1)


@pytest.mark.parametrize("unit", ["samples", "bytes", "tokens"])
def test_a_fork_that_changes_nothing_draws_what_its_parent_would(
    catalog: Catalog, new_name: NewName, draws: Draws, unit: str
) -> None:
    declared: dict[str, Any] = {**MIXTURE.to_dict(), "unit": unit}
    stages = {"a": {"until": {"chunks": 9}}, "b": {"weights": {"german": 0.6}, "ramp": {"over": {"chunks": 4}}}}
    parent = Run.start(catalog, new_name(), declared, curriculum={"stages": stages}, chunk_size=60)
    parent.schedule(1000)
    fork = parent.fork(new_name(), at_chunk=7)
    twig = fork.fork(new_name(), at_chunk=7)
    for run in (fork, twig):
        run.schedule(1000)
        assert draws(Run.load(catalog, run.name)).drop(columns="version").equals(draws(parent).drop(columns="version"))


REST = {"components": {"rest": {"weight": 1}}}
IN_CELLS: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"mixture": {**MIXTURE.to_dict(), "components": MIXTURE.to_dict()["components"] | REST["components"]}}, True),
    ({"mixture": {**REST, "on_exhausted": "repeat", "max_passes": 2}}, True),
    (
        {"mixture": MIXTURE, "curriculum": {"stages": {"a": {"until": {"chunks": 9}}, "b": {"weights": {"few": 0.8}}}}},
        True,
    ),
    ({"seed": 1}, False),
    ({"mixture": {**MIXTURE.to_dict(), "filter": "n < 2000"}}, False),
    ({"mixture": {**MIXTURE.to_dict(), "shuffle": "none"}}, False),
    ({"mixture": {"components": {"good": {"where": "quality > 0.5", "weight": 1}}}}, False),
]


@pytest.mark.parametrize(("changes", "is_in_cells"), IN_CELLS)
def test_a_fork_goes_on_in_its_parents_cells_where_these_tell_enough(
    catalog: Catalog, new_name: NewName, draws: Draws, changes: dict[str, Any], is_in_cells: bool
) -> None:
    parent = Run.start(catalog, new_name(), MIXTURE, chunk_size=60)
    parent.schedule(9)
    middle = parent.fork(new_name(), at_chunk=4, mixture={"components": {"few": {"where": "n % 40 = 0", "weight": 1}}})
    middle.schedule(1)
    for run in (parent, middle):
        fork = run.fork(new_name(), at_chunk=4 if run is middle else 6, **changes)
        fork.schedule(1000)
        fork = Run.load(catalog, fork.name)
        assert (fork.config.resolution.cells is not None) == is_in_cells
        found = draws(fork).sort_values(["chunk", "number"], kind="stable")
        assert found.number.tolist() == found.groupby("n").cumcount().tolist()
