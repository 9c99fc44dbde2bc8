"""The `mixlake` command: `mixlake COMMAND [overrides]`, every command a Hydra config."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence, Set
from dataclasses import fields, is_dataclass
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mixlake.catalog import Catalog, ConfigError, MixlakeError
from mixlake.catalog.errors import listed, nearest
from mixlake.conf.commands import COMMANDS, Command
from mixlake.conf.completion import completion_script
from mixlake.conf.composed import write_declaration
from mixlake.conf.config_errors import CONFIG_ERRORS, compose_with, explain_config_error
from mixlake.conf.display import make_console, print_answer
from mixlake.conf.help import command_help, overview
from mixlake.conf.overrides import hydra_arguments
from mixlake.conf.schema import store_schemas
from mixlake.mixing import Run

_GROUPS = ("mixture", "curriculum", "adapt", "shuffle", "scale", "experiment", "dataset")
_ESTIMATE = ("tokens_per_byte", "tokenizer")
_DECISIVE = ("seed", "chunk_size", "lanes", "length", "step", *_ESTIMATE)
_OUTPUTS = ("text", "json")
_QUIET = {
    "hydra/job_logging": "none",
    "hydra/hydra_logging": "none",
    "hydra.output_subdir": "null",
    "hydra.run.dir": ".",
    "hydra.sweep.subdir": ".",
}
"""Hydra's own settings: no log files and no output folders unless they are asked for."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit with 2 after a wrong input, which is explained in one paragraph (see `EXIT_CODES`)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            sys.stdout.write(overview() + "\n")
        elif arguments[0] == "completion":
            sys.stdout.write(completion_script(*(arguments[1:2] or ["bash"])))
        else:
            _run_command(arguments[0], arguments[1:])
    except MixlakeError as error:
        _fail(str(error))
    except CONFIG_ERRORS as error:
        _fail(explain_config_error(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _run_command(name: str, arguments: Sequence[str]) -> None:
    if name not in COMMANDS:
        raise ConfigError(f"there is no command {name!r}; commands: {listed(COMMANDS, 40)}.{nearest(name, COMMANDS)}")
    if any(argument in ("-h", "--help") for argument in arguments):
        sys.stdout.write(command_help(name, arguments) + "\n")
        return
    command = COMMANDS[name]
    with tempfile.TemporaryDirectory(prefix="mixlake-") as folder:
        arguments = ["replay=true" if given == "--replay" else given for given in arguments]
        arguments = _with_other_run(name, arguments, Path(folder))
        flags, overrides = hydra_arguments(name, command.positional, arguments)
        _compose_and_run(name, command, flags, overrides, folder)


def _with_other_run(name: str, arguments: Sequence[str], folder: Path) -> list[str]:
    """Return the arguments with overrides in front that choose what another run was declared with, if one is named.

    That is ``--from NAME``, or the run that is forked. Groups that are chosen are not taken from it; ``null`` chooses
    nothing, which Hydra has no override for.
    """
    source, others = _other_run(name, map(_with_none_chosen, arguments))
    values = {key: value for key, _, value in (other.partition("=") for other in others)}
    if name != "fork":  # whose null is what the run does
        others = ["adapt=none" if other == "adapt=null" else other for other in others]
    given = [other for other in others if other not in {f"{group}=null" for group in _GROUPS}]
    if source is None:
        return given
    run = Run.load(Catalog.open(values.get("lake", "lake")), source)
    is_fork = name == "fork"
    if run.config.parent is not None and not is_fork:
        raise ConfigError(f"run {source!r} goes on from {run.config.parent!r}; fork that one instead")
    left_out = {"chunk_size", "lanes"} if is_fork else set()
    if any(key in values for key in _ESTIMATE):
        left_out.update(_ESTIMATE)
    if is_fork and "mixture" in values:
        values.setdefault("curriculum", "null")
        if run.config.estimate(is_kept=False)["tokenizer"] is None:
            left_out.update(_ESTIMATE)  # of other components
    kept = [key for key in _DECISIVE if key not in left_out]
    chosen = [override for group, override in write_declaration(run, folder, kept).items() if group not in values]
    return [f"hydra.searchpath=[file://{folder}]", *chosen, *given]


def _with_none_chosen(argument: str) -> str:
    """Return an override that chooses none where a sweep chooses null, which Hydra cannot.

    Raises:
        ConfigError: the group has no such choice.
    """
    group, _, value = argument.partition("=")
    choices = value.split(",")
    if group not in _GROUPS or "null" not in choices or len(choices) == 1:
        return argument
    if group not in ("curriculum", "adapt"):
        raise ConfigError(f"{argument}: null cannot be one of several choices; leave {group} out in a sweep of its own")
    return f"{group}={','.join('none' if choice == 'null' else choice for choice in choices)}"


def _other_run(name: str, arguments: Iterable[str]) -> tuple[str | None, list[str]]:
    """Return the run whose declaration is to be taken, and the arguments without ``--from``."""
    given = list(arguments)
    if name == "fork":
        return next((argument[4:] for argument in given if argument.startswith("run=")), None), given
    for index, argument in enumerate(given):
        if argument.split("=", 1)[0] == "--from" and name in ("run", "explain"):
            rest = given[index + 1 :]
            source = argument.split("=", 1)[1] if "=" in argument else rest.pop(0) if rest else ""
            return source, given[:index] + rest
    return None, given


def _compose_and_run(name: str, command: Command, flags: list[str], overrides: list[str], folder: str) -> None:
    asked = set(overrides)
    given = {override.split("=", 1)[0].lstrip("+~") for override in overrides}
    quiet = {**_QUIET, "hydra.sweep.dir": f"'{folder}'"}  # where a sweep leaves a multirun.yaml
    overrides += [f"{key}={value}" for key, value in quiet.items() if key not in given]
    store_schemas()

    def task(config: DictConfig) -> None:
        try:
            check_complete(name, config)
            if name in ("run", "fork") and HydraConfig.get().mode is RunMode.MULTIRUN:
                config.name = _swept_name(config.name, asked)
            if config.output not in _OUTPUTS:
                raise ConfigError(f"output is {config.output!r}; allowed: {listed(_OUTPUTS)}")
            print_answer(make_console(), command.function(config), config.output)
        except MixlakeError as error:  # here, because Hydra adds a line of its own to what it passes on
            _fail(str(error))

    # Errors come to us as they are: we print them, not Hydra.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    run = hydra.main(version_base="1.3", config_path="pkg://mixlake.conf", config_name=name)(task)

    def compose(given: list[str]) -> None:
        sys.argv = [f"mixlake {name}", *flags, *given]
        run()

    compose_with(compose, overrides)


def _swept_name(name: str, asked: Set[str]) -> str:
    """Return a job's name: the run's, and the overrides that this job of the sweep has and others have not."""
    swept = [override for override in HydraConfig.get().overrides.task if override not in asked]
    short = [re.sub(r"^(mixture|curriculum)\.((components|stages)\.)?", "", override) for override in swept]
    return "-".join([name, *(re.sub(r"[^A-Za-z0-9_.]+", "-", override).strip("-") for override in short)])


def check_complete(name: str, config: DictConfig) -> None:
    """Refuse keys that no schema has, and values that are missing."""
    for path, node in [("", config), *((str(key) + ".", node) for key, node in config.items_ex(resolve=False))]:
        kind = OmegaConf.get_type(node)
        if isinstance(node, DictConfig) and is_dataclass(kind):
            known = [field.name for field in fields(kind)]
            for key in node:  # Hydra lets + add what nobody reads
                if isinstance(key, str) and key not in known:
                    hint = nearest(key, known)
                    raise ConfigError(f"mixlake {name} has no key '{path}{key}'; there are: {listed(known, 30)}.{hint}")
    missing = sorted(map(str, OmegaConf.missing_keys(config)))
    if missing:
        raise ConfigError(f"mixlake {name} needs {listed(f'{key}=…' for key in missing)}; see mixlake {name} --help")


def _fail(message: str) -> None:
    sys.stderr.write(f"mixlake: {message}\n")
    sys.exit(2)
