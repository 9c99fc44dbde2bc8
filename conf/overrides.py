"""Arguments of the command line as overrides of Hydra's grammar."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import fields

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from mixlake.catalog import ConfigError
from mixlake.catalog.errors import listed, nearest
from mixlake.conf.schema import SCHEMAS

_OVERRIDE = re.compile(r"[+~]{0,2}([A-Za-z_]\w*)[\w./@:-]*=", re.ASCII)
_FLAGS_WITH_VALUE = (
    "--config-dir",
    "-cd",
    "--config-path",
    "-cp",
    "--config-name",
    "-cn",
    "--cfg",
    "-c",
    "--package",
    "-p",
)
_FLAGS = (
    *_FLAGS_WITH_VALUE,
    "--multirun",
    "-m",
    "--run",
    "-r",
    "--resolve",
    "--hydra-help",
    "--version",
    "--info",
    "-i",
)
"""Of Hydra's; `--help`, `--from` and `--replay` are ours."""
_BY_COMPONENT = "set", "tokens_per_byte", "floor", "cap", "importance"
_OPEN_DICTS = re.compile(rf"({'|'.join(('properties', 'options', 'length', 'step', *_BY_COMPONENT))})(\.|=\s*\{{)")
"""Dicts of names that are the user's own."""
_MEASURED = "length", "step"
"""Dicts of one measure: another one takes its place."""
_NAMED = re.compile(rf"({'|'.join(_BY_COMPONENT)})\.(.+)=([^=]*)")
_SPECIAL, _ESCAPE = re.compile(r"[\\()\[\]{}:=,]"), r"\\\g<0>"
_OPEN_KEYS = re.compile(
    r"mixture\.(\w+=|(shuffle|order_by|unimax)\.|(components\.[^.=]+\.)+(on_exhausted|max_passes|order_by)\b)"
)
"""What a mixture and its components may say or leave unsaid. Not weights: with a typo in its name there would be a
component more."""
_SQL_KEYS = re.compile(r"[+]{0,2}(properties\.[^=]+|([^=]+\.)?(where|filter|query|source|expression))")


def hydra_arguments(name: str, positional: str | None, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return flags and overrides apart, as Hydra's parser wants them.

    The one argument that is neither (``mixlake sql "SELECT …"``) becomes an override, keys in a dict of the user's own
    names need no ``+``, and SQL needs no quotes but the shell's.

    Raises:
        ConfigError: a flag is unknown, an argument is no override, or numbers of components exclude one another.
    """
    keys = {field.name for field in fields(SCHEMAS[name])} | {"hydra"}
    flags: list[str] = []
    overrides: list[str] = []
    for argument in map(_with_name_escaped, arguments):
        match = _OVERRIDE.match(argument)
        is_override = argument.startswith("~") or (match is not None and match[1] in keys)
        if flags[-1:] and flags[-1] in _FLAGS_WITH_VALUE:
            flags.append(argument)
        elif argument.startswith("-"):
            flags.append(_checked_flag(argument))
        elif match is None and not argument.startswith("~") and positional is None:
            raise ConfigError(f"{argument!r} is no override; expected key=value, with a key of: {listed(sorted(keys))}")
        elif is_override or positional is None:
            is_open = _OPEN_DICTS.match(argument) or _OPEN_KEYS.match(argument)
            overrides.append(("++" if is_open else "") + _with_sql_quoted(argument))
        else:
            overrides.append(f"{positional}={_quoted(argument)}")
    _check_components(arguments)
    measured = [key for key in _MEASURED if any(re.match(rf"{key}(\.|=\s*\{{)", argument) for argument in arguments)]
    return flags, [*(f"{key}=null" for key in measured), *overrides]


def _with_name_escaped(argument: str) -> str:
    r"""Return an override for a component whose name Hydra's keys cannot have, as inferred ones do.

    >>> _with_name_escaped("set.PubMed Central=0.1"), _with_name_escaped("set.de.(none)=0.1")
    ('set={PubMed Central: 0.1}', 'set={de.\\(none\\): 0.1}')
    """
    named = _NAMED.fullmatch(argument)
    if named is None or _OVERRIDE.match(argument):
        return argument
    return f"{named[1]}={{{_SPECIAL.sub(_ESCAPE, named[2])}: {named[3]}}}"


def _check_components(arguments: Sequence[str]) -> None:
    """Refuse numbers for a component and for one inside it: either would take the other's place unseen."""
    given = [
        key for argument in arguments for key in (argument.split("=", 1)[0],) if key.split(".")[0] in _BY_COMPONENT
    ]
    for outer, inner in itertools.permutations(given, 2):
        if inner.startswith(f"{outer}."):
            raise ConfigError(
                f"{outer} and {inner} are both given, but the one is inside the other; leave one of them out"
            )


def _checked_flag(argument: str) -> str:
    flag = argument.split("=", 1)[0]
    if flag not in _FLAGS:
        known = sorted((*_FLAGS, "--help", "--from", "--replay"))
        raise ConfigError(f"there is no flag {flag!r}; there are: {listed(known, 30)}.{nearest(flag, known)}")
    return argument


def _with_sql_quoted(override: str) -> str:
    """Return an override whose value, if it is SQL that is no value of Hydra's grammar, is quoted.

    >>> _with_sql_quoted("filter=num_chars > 200"), _with_sql_quoted("filter=is_long")
    ('filter="num_chars > 200"', 'filter=is_long')
    """
    key, _, value = override.partition("=")
    if not _SQL_KEYS.fullmatch(key):
        return override
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return f"{key}={_quoted(value)}"
    return override


def _quoted(text: str) -> str:
    """Quote a value for Hydra's override grammar: quotes inside are escaped, and backslashes in front of them."""
    return '"' + re.sub(r'(\\*)("|$)', lambda match: match[1] * 2 + (match[2] and '\\"'), text) + '"'
