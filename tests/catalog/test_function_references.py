"""Batch functions as text, and back."""

from __future__ import annotations

import functools
import re
import subprocess

import pyarrow as pa
import pytest

from mixlake.catalog import BatchFunction, ConfigError, Language, NumTokens, Quality, RecordFunction
from mixlake.catalog.function_references import is_importable, reference, restored


def count(records: pa.RecordBatch) -> pa.Array:
    return pa.array([1] * len(records))


class Counters:
    @staticmethod
    def two(records: pa.RecordBatch) -> pa.Array:
        return pa.array([2] * len(records))


@pytest.mark.parametrize(
    "function",
    [
        BatchFunction(function=count, fields=("a", "b.c")),
        BatchFunction(function=Counters.two, fields=()),
        Quality(signals=("num_words",)),
        Quality(text="body"),
        Language(max_chars=10),
        NumTokens(),
    ],
)
def test_a_function_of_a_module_is_found_again(function: RecordFunction) -> None:
    assert is_importable(function)
    assert restored(reference(function)) == function


def test_what_has_no_place_in_a_module_is_not_importable() -> None:
    def local(records: pa.RecordBatch) -> pa.Array:
        return count(records)

    for function in (local, lambda records: records.column(0), functools.partial(count)):
        assert not is_importable(BatchFunction(function=function, fields=("a",)))


def test_a_function_of_a_script_is_not_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count, "__module__", "__main__")
    assert not is_importable(BatchFunction(function=count, fields=("a",)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere:f {}", "nowhere:f cannot be imported (No module named 'nowhere')"),
        ("json:nothing {}", "json:nothing cannot be imported (module 'json' has no attribute 'nothing')"),
        ("f.<locals>.g {}", "'f.<locals>.g {}' names no function that can be imported"),
        ("json:dumps {}", "'json:dumps {}' is no batch function"),
        ('mixlake.catalog:Quality {"texts": 1}', "'mixlake.catalog:Quality {\"texts\": 1}' is no batch function"),
        ("mixlake.catalog:Catalog {}", "'mixlake.catalog:Catalog {}' is no batch function"),
    ],
)
def test_what_is_no_batch_function_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        restored(text)


def test_a_lake_cannot_have_a_program_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess.Popen, "__init__", lambda *_, **__: pytest.fail("it was run"))
    with pytest.raises(ConfigError, match="is no batch function"):
        restored('subprocess:Popen {"args": ["true"]}')
