"""Runs are declared once, pinned to a version of the catalog, and answer what was drawn and why."""

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from mixlake.catalog import Catalog, ConfigError, LakeError, MixlakeError, QueryError, ScheduleError, schema
from mixlake.mixing import Mixture, Run, list_runs
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.chunks import delivery
from mixlake.mixing.quotas import SCALE
from mixlake.mixing.resolution import plan_cells

MakeMixture = Callable[..., Mixture]
MakeCatalog = Callable[..., Catalog]
NewName = Callable[[], str]


@pytest.fixture
def mixture(make_mixture: MakeMixture) -> Mixture:
    return make_mixture(("language = 'de'", 1), ("kind = 'code'", 2), ("true", 1))


@pytest.fixture
def small(make_catalog: MakeCatalog, tmp_path: Path) -> Catalog:
    """A lake of its own: 40 samples in `a-1`, 20 in `b.2`, with a property n from 0 on in each."""
    records = {name: [{"text": "x", "n": n} for n in range(num)] for name, num in [("a-1", 40), ("b.2", 20)]}
    return make_catalog(tmp_path, records, {"n": "n"})


@pytest.fixture
def halves(make_mixture: MakeMixture) -> Mixture:
    return make_mixture(("n % 2 = 0", 3), ("true", 1), on_exhausted="redistribute")


def table_versions(catalog: Catalog) -> dict[str, int]:
    return {name: catalog.lake.table(name).version() for name in schema.TABLES}


def chunk_rows(run: Run) -> list[dict[str, Any]]:
    """Everything that is stored about the chunks of a run, but for cursors and times."""
    columns = "chunk, weights_version, stage, num_samples, intervals, component_order, is_last"
    rows: list[dict[str, Any]] = run.catalog.sql(
        f"SELECT {columns} FROM chunks WHERE run = '{run.name}' ORDER BY chunk"
    ).to_pylist()
    return rows


# Declaring


def test_a_run_is_declared_with_its_first_weights(catalog: Catalog, mixture: Mixture, new_name: NewName) -> None:
    name = new_name()
    run = Run.start(catalog, name, mixture, seed=5, chunk_size=10, lanes=3)
    assert run.name == name
    (row,) = run.weights().to_pylist()
    assert (row["version"], row["step"], row["chunk"], row["cause"]) == (1, 0, 0, "declared")
    assert row["weights"] == [{"component": f"c{i}", "weight": w} for i, w in enumerate([0.25, 0.5, 0.25])]
    (row,) = [row for row in list_runs(catalog).to_pylist() if row["run"] == name]
    assert (row["catalog_version"], row["seed"], row["chunk_size"], row["lanes"]) == (catalog.version, 5, 10, 3)
    assert run.chunks.last()[0] == -1


def test_a_loaded_run_is_the_one_that_was_started(catalog: Catalog, mixture: Mixture, new_name: NewName) -> None:
    run = Run.start(catalog, new_name(), mixture, seed=2**63 - 1, chunk_size=2**31 - 1, lanes=4096)
    loaded = Run.load(Catalog.open(catalog.lake.uri), run.name)
    assert loaded.config == run.config
    assert loaded.plan.num_samples_C.tolist() == run.plan.num_samples_C.tolist()


