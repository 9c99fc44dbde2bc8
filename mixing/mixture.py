"""What is declared: a mixture of components, or how they are inferred.

A mixture is a declaration and nothing more: what it means at a catalog version is found by `mixlake.mixing.resolution`,
and where a run stands in it is kept by `mixlake.mixing.scheduler`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from rich.console import Group
from rich.text import Text

from mixlake.catalog import ConfigError
from mixlake.catalog.showing import Shown, new_table
from mixlake.mixing import declared
from mixlake.mixing.components import (
    DEFAULT_RULES,
    Component,
    OnExhausted,
    Rules,
    leaves,
    parse_components,
    parse_rules,
)

_SETTINGS = ("kind", "filter", "unit", "on_exhausted", "max_passes", "order_by", "shuffle")
_INFERENCE = ("temperature", "floor", "unimax")


class Kind(StrEnum):
    """Where the components come from."""

    STATIC = "static"
    """They are declared."""
    INFERRED = "inferred"
    """They are the values that some properties have."""
    ARBITRARY = "arbitrary"
    """There is one, of everything: no proportions."""


_KINDS = {"components": Kind.STATIC, **dict.fromkeys(("by", *_INFERENCE), Kind.INFERRED)}
"""Keys that only mixtures of one kind have."""


class Unit(StrEnum):
    """What the weights count."""

    SAMPLES = "samples"
    BYTES = "bytes"
    TOKENS = "tokens"

    @property
    def property_name(self) -> str | None:
        """The property that holds a sample's count, or None where every sample counts one."""
        return None if self is Unit.SAMPLES else f"num_{self.value}"


