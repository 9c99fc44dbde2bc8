"""The README's example does what it prints."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def example(folder: Path) -> tuple[str, str]:
    """Run the first example in a folder; return what it prints, and what the README says."""
    found = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.S)
    assert found is not None
    return run([sys.executable, "-W", "error", "-c", found[1]], folder), found[2]


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "120"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=120, check=False
    )
    assert done.stderr == ""
    return done.stdout


def test_the_example_prints_what_the_readme_says(tmp_path: Path) -> None:
    printed, said = example(tmp_path)
    assert printed == said


def test_three_overrides_change_the_experiment_as_the_readme_says(tmp_path: Path) -> None:
    found = re.search(r"```console\n(.*?)```", README, re.S)
    assert found is not None
    example(tmp_path)
    steps = re.findall(r"^\$ mixlake (.*?)\n((?:(?!\$ ).*\n)*)", found[1], re.M)
    assert len(steps) == 7
    mixlake = str(Path(sys.executable).with_name("mixlake"))
    for command, said in steps:
        printed = run([mixlake, *shlex.split(command, comments=True)], tmp_path)
        assert [line.rstrip() for line in printed.strip("\n ").splitlines()] == said.strip().splitlines()
