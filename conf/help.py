"""What `mixlake` and `mixlake COMMAND --help` print, and the words that shells complete: read from the configs."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from mixlake.conf.commands import COMMANDS, GROUPS
from mixlake.conf.schema import SCHEMAS

FOLDER = Path(__file__).parent
_GROUP = re.compile(r"  - (?:optional )?(?P<name>[a-z]+): (?P<choice>\S+)(?: # (?P<comment>.*))?")
COMMON = """\
  output=json               the whole answer as one line of JSON; notes go to standard error
  key.inner=value           overrides one value; '~key.inner' takes it out; quote it for the shell
  --config-dir FOLDER       groups of your own: FOLDER/mixture/both.yaml is mixture=both
  --cfg job                 only print what all this composes to
  -m key=1,2,3              once for each value"""
EXIT_CODES = """\
Exit codes: 0 it is done; 2 something that was given is wrong, as the message says, and nothing was
written; 1 an error that nobody foresaw, with a traceback; 130 interrupted."""
_WIDTH = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A config group that a command composes."""

    name: str
    comment: str
    choices: tuple[str, ...]


def overview() -> str:
    """Return every command with what it is for and an example, in groups."""
    lines = ["mixlake COMMAND [key=value …]    which samples are trained on, in which proportion and order"]
    for title, commands in GROUPS.items():
        lines += ["", title]
        for name, command in commands.items():
            lines += [f"  {name:<12}  {command.summary}", f"{'':16}mixlake {name} {command.example}"]
    return "\n".join(
        [
            *lines,
            "",
            "mixlake COMMAND --help shows its config, defaults and overrides; all take lake=FOLDER and",
            "output=json. source <(mixlake completion bash) makes bash complete all this; also zsh, fish.",
            EXIT_CODES,
        ]
    )


def command_help(name: str, arguments: Sequence[str] = ()) -> str:
    """Return what a command is for, its config and groups, and what every command takes."""
    return "\n".join(
        [own_help(name, config_dirs(arguments)), "", "Every command also takes:", "", COMMON, "", EXIT_CODES]
    )


def own_help(name: str, folders: Sequence[Path] = ()) -> str:
    """Return what a command does, an example, its config with comments, and the groups that it composes."""
    about, body = _config(name)
    command, groups = COMMANDS[name], command_groups(name, folders)
    lines = [f"mixlake {name}: {command.summary}", "", f"  mixlake {name} {command.example}", "", about, ""]
    if command.positional is not None:
        lines += [f"An argument that is no override is {command.positional}.", ""]
    lines += ["Its config, with defaults; ??? has to be given:", "", body]
    if groups:
        lines += ["", "Groups, chosen with name=choice, whose values are overridden as name.key=value:", ""]
        for group in groups:
            lines += _wrapped(f"{group.name}: {' | '.join(group.choices)}") + _wrapped(group.comment, "  # ")
    return "\n".join(lines)


def _wrapped(text: str, start: str = "") -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=start, subsequent_indent=start or "  ", break_on_hyphens=False)


def command_groups(name: str, folders: Sequence[Path] = ()) -> list[Group]:
    """Return the groups that a command composes, with what can be chosen here and in other folders."""
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    found = [match for line in text.splitlines() if (match := _GROUP.fullmatch(line))]
    groups = [
        Group(name=match["name"], comment=match["comment"] or "", choices=_choices(match["name"], folders))
        for match in found
    ]
    return [group for group in groups if group.choices]


def command_words(name: str) -> list[str]:
    """Return what may come after a command: its keys, and the choices of its groups."""
    keys = [f"{field.name}=" for field in fields(SCHEMAS[name]) if field.name != "output"]
    choices = [f"{group.name}={choice}" for group in command_groups(name) for choice in group.choices]
    grouped = {group.name for group in command_groups(name)}
    return [*(key for key in keys if key[:-1] not in grouped), *choices, "output=json", "output=text", "--help"]


def config_dirs(arguments: Sequence[str]) -> list[Path]:
    """Return the folders that arguments name as ``--config-dir``."""
    found = []
    for flag, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if flag in ("--config-dir", "-cd"):
            found.append(Path(following))
        elif flag.startswith("--config-dir="):
            found.append(Path(flag.partition("=")[2]))
    return found


def _choices(group: str, folders: Sequence[Path]) -> tuple[str, ...]:
    return tuple(sorted({path.stem for folder in (FOLDER, *folders) for path in (folder / group).glob("*.yaml")}))


def _config(name: str) -> tuple[str, str]:
    """Return the comments at the top of a command's config, and its keys with their comments."""
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    about = [line.removeprefix("# ") for line in lines if line.startswith("#")]
    start = next(place for place, line in enumerate(lines) if re.match(r"[a-z_]+:", line) and line != "defaults:")
    return "\n".join(about), "\n".join(lines[start:])
