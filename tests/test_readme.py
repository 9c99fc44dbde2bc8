"""The README's example does what it prints."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_example_prints_what_the_readme_says(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.S)
    assert found is not None
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", found[1]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == found[2]


def test_the_tree_names_every_module() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## The tree")[1]
    modules = [
        path.name
        for folder in ("catalog", "mixing", "loaders", "conf")
        for path in (ROOT / folder).glob("*.py")
        if path.name != "__init__.py"
    ]
    assert [name for name in modules if not re.search(rf"\b{re.escape(name)}", text)] == []
