"""The lake's tables: made once, read at a version, appended to by one process at a time where it must be."""

from __future__ import annotations

import getpass
import re
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from mixlake.catalog import Catalog, ConfigError, LakeError, schema
from mixlake.catalog.lake import Fence, Lake


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def feedback(run: str, *steps: int) -> pa.Table:
    rows = [
        {"run": run, "step": step, "component": "a", "loss_sum": 0.5, "num_tokens": 7, "weights_version": 0}
        for step in steps
    ]
    return pa.Table.from_pylist(rows, schema=schema.TABLES[schema.FEEDBACK].columns)


def steps(lake: Lake) -> list[int]:
    return sorted(lake.table(schema.FEEDBACK).to_pyarrow_table()["step"].to_pylist())


@pytest.fixture
def lake(catalog: Catalog) -> Lake:
    return catalog.lake


def test_a_new_lake_has_every_table_with_its_columns_and_partitions(lake: Lake) -> None:
    for name, table in schema.TABLES.items():
        delta = DeltaTable(f"{lake.uri}/{name}")
        assert delta.to_pyarrow_table().schema.names == table.columns.names
        assert pa.schema(delta.schema().to_arrow()).types == table.columns.types
        assert delta.metadata().partition_columns == list(table.partition_by)
        assert delta.metadata().name == name


def test_the_root_table_is_made_last_so_that_a_lake_that_was_half_made_is_none(tmp_path: Path, lake: Lake) -> None:
    half = Lake(str(tmp_path / "half"))
    for name in schema.TABLES:
        if name != schema.DATASETS:
            DeltaTable.create(half.path(name), schema.TABLES[name].columns)
    assert lake.exists()
    assert not half.exists()
    half.create()
    assert half.exists()


def test_making_a_lake_again_changes_nothing(lake: Lake) -> None:
    lake.append(schema.FEEDBACK, feedback("r", 1), action="report")
    lake.create()
    assert steps(lake) == [1]


def test_an_append_is_one_version_that_others_see(lake: Lake) -> None:
    other = Lake(lake.uri)
    assert other.table(schema.FEEDBACK).version() == 0
    assert lake.append(schema.FEEDBACK, feedback("r", 1, 2), action="report", details={"step": 2}) == 1
    assert other.append(schema.FEEDBACK, feedback("r", 3), action="report") == 2
    assert steps(lake) == steps(other) == [1, 2, 3]
    assert lake.table_at(schema.FEEDBACK, 1).to_pyarrow_table()["step"].to_pylist() == [1, 2]
    commit = lake.table(schema.FEEDBACK).history()[1]
    assert (commit["mixlake.action"], commit["mixlake.step"]) == ("report", "2")


def test_rows_that_a_predicate_selects_leave_in_the_same_version(lake: Lake) -> None:
    lake.append(schema.FEEDBACK, feedback("r", 1, 2), action="report")
    lake.append(schema.FEEDBACK, feedback("s", 3), action="report")
    assert lake.append(schema.FEEDBACK, feedback("r", 9), action="report", replace_where="run = 'r'") == 3
    assert steps(lake) == [3, 9]


def test_a_fence_lets_a_process_go_on_from_what_it_has_seen(lake: Lake) -> None:
    for number in range(3):
        fence = Fence(application="run:r", seen=number - 1, number=number)
        lake.append(schema.FEEDBACK, feedback("r", number), action="report", fence=fence)
    other = Fence(application="run:s", seen=-1, number=0)
    lake.append(schema.FEEDBACK, feedback("s", 7), action="report", fence=other)
    assert steps(lake) == [0, 1, 2, 7]


def test_a_fence_refuses_a_process_that_has_not_seen_the_last_commit(lake: Lake) -> None:
    first = Fence(application="run:r", seen=-1, number=0)
    lake.append(schema.FEEDBACK, feedback("r", 1), action="report r", fence=first)
    message = "feedback@1: another process did report r first (run:r)"
    with pytest.raises(LakeError, match=exactly(message)):
        Lake(lake.uri).append(schema.FEEDBACK, feedback("r", 2), action="report r", fence=first)
    assert steps(lake) == [1]


def test_a_table_that_is_missing_is_refused(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "nothing"))
    with pytest.raises(LakeError, match=exactly(f"{lake.uri} is not a lake: it has no table 'runs'")):
        lake.table(schema.RUNS)


