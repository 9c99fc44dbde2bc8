"""Scheduling is resumed from any snapshot, by any process, and nothing of the chunks shows it."""

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import Catalog, ConfigError, ScheduleError
from mixlake.mixing import Mixture, Run, schedule
from mixlake.mixing.cursor import Cursor
from mixlake.mixing.scheduler import Scheduler

MakeMixture = Callable[..., Mixture]
NewName = Callable[[], str]
Rows = list[dict[str, Any]]

SCHEDULE_UNTIL_KILLED = """
import sys
from mixlake.catalog import Catalog
from mixlake.mixing import Run
run = Run.load(Catalog.open(sys.argv[1]), sys.argv[2])
while run.schedule(1):
    sys.stdout.write("another\\n")
    sys.stdout.flush()
"""


@pytest.fixture(scope="module")
def mixture(make_mixture: MakeMixture) -> Mixture:
    """Components that run out one after the other."""
    return make_mixture(
        ("language = 'de' AND quality < 0.1", 3),
        ("language = 'de'", 2),
        ("kind = 'code'", 1),
        ("true", 1),
        on_exhausted="redistribute",
    )


@pytest.fixture
def own(register_data: Callable[[Path], Catalog], tmp_path: Path) -> Catalog:
    """A lake of its own over the shared files: many small commits would slow the shared one down for all."""
    return register_data(tmp_path / "lake")


def query(run: Run, columns: str, table: str, key: str) -> Rows:
    rows: Rows = run.catalog.sql(f"SELECT {columns} FROM {table} WHERE run = '{run.name}' ORDER BY {key}").to_pylist()
    return rows


def chunk_rows(run: Run) -> Rows:
    """Everything that is stored about the chunks of a run, but for cursors and times."""
    columns = "chunk, weights_version, stage, num_samples, intervals, component_order, is_last"
    return query(run, columns, "chunks", "chunk")


def weight_rows(run: Run) -> Rows:
    return query(run, "version, step, chunk, weights, cause, details", "weights", "version")


def undisturbed(catalog: Catalog, name: str, mixture: Mixture, **settings: Any) -> Run:
    """A run that was scheduled to its end at one go."""
    run = Run.start(catalog, name, mixture, **settings)
    run.schedule(1_000_000)
    return run


# Counting


def test_scheduling_says_how_many_chunks_there_were(catalog: Catalog, mixture: Mixture, new_name: NewName) -> None:
    run = Run.start(catalog, new_name(), mixture, chunk_size=500)
    assert [run.schedule(num) for num in (0, 3, 9, 1)] == [0, 3, 2, 0]
    rows = chunk_rows(run)
    assert [row["num_samples"] for row in rows] == [500, 500, 500, 500, 400]
    assert [row["is_last"] for row in rows] == [False] * 4 + [True]
    assert Run.load(catalog, run.name).schedule(1) == 0
    assert chunk_rows(run) == rows


def test_scheduling_a_negative_number_of_chunks_is_refused(
    catalog: Catalog, mixture: Mixture, new_name: NewName
) -> None:
    with pytest.raises(ConfigError, match="num_chunks is -1; expected 0 or more"):
        Run.start(catalog, new_name(), mixture).schedule(-1)


def test_progress_is_told_after_every_commit(
    catalog: Catalog, mixture: Mixture, new_name: NewName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "_SAMPLES_PER_COMMIT", 200)
    told: list[tuple[int, int, str]] = []
    started = Run.start(catalog, new_name(), mixture, chunk_size=100)
    started.schedule(5, progress=lambda *args: told.append(args))
    assert told == [(2, 5, "chunks"), (4, 5, "chunks"), (5, 5, "chunks")]
    cursors = query(started, "chunk, cursor IS NOT NULL AS has_cursor", "chunks", "chunk")
    assert [row["has_cursor"] for row in cursors] == [False, True, False, True, True]


# The same chunks