def test_a_run_whose_version_is_collected_while_it_is_planned_is_refused(
    small: Catalog, halves: Mixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.unregister("a-1")

    def plan_and_collect(*args: Any) -> CellPlan:
        plan = plan_cells(*args)
        Catalog.open(small.lake.uri).gc("0d")
        return plan

    monkeypatch.setattr("mixlake.mixing.run.plan_cells", plan_and_collect)
    with pytest.raises(LakeError, match="datasets@2 is being collected by gc, or has been, so no run can be pinned"):
        Run.start(small.at(version=2), "exp1", halves)
    assert list_runs(small).count() == 0
    assert Run.start(small, "exp1", halves).schedule(10) == 1


def test_runs_of_equal_configs_have_equal_hashes(catalog: Catalog, mixture: Mixture, new_name: NewName) -> None:
    runs = [Run.start(catalog, new_name(), mixture, seed=seed) for seed in (1, 1, 2)]
    hash_of = {row["run"]: row["config_hash"] for row in list_runs(catalog).to_pylist()}
    first, same, other = (hash_of[run.name] for run in runs)
    assert first == same != other


@pytest.mark.parametrize("name", ["", " ", "a b", "a/b", "../a", ".a", "-a", "a'b", "exp1\n", "größe"])
def test_a_name_that_is_not_a_name_is_refused(catalog: Catalog, mixture: Mixture, name: str) -> None:
    before = table_versions(catalog)
    with pytest.raises(ConfigError, match=r"run name .*: expected letters, digits"):
        Run.start(catalog, name, mixture)
    assert table_versions(catalog) == before


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"seed": -1}, "seed is -1; expected a whole number, 0 to 9223372036854775807"),
        ({"seed": 2**63}, "seed is 9223372036854775808; expected"),
        ({"seed": 1.0}, "seed is 1.0; expected"),
        ({"seed": None}, "seed is None; expected"),
        ({"chunk_size": 0}, "chunk_size is 0; expected a whole number, 1 to"),
        ({"chunk_size": True}, "chunk_size is True; expected"),
        ({"chunk_size": 2**31}, "chunk_size is 2147483648; expected"),
        ({"lanes": 0}, "lanes is 0; expected a whole number, 1 to 4096"),
        ({"lanes": "8"}, "lanes is '8'; expected"),
        ({"lanes": 4097}, "lanes is 4097; expected"),
    ],
)
def test_a_number_out_of_range_is_refused_and_nothing_is_written(
    catalog: Catalog, mixture: Mixture, new_name: NewName, setting: dict[str, Any], message: str
) -> None:
    before = table_versions(catalog)
    name = new_name()
    with pytest.raises(ConfigError, match=message):
        Run.start(catalog, name, mixture, **setting)
    assert table_versions(catalog) == before
    assert Run.start(catalog, name, mixture).name == name


@pytest.mark.parametrize(
    ("components", "error", "message"),
    [
        ([("language = 'xx'", 1)], ConfigError, "c0 is empty: no sample matches"),
        ([("langage = 'de'", 1)], QueryError, r"Did you mean 'language'\?"),
        ([("1 / (n - 3) > 0", 1)], QueryError, "Divide by zero"),
    ],
)
def test_a_mixture_that_does_not_fit_the_catalog_is_refused_and_nothing_is_written(
    catalog: Catalog,
    make_mixture: MakeMixture,
    new_name: NewName,
    components: list[tuple[str, float]],
    error: type[MixlakeError],
    message: str,
) -> None:
    before = table_versions(catalog)
    with pytest.raises(error, match=message):
        Run.start(catalog, new_name(), make_mixture(*components))
    assert table_versions(catalog) == before


def test_a_name_is_taken_once(catalog: Catalog, mixture: Mixture, new_name: NewName) -> None:
    run = Run.start(catalog, new_name(), mixture)
    before = table_versions(catalog)
    with pytest.raises(LakeError, match=f"run '{run.name}' exists already in .*; choose another name, or load it"):
        Run.start(Catalog.open(catalog.lake.uri), run.name, mixture, seed=1)
    assert table_versions(catalog) == before


def test_of_many_that_start_a_run_at_once_one_succeeds(small: Catalog, halves: Mixture) -> None:
    barrier = threading.Barrier(4)
    outcomes: list[Run | LakeError] = []

    def start(seed: int) -> None:
        catalog = Catalog.open(small.lake.uri)
        barrier.wait()
        try:
            outcomes.append(Run.start(catalog, "exp1", halves, seed=seed))
        except LakeError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=start, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (run,) = [outcome for outcome in outcomes if isinstance(outcome, Run)]
    assert len(outcomes) == 4
    assert Run.load(small, "exp1").config == run.config
    assert len(run.weights().to_pylist()) == 1


def test_an_unknown_run_is_refused_with_the_nearest_name(small: Catalog, halves: Mixture) -> None:
    Run.start(small, "exp-german", halves)
    with pytest.raises(
        LakeError, match=r"no run 'exp-grman' in .*; there are: exp-german. Did you mean 'exp-german'\?"
    ):
        Run.load(small, "exp-grman")
    with pytest.raises(LakeError, match='no run "a\'; DROP" in'):
        Run.load(small, "a'; DROP")


def test_a_copy_of_a_run_is_opened_afresh_as_in_a_worker_process(small: Catalog, halves: Mixture) -> None:
    run = Run.start(small, "exp1", halves, chunk_size=10)
    run.schedule(2)
    other = copy.copy(run)
    assert other.config == run.config
    assert other.catalog.lake is not run.catalog.lake
    assert chunk_rows(other) == chunk_rows(run)


# Pinned to a version


