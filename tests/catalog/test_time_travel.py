"""Sequences of changes beside a model in plain Python: every version shows what it should, whoever is killed when."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlake.catalog import Catalog, LakeError

NAMES = ("a", "b")
LETTERS = "xyz"
FROM_INDEX, FROM_FILES = "upper(word)", "upper(text)"
NUM_KILLS = int(os.environ.get("MIXLAKE_KILLS", "30"))  # `make soak` sets more
SEED = int(os.environ.get("MIXLAKE_SEED", "0"))

Shown = dict[str, list[str]]
"""The words of every dataset, sorted."""


class Call(NamedTuple):
    """One change: a method of Catalog, and what it is called with."""

    method: str
    arguments: list[Any]
    options: dict[str, Any]

    def run(self, catalog: Catalog) -> None:
        getattr(catalog, self.method)(*self.arguments, **self.options)


@dataclass
class World:
    """Folders of small files, and what the catalog of them should show at each version."""

    folder: Path
    files: dict[str, dict[str, list[str]]] = field(default_factory=lambda: {name: {} for name in NAMES})
    """What lies on the disk: by dataset and file, its words."""
    known: dict[str, dict[str, tuple[int, list[str]]]] = field(default_factory=dict)
    """What is registered: by dataset and file, the edit of the file that was read, and the words it shows."""
    removed: dict[str, set[str]] = field(default_factory=dict)
    """Letters whose words are kept out of a dataset."""
    versions: list[Shown] = field(default_factory=lambda: [{}])
    kept: set[int] = field(default_factory=lambda: {0})
    edits: dict[tuple[str, str], int] = field(default_factory=dict)
    num_added: int = 0
    """Properties that were added, each the words in capitals."""

    def write(self, name: str, file: str, words: list[str]) -> None:
        path = self.folder / name / f"{file}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps({"text": word}) + "\n" for word in words) or "\n")
        edit = self.edits[name, file] = self.edits.get((name, file), 0) + 1
        os.utime(path, ns=(0, edit * 1_000_000))
        self.files[name][file] = words

    def delete(self, name: str, file: str) -> None:
        if len(self.files[name]) > 1:
            del self.files[name][file]
            (self.folder / name / f"{file}.jsonl").unlink()

    # What may be done: each returns the call, and changes the model as the call will change the catalog.

    def register(self, name: str) -> Call | None:
        if not any(self.files[name].values()):
            return None
        self.removed[name] = set()
        self.known[name] = {file: (self.edits[name, file], words) for file, words in self.files[name].items()}
        self._publish()
        options = {"properties": {"word": "text"}, "replace": True}
        return Call("register", [name, str(self.folder / name)], options)

    def refresh(self, name: str) -> Call | None:
        if name not in self.known:
            return None
        before = self.known[name]
        self.known[name] = {
            file: before[file] if before.get(file, (0, []))[0] == self.edits[name, file] else self._read(name, file)
            for file in self.files[name]
        }
        if {f: e for f, (e, _) in before.items()} != {f: e for f, (e, _) in self.known[name].items()}:
            self._publish()
        return Call("refresh", [name], {})

    def remove(self, letter: str) -> Call | None:
        affected = [
            name
            for name, files in self.known.items()
            if any(word.startswith(letter) for _, words in files.values() for word in words)
        ]
        for name in affected:
            self.removed[name].add(letter)
            self.known[name] = {
                file: (edit, [word for word in words if word[0] != letter])
                for file, (edit, words) in self.known[name].items()
            }
        if affected:
            self._publish()
        return Call("remove", [f"word LIKE '{letter}%'"], {"reason": "test"}) if self.known else None

    def unregister(self, name: str) -> Call | None:
        if self.known.pop(name, None) is None:
            return None
        self._publish()
        return Call("unregister", [name], {})

    def add_property(self, expression: str) -> Call | None:
        changed = any(
            edit != self.edits[name, file] or file not in self.files[name]
            for name, files in self.known.items()
            for file, (edit, _) in files.items()
        )
        if not self.known or (changed and expression == FROM_FILES):  # changed files are refused
            return None
        self.num_added += 1
        self._publish()
        return Call("add_property", [f"capitals_{self.num_added}", expression], {})

    def gc(self, keep_versions: int) -> Call:
        self.kept &= set(range(len(self.versions))[-keep_versions:])
        then = time.time() - 2 * 86_400  # nobody is writing: what was left behind is old enough to go
        for path in self.folder.glob("lake/*/registration=*"):
            for entry in [*path.iterdir(), path]:
                os.utime(entry, (then, then))
        return Call("gc", ["0d"], {"keep_versions": keep_versions})

    # A change that is added to Catalog gets a method here, and a line in `changes` and in KILLED.

    def check(self, version: int) -> None:
        """Compare a version: only one that was collected may be an error, and it may never show anything else."""
        catalog = Catalog.open(str(self.folder / "lake")).at(version=version)
        try:
            shown = shown_by(catalog)
        except LakeError as error:
            if version in self.kept or "gc has collected" not in str(error):
                raise
            return
        assert shown == self.versions[version], f"version {version}"

    def _read(self, name: str, file: str) -> tuple[int, list[str]]:
        kept = [word for word in self.files[name][file] if word[0] not in self.removed[name]]
        return self.edits[name, file], kept

    def _publish(self) -> None:
        self.kept.add(len(self.versions))
        self.versions.append(
            {name: sorted(w for _, words in files.values() for w in words) for name, files in self.known.items()}
        )


def shown_by(catalog: Catalog) -> Shown:
    shown: Shown = {dataset.name: [] for dataset in catalog.list_datasets()}
    if shown:
        query = "SELECT s.dataset, word FROM samples s JOIN files f USING (dataset, file_id) ORDER BY word"
        for row in catalog.sql(query).to_pylist():
            shown[row["dataset"]].append(row["word"])
    for dataset in catalog.list_datasets():
        assert dataset.num_samples == len(shown[dataset.name])
        for added in [prop.name for prop in dataset.properties if prop.name.startswith("capitals")][-1:]:
            where = f"dataset = '{dataset.name}' AND {added} = upper(word)"
            assert catalog.sql(f"SELECT row FROM samples WHERE {where}").count() == dataset.num_samples
    return shown


# A model


@st.composite
def changes(draw: st.DrawFn) -> Callable[[World], Call | None]:
    """One thing that somebody may do: to the files, or to the catalog."""
    name, file, letter = draw(st.sampled_from(NAMES)), draw(st.sampled_from("123")), draw(st.sampled_from(LETTERS))
    words = draw(st.lists(st.builds("{}{}".format, st.sampled_from(LETTERS), st.integers(0, 9)), max_size=3))
    num, expression = draw(st.integers(1, 3)), draw(st.sampled_from([FROM_INDEX, FROM_FILES]))
    steps: list[Callable[[World], Call | None]] = [
        lambda world: world.write(name, file, words),
        lambda world: world.delete(name, file) if file in world.files[name] else None,
        lambda world: world.register(name),
        lambda world: world.refresh(name),
        lambda world: world.refresh(name),
        lambda world: world.remove(letter),
        lambda world: world.unregister(name),
        lambda world: world.add_property(expression),
        lambda world: world.gc(num),
    ]
    step: Callable[[World], Call | None] = draw(st.sampled_from(steps))
    return step


@settings(max_examples=12, deadline=None)
@given(st.lists(changes(), min_size=6, max_size=16))
def test_every_version_shows_what_the_model_says(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Callable[[World], Call | None]]
) -> None:
    world = World(tmp_path_factory.mktemp("world"))
    catalog = Catalog.create(str(world.folder / "lake"))
    for name in NAMES:
        world.write(name, "1", [f"x{name}", f"y{name}"])
        steps = [lambda world, name=name: world.register(name), *steps]  # type: ignore[misc]
    for step in steps:
        call = step(world)
        if call is not None:
            call.run(catalog)
            assert catalog.version == len(world.versions) - 1, call
            assert shown_by(catalog) == world.versions[-1], call
    for version in range(len(world.versions)):
        world.check(version)


# Kills

SERVER = """
import json, os, signal, sys, time, traceback
from mixlake.catalog import Catalog

