"""The examples in docstrings print what they say, run under the modules' mixlake.* names."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = [
    f"mixlake.{path.parent.name}" if path.stem == "__init__" else f"mixlake.{path.parent.name}.{path.stem}"
    for folder in ("catalog", "mixing", "loaders", "conf")
    for path in sorted((ROOT / folder).glob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_print_what_they_say(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(
        importlib.import_module(module), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert results.failed == 0, f"{results.failed} of {results.attempted} examples of {module} failed: see stdout"
