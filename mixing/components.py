"""The components of a mixture: their predicates, their weights, and the rules for when their samples run out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mixlake.catalog import ConfigError
from mixlake.catalog.errors import listed, nearest
from mixlake.mixing import declared

_MAX_WEIGHT = 1e100
_MIN_SHARE = 1e-14
"""Shares are whole numbers of 1/`quotas.SCALE`, 4e-15: a smaller one could not be told from zero."""


class OnExhausted(StrEnum):
    """What happens when a component has no sample left."""

    STOP = "stop"
    """The run ends in front of the sample that is missing."""
    REDISTRIBUTE = "redistribute"
    """The other components share its weight, in proportion to theirs."""
    REPEAT = "repeat"
    """It begins anew, in another order; after its last pass, if there is one, the others share its weight."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderBy:
    """From easy to hard: a component's samples by a property, in bands that hold equal numbers of samples.

    Inside a band samples are shuffled by blocks as ever: a total order would decode a block for every sample.
    """

    property: str
    descending: bool
    bands: int

    def to_dict(self) -> dict[str, Any]:
        """Return the config that declares this."""
        return {"property": self.property, "descending": self.descending, "bands": self.bands}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What a component does with its samples; inner components take the rules of the one around them as defaults."""

    on_exhausted: OnExhausted = OnExhausted.STOP
    max_passes: int | None = None
    """How often a repeated component goes through its samples; None is without end."""
    order_by: OrderBy | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the config that declares these rules."""
        return {
            "on_exhausted": self.on_exhausted.value,
            "max_passes": self.max_passes,
            "order_by": None if self.order_by is None else self.order_by.to_dict(),
        }


DEFAULT_RULES = Rules()


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """A named part of a mixture, or of the component around it."""

    name: str
    where: str | None
    """SQL predicate over properties; None is what the components beside it leave over."""
    weight: float
    """Its share of what is around it, relative to the weights of the components beside it."""
    rules: Rules = DEFAULT_RULES
    components: tuple[Component, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the config that declares this component, every default written out."""
        where = {} if self.where is None else {"where": self.where}
        inner = {"components": {c.name: c.to_dict() for c in self.components}} if self.components else {}
        return {**where, "weight": self.weight, **self.rules.to_dict(), **inner}


def leaves(components: Sequence[Component]) -> Iterator[tuple[tuple[Component, ...], float]]:
    """Return the innermost components, each with those around it, outermost first, and its share of all.

    >>> inner = Component(name="b", where=None, weight=1.0)
    >>> outer = [Component(name="a", where="x", weight=3.0, components=(inner,)), inner]
    >>> [(".".join(c.name for c in chain), share) for chain, share in leaves(outer)]
    [('a.b', 0.75), ('b', 0.25)]
    """
    total = math.fsum(component.weight for component in components)
    for component in components:
        share = component.weight / total if total else 0.0
        if not component.components:
            yield (component,), share
        for chain, inner in leaves(component.components):
            yield (component, *chain), share * inner


def parse_components(config: Any, path: str, defaults: Rules) -> tuple[Component, ...]:
    """Return the components that the config of a mixture declares below ``components``.

    Args:
        config: name to component.
        path: of the mixture, for messages.
        defaults: the rules of components that declare none.

    Raises:
        ConfigError: naming the path of what is wrong.
    """
    components = _components(config, f"{path}.components", defaults)
    seen: dict[str, str] = {}
    for chain, share in leaves(components):
        name = ".".join(component.name for component in chain)
        where = f"{path}.{'.'.join(f'components.{component.name}' for component in chain)}"
        if name in seen:
            raise ConfigError(f"{where} is called {name!r}, as is {seen[name]}; give one of them another name")
        if 0 < share < _MIN_SHARE:
            raise ConfigError(
                f"{where}.weight is {chain[-1].weight}, a share of {share:.0e}; shares below {_MIN_SHARE} would never "
                "be drawn: use 0 to leave it out"
            )
        seen[name] = where
    return components


def _components(config: Any, path: str, rules: Rules) -> tuple[Component, ...]:
    if not isinstance(config, Mapping) or not config:
        raise ConfigError(f"{path}: expected at least one named component, got {config!r}")
    for name, value in config.items():
        others = [str(other) for other in config if other != name]
        if isinstance(value, Mapping) and "weight" not in value and (hint := nearest(str(name), others)):
            raise ConfigError(f"{path}.{name} lacks 'weight'; other components: {listed(others)}.{hint}")
    components = tuple(_component(name, value, path, rules) for name, value in config.items())
    if not any(component.weight for component in components):
        raise ConfigError(f"{path}: all weights are zero ({listed(c.name for c in components)})")
    rests = [component.name for component in components if component.where is None]
    if len(rests) > 1:
        raise ConfigError(f"{path}: {listed(rests)} lack 'where'; only one component can take what the others leave")
    return components


def _component(name: Any, config: Any, parent: str, defaults: Rules) -> Component:
    path = f"{parent}.{declared.name(name, parent)}"
    declared.mapping(config, path, "where and weight")
    declared.check_keys(
        config,
        path,
        required=["weight"],
        optional=["where", "on_exhausted", "max_passes", "order_by", "components"],
    )
    inner = config.get("components")
    rules = parse_rules(config, path, defaults)
    return Component(
        name=name,
        where=declared.predicate(config["where"], f"{path}.where") if config.get("where") is not None else None,
        weight=declared.number(config["weight"], f"{path}.weight", most=_MAX_WEIGHT),
        rules=rules,
        components=() if inner is None else _components(inner, f"{path}.components", rules),
    )


def parse_rules(config: Mapping[str, Any], path: str, defaults: Rules) -> Rules:
    """Return the rules that a config declares among other things.

    Raises:
        ConfigError: naming the path of what is wrong.
    """
    policy = config.get("on_exhausted")
    on_exhausted = (
        defaults.on_exhausted if policy is None else declared.choice(OnExhausted, policy, f"{path}.on_exhausted")
    )
    is_repeated = on_exhausted is OnExhausted.REPEAT
    passes = config.get("max_passes", defaults.max_passes if is_repeated else None)
    if passes is not None:
        passes = declared.whole(passes, f"{path}.max_passes", "passes")
        if not is_repeated:
            raise ConfigError(
                f"{path}.max_passes is {passes}, but its on_exhausted is {on_exhausted.value}; only repeat has passes"
            )
    order = config.get("order_by", defaults.order_by)
    return Rules(on_exhausted=on_exhausted, max_passes=passes, order_by=_order_by(order, f"{path}.order_by"))


def _order_by(config: Any, path: str) -> OrderBy | None:
    if config is None or isinstance(config, OrderBy):
        return config
    if isinstance(config, str):
        config = {"property": config}
    declared.mapping(config, path, "a property, or property, descending and bands")
    declared.check_keys(config, path, required=["property"], optional=["descending", "bands"])
    descending = config.get("descending", False)
    if not isinstance(descending, bool):
        raise ConfigError(f"{path}.descending is {descending!r}; expected true or false")
    return OrderBy(
        property=declared.name(config["property"], f"{path}.property"),
        descending=descending,
        bands=declared.whole(config.get("bands", 32), f"{path}.bands", "bands"),
    )
