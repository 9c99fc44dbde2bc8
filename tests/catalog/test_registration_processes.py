"""Several processes registering at once, and processes that are killed while they register."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from mixlake.catalog import BatchFunction, Catalog, ConfigError, LakeError

WriteLines = Callable[..., str]

REGISTER = """
import sys
from mixlake.catalog import Catalog, MixlakeError

uri, name, data, prop, replace = sys.argv[1:]
if uri.startswith("new:"):
    uri, create = uri.removeprefix("new:"), True
else:
    Catalog.open(uri)
    create = False
print("ready", flush=True)
sys.stdin.readline()
try:
    catalog = Catalog.open(uri, create=create)
    version = catalog.register(name, data, properties={prop: "n"}, replace=replace == "replace")
    print(f"version {version}")
except MixlakeError as error:
    print(f"{type(error).__name__}: {error}")
"""

KILLED_AFTER_TEN_FILES = """
import os, signal, sys
from mixlake.catalog import Catalog

uri, data = sys.argv[1:]
calls = []

def progress(done, total, unit):
    calls.append(done)
    if len(calls) == 10:
        os.kill(os.getpid(), signal.SIGKILL)

Catalog.open(uri).register("docs", data, properties={"n": "n"}, progress=progress)
"""

KILLED_IN_A_FUNCTION = """
import os, signal, sys
from mixlake.catalog import BatchFunction, Catalog

uri, data = sys.argv[1:]

def fatal(batch):
    if batch.column(0)[0].as_py() == 10:
        os.kill(os.getpid(), signal.SIGKILL)
    return batch.column(0)

Catalog.open(uri).register("docs", data, properties={"n": BatchFunction(function=fatal, fields=("n",))})
"""

KILLED_AFTER_A_COMMIT = """
import os, signal, sys
from mixlake.catalog import Catalog

uri, data, table = sys.argv[1:]
log = os.path.join(uri, table, "_delta_log")
catalog = Catalog.open(uri)
before = len(os.listdir(log))

def kill_once_committed(frame, event, argument):
    if len(os.listdir(log)) > before:
        os.kill(os.getpid(), signal.SIGKILL)

sys.setprofile(kill_once_committed)
catalog.register("docs", data)
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def answers_at_once(*processes: subprocess.Popen[str]) -> list[str]:
    """Wait until all processes are ready, let them go on together, and return what each printed then."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [process.communicate(timeout=60)[0].strip() for process in processes]


def run_until_killed(code: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-c", code, *arguments], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL


def shown(catalog: Catalog) -> list[tuple[str, int]]:
    rows = catalog.sql("SELECT dataset, count(*) AS n FROM samples GROUP BY 1 ORDER BY 1").to_pylist()
    return [(row["dataset"], row["n"]) for row in rows]


@pytest.fixture
def data(write_lines: WriteLines) -> str:
    """A folder of 20 files with three samples each."""
    paths = [write_lines(f"{index:02}.jsonl", *[{"text": "x", "n": index}] * 3) for index in range(20)]
    return str(Path(paths[0]).parent)


# At once


@pytest.mark.parametrize("prefix", ["", "new:"])
def test_processes_that_register_different_datasets_at_once_all_succeed(tmp_path: Path, data: str, prefix: str) -> None:
    uri = str(tmp_path / "shared")
    if not prefix:
        Catalog.create(uri)
    jobs = [("a", "same"), ("b", "same"), ("c", "other")]
    answers = answers_at_once(*(start(REGISTER, prefix + uri, name, data, prop, "") for name, prop in jobs))
    assert sorted(answers) == ["version 1", "version 2", "version 3"]
    catalog = Catalog.open(uri)
    assert shown(catalog) == [("a", 60), ("b", 60), ("c", 60)]
    assert catalog.sql("SELECT sum(same) AS n, sum(other) AS m FROM samples").to_pylist() == [{"n": 1140, "m": 570}]


def test_eight_processes_that_register_different_datasets_at_once_all_succeed(catalog: Catalog, data: str) -> None:
    names = [f"d{number}" for number in range(8)]
    answers = answers_at_once(*(start(REGISTER, catalog.lake.uri, name, data, "n", "") for name in names))
    assert sorted(answers) == [f"version {number}" for number in range(1, 9)]
    assert shown(catalog) == [(name, 60) for name in names]


def test_of_processes_that_register_the_same_name_at_once_one_wins(catalog: Catalog, data: str) -> None:
    answers = answers_at_once(*(start(REGISTER, catalog.lake.uri, "docs", data, "n", "") for _ in range(2)))
    won, lost = sorted(answers, key=lambda answer: not answer.startswith("version"))
    refusals = (
        r"LakeError: datasets@1: another process did register first \(dataset:docs\)",
        r"LakeError: dataset 'docs' is registered already \(datasets@1\); pass replace=True to replace it",
    )
    assert won == "version 1"
    assert re.fullmatch("|".join(refusals), lost)
    assert (catalog.version, shown(catalog)) == (1, [("docs", 60)])


def test_datasets_are_replaced_while_others_are_registered(catalog: Catalog, data: str) -> None:
    for name in ("a", "b"):
        catalog.register(name, f"{data}/00.jsonl", properties={"n": "n"})
    jobs = [("a", "replace"), ("b", "replace"), ("c", "")]
    answers = answers_at_once(*(start(REGISTER, catalog.lake.uri, name, data, "n", how) for name, how in jobs))
    assert sorted(answers) == ["version 3", "version 4", "version 5"]
    assert shown(catalog) == [("a", 60), ("b", 60), ("c", 60)]
    assert shown(catalog.at(version=2)) == [("a", 3), ("b", 3)]


def test_a_registration_is_refused_that_began_before_another_of_the_name_was_published(
    catalog: Catalog, data: str
) -> None:
    """The slower one has seen a newer catalog version than the faster one has, but not the faster one's commit."""
    fast_may_publish = threading.Event()
    fast_has_begun = threading.Event()

    def wait(*_: object) -> None:
        fast_has_begun.set()
        fast_may_publish.wait(30)

    first = Catalog.open(catalog.lake.uri)
    fast = threading.Thread(target=first.register, args=("docs", data), kwargs={"progress": wait})
    fast.start()
    fast_has_begun.wait(30)
    catalog.register("other", data)

    def publish_the_fast_one(*_: object) -> None:
        fast_may_publish.set()
        fast.join(30)

    with pytest.raises(LakeError, match=r"^datasets@2: another process did register first \(dataset:docs\)$"):
        Catalog.open(catalog.lake.uri).register("docs", data, progress=publish_the_fast_one)
    assert shown(catalog) == [("docs", 60), ("other", 60)]


