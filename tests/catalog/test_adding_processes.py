"""Processes that are killed while they add a property, and those that add properties at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mixlake.catalog import Catalog, ExactDuplicates

WriteLines = Callable[..., str]

KILLED = """
import os, signal, sys
from mixlake.catalog import Catalog, ExactDuplicates

uri, source, moment = sys.argv[1:]
catalog = Catalog.open(uri)
logs = [os.path.join(uri, table, "_delta_log") for table in ("samples", "files", "datasets")]
before = sum(len(os.listdir(log)) for log in logs)

def kill_once_committed(frame, event, argument):
    if sum(len(os.listdir(log)) for log in logs) >= before + int(moment):
        os.kill(os.getpid(), signal.SIGKILL)

def kill(done, total, unit):
    os.kill(os.getpid(), signal.SIGKILL)

if int(moment):
    sys.setprofile(kill_once_committed)
catalog.add_property("new", ExactDuplicates() if source == "group" else source, progress=None if int(moment) else kill)
"""

ADD = """
import sys
from mixlake.catalog import Catalog, MixlakeError

catalog = Catalog.open(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    print("version", catalog.add_property(sys.argv[2], "n + 1", sys.argv[3]))
except MixlakeError as error:
    print(f"{type(error).__name__}: {error}")
"""


@pytest.fixture
def grown(catalog: Catalog, write_lines: WriteLines) -> Catalog:
    """Two datasets, one of two parts, and a removal."""
    for name in ("one", "two"):
        path = write_lines(f"{name}/a.jsonl", *({"text": f"{n % 3}", "n": n} for n in range(10)))
        catalog.register(name, str(Path(path).parent), properties={"n": "n"})
    write_lines("one/b.jsonl", {"text": "x", "n": 10})
    catalog.refresh("one")
    catalog.remove("n = 5", reason="test")
    return catalog


def shown(catalog: Catalog) -> list[dict[str, object]]:
    found: list[dict[str, object]] = catalog.sql("SELECT * FROM samples ORDER BY dataset, file_id, row").to_pylist()
    return found


@pytest.mark.parametrize(
    ("source", "moment"), [(("n * 2", "text || n", "group")[moment % 3], moment) for moment in range(8)]
)
def test_a_process_that_is_killed_leaves_the_last_version_as_it_was(grown: Catalog, source: str, moment: int) -> None:
    """At the first samples, and after each commit: the new columns, an index and its files for each of three parts."""
    version, before = grown.version, shown(grown)
    command = [sys.executable, "-c", KILLED, grown.lake.uri, source, str(moment)]
    done = subprocess.run(command, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    catalog = Catalog.open(grown.lake.uri)
    assert (catalog.version, shown(catalog)) == (version, before)
    assert catalog.add_property("new", ExactDuplicates() if source == "group" else source) == version + 1
    after = shown(catalog)
    assert [row["n"] for row in after] == [row["n"] for row in before]
    assert len(after[0]) > len(before[0])
    assert shown(catalog.at(version=version)) == before


def test_processes_that_add_to_different_datasets_all_succeed_and_to_one_only_one_does(grown: Catalog) -> None:
    jobs = [("x", "one"), ("y", "two"), ("z", "two")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ADD, grown.lake.uri, name, dataset],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, dataset in jobs
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    answers = [process.communicate("go\n", timeout=60)[0].strip() for process in processes]
    first = grown.version - sum(answer.startswith("version") for answer in answers)
    assert answers[0].startswith("version")
    assert sum(answer.startswith("version") for answer in answers[1:]) >= 1
    for (name, dataset), answer in zip(jobs, answers, strict=True):
        has_it = name in {prop.name for prop in grown.dataset(dataset).properties}
        assert has_it == answer.startswith("version")
        assert has_it or "another process did add property first" in answer
    assert all(f"version {version}" in answers for version in range(first + 1, grown.version + 1))
