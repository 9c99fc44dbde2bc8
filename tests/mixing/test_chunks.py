"""Chunks are read as they were written, and anyone can recompute the order in which they are delivered."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import Catalog, ScheduleError
from mixlake.mixing import chunk_files, chunks
from mixlake.mixing.chunks import Chunk, ChunkLog, delivery
from mixlake.mixing.intervals import Intervals

COMPONENTS = ["english", "german"]


def make_chunk(number: int = 0, **overrides: Any) -> Chunk:
    """Five samples: rows 3, 4 and 9 of one file for component 0, rows 0 and 1 of another for component 1."""
    intervals = {
        "component": [0, 0, 1],
        "registration": [0, 0, 1],
        "file_id": [2, 2, 0],
        "row_start": [3, 9, 0],
        "row_stop": [5, 10, 2],
        "byte_start": [100, 900, -1],
        "byte_stop": [220, 950, -1],
        "pass_number": [0, 1, 0],
    }
    values: dict[str, Any] = {
        "number": number,
        "weights_version": 3,
        "stage": 0,
        "registrations": ("books-1", "code-2"),
        "intervals": Intervals(**{name: np.array(column) for name, column in intervals.items()}),
        "component_order": np.array([0, 1, 0, 0, 1]),
        "is_last": False,
    }
    return Chunk(**{**values, **overrides})


def cursor(number: int) -> dict[str, Any]:
    """Some kilobytes that are different for every number."""
    return {"at": number, "noise": np.random.Generator(np.random.Philox(number)).bytes(1000).hex()}


def plain(chunk: Chunk) -> list[Any]:
    """The chunk as lists, with registrations by name: their indices may differ."""
    i = chunk.intervals
    columns = [i.component, i.file_id, i.row_start, i.row_stop, i.byte_start, i.byte_stop, i.pass_number]
    names = [chunk.registrations[index] for index in i.registration]
    order = chunk.component_order.tolist()
    return [chunk.number, chunk.weights_version, names, *(c.tolist() for c in columns), order, chunk.is_last]


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:  # an empty lake of its own, not the shared one
    return Catalog.create(str(tmp_path / "lake"))


@pytest.fixture
def log(catalog: Catalog) -> ChunkLog:
    return ChunkLog(catalog.lake, "exp1", COMPONENTS)


# The log


def test_a_run_without_chunks_has_no_last_one(log: ChunkLog) -> None:
    assert log.last() == (-1, None, False, None)
    assert log.read(0, 10) == []


def test_chunks_are_read_as_they_were_written(catalog: Catalog, log: ChunkLog) -> None:
    chunks = [make_chunk(0), make_chunk(1), make_chunk(2, is_last=True)]
    log.append(chunks[:2], {"position": 2}, previous=-1)
    log.append(chunks[2:], {"position": 3}, previous=1)
    for reader in (log, ChunkLog(catalog.lake, "exp1", COMPONENTS)):
        assert [plain(chunk) for chunk in reader.read(0, 3)] == [plain(chunk) for chunk in chunks]
        number, cursor, is_last, created_at = reader.last()
        assert (number, cursor, is_last) == (2, {"position": 3}, True)
        assert created_at is not None


@pytest.mark.parametrize(("first", "stop", "numbers"), [(0, 1, [0]), (1, 4, [1, 2, 3]), (3, 99, [3, 4]), (5, 9, [])])
def test_a_range_of_chunks_is_read_across_commits(log: ChunkLog, first: int, stop: int, numbers: list[int]) -> None:
    for commit in ([0, 1], [2], [3, 4]):
        log.append([make_chunk(number) for number in commit], {}, previous=commit[0] - 1)
    assert [chunk.number for chunk in log.read(first, stop)] == numbers


def test_commits_are_joined_into_few_files_and_read_as_before(
    catalog: Catalog, log: ChunkLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "_COMMITS_PER_COMPACTION", 4)
    reader = ChunkLog(Catalog.open(catalog.lake.uri).lake, "exp1", COMPONENTS)
    other = ChunkLog(catalog.lake, "exp2", COMPONENTS)
    other.append([make_chunk(0)], {}, previous=-1)
    for number in range(10):
        log.append([make_chunk(number)], {"at": number}, previous=number - 1)
        assert reader.last()[:2] == (number, {"at": number})
        assert [plain(chunk) for chunk in reader.read(0, 99)] == [plain(make_chunk(n)) for n in range(number + 1)]
    assert len(catalog.lake.table("chunks").file_uris()) == 1 + 3
    again = ChunkLog(Catalog.open(catalog.lake.uri).lake, "exp1", COMPONENTS)
    assert [chunk.number for chunk in again.read(3, 7)] == [3, 4, 5, 6]
    with pytest.raises(ScheduleError, match="only one may schedule a run"):
        again.append([make_chunk(9)], {}, previous=8)


def test_the_newest_chunk_is_found_whichever_files_were_joined_and_few_are_written_again(
    catalog: Catalog, log: ChunkLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "_COMMITS_PER_COMPACTION", 4)
    monkeypatch.setattr(chunk_files, "_COMPACTED_BYTES", 30_000)
    reader = ChunkLog(Catalog.open(catalog.lake.uri).lake, "exp1", COMPONENTS)
    rows_of: dict[str, int] = {}
    for number in range(48):
        log.append([make_chunk(number)], cursor(number), previous=number - 1)
        assert reader.last()[:2] == (number, cursor(number))
        assert number == 0 or reader.cursor_before(number) == cursor(number - 1)
        files = pa.table(catalog.lake.table("chunks").get_add_actions(flatten=True))
        rows_of |= dict(zip(files["path"].to_pylist(), files["num_records"].to_pylist(), strict=True))
    assert 3 < len(files) < 10
    assert sum(rows_of.values()) < 4 * 48  # how often rows are written; joining all each time, it would be eight times
    assert [plain(chunk) for chunk in reader.read(0, 99)] == [plain(make_chunk(n)) for n in range(48)]


def test_the_cursor_belongs_to_the_last_chunk_of_a_commit(catalog: Catalog, log: ChunkLog) -> None:
    log.append([make_chunk(0), make_chunk(1)], {"at": 2}, previous=-1)
    cursors = catalog.sql("SELECT cursor FROM chunks ORDER BY chunk").to_pylist()
    assert [row["cursor"] for row in cursors] == [None, '{"at": 2}']


def test_a_log_sees_what_another_process_committed(catalog: Catalog, log: ChunkLog) -> None:
    assert log.last()[0] == -1
    other = ChunkLog(Catalog.open(catalog.lake.uri).lake, "exp1", COMPONENTS)
    other.append([make_chunk(0)], {}, previous=-1)
    assert log.last()[0] == 0
    assert [chunk.number for chunk in log.read(0, 1)] == [0]


def test_new_chunks_are_looked_for_where_the_first_of_a_range_is_not_known(catalog: Catalog, log: ChunkLog) -> None:
    log.append([make_chunk(0)], {}, previous=-1)
    assert len(log.read(0, 3)) == 1
    other = ChunkLog(Catalog.open(catalog.lake.uri).lake, "exp1", COMPONENTS)
    other.append([make_chunk(1), make_chunk(2)], {}, previous=0)
    assert [chunk.number for chunk in log.read(0, 3)] == [0]
    assert [chunk.number for chunk in log.read(1, 3)] == [1, 2]
    assert [chunk.number for chunk in log.read(0, 3)] == [0, 1, 2]


def test_runs_do_not_see_one_another(catalog: Catalog, log: ChunkLog) -> None:
    other = ChunkLog(catalog.lake, "exp1.b", COMPONENTS)
    log.append([make_chunk(0)], {"run": 1}, previous=-1)
    other.append([make_chunk(0), make_chunk(1)], {"run": 2}, previous=-1)
    assert [one.last()[:2] for one in (log, other)] == [(0, {"run": 1}), (1, {"run": 2})]
    assert len(log.read(0, 9)) == 1


def test_a_scheduler_that_missed_a_commit_is_refused_and_writes_nothing(catalog: Catalog, log: ChunkLog) -> None:
    log.append([make_chunk(0)], {"by": "first"}, previous=-1)
    late = ChunkLog(Catalog.open(catalog.lake.uri).lake, "exp1", COMPONENTS)
    with pytest.raises(ScheduleError, match="run 'exp1': another scheduler wrote chunks after chunk -1; only one may"):
        late.append([make_chunk(0), make_chunk(1)], {"by": "late"}, previous=-1)
    assert log.last()[:2] == (0, {"by": "first"})
    late.append([make_chunk(1)], {"by": "late"}, previous=0)
    assert log.last()[:2] == (1, {"by": "late"})


def test_byte_ranges_that_a_format_does_not_have_are_null_in_the_table(catalog: Catalog, log: ChunkLog) -> None:
    log.append([make_chunk(0)], {}, previous=-1)
    (row,) = catalog.sql("SELECT intervals, num_samples FROM chunks").to_pylist()
    assert [interval["byte_start"] for interval in row["intervals"]] == [100, 900, None]
    assert row["num_samples"] == 5


# The order of delivery


def test_an_unshuffled_chunk_is_delivered_in_storage_order() -> None:
    order = delivery(make_chunk(), seed=0, shuffled=False)
    assert order.component.tolist() == [0, 1, 0, 0, 1]
    assert order.interval.tolist() == [0, 2, 0, 1, 2]
    assert order.row.tolist() == [3, 0, 4, 9, 1]


def test_the_order_of_a_shuffled_chunk_never_changes_between_versions() -> None:
    intervals = {name: np.array([0]) for name in Intervals.__dataclass_fields__} | {"row_stop": np.array([8])}
    chunk = make_chunk(5, intervals=Intervals(**intervals), component_order=np.zeros(8, np.int64))
    assert delivery(chunk, seed=11, shuffled=True).row.tolist() == [2, 1, 4, 5, 7, 3, 6, 0]


def test_a_chunk_read_back_is_delivered_in_the_same_order(log: ChunkLog) -> None:
    chunk = make_chunk(0)
    log.append([chunk], {}, previous=-1)
    (found,) = log.read(0, 1)
    for one, other in zip(*(delivery(c, seed=4, shuffled=True).row.tolist() for c in (chunk, found)), strict=True):
        assert one == other


@settings(deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**63 - 1), number=st.integers(0, 2**40), shuffled=st.booleans())
def test_every_sample_is_delivered_once_where_its_component_has_its_turns(
    data: st.DataObject, seed: int, number: int, shuffled: bool
) -> None:
    lengths = data.draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), min_size=1, max_size=12).map(sorted))
    component = np.array([c for c, _ in lengths])
    stops = np.cumsum([length for _, length in lengths])
    starts = np.append(0, stops[:-1])
    zeros = np.zeros(len(lengths), np.int64)
    intervals = Intervals(
        component=component,
        registration=zeros,
        file_id=zeros,
        row_start=starts,
        row_stop=stops,
        byte_start=zeros,
        byte_stop=zeros,
        pass_number=zeros,
    )
    owners = [c for c, length in lengths for _ in range(length)]
    turns = data.draw(st.permutations(owners))
    order = delivery(
        make_chunk(number, intervals=intervals, component_order=np.array(turns)), seed=seed, shuffled=shuffled
    )
    assert order.component.tolist() == turns
    assert sorted(order.row.tolist()) == list(range(len(owners)))
    assert [owners[row] for row in order.row] == turns
    assert [int(component[interval]) for interval in order.interval] == turns
    assert ((starts[order.interval] <= order.row) & (order.row < stops[order.interval])).all()


def test_the_table_says_what_a_chunk_is_made_of(catalog: Catalog, log: ChunkLog) -> None:
    log.append([make_chunk(0)], {}, previous=-1)
    table: pa.Table = catalog.sql(
        "SELECT i['component'] AS component, i['registration'] AS registration, i['row_stop'] - i['row_start'] AS n "
        "FROM (SELECT unnest(intervals) AS i FROM chunks) ORDER BY 1, n"
    ).to_arrow_table()
    assert table.to_pydict() == {
        "component": ["english", "english", "german"],
        "registration": ["books-1", "books-1", "code-2"],
        "n": [1, 2, 2],
    }