# Killed


@pytest.mark.parametrize("code", [KILLED_AFTER_TEN_FILES, KILLED_IN_A_FUNCTION])
def test_a_process_that_is_killed_while_it_reads_leaves_the_catalog_as_it_was(
    catalog: Catalog, data: str, code: str
) -> None:
    catalog.register("other", f"{data}/00.jsonl")
    run_until_killed(code, catalog.lake.uri, data)
    assert (catalog.version, shown(catalog)) == (1, [("other", 3)])
    assert catalog.lake.table("samples").to_pyarrow_table().num_rows == 3
    assert catalog.register("docs", data, properties={"n": "n"}) == 2
    assert shown(Catalog.open(catalog.lake.uri)) == [("docs", 60), ("other", 3)]


@pytest.mark.parametrize(("table", "num_files"), [("samples", 1), ("files", 21)])
def test_a_process_that_is_killed_between_its_commits_leaves_the_catalog_as_it_was(
    catalog: Catalog, data: str, table: str, num_files: int
) -> None:
    catalog.register("other", f"{data}/00.jsonl")
    run_until_killed(KILLED_AFTER_A_COMMIT, catalog.lake.uri, data, table)
    assert catalog.lake.table("samples").to_pyarrow_table().num_rows == 63
    assert catalog.lake.table("files").to_pyarrow_table().num_rows == num_files
    assert (catalog.version, shown(catalog)) == (1, [("other", 3)])
    assert [row["dataset"] for row in catalog.sql("SELECT DISTINCT dataset FROM files").to_pylist()] == ["other"]
    assert catalog.register("docs", data) == 2
    assert shown(Catalog.open(catalog.lake.uri)) == [("docs", 60), ("other", 3)]
    assert shown(catalog.at(version=1)) == [("other", 3)]


# In one process


def test_a_function_that_registers_another_dataset_meanwhile_does_no_harm(catalog: Catalog, data: str) -> None:
    def register_another(batch: pa.RecordBatch) -> pa.Array:
        if not catalog.list_datasets():
            Catalog.open(catalog.lake.uri).register("inner", f"{data}/00.jsonl", properties={"m": "n", "n": "n"})
        return batch.column(0)

    properties = {"n": BatchFunction(function=register_another, fields=("n",))}
    assert catalog.register("outer", f"{data}/01.jsonl", properties=properties) == 2
    assert shown(catalog) == [("inner", 3), ("outer", 3)]


def test_a_type_that_another_process_settled_meanwhile_is_respected(catalog: Catalog, data: str) -> None:
    def register_another(*_: object) -> None:
        if not catalog.list_datasets():
            expressions = {"n": "CAST(n AS STRING)"}
            Catalog.open(catalog.lake.uri).register("inner", f"{data}/00.jsonl", properties=expressions)

    message = "property 'n' is int64 in 'outer', but string in an earlier registration (samples@2); "
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}cast it, or give it another name$"):
        catalog.register("outer", f"{data}/01.jsonl", properties={"n": "n"}, progress=register_another)
    assert shown(catalog) == [("inner", 3)]
