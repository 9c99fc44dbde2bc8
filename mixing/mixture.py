"""What is declared: components, their predicates and weights, and the rules for mixing them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mixlake.catalog import ConfigError
from mixlake.catalog.errors import listed, nearest

_MAX_WEIGHT = 1e100
_MIN_SHARE = 1e-14
"""Shares are whole numbers of 1/`quotas.SCALE`, 4e-15: a smaller one could not be told from zero."""


class Unit(StrEnum):
    """What the weights count."""

    SAMPLES = "samples"
    BYTES = "bytes"
    TOKENS = "tokens"

    @property
    def property_name(self) -> str | None:
        """The property that holds a sample's count, or None where every sample counts one."""
        return None if self is Unit.SAMPLES else f"num_{self.value}"


class OnExhausted(StrEnum):
    """What happens when a component has no sample left."""

    STOP = "stop"
    """The run ends in front of the sample that is missing."""
    REDISTRIBUTE = "redistribute"
    """The other components share its weight, in proportion to theirs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """A named part of a mixture."""

    name: str
    where: str
    """SQL predicate over properties."""
    weight: float
    """Its share, relative to the other components' weights."""
    on_exhausted: OnExhausted


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """Components and the rules for mixing them. A sample belongs to the first component that it matches.

    >>> mixture = Mixture.from_dict({"components": {"german": {"where": "language = 'de'", "weight": 3},
    ...                                             "english": {"where": "language = 'en'", "weight": 1}}})
    >>> mixture.shares()
    (0.75, 0.25)
    """

    components: tuple[Component, ...]
    filter: str | None
    """SQL predicate that every sample must match."""
    unit: Unit
    window: int
    """Blocks whose rows are shuffled together; 0 keeps storage order."""

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Mixture:
        """Return the mixture that a config declares (README: "Mixtures").

        Raises:
            ConfigError: naming the path of a key that is unknown or missing, or of a value that is not allowed.
        """
        if not isinstance(config, Mapping):
            raise ConfigError(f"mixture: expected a mapping with 'components', got {config!r}")
        _check_keys(
            config, "mixture", required=["components"], optional=["kind", "filter", "unit", "on_exhausted", "shuffle"]
        )
        if config.get("kind", "static") != "static":
            raise ConfigError(f"mixture.kind is {config['kind']!r}; allowed: static")
        default = _choice(OnExhausted, config.get("on_exhausted", "stop"), "mixture.on_exhausted")
        declared = config["components"]
        if not isinstance(declared, Mapping) or not declared:
            raise ConfigError(f"mixture.components: expected at least one named component, got {declared!r}")
        components = tuple(_component(name, value, default) for name, value in declared.items())
        _check_weights(components)
        condition = config.get("filter")
        if condition is not None and not isinstance(condition, str):
            raise ConfigError(f"mixture.filter: expected an SQL predicate, got {condition!r}")
        return cls(
            components=components,
            filter=condition,
            unit=_choice(Unit, config.get("unit", "samples"), "mixture.unit"),
            window=_window(config.get("shuffle", {})),
        )

    @classmethod
    def from_yaml(cls, path: str | Path) -> Mixture:
        """Return the mixture that a YAML file declares.

        Raises:
            ConfigError: the file is missing or not YAML, or the mixture is wrong.
        """
        try:
            config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"mixture file {str(path)!r} cannot be read: {error}") from error
        if not isinstance(config, Mapping):
            raise ConfigError(f"mixture file {str(path)!r}: expected a mapping with 'components', got {config!r}")
        return cls.from_dict(config)

    def to_dict(self) -> dict[str, Any]:
        """Return the config that declares this mixture, every default written out."""
        components = {
            c.name: {"where": c.where, "weight": c.weight, "on_exhausted": c.on_exhausted.value}
            for c in self.components
        }
        return {
            "kind": "static",
            "filter": self.filter,
            "unit": self.unit.value,
            "shuffle": {"window": self.window} if self.window else "none",
            "components": components,
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The components' names, in order; component ids index them."""
        return tuple(component.name for component in self.components)

    @property
    def is_shuffled(self) -> bool:
        """Whether samples are drawn and delivered in a seeded order rather than in storage order."""
        return self.window > 0

    def shares(self) -> tuple[float, ...]:
        """Return the weights divided by their sum, one per component."""
        total = math.fsum(component.weight for component in self.components)
        return tuple(component.weight / total for component in self.components)


def _component(name: Any, config: Any, default: OnExhausted) -> Component:
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"mixture.components: {name!r} is not a name; in YAML, put quotes around names such as 'no'")
    path = f"mixture.components.{name}"
    if not isinstance(config, Mapping):
        raise ConfigError(f"{path}: expected where and weight, got {config!r}")
    _check_keys(config, path, required=["where", "weight"], optional=["on_exhausted"])
    weight = config["weight"]
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        hint = " (YAML reads 1e-6 as text; write 1.0e-6)" if isinstance(weight, str) and "e" in weight else ""
        raise ConfigError(f"{path}.weight is {weight!r}; expected a number{hint}")
    if not 0 <= weight <= _MAX_WEIGHT:
        raise ConfigError(f"{path}.weight is {weight}; expected a number from 0 to {_MAX_WEIGHT}")
    if not isinstance(config["where"], str) or not config["where"].strip():
        raise ConfigError(f"{path}.where: expected an SQL predicate, got {config['where']!r}")
    policy = config.get("on_exhausted")
    return Component(
        name=name,
        where=config["where"],
        weight=float(weight),
        on_exhausted=default if policy is None else _choice(OnExhausted, policy, f"{path}.on_exhausted"),
    )


def _check_weights(components: Sequence[Component]) -> None:
    total = math.fsum(component.weight for component in components)
    if not total:
        raise ConfigError(f"mixture.components: all weights are zero ({listed(c.name for c in components)})")
    for component in components:
        if 0 < component.weight / total < _MIN_SHARE:
            raise ConfigError(
                f"mixture.components.{component.name}.weight is {component.weight}, a share of "
                f"{component.weight / total:.0e}; shares below {_MIN_SHARE} would never be drawn: use 0 to leave it out"
            )


def _window(shuffle: Any) -> int:
    if shuffle == "none":
        return 0
    if not isinstance(shuffle, Mapping):
        raise ConfigError(f"mixture.shuffle is {shuffle!r}; expected none, or window: a number of blocks")
    _check_keys(shuffle, "mixture.shuffle", required=[], optional=["window"])
    window = shuffle.get("window", 4)
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise ConfigError(f"mixture.shuffle.window is {window!r}; expected a number of blocks, 1 or more")
    return window


def _check_keys(config: Mapping[str, Any], path: str, *, required: Iterable[str], optional: Iterable[str]) -> None:
    allowed = [*required, *optional]
    for key in config:
        if key not in allowed:
            raise ConfigError(f"{path} has no key {key!r}; allowed: {listed(allowed)}.{nearest(str(key), allowed)}")
    for key in required:
        if key not in config:
            raise ConfigError(f"{path} lacks {key!r}; it has: {listed(map(str, config))}")


_Choice = TypeVar("_Choice", bound=StrEnum)


def _choice(kind: type[_Choice], value: Any, path: str) -> _Choice:
    try:
        return kind(value)
    except ValueError:
        allowed = [member.value for member in kind]
        hint = nearest(str(value), allowed)
        raise ConfigError(f"{path} is {value!r}; allowed: {listed(allowed)}.{hint}") from None
