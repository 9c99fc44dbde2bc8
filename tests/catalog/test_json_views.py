"""When lines are parsed by simdjson; that it finds the same is tested with Arrow's parser."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mixlake.catalog import json_views
from mixlake.catalog.json_views import is_faster
from mixlake.catalog.records import FieldPath
from mixlake.catalog.text_regions import Region

RECORD = {"text": "word " * 1000, "meta": {"language": "de"}, "ids": list(range(1000))}
ASKED: dict[FieldPath, pa.DataType] = {("meta", "language"): pa.string()}


@pytest.fixture(autouse=True)
def few_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_views, "_MAX_CORES", 1_000_000)


def region_of(*records: dict[str, Any]) -> Region:
    content = bytearray(b"".join(json.dumps(record).encode() + b"\n" for record in records))
    newlines = np.flatnonzero(np.frombuffer(content, np.uint8) == 10).astype(np.int64)
    return Region(offset=0, buffer=content, begin=0, end=len(content), newlines=newlines, first_line=lambda: 1)


def test_long_records_of_which_little_is_asked_for_are_for_simdjson() -> None:
    assert is_faster(region_of(RECORD, RECORD), ASKED)
    assert is_faster(region_of(RECORD), {})


@pytest.mark.parametrize("path", [("text",), ("ids",)])
def test_records_of_which_much_is_asked_for_are_not(path: FieldPath) -> None:
    assert not is_faster(region_of(RECORD), {**ASKED, path: pa.null()})


def test_short_records_are_not() -> None:
    assert not is_faster(region_of(*[{"meta": {"language": "de"}}] * 1000), ASKED)


def test_nothing_is_where_many_cores_can_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_views, "_MAX_CORES", 0)
    assert not is_faster(region_of(RECORD), ASKED)