def test_a_run_stays_where_it_was_pinned_when_the_catalog_moves_on(
    small: Catalog, halves: Mixture, tmp_path: Path, write_jsonl: Callable[..., Path]
) -> None:
    undisturbed, run = (Run.start(small, name, halves, chunk_size=7) for name in ("undisturbed", "exp1"))
    undisturbed.schedule(100)
    run.schedule(2)
    more = write_jsonl(tmp_path / "more.jsonl", [{"text": "x", "n": n} for n in range(500)])
    small.register("0-first", str(more), properties={"n": "n"})
    small.register("b.2", str(more), properties={"n": "n"}, replace=True)
    reloaded = Run.load(Catalog.open(small.lake.uri), "exp1")
    assert reloaded.config.catalog_version == small.version - 2
    reloaded.schedule(100)
    assert chunk_rows(reloaded) == chunk_rows(undisturbed)
    assert set(reloaded.samples(3).to_pandas().dataset) <= {"a-1", "b.2"}
    assert len(reloaded.lineage("dataset = '0-first'").to_pylist()) == 0
    assert len(reloaded.lineage("n >= 0").to_pylist()) == 60


def test_a_run_may_be_pinned_to_an_old_version(small: Catalog, make_mixture: MakeMixture) -> None:
    run = Run.start(small.at(version=1), "exp1", make_mixture(("true", 1)), chunk_size=100)
    assert run.config.catalog_version == 1
    assert run.schedule(1) == 1
    assert set(run.samples(0).to_pandas().dataset) == {"a-1"}


# Weights


