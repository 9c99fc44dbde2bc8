"""Following a table by the entries of its log: the files that a Delta handle lists, or None where they cannot tell."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mixlake.catalog import Catalog, schema
from mixlake.catalog.lake import Lake
from mixlake.catalog.log_entries import added_since

FEEDBACK = schema.FEEDBACK


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Catalog.create(str(tmp_path / "lake")).lake


def append(lake: Lake, step: int) -> int:
    empty: dict[str, Any] = dict.fromkeys(schema.TABLES[FEEDBACK].columns.names)
    row = {**empty, "run": "exp1", "step": step, "component": "a", "loss_sum": 1.0, "num_tokens": 1}
    return lake.append(FEEDBACK, pa.Table.from_pylist([row], schema.TABLES[FEEDBACK].columns), action="test")


def test_entries_add_up_to_the_files_that_a_handle_lists(lake: Lake) -> None:
    begin = lake.table(FEEDBACK).version()
    assert added_since(lake, FEEDBACK, begin) == (begin, [])
    for step in range(5):
        append(lake, step)
    news = added_since(lake, FEEDBACK, begin)
    assert news is not None
    version, added = news
    assert version == begin + 5
    listed = pa.table(lake.table(FEEDBACK).get_add_actions(flatten=True))
    assert sorted(action["path"] for action in added) == sorted(listed["path"].to_pylist())
    assert added_since(lake, FEEDBACK, begin + 3) == (begin + 5, added[3:])


def test_entries_do_not_tell_what_is_left_once_files_were_removed(lake: Lake) -> None:
    begin = append(lake, 0)
    append(lake, 1)
    lake.compact(FEEDBACK, "run", "exp1")
    assert added_since(lake, FEEDBACK, begin) is None


def test_entries_that_a_checkpoint_let_be_deleted_are_missed(lake: Lake) -> None:
    begin = append(lake, 0)
    append(lake, 1)
    last = append(lake, 2)
    lake.table(FEEDBACK).create_checkpoint()
    log = Path(lake.path(FEEDBACK), "_delta_log")
    assert added_since(lake, FEEDBACK, last) == (last, [])
    for version in range(begin + 1, last + 1):
        (log / f"{version:020}.json").unlink()
    assert added_since(lake, FEEDBACK, begin) is None
    assert added_since(lake, FEEDBACK, last) == (last, [])
