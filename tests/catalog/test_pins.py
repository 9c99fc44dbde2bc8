"""A run's row and the collection of the version that it is pinned to refuse one another, whichever comes first."""

import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mixlake.catalog import Catalog, LakeError, schema
from mixlake.catalog.lake import Lake
from mixlake.catalog.pins import close, closed_error, is_collected, pin_fence, read_pins


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Catalog.create(str(tmp_path / "lake")).lake


def start(lake: Lake, run: str, version: int) -> None:
    rows = pa.Table.from_pylist([{"run": run, "catalog_version": version}], schema=schema.TABLES[schema.RUNS].columns)
    lake.append(schema.RUNS, rows, action="start", fence=pin_fence(version))


def test_a_version_that_is_collected_cannot_be_pinned(lake: Lake) -> None:
    start(lake, "exp1", 3)
    close(lake, [1, 2])
    assert [is_collected(lake, version) for version in (1, 2, 3, 4)] == [True, True, False, False]
    for version in (1, 2):
        with pytest.raises(LakeError, match=rf"another process did start first \(pin:{version}\)"):
            start(lake, "late", version)
    start(lake, "exp2", 3)
    assert read_pins(lake) == {3: ["exp1", "exp2"]}
    assert str(closed_error(lake, 2)).startswith("datasets@2 is being collected by gc, or has been")


def test_a_version_that_is_pinned_cannot_be_collected_nor_any_other_with_it(lake: Lake) -> None:
    start(lake, "exp1", 2)
    with pytest.raises(LakeError, match=r"another process did gc first \(pin:2\)"):
        close(lake, [1, 2])
    assert not is_collected(lake, 1)


def test_what_a_killed_collection_has_closed_is_closed_again(lake: Lake) -> None:
    close(lake, [1])
    before = lake.table(schema.RUNS).version()
    close(lake, [1])
    assert lake.table(schema.RUNS).version() == before
    close(lake, [1, 2])
    assert is_collected(lake, 2)


def test_of_a_run_and_a_collection_at_the_same_time_one_wins(lake: Lake) -> None:
    for version in range(12):
        refused: list[str] = []
        barrier = threading.Barrier(2)

        def attempt(name: str, action: Any, *args: Any, refused: list[str] = refused, at: Any = barrier) -> None:
            mine = Lake(lake.uri)
            mine.table(schema.RUNS)
            at.wait()
            try:
                action(mine, *args)
            except LakeError:
                refused.append(name)

        threads = [
            threading.Thread(target=attempt, args=("run", start, f"exp{version}", version)),
            threading.Thread(target=attempt, args=("gc", close, [version])),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) == 1
        assert (version in read_pins(lake)) == (refused == ["gc"]) != is_collected(lake, version)
