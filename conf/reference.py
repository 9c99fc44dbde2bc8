"""The reference pages: tables as the schema module has them, groups and commands as conf/ has them, and the modules.

``python -m mixlake.conf.reference docs`` writes them (`make reference`); a test says if they are out of date.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from mixlake.catalog.schema import TABLES
from mixlake.catalog.tables import described_columns
from mixlake.conf.commands import COMMANDS, GROUPS
from mixlake.conf.help import COMMON, EXIT_CODES, FOLDER, command_groups, own_help

_WRITTEN = "<!-- Written by `make reference` from {source}; change that, not this page. -->"
_TABLES = """\
Every table is a Delta table in a folder of its name in the lake, which any Delta reader can open. `mixlake sql` and
`Catalog.sql` ask them in DataFusion's SQL; `mixlake tables` lists them with their rows; `mixlake tables samples` has
the properties that are columns there.

`datasets`, `samples`, `files` and `skipped` are as they were at a catalog version, which is the Delta version of
`datasets`. SQL shows only live registrations, and `samples`, `files` and `skipped` have the name of the `dataset` in
front. The other tables grow while runs go on, and are as they are now.

Rows of structs become rows of their own by `unnest`:
`SELECT run, chunk, i['component'], i['row_start'] FROM (SELECT run, chunk, unnest(intervals) AS i FROM chunks)`.
"""
_GROUPS = """\
A group is a folder of YAML files, and `GROUP=NAME` on the command line takes one of them into a command's config; its
values are overridden as `GROUP.key=value`. Files of your own are chosen the same way: with `--config-dir my`,
`my/mixture/both.yaml` is `mixture=both`.
"""
_COMMANDS = """\
Every command is a Hydra config, whose keys `key=value` overrides; `mixlake COMMAND --help` prints what is on this page,
with the groups of your own.
"""
_PURPOSES = {
    "adapt": "How weights follow the losses of training, and how often; `adapt=null` is not at all",
    "adapt/short": "Laid over a policy for short runs: `+adapt/short@adapt=ado` behind `adapt=ado`",
    "curriculum": "Stages over the run's time; `curriculum=null` is one mixture throughout",
    "dataset": "Text and properties of well-known collections; single ones given beside it override these",
    "experiment": "Several of the other groups and settings together",
    "fit": "The law that is fitted to the losses of experiments",
    "mixture": "What is trained on: components and their weights, and the rules for mixing them",
    "scale": "Chunk size and lanes, for how much is trained at once",
    "shuffle": "How far samples are mixed; `shuffle=null` is what the mixture says",
}
_MODULES = """\
Imports run one way, from the last of these folders to the first. `catalog/` is `mixlake.catalog`, and so on.
"""
_FOLDERS = {
    "catalog": "What data there is: formats, registration, Delta tables, versions, SQL",
    "mixing": "What to train on: mixtures, curricula, runs, the scheduler, adaptive mixing",
    "loaders": "How training reads it: chunks, order, packing, torch datasets, state",
    "conf": "The front door: Hydra groups, their types, and the `mixlake` command",
}


def tables_page() -> str:
    """Return the page of the tables and their columns."""
    lines = ["# Tables and columns", "", _WRITTEN.format(source="catalog/schema.py"), "", _TABLES]
    for name, table in TABLES.items():
        lines += [f"## {name}", "", f"A row is {table.row}."]
        if table.partition_by:
            lines.append(f"Stored in a folder for each `{table.partition_by[0]}`.")
        lines += ["", "| column | type | what it is |", "|---|---|---|"]
        lines += [f"| `{row.column}` | {row.type} | {row.meaning} |" for row in described_columns(name)]
        lines.append("")
    return "\n".join(lines)


def groups_page() -> str:
    """Return the page of the config groups and what can be chosen of each."""
    groups = sorted({str(path.parent.relative_to(FOLDER)) for path in FOLDER.glob("*/**/*.yaml")})
    lines = ["# Config groups", "", _WRITTEN.format(source="conf/"), "", _GROUPS]
    for name in groups:
        lines += [f"## {name}", "", _purpose(name), ""]
        for path in sorted((FOLDER / name).glob("*.yaml")):
            about, body = _split(path.read_text(encoding="utf-8"))
            lines += [f"### {name}={path.stem}", "", about, "", "```yaml", body, "```", ""]
    return "\n".join(lines)


def commands_page() -> str:
    """Return the page of the commands, their configs and defaults."""
    lines = ["# Commands", "", _WRITTEN.format(source="conf/"), "", _COMMANDS]
    for title, commands in GROUPS.items():
        lines += [f"## {title.capitalize()}", ""]
        for name in commands:
            lines += [f"### {name}", "", "```text", own_help(name), "```", ""]
    return "\n".join([*lines, "## All of them", "", "```text", COMMON, "```", "", EXIT_CODES, ""])


def modules_page() -> str:
    """Return the page of the modules, each with the first sentence of its docstring."""
    lines = ["# Modules", "", _WRITTEN.format(source="the modules' docstrings"), "", _MODULES]
    for package, about in _FOLDERS.items():
        lines += [f"## {package}", "", f"{about}.", "", "| module | what it does |", "|---|---|"]
        for path in sorted((FOLDER.parent / package).glob("[!_]*.py")):
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            lines.append(f"| `{path.name}` | {_first_sentence(docstring)} |")
        lines.append("")
    return "\n".join(lines)


PAGES = {"tables.md": tables_page, "groups.md": groups_page, "commands.md": commands_page, "modules.md": modules_page}


def _first_sentence(docstring: str) -> str:
    return " ".join(docstring.split("\n\n", maxsplit=1)[0].split()).rstrip(".").replace("``", "`")


def _purpose(name: str) -> str:
    """Return what a group decides, and which commands compose it."""
    users = [f"`{command}`" for command in COMMANDS if any(group.name == name for group in command_groups(command))]
    return f"{_PURPOSES[name]}.{' Used by ' if users else ''}{', '.join(users)}{'.' if users else ''}"


def _split(text: str) -> tuple[str, str]:
    """Return the comments at the top of a config, and the rest."""
    lines = text.splitlines()
    start = next((place for place, line in enumerate(lines) if not line.startswith("#")), len(lines))
    about = [line.removeprefix("# ") for line in lines[:start] if not line.startswith("# @package")]
    return "\n".join(about), re.sub(r"^\n+", "", "\n".join(lines[start:]))


if __name__ == "__main__":
    for page_name, page in PAGES.items():
        (Path(sys.argv[1]) / page_name).write_text(page(), encoding="utf-8")