for line in sys.stdin:
    uri, method, arguments, options, seconds, calls = json.loads(line)
    child = os.fork()  # of a process that has opened nothing: it saves the imports
    if not child:
        def count_down(*_):
            global calls
            calls -= 1
            if not calls:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            catalog = Catalog.open(uri)
            if calls:
                sys.setprofile(count_down)
            getattr(catalog, method)(*arguments, **options)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if seconds:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Processes:
    """Runs each call in a process of its own."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, call: Call, *, seconds: float = 0, num_calls: int = 0) -> int:
        """Run a call until it is done, or killed after a time or a number of function calls; return the exit code."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps([self._uri, *call, seconds, num_calls]) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def close(self) -> None:
        self._server.communicate()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(str(tmp_path / "lake"))
    yield processes
    processes.close()


KILLED: dict[str, Callable[[World, random.Random], Call | None]] = {
    "register": lambda world, rng: world.register(rng.choice(NAMES)),
    "refresh": lambda world, rng: world.refresh(rng.choice(NAMES)),
    "remove": lambda world, rng: world.remove(rng.choice(LETTERS)),
    "add_property": lambda world, rng: (
        world.add_property(rng.choice([FROM_FILES, FROM_INDEX])) or world.add_property(FROM_INDEX)
    ),
    "gc": lambda world, rng: world.gc(rng.randint(1, 4)),
}


