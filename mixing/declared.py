"""Reading declared values: each check names the path of what is wrong, what it got, and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import StrEnum
from numbers import Real
from typing import Any, TypeVar

from mixlake.catalog import ConfigError
from mixlake.catalog.errors import listed, nearest

_Choice = TypeVar("_Choice", bound=StrEnum)


def check_keys(config: Mapping[str, Any], path: str, *, required: Iterable[str] = (), optional: Iterable[str]) -> None:
    """Refuse a key that is not known, naming the nearest one that is, and a mapping that lacks a required key."""
    needed = list(required)
    allowed = [*needed, *optional]
    for key in config:
        if key not in allowed:
            raise ConfigError(f"{path} has no key {key!r}; allowed: {listed(allowed)}.{nearest(str(key), allowed)}")
    for key in needed:
        if key not in config:
            raise ConfigError(f"{path} lacks {key!r}; it has: {listed(map(str, config))}")


def choice(kind: type[_Choice], value: Any, path: str) -> _Choice:
    """Return a member of an enumeration by its value."""
    try:
        return kind(value)
    except ValueError:
        allowed = [member.value for member in kind]
        hint = nearest(str(value), allowed)
        raise ConfigError(f"{path} is {value!r}; allowed: {listed(allowed)}.{hint}") from None


def number(value: Any, path: str, *, least: float = 0.0, most: float = math.inf) -> float:
    """Return a number between ``least`` and ``most``, both allowed."""
    if not _is_number(value):
        hint = " (YAML reads 1e-6 as text; write 1.0e-6)" if isinstance(value, str) and "e" in value else ""
        raise ConfigError(f"{path} is {value!r}; expected a number{hint}")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not least <= found <= most or found == math.inf:
        expected = f"of {least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"
        raise ConfigError(f"{path} is {value}; expected a number {expected}")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)  # NumPy's and fractions too


def whole(value: Any, path: str, of: str) -> int:
    """Return a whole number from 1 on; 1e6, which YAML makes a float, is one."""
    if not _is_number(value) or value % 1 != 0 or value < 1:
        raise ConfigError(f"{path} is {value!r}; expected a number of {of}, 1 or more")
    return int(value)


def mapping(value: Any, path: str, expected: str) -> Mapping[Any, Any]:
    """Return a mapping."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}: expected {expected}, got {value!r}")
    return value


def name(value: Any, path: str) -> str:
    """Return a name: text that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{path}: {value!r} is not a name; in YAML, put quotes around names such as 'no'")
    return value


def predicate(value: Any, path: str) -> str:
    """Return an SQL predicate; whether it makes sense is found out at a catalog."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{path}: expected an SQL predicate, got {value!r}")
    return value


def weights(value: Any, path: str) -> dict[str, float]:
    """Return numbers by name; mappings inside it are components inside others.

    >>> weights({"code": {"python": 0.3}, "web": 1}, "weights")
    {'code.python': 0.3, 'web': 1.0}
    """
    found: dict[str, float] = {}
    for key, entry in mapping(value, path, "names of components with numbers").items():
        where = f"{path}.{name(key, path)}"
        if isinstance(entry, Mapping):
            found.update({f"{key}.{inner}": weight for inner, weight in weights(entry, where).items()})
        else:
            found[key] = number(entry, where)
    if not found:
        raise ConfigError(f"{path}: expected at least one component with a number, got {value!r}")
    return found
