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
from mixlake.mixing import Mixture, Run

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
