"""Arguments of the command line as overrides of Hydra's grammar."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

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
_OPEN_DICTS = (
    "properties.",
    "options.",
    "set.",
    "tokens_per_byte.",
    "length.",
    "step.",
    "floor.",
    "cap.",
    "importance.",
)
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
    """
    keys = {field.name for field in fields(SCHEMAS[name])} | {"hydra"}
    flags: list[str] = []
    overrides: list[str] = []
    for argument in arguments:
        match = _OVERRIDE.match(argument)
        is_override = argument.startswith("~") or (match is not None and match[1] in keys)
        if argument.startswith("-") or (flags[-1:] and flags[-1] in _FLAGS_WITH_VALUE):
            flags.append(argument)
        elif is_override or positional is None:
            is_open = argument.startswith(_OPEN_DICTS) or _OPEN_KEYS.match(argument)
            overrides.append(("++" if is_open else "") + _with_sql_quoted(argument))
        else:
            overrides.append(f"{positional}={_quoted(argument)}")
    return flags, overrides


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
