"""What every version shows, read from the log, is what opening it shows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from mixlake.catalog import Catalog, LakeError, schema
from mixlake.catalog.versions import read_versions

WriteLines = Callable[..., str]


def test_each_version_has_the_registrations_that_opening_it_shows(catalog: Catalog, write_lines: WriteLines) -> None:
    paths = [write_lines(f"{name}.jsonl", {"text": name}, {"text": name * 2}) for name in "ab"]
    for number in (0, 1, 0):
        catalog.register("ab"[number], paths[number], properties={"t": "text"}, replace=True)
    nothing = schema.TABLES[schema.DATASETS].columns.empty_table()
    for _ in range(100):  # past a checkpoint
        catalog.lake.append(schema.DATASETS, nothing, action="nothing")
    catalog.remove("t = 'aa' OR t = 'bb'", reason="test")
    catalog.unregister("a")
    versions = read_versions(catalog.lake)
    assert [version.number for version in versions] == list(range(106))
    for version in versions[:5] + versions[98:]:
        opened = catalog.at(version=version.number).list_datasets()
        assert version.registrations == {name for dataset in opened for name in dataset.registrations}
    times = {row["version"]: row["timestamp"] for row in catalog.history().to_pylist()}
    assert all(datetime.fromtimestamp(v.made_at, times[v.number].tzinfo) == times[v.number] for v in versions)


def test_a_log_that_lacks_its_beginning_is_refused(catalog: Catalog, write_lines: WriteLines) -> None:
    catalog.register("a", write_lines("a.jsonl", {"text": "a"}))
    Path(catalog.lake.path("datasets"), "_delta_log", f"{0:020}.json").unlink()
    with pytest.raises(LakeError, match="does not reach back to datasets@0, so gc cannot tell"):
        read_versions(catalog.lake)