@settings(deadline=None, max_examples=6)
@given(
    data=st.data(),
    unit=st.sampled_from(["samples", "bytes", "tokens"]),
    policy=st.sampled_from(["stop", "redistribute"]),
    seed=st.integers(0, 2**63 - 1),
    chunk_size=st.integers(100, 400),
)
def test_chunks_are_the_same_however_their_scheduling_is_cut_up(
    catalog: Catalog,
    make_mixture: MakeMixture,
    new_name: NewName,
    data: st.DataObject,
    unit: str,
    policy: str,
    seed: int,
    chunk_size: int,
) -> None:
    mixture = make_mixture(("language = 'de'", 2), ("quality > 0.5", 1), ("true", 1e-3), unit=unit, on_exhausted=policy)
    whole = undisturbed(catalog, new_name(), mixture, seed=seed, chunk_size=chunk_size)
    cut = Run.start(catalog, new_name(), mixture, seed=seed, chunk_size=chunk_size)
    while cut.schedule(data.draw(st.integers(1, 9))):
        if data.draw(st.booleans()):
            cut = Run.load(catalog, cut.name)
    assert chunk_rows(cut) == chunk_rows(whole)
    assert weight_rows(cut) == weight_rows(whole)


def test_one_chunk_at_a_time_from_freshly_loaded_runs_is_the_same_as_all_at_once(
    own: Catalog, mixture: Mixture
) -> None:
    whole = undisturbed(own, "whole", mixture, seed=4, chunk_size=150)
    name = Run.start(own, "exp1", mixture, seed=4, chunk_size=150).name
    while Run.load(Catalog.open(own.lake.uri), name).schedule(1):
        pass
    single = Run.load(own, name)
    assert chunk_rows(single) == chunk_rows(whole)
    assert weight_rows(single) == weight_rows(whole)


def test_the_same_files_in_another_lake_give_the_same_chunks(
    catalog: Catalog,
    data: Any,
    register_data: Callable[[Path], Catalog],
    mixture: Mixture,
    new_name: NewName,
    tmp_path: Path,
) -> None:
    other = register_data(tmp_path / "lake")
    extra = str(data / "code_2")
    other.register("another", extra)  # other versions, other registrations, the same order of names once it is gone
    again = Catalog.create(str(tmp_path / "lake2"))
    for dataset in reversed(catalog.list_datasets()):
        properties = {prop.name: prop.expression for prop in dataset.properties}
        again.register(dataset.name, dataset.uris, properties=properties)
    drawn = []
    for lake in (catalog, other.at(version=3), again):
        run = undisturbed(lake, new_name(), mixture, seed=8, chunk_size=130)
        names = {dataset.registrations[0]: dataset.name for dataset in lake.list_datasets()}
        rows = chunk_rows(run)
        for row in rows:
            for interval in row["intervals"]:
                interval["registration"] = names[interval["registration"]]
        drawn.append(rows)
    assert drawn[0] == drawn[1] == drawn[2]


def test_another_seed_gives_other_chunks(catalog: Catalog, mixture: Mixture, new_name: NewName) -> None:
    one, other = (undisturbed(catalog, new_name(), mixture, seed=seed, chunk_size=100) for seed in (0, 1))
    assert all(a["intervals"] != b["intervals"] for a, b in zip(chunk_rows(one), chunk_rows(other), strict=True))


def test_names_have_no_part_in_the_chunks_and_lanes_none_in_storage_order(
    catalog: Catalog, mixture: Mixture, new_name: NewName
) -> None:
    one, other = (undisturbed(catalog, new_name(), mixture, lanes=lanes, chunk_size=100) for lanes in (4, 4))
    assert chunk_rows(one) == chunk_rows(other)
    stored = Mixture.from_dict({**mixture.to_dict(), "shuffle": "none"})
    one, other = (undisturbed(catalog, new_name(), stored, lanes=lanes, chunk_size=100) for lanes in (1, 64))
    assert chunk_rows(one) == chunk_rows(other)


# Several schedulers


def test_a_scheduler_that_was_overtaken_is_refused_and_then_goes_on_from_the_lake(
    catalog: Catalog, mixture: Mixture, new_name: NewName
) -> None:
    whole = undisturbed(catalog, new_name(), mixture, chunk_size=100)
    late = Run.start(catalog, new_name(), mixture, chunk_size=100)
    late.schedule(2)
    ahead = Run.load(Catalog.open(catalog.lake.uri), late.name)
    ahead.schedule(3)
    with pytest.raises(ScheduleError, match=f"run '{late.name}': another scheduler wrote chunks after chunk 1; only"):
        late.schedule(4)
    assert chunk_rows(late) == chunk_rows(whole)[:5]
    assert late.schedule(4) == 4
    with pytest.raises(ScheduleError, match="another scheduler wrote chunks after chunk 4"):
        ahead.schedule(1)
    ahead.schedule(1_000)
    assert chunk_rows(late) == chunk_rows(whole)
    assert weight_rows(late) == weight_rows(whole)