@dataclass(frozen=True, kw_only=True, slots=True)
class UniMax:
    """As even as possible, with no more than some passes over anything (Chung et al. 2023, arXiv 2304.09151)."""

    budget: float
    """Units of the whole run."""
    max_passes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Inference:
    """How components and weights are inferred: one component for each combination of values of some properties."""

    by: tuple[str, ...]
    temperature: float = 1.0
    """A component of n units weighs n^(1/temperature): 1 is its natural share, more is more even."""
    floor: float = 0.0
    """No component has a smaller share."""
    unimax: UniMax | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the config that declares this."""
        unimax = self.unimax and {"budget": self.unimax.budget, "max_passes": self.unimax.max_passes}
        return {"by": list(self.by), "temperature": self.temperature, "floor": self.floor, "unimax": unimax}


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Mixture(Shown):
    """Components and the rules for mixing them. A sample belongs to the first component that it matches.

    >>> mixture = Mixture.from_dict({"components": {"german": {"where": "language = 'de'", "weight": 3},
    ...                                             "rest": {"weight": 1, "on_exhausted": "repeat"}}})
    >>> [(component.name, component.where) for component in mixture.components]
    [('german', "language = 'de'"), ('rest', None)]
    """

    kind: Kind = Kind.STATIC
    components: tuple[Component, ...] = ()
    inference: Inference | None = None
    filter: str | None = None
    """SQL predicate that every sample must match."""
    unit: Unit = Unit.SAMPLES
    window: int = 4
    """Blocks whose rows are shuffled together; 0 keeps storage order."""
    rules: Rules = DEFAULT_RULES

    @classmethod
    def from_dict(cls, config: Mapping[str, Any], path: str = "mixture") -> Mixture:
        """Return the mixture that a config declares (README: "Mixtures").

        Args:
            config: the config.
            path: where it stands, for messages.

        Raises:
            ConfigError: naming the path of a key that is unknown or missing, or of a value that is not allowed.
        """
        declared.mapping(config, path, "a mapping with 'components'")
        kind = declared.choice(Kind, config.get("kind", "static"), f"{path}.kind")
        needed = {Kind.STATIC: ["components"], Kind.INFERRED: ["by"], Kind.ARBITRARY: []}[kind]
        optional = [*_SETTINGS, *(_INFERENCE if kind is Kind.INFERRED else ())]
        for key, other in _KINDS.items():
            if key in config and kind is not other:
                raise ConfigError(f"{path}.{key} is for kind: {other.value}, but {path}.kind is {kind.value}")
        declared.check_keys(config, path, required=needed, optional=optional)
        inference = _inference(config, path) if kind is Kind.INFERRED else None
        rules = parse_rules(config, path, _default_rules(inference))
        condition = config.get("filter")
        if condition is not None and not isinstance(condition, str):
            raise ConfigError(f"{path}.filter: expected an SQL predicate, got {condition!r}")
        return cls(
            kind=kind,
            components=parse_components(config["components"], path, rules) if kind is Kind.STATIC else (),
            inference=inference,
            filter=condition,
            unit=declared.choice(Unit, config.get("unit", "samples"), f"{path}.unit"),
            window=_window(config.get("shuffle", {}), f"{path}.shuffle"),
            rules=rules,
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
        return cls.from_dict(declared.mapping(config, f"mixture file {str(path)!r}", "a mapping with 'components'"))

    def to_dict(self) -> dict[str, Any]:
        """Return the config that declares this mixture, every default written out."""
        components = {"components": {c.name: c.to_dict() for c in self.components}} if self.components else {}
        return {
            "kind": self.kind.value,
            "filter": self.filter,
            "unit": self.unit.value,
            "shuffle": {"window": self.window} if self.window else "none",
            **self.rules.to_dict(),
            **({} if self.inference is None else self.inference.to_dict()),
            **components,
        }

    def __rich__(self) -> Group:
        table = new_table(
            f"{self.kind.value} mixture of {self.unit.value}", "component", "share", "where", "then", right=("share",)
        )
        for chain, share in leaves(self.components):
            where = " and ".join(f"({c.where})" if len(chain) > 1 else c.where for c in chain if c.where) or "the rest"
            rules = chain[-1].rules
            passes = "" if rules.max_passes is None else f", {rules.max_passes} passes"
            name = Text(".".join(component.name for component in chain))
            table.add_row(name, f"{share:.2%}", Text(where), f"{rules.on_exhausted.value}{passes}")
        shuffled = f"{self.window} blocks are shuffled at a time" if self.window else "storage order"
        notes = [*([] if self.filter is None else [f"filter: {self.filter}"]), shuffled]
        if self.inference is not None:
            notes.insert(0, f"a component for each {' and '.join(self.inference.by)}")
        return Group(*([table] if self.components else [table.title or ""]), *map(Text, notes))


def _default_rules(inference: Inference | None) -> Rules:
    if inference is None or inference.unimax is None:
        return DEFAULT_RULES
    return Rules(on_exhausted=OnExhausted.REPEAT, max_passes=inference.unimax.max_passes)


def _inference(config: Mapping[str, Any], path: str) -> Inference:
    by = config["by"]
    by = [by] if isinstance(by, str) else by
    if not isinstance(by, Sequence) or not by or not all(isinstance(name, str) and name.strip() for name in by):
        raise ConfigError(f"{path}.by: expected one property or several, got {by!r}")
    if len(set(by)) < len(by):
        raise ConfigError(f"{path}.by: {', '.join(by)} names a property twice")
    unimax = config.get("unimax")
    if unimax is not None:
        given = [key for key in ("temperature", "floor") if config.get(key) not in (None, 1.0, 0.0)]
        if given:
            raise ConfigError(f"{path}.{given[0]} and {path}.unimax both decide the weights; leave one of them out")
        where = f"{path}.unimax"
        declared.mapping(unimax, where, "budget and max_passes")
        declared.check_keys(unimax, where, required=["budget", "max_passes"], optional=[])
        unimax = UniMax(
            budget=declared.number(unimax["budget"], f"{where}.budget", least=1),
            max_passes=declared.whole(unimax["max_passes"], f"{where}.max_passes", "passes"),
        )
    return Inference(
        by=tuple(by),
        temperature=declared.number(config.get("temperature", 1.0), f"{path}.temperature", least=1e-3, most=1e9),
        floor=declared.number(config.get("floor", 0.0), f"{path}.floor", most=1.0),
        unimax=unimax,
    )


def _window(shuffle: Any, path: str) -> int:
    if shuffle == "none":
        return 0
    if not isinstance(shuffle, Mapping):
        raise ConfigError(f"{path} is {shuffle!r}; expected none, or window: a number of blocks")
    declared.check_keys(shuffle, path, optional=["window"])
    return declared.whole(shuffle.get("window", 4), f"{path}.window", "blocks")
