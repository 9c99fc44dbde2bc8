"""The house rules: which way imports run, what is packaged and exported, and how long things get."""

import ast
import importlib
import inspect
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("catalog", "mixing", "loaders", "conf")  # each may import itself and those before it
PACKAGES = [f"mixlake.{folder}" for folder in FOLDERS]

PICKLERS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
CODE_FROM_TEXT = {"eval", "exec"}
MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 60
INDEX_HOST = re.compile(r"\b(pypi|pythonhosted|download[.]pytorch|npmjs|deb[.]debian)[.](org|com)\b")
MACHINE_PATH = re.compile(r"(?<![\w./-])/(home|opt|root|work)/\w")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def place(path: Path, line: int = 1) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def imported_names(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """Every dotted name that an import statement reaches, with its line; relative ones as seen from `package`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def wrong_imports(tree: ast.Module, folder: str) -> list[tuple[int, str]]:
    """The imports of `tree`, a module in `folder`, that reach a package above it."""
    above = {f"mixlake.{name}" for name in FOLDERS[FOLDERS.index(folder) + 1 :]}
    return [
        (line, name)
        for line, name in imported_names(tree, f"mixlake.{folder}")
        if ".".join(name.split(".")[:2]) in above
    ]


def code_as_data(tree: ast.Module) -> list[tuple[int, str]]:
    """Where `tree` imports a pickler, allows pickles, or runs text as code."""
    found = [(line, name) for line, name in imported_names(tree, "mixlake") if name.split(".")[0] in PICKLERS]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CODE_FROM_TEXT:
            found.append((node.lineno, node.func.id))
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            found.append((node.value.lineno, "allow_pickle"))
    return found


# Imports


def test_imports_run_from_conf_to_loaders_to_mixing_to_catalog() -> None:
    wrong = [
        f"{place(path, line)}: {folder} must not import {name}"
        for folder in FOLDERS
        for path in sources(folder)
        for line, name in wrong_imports(parse(path), folder)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("statement", "folder"),
    [
        ("import mixlake.conf.cli", "catalog"),
        ("from mixlake import loaders", "mixing"),
        ("from mixlake.mixing import Run", "catalog"),
        ("from ..conf import cli", "loaders"),
        ("def late():\n    from .. import mixing", "catalog"),
    ],
)
def test_an_import_that_runs_upwards_is_found(statement: str, folder: str) -> None:
    assert len(wrong_imports(ast.parse(statement), folder)) == 1


@pytest.mark.parametrize("statement", ["from mixlake.catalog import Catalog", "from . import types", "import torch"])
def test_an_import_of_a_lower_or_the_same_package_or_a_library_is_allowed(statement: str) -> None:
    assert wrong_imports(ast.parse(statement), "mixing") == []


def test_no_module_pickles_or_runs_text_as_code() -> None:
    found = [f"{place(path, line)}: {name}" for path in sources(*FOLDERS) for line, name in code_as_data(parse(path))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "code", ["import pickle", "from dill import dumps", "exec(text)", "eval(text)", "np.load(p, allow_pickle=True)"]
)
def test_a_pickle_or_text_run_as_code_is_found(code: str) -> None:
    assert len(code_as_data(ast.parse(code))) == 1


def test_putting_a_model_into_evaluation_mode_is_not_code_from_text() -> None:
    assert code_as_data(ast.parse("model.eval()")) == []


# Packaging


def test_the_declared_packages_are_the_folders_that_exist() -> None:
    setuptools = project()["tool"]["setuptools"]
    assert setuptools["packages"] == PACKAGES
    assert setuptools["package-dir"] == dict(zip(PACKAGES, FOLDERS, strict=True))
    assert {path.parent.name for path in ROOT.glob("*/*.py")} - {"tests", "notebooks"} == set(FOLDERS)
    assert not (ROOT / "mixlake").exists()


def test_no_package_is_nested_in_the_four_folders() -> None:
    nested = [place(path) for folder in FOLDERS for path in sources(folder) if path.parent != ROOT / folder]
    assert not nested, "\n".join(nested)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_package_is_imported_from_its_folder(folder: str) -> None:
    module = importlib.import_module(f"mixlake.{folder}")
    assert module.__file__ is not None
    assert Path(module.__file__).resolve() == ROOT / folder / "__init__.py"


def test_the_console_script_resolves_to_a_function_of_this_project() -> None:
    script = EntryPoint(name="mixlake", value=project()["project"]["scripts"]["mixlake"], group="console_scripts")
    main = script.load()
    assert callable(main)
    assert Path(inspect.getfile(inspect.unwrap(main))).resolve().parent == ROOT / "conf"


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_link_for_type_checkers_is_relative_and_leads_to_the_folder(folder: str) -> None:
    link = ROOT / ".typing" / "mixlake" / folder
    assert link.readlink() == Path("..", "..", folder)
    assert link.resolve() == ROOT / folder


def test_a_built_wheel_holds_every_module_and_every_data_file(tmp_path: Path) -> None:
    skipped = shutil.ignore_patterns("__pycache__")
    for folder in FOLDERS:  # built from a copy, so that nothing is left in the folders and nothing stale is packed
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=skipped)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    wanted = {
        f"mixlake/{path.relative_to(tmp_path).as_posix()}"
        for folder in FOLDERS
        for path in (tmp_path / folder).rglob("*")
        if path.is_file() and path.suffix != ".md"
    }
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("mixlake/")}
    assert packed == wanted


def test_constraints_are_names_and_exact_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []


# Exported names


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_exports_sorted_names_that_exist_and_are_documented(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__doc__
    names: list[str] = module.__all__
    assert len(set(names)) == len(names)
    assert names == sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))  # as ruff sorts
    assert [name for name in names if not hasattr(module, name)] == []
    assert [name for name in names if not has_docstring(getattr(module, name))] == []


def has_docstring(exported: object) -> bool:
    """Whether a class or function has a docstring of its own; anything else cannot carry one."""
    if inspect.isclass(exported):
        generated = f"{exported.__name__}("  # what dataclass writes where there is none
        return bool(exported.__dict__.get("__doc__")) and not str(exported.__doc__).startswith(generated)
    return bool(exported.__doc__) if inspect.isroutine(exported) else True


# Sizes


def test_modules_are_shorter_than_500_lines() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources(*FOLDERS, "tests")}
    long = [f"{place(path)}: {count} lines" for path, count in lines.items() if count >= MAX_MODULE_LINES]
    assert not long, "\n".join(long)


def test_functions_are_shorter_than_60_lines() -> None:
    long = [
        f"{place(path, node.lineno)}: {node.name} has {length} lines"
        for path in sources(*FOLDERS, "tests")
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (length := (node.end_lineno or node.lineno) - node.lineno + 1) >= MAX_FUNCTION_LINES
    ]
    assert not long, "\n".join(long)


# Text


def test_no_file_names_an_index_host_or_a_path_of_one_machine() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("the list of the project's files comes from git")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    found = [
        f"{place(path, number)}: {match.group()}"
        for path in (ROOT / name for name in names if name)
        if path.is_file() and not path.is_symlink()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="ignore").splitlines(), start=1)
        if (match := INDEX_HOST.search(line) or MACHINE_PATH.search(line))
    ]
    assert not found, "\n".join(found)