def test_a_scheduler_that_missed_the_end_is_refused_once_and_then_has_nothing_to_do(
    catalog: Catalog, mixture: Mixture, new_name: NewName
) -> None:
    late = Run.start(catalog, new_name(), mixture, chunk_size=500)
    late.schedule(1)
    Run.load(catalog, late.name).schedule(100)
    rows = chunk_rows(late)
    with pytest.raises(ScheduleError, match="another scheduler wrote chunks after chunk 0"):
        late.schedule(100)
    assert late.schedule(100) == 0
    assert chunk_rows(late) == rows


def test_schedulers_that_compete_do_not_interleave(own: Catalog, mixture: Mixture) -> None:
    whole = undisturbed(own, "whole", mixture, chunk_size=100)
    name = Run.start(own, "exp1", mixture, chunk_size=100).name
    counts: list[int] = []

    def compete() -> None:
        mine = Run.load(Catalog.open(own.lake.uri), name)
        count, is_over = 0, False
        while not is_over:
            try:
                drawn = mine.schedule(1)
                count += drawn
                is_over = not drawn
            except ScheduleError:
                continue
        counts.append(count)

    threads = [threading.Thread(target=compete) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = Run.load(own, name)
    assert chunk_rows(found) == chunk_rows(whole)
    assert weight_rows(found) == weight_rows(whole)
    assert sum(counts) == len(chunk_rows(whole))


def test_threads_may_share_one_run(catalog: Catalog, mixture: Mixture, new_name: NewName) -> None:
    whole = undisturbed(catalog, new_name(), mixture, chunk_size=200)
    shared = Run.start(catalog, new_name(), mixture, chunk_size=200)
    threads = [threading.Thread(target=shared.schedule, args=(4,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert chunk_rows(shared) == chunk_rows(whole)


# Interruptions


def test_an_error_while_drawing_loses_nothing(
    catalog: Catalog, mixture: Mixture, new_name: NewName, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = undisturbed(catalog, new_name(), mixture, chunk_size=300)
    interrupted = Run.start(catalog, new_name(), mixture, chunk_size=300)
    draw = Scheduler.draw

    def interrupt(scheduler: Scheduler, cursor: Cursor, num_chunks: int) -> Any:
        if cursor.next_chunk == 2:
            raise KeyboardInterrupt
        return draw(scheduler, cursor, num_chunks)

    interrupted.schedule(2)
    monkeypatch.setattr(Scheduler, "draw", interrupt)
    with pytest.raises(KeyboardInterrupt):
        interrupted.schedule(100)
    monkeypatch.undo()
    assert len(chunk_rows(interrupted)) == 2
    interrupted.schedule(100)
    assert chunk_rows(interrupted) == chunk_rows(whole)


def test_a_scheduler_that_is_killed_again_and_again_leaves_no_trace(own: Catalog, mixture: Mixture) -> None:
    whole = undisturbed(own, "whole", mixture, seed=6, chunk_size=5)
    killed = Run.start(own, "exp1", mixture, seed=6, chunk_size=5)
    moments = random.Random(0)
    num_chunks = [0]
    for _ in range(8):
        command = [sys.executable, "-c", SCHEDULE_UNTIL_KILLED, own.lake.uri, killed.name]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as scheduler:
            assert scheduler.stdout is not None
            for _ in range(moments.randint(1, 12)):
                assert scheduler.stdout.readline() == b"another\n"
            time.sleep(moments.uniform(0, 0.03))
            scheduler.kill()
        assert scheduler.returncode == -9
        num_chunks.append(killed.chunks.last()[0] + 1)
        assert chunk_rows(killed) == chunk_rows(whole)[: num_chunks[-1]]
    assert num_chunks == sorted(set(num_chunks))
    assert num_chunks[-1] < len(chunk_rows(whole))
    killed.schedule(1_000)
    assert chunk_rows(killed) == chunk_rows(whole)
    assert weight_rows(killed) == weight_rows(whole)