def test_every_component_that_runs_out_makes_a_weights_version(small: Catalog, make_mixture: MakeMixture) -> None:
    mixture = make_mixture(("n < 4", 1), ("n < 12", 1), ("n < 30", 2), on_exhausted="redistribute")
    run = Run.start(small, "exp1", mixture, chunk_size=4)
    for _ in range(100):
        run.schedule(1)
    rows = run.weights().to_pylist()
    assert [row["version"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["cause"] for row in rows] == ["declared"] + ["exhausted"] * (len(rows) - 1)
    chunks = chunk_rows(run)
    for row in rows:
        mine = [chunk["chunk"] for chunk in chunks if chunk["weights_version"] == row["version"]]
        assert min(mine) == row["chunk"]
        assert sum(weight["weight"] for weight in row["weights"]) == pytest.approx(1)
    assert [weight["weight"] for weight in rows[1]["weights"]] == pytest.approx([0, 1 / 3, 2 / 3])
    assert [chunk["weights_version"] for chunk in chunks] == sorted(chunk["weights_version"] for chunk in chunks)


def test_weights_are_had_as_the_integer_shares_that_drew_the_chunks(small: Catalog, make_mixture: MakeMixture) -> None:
    mixture = make_mixture(("n < 4", 1), ("true", 3), on_exhausted="redistribute")
    run = Run.start(small, "exp1", mixture, chunk_size=10)
    run.schedule(100)
    assert run.shares(1) == [SCALE // 4, 3 * SCALE // 4]
    assert Run.load(small, "exp1").shares(2) == [0, SCALE]
    with pytest.raises(LakeError, match="run 'exp1' has no weights version 3 in"):
        run.shares(3)


# What was drawn


def test_the_samples_of_a_chunk_are_in_the_order_of_their_delivery(
    catalog: Catalog, frame: pd.DataFrame, mixture: Mixture, new_name: NewName
) -> None:
    run = Run.start(catalog, new_name(), mixture, seed=3, chunk_size=200)
    run.schedule(2)
    (chunk,) = run.chunks.read(1, 2)
    order = delivery(chunk, seed=3, shuffled=True)
    found = run.samples(1).to_pandas()
    assert found.columns.tolist() == [
        *("position", "component", "dataset", "registration", "file_id", "row", "uri", "pass", "weights_version")
    ]
    assert found.position.tolist() == list(range(200))
    assert found.component.tolist() == [f"c{component}" for component in order.component]
    assert found.row.tolist() == order.row.tolist()
    assert found.file_id.tolist() == chunk.intervals.file_id[order.interval].tolist()
    registrations = [chunk.registrations[index] for index in chunk.intervals.registration[order.interval]]
    assert found.registration.tolist() == registrations
    assert set(found["pass"]) == {0}
    assert set(found.weights_version) == {1}
    joined = found.merge(frame, on=["registration", "file_id", "row"], validate="one_to_one", suffixes=("", "_"))
    assert (joined.dataset == joined.dataset_).all()
    assert all(
        uri.endswith(f"{d}/{f}.jsonl") for uri, d, f in zip(found.uri, found.dataset, found.file_id, strict=True)
    )
    assert (joined.language[joined.component == "c0"] == "de").all()
    assert (joined.kind[joined.component == "c1"] == "code").all()


@pytest.mark.parametrize("chunk", [2, 99, -1])
def test_a_chunk_that_is_not_scheduled_has_no_samples(small: Catalog, halves: Mixture, chunk: int) -> None:
    run = Run.start(small, "exp1", halves, chunk_size=10)
    run.schedule(2)
    with pytest.raises(ScheduleError, match=f"run 'exp1' has no chunk {chunk}; its last chunk is 1"):
        run.samples(chunk)


def test_lineage_finds_the_chunks_that_had_a_sample(catalog: Catalog, mixture: Mixture, new_name: NewName) -> None:
    run = Run.start(catalog, new_name(), mixture, chunk_size=150)
    num_chunks = run.schedule(6)
    drawn = pd.concat([run.samples(chunk).to_pandas().assign(chunk=chunk) for chunk in range(num_chunks)])
    for predicate in [
        "dataset = 'web-crawl.v2' AND file_id = 2 AND row = 17",
        "n % 50 = 7",
        "language = 'de' -- only these\n",
        "language = 'it''s' OR (kind = 'code' AND quality > 0.9) /* good */",
        "language IS NULL",
        "true",
    ]:
        hits = catalog.sql(f"SELECT registration, file_id, row FROM samples WHERE (\n{predicate}\n)").to_pandas()
        expected = drawn.merge(hits, on=["registration", "file_id", "row"])
        keys = ["chunk", "dataset", "file_id", "row"]
        columns = [*keys, "component", "pass", "weights_version", "registration", "uri"]
        found = run.lineage(predicate).to_pandas()
        assert sorted(found.columns) == sorted(columns)
        assert found[columns].to_numpy().tolist() == expected.sort_values(keys)[columns].to_numpy().tolist()
        assert found[keys].to_numpy().tolist() == sorted(found[keys].to_numpy().tolist())


def test_queries_about_a_run_without_chunks_give_nothing(small: Catalog, halves: Mixture) -> None:
    Run.start(small, "exp1", halves).schedule(1)
    Run.start(small, "exp2", halves)
    assert small.sql("SELECT chunk FROM chunks WHERE run = 'exp2' ORDER BY chunk").to_pylist() == []
    assert small.sql("SELECT step FROM feedback WHERE run = 'exp2' ORDER BY step").to_pylist() == []


def test_a_run_whose_starter_died_before_its_weights_gets_them_when_it_is_loaded(
    small: Catalog, halves: Mixture
) -> None:
    started = Run.start(small, "exp1", halves)
    row = {**started.config.to_row(), "run": "exp2"}
    table = pa.Table.from_pylist([row], schema=schema.TABLES[schema.RUNS].columns)
    small.lake.append(schema.RUNS, table, action="start exp2")
    for _ in range(2):
        weights = Run.load(small, "exp2").weights().to_pylist()
        assert [(w["version"], w["cause"]) for w in weights] == [(1, "declared")]
        assert weights[0]["weights"] == started.weights().to_pylist()[0]["weights"]


def test_lineage_looks_at_one_run_alone(small: Catalog, halves: Mixture) -> None:
    run, other = (Run.start(small, name, halves, chunk_size=10) for name in ("exp1", "exp1.b"))
    other.schedule(3)
    assert run.lineage("true").to_pylist() == []
    run.schedule(1)
    assert len(run.lineage("true").to_pylist()) == 10


@pytest.mark.parametrize(
    ("predicate", "message"),
    [
        ("nn = 1", r"lineage: unknown property 'nn'; samples@2 has: .*"),
        ("n", "lineage: 'n' is int64, expected true or false"),
        ("", "lineage: expected an SQL predicate, got ''"),
        ("n = 1)) SELECT * FROM runs --", "lineage: "),
        ("n = 1; DELETE FROM chunks", "lineage: "),
        ("n = 1 /*", "lineage: "),
    ],
)
def test_lineage_refuses_what_is_not_a_predicate(small: Catalog, halves: Mixture, predicate: str, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        Run.start(small, "exp1", halves).lineage(predicate)


def test_a_run_shows_where_it_stands(catalog: Catalog, make_mixture: Callable[..., Mixture]) -> None:
    run = Run.start(catalog, "shown", make_mixture(("language = 'de'", 1), ("true", 3)), chunk_size=16)
    run.schedule(2)
    run.set_weights({"c0": 0.5})
    run.schedule(1)
    assert [line.strip() for line in repr(run).splitlines() if line.strip()][3:] == [
        "c0          50.00%     25.00%",
        "c1          50.00%     75.00%",
        "4 chunks of 16 samples are scheduled; weights version 2",
        "seed 0, 8 lanes, counts samples",
    ]
    assert "run shown over samples@" in run._repr_html_()
