"""README.md and the pages in docs/: every block of them is run, in order, and prints what they say.

A page runs in one scratch folder, its Python in one process. A block whose first line is a comment with a path is that
file. Commands stand behind ``$``, with what they print below; a ``text`` block is what the Python above it prints; and
``…`` stands for anything.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mixlake.conf.commands import COMMANDS
from mixlake.conf.reference import PAGES as WRITTEN

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name not in WRITTEN)]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
FILE = re.compile(r"# ([\w./-]+\.\w+)\n")
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.M)
PRELUDE = """
import pathlib, re, subprocess, sys

def _step(number):
    print(f"\\x1e{number}", flush=True)

def _write(path, text):
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(path).write_text(text, encoding="utf-8")

def _call(command):
    done = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    is_progress = r"^\\w+ \\S+: [0-9,]+ of [0-9,]+ \\w+\\n"  # on slow machines
    sys.stdout.write(re.sub(is_progress, "", done.stdout, flags=re.M))
    if done.returncode:
        sys.exit(f"{command}: exit code {done.returncode}")
"""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Something that a page does: Python that stands for it, and what it prints."""

    code: str
    said: str


def steps(page: str) -> Iterator[Step]:
    found = FENCED.findall(page)
    for (language, text), (following, printed) in zip(found, [*found[1:], ("", "")], strict=True):
        named = FILE.match(text)
        if named:
            yield Step(code=f"_write({named[1]!r}, {text!r})", said="")
        elif language == "python":
            yield Step(code=text, said=printed if following == "text" else "")
        elif language == "console":
            assert text == "".join(match[0] for match in COMMAND.finditer(text)), f"what is no command in:\n{text}"
            for command, output in COMMAND.findall(text):
                yield Step(code=f"_call({command!r})", said=output)
        else:
            assert language == "text", f"a block that nobody can run:\n{text}"


def run(page: str, folder: Path) -> list[str]:
    """Run the steps of a page; return what each prints."""
    script = [PRELUDE, *(f"_step({number})\n{step.code}" for number, step in enumerate(steps(page)))]
    (folder / "page.py").write_text("\n".join(script), encoding="utf-8")
    site = folder / ".site"  # what a page installs, without its requirements: those are there
    site.mkdir()
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(site),
        "PYTHONIOENCODING": "utf-8",
        "COLUMNS": "100",
        "PIP_TARGET": str(site),
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # which is how pip spells that there is none
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "page.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.stderr == "", done.stdout[-2000:] + done.stderr
    return re.split(r"^\x1e\d+\n", done.stdout, flags=re.M)[1:]


def is_said(printed: str, said: str) -> bool:
    """Whether the output is what the page says, but for blanks at the ends of lines and empty lines around it."""
    printed, said = ("\n".join(line.rstrip() for line in text.splitlines()).strip("\n") for text in (printed, said))
    return re.fullmatch(re.escape(said).replace("…", ".*"), printed, re.S) is not None


def words_in(picture: Path) -> list[str]:
    """What stands in an SVG: its title, labels, ticks and legend."""
    return re.findall(r"<text[^>]*>(.*?)</text>", picture.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", PAGES, ids=[path.stem for path in PAGES])
def test_every_block_of_a_page_runs_and_prints_what_it_says(path: Path, tmp_path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    if path.name == "README.md":  # it is read in a clone
        for folder in ("catalog", "mixing", "loaders", "conf"):
            shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, tmp_path)
    for step, printed in zip(steps(page), run(page, tmp_path), strict=True):
        assert is_said(printed, step.said), f"{step.code}\nprints:\n{printed}\nthe page says:\n{step.said}"
    for picture in re.findall(r"\]\((docs/\S+[.]svg)\)", page):
        drawn = tmp_path / Path(picture).name
        assert words_in(drawn) == words_in(ROOT / picture), f"{picture} is no longer what the page's commands draw"


@pytest.mark.parametrize("path", PAGES, ids=[path.stem for path in PAGES])
def test_a_page_has_no_block_that_would_not_run_and_names_what_there_is(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    prose = FENCED.sub("", page)
    assert re.findall(r"\n\n(?: {4}|\t).*", prose) == []
    assert {name for name in re.findall(r"`mixlake ([a-z-]+)", prose) if name != "completion"} <= COMMANDS.keys()
    targets = re.findall(r"^(\w+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(re.findall(r"`make (\w+)", prose)) <= set(targets)
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", prose) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_what_is_not_printed_is_found() -> None:
    assert is_said("\n a  \nb\n", " a\nb")
    assert is_said("run exp1 at 12:00\n1\n2\n", "run exp1 at …\n…\n2\n")
    assert not is_said("a\nb\n", "a\n")
    assert not is_said("a\n", "")
