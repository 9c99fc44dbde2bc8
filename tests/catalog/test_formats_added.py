"""Formats that installed packages add, the example of docs/add_a_format.md among them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mixlake.catalog import ConfigError
from mixlake.catalog.formats import formats, get_format

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "add_a_format.md"
USE = """
from mixlake.catalog import Catalog
from mixlake.loaders import SampleDataset
from mixlake.mixing import Mixture, Run

catalog = Catalog.open("lake", create=True)
catalog.register("good", "data", on_error="skip", properties={"num_chars": "character_length(text)"})
print(catalog.sql("SELECT row, num_chars FROM samples ORDER BY file_id, row").to_pylist())
print(catalog.sql("SELECT place FROM skipped").to_pylist())
mixture = Mixture.from_dict({"components": {"long": {"where": "num_chars > 3", "weight": 1}}})
run = Run.start(catalog, "run", mixture, chunk_size=2, lanes=1)
print(sorted(sample["text"] for sample in SampleDataset(run)))
"""
COMPLETE = """
class Added:
    name = "added"
    suffixes = (".added",)
    companions = ()
    content = "text"
    options = frozenset()
    def parts(self, file_id, file, options, problems): ...
    def scan(self, parts, fields, options, problems): ...
    def read(self, file, spans, fields, options, cache): ...
"""
Install = Callable[..., None]


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution with one module on the path of this process."""

    def install(module: str, source: str, **entries: str) -> None:
        (tmp_path / f"{module}.py").write_text(source)
        information = tmp_path / f"{module}-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
        (information / "entry_points.txt").write_text(f"[mixlake.formats]\n{lines}")
        monkeypatch.syspath_prepend(tmp_path)
        formats.cache_clear()

    yield install
    formats.cache_clear()


def run(*command: str, cwd: Path, path: Path | None = None) -> str:
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"} | ({} if path is None else {"PYTHONPATH": str(path)})
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_format_of_the_page_takes_odd_names_empty_files_and_damage(tmp_path: Path) -> None:
    blocks = re.findall(r"```\w+\n# paragraphs/(\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    project, site = tmp_path / "project", tmp_path / "site"
    project.mkdir()
    for name, content in blocks:
        (project / name).write_text(content, encoding="utf-8")
    pip = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    run(*pip, "--target", str(site), ".", cwd=project)
    data = tmp_path / "data"
    data.mkdir()
    (data / "ein Text ä.paragraphs").write_bytes("eins,\nzwei\n\n\nä\n\nfünf".encode() + b"\n\n\xff\n\nsechs\n")
    (data / "empty.paragraphs").write_bytes(b"\n")
    assert run("-W", "error", "-c", USE, cwd=tmp_path, path=site).splitlines() == [
        "[{'row': 0, 'num_chars': 10}, {'row': 1, 'num_chars': 1}, {'row': 2, 'num_chars': 4}, "
        "{'row': 4, 'num_chars': 5}]",
        "[{'place': 'paragraph 3'}]",
        "['eins,\\nzwei', 'fünf', 'sechs']",
    ]


def test_an_added_format_is_known_by_its_name_and_endings(install: Install) -> None:
    install("one_added", COMPLETE, added="one_added:Added")
    assert get_format("added").suffixes == (".added",)
    assert list(formats())[-1] == "added"


@pytest.mark.parametrize(
    ("source", "name", "what"),
    [
        ("import no_such_module", "added", "cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0", "added", "cannot be loaded: ZeroDivisionError: division by zero"),
        ("Other = 1", "added", "cannot be loaded: AttributeError: module 'wrong' has no attribute 'Added'"),
        ("def Added(): raise OSError('no licence')", "added", "cannot be loaded: OSError: no licence"),
        ("class Added:\n    name = 'added'\n    suffixes = options = ()", "added", "lacks {members}"),
        (COMPLETE, "another", "calls itself 'added'"),
        (COMPLETE, "parquet", "takes the name of another format; there are: {names}"),
    ],
)
def test_a_format_that_cannot_be_used_is_refused_with_where_it_comes_from(
    install: Install, monkeypatch: pytest.MonkeyPatch, source: str, name: str, what: str
) -> None:
    monkeypatch.delitem(sys.modules, "wrong", raising=False)
    there_are = ", ".join(formats())
    install("wrong", source, **{name: "wrong:Added"})
    reason = what.format(members="companions, content, parts, read, scan", names=there_are)
    message = f"format {name!r} (mixlake.formats: wrong:Added) {reason}"
    with pytest.raises(ConfigError, match=exactly(message)):
        formats()


def test_two_packages_that_add_a_format_of_one_name_are_refused(install: Install) -> None:
    install("first", COMPLETE, added="first:Added")
    install("second", COMPLETE, added="second:Added")
    with pytest.raises(ConfigError, match=r"^format 'added' \(mixlake.formats: \w+:Added\) takes the name of another"):
        formats()