@pytest.mark.parametrize("version", [-1, 1, 10])
def test_a_version_that_there_is_not_is_refused(lake: Lake, version: int) -> None:
    message = f"samples@{version} does not exist in {lake.uri}; versions are 0 to 0"
    with pytest.raises(LakeError, match=exactly(message)):
        lake.table_at(schema.SAMPLES, version)


@pytest.mark.parametrize("uri", ["s3://bucket/lake", "file:///tmp/lake", "az://x"])
def test_a_lake_elsewhere_than_on_disk_is_refused(uri: str) -> None:
    with pytest.raises(
        ConfigError, match=exactly(f"lake {uri!r}: only lakes on a local disk can be opened by this version")
    ):
        Lake(uri)


@pytest.mark.parametrize("name", ["a lake", "größe/雪", "#1", "100%", "lake (2)", "it's", "{x}", "a+b=c&d"])
def test_a_lake_may_lie_in_a_folder_of_nearly_any_name(tmp_path: Path, name: str) -> None:
    data = tmp_path / "a.jsonl"
    data.write_text('{"text": "x", "n": 1}\n')
    catalog = Catalog.create(str(tmp_path / name))
    catalog.register("a", str(data), properties={"n": "n"})
    query = "SELECT n, path FROM samples JOIN files USING (dataset, file_id)"
    assert Catalog.open(str(tmp_path / name)).sql(query).to_pylist() == [{"n": 1, "path": "a.jsonl"}]


@pytest.mark.parametrize(
    ("name", "part"),
    [("a*", "*"), ("a?", "?"), ("a[1]", "["), ("a]", "]"), ("a|b", "|"), ("a%20b", "%20"), ("a\tb", "\t")],
)
def test_a_folder_whose_name_readers_take_for_a_pattern_is_refused(tmp_path: Path, name: str, part: str) -> None:
    uri = str(tmp_path / name)
    message = f"lake {uri!r}: a lake's path must not hold {part!r}; choose another folder"
    with pytest.raises(ConfigError, match=exactly(message)):
        Catalog.open(uri, create=True)


def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    uri = str(tmp_path / "file" / "lake")
    with pytest.raises(LakeError, match=f"^cannot make a lake at {re.escape(uri)}: .+$"):
        Catalog.open(uri, create=True)


def test_a_user_without_a_name_is_recorded_by_number(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", nameless)
    lake.append(schema.FEEDBACK, feedback("r", 1), action="report")
    assert str(lake.table(schema.FEEDBACK).history()[0]["mixlake.user"]).isdigit()


def test_commits_are_seen_after_their_log_entries_were_cleaned_up(lake: Lake) -> None:
    other = Lake(lake.uri)
    assert other.table(schema.FEEDBACK).version() == 0
    for step in range(5):
        lake.append(schema.FEEDBACK, feedback("r", step), action="report")
    DeltaTable(lake.path(schema.FEEDBACK)).create_checkpoint()
    for entry in Path(lake.path(schema.FEEDBACK), "_delta_log").glob("*.json"):
        if int(entry.stem) < 5:
            entry.unlink()
    assert other.table(schema.FEEDBACK).version() == 5
    assert steps(other) == [0, 1, 2, 3, 4]
    lake.append(schema.FEEDBACK, feedback("r", 5), action="report")
    assert other.table(schema.FEEDBACK).version() == 6


def test_a_process_that_stood_still_while_log_entries_were_cleaned_up_commits_all_the_same(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, table = Lake(lake.uri), Lake.table
    handles: list[DeltaTable] = []

    def stand_still(self: Lake, name: str) -> DeltaTable:
        handle = table(self, name)
        if self is slow and not handles:
            for step in range(5):
                lake.append(schema.FEEDBACK, feedback("r", step), action="report")
            DeltaTable(lake.path(schema.FEEDBACK)).create_checkpoint()
            for entry in Path(lake.path(schema.FEEDBACK), "_delta_log").glob("*.json"):
                if int(entry.stem) < 5:
                    entry.unlink()
        handles.append(handle)
        return handle

    monkeypatch.setattr(Lake, "table", stand_still)
    assert slow.append(schema.FEEDBACK, feedback("s", 7), action="report") == 6
    assert len(handles) > 1
    assert steps(lake) == [0, 1, 2, 3, 4, 7]