def test_whoever_is_killed_leaves_the_last_version_and_the_next_one_succeeds(
    tmp_path: Path, processes: Processes
) -> None:
    """Half of the processes are killed by the clock, anywhere, and half between two function calls."""
    rng = random.Random(SEED)
    world = World(tmp_path)
    catalog = Catalog.create(str(tmp_path / "lake"))
    for name in NAMES:
        world.write(name, "0", [f"{letter}{name}" for letter in LETTERS])
        call = world.register(name)
        assert call is not None
        call.run(catalog)
    seconds, num_calls = dict.fromkeys(KILLED, 0.2), dict.fromkeys(KILLED, 3_000)
    kills = dict.fromkeys(KILLED, 0)
    while sum(kills.values()) < NUM_KILLS:
        for name in NAMES:
            world.write(name, rng.choice("0123"), [f"{rng.choice(LETTERS)}{rng.randint(0, 99)}" for _ in range(3)])
        method = min(kills, key=lambda method: (kills[method], rng.random()))
        num_before = len(world.versions)
        call = KILLED[method](world, rng)
        assert call is not None
        by_clock = rng.random() < 0.5
        if by_clock:
            code = processes.run(call, seconds=rng.uniform(0.001, seconds[method]))
        else:
            code = processes.run(call, num_calls=rng.randint(1, num_calls[method]))
        assert code in (0, -signal.SIGKILL)
        kills[method] += code != 0
        if not by_clock and code == 0:
            num_calls[method] = max(200, num_calls[method] * 3 // 4)
        check_after(world, rng, num_before)
        if method == "add_property" and catalog.version == len(world.versions) - 1:
            continue  # it is there; once more would be refused
        started = time.monotonic()
        assert processes.run(call) == 0, call
        seconds[method] = time.monotonic() - started
        check_retried(world, call, num_before)
    print(f"killed {kills}")  # noqa: T201  (what a soak reports)
    for version in range(len(world.versions)):
        world.check(version)


def check_after(world: World, rng: random.Random, num_before: int) -> None:
    """The version before is there, or the one after: nothing in between."""
    version = Catalog.open(str(world.folder / "lake")).version
    assert version in (num_before - 1, len(world.versions) - 1)
    for old in {version, rng.randint(0, version), rng.randint(max(0, version - 4), version)}:
        world.check(old)


def check_retried(world: World, call: Call, num_before: int) -> None:
    """The retry has done it, or done it again: a dataset that is registered twice has one version more."""
    version = Catalog.open(str(world.folder / "lake")).version
    if call.method == "register" and version == num_before + 1:
        world.versions.append(world.versions[-1])
        world.kept.add(version)
    assert version == len(world.versions) - 1
    world.check(version)
