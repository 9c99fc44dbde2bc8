"""What is declared about training time: stages, each with a mixture or with weights, and ramps between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from mixlake.catalog import ConfigError
from mixlake.mixing import declared
from mixlake.mixing.extents import Extent
from mixlake.mixing.mixture import Mixture


class Shape(StrEnum):
    """How a ramp goes from the weights of the stage before to its own."""

    LINEAR = "linear"
    COSINE = "cosine"

    def at(self, progress: float) -> float:
        """Return how much of the way is gone, from 0 to 1.

        >>> Shape.LINEAR.at(0.25), round(Shape.COSINE.at(0.25), 4)
        (0.25, 0.1464)
        """
        return progress if self is Shape.LINEAR else (1 - math.cos(math.pi * progress)) / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Ramp:
    """A gradual change at the beginning of a stage."""

    shape: Shape
    over: Extent
    """How long it takes."""
    changes: int
    """In how many steps at most; every step is a weights version."""

    def to_dict(self) -> dict[str, Any]:
        """Return the config that declares this."""
        return {"shape": self.shape.value, "over": self.over.to_dict(), "changes": self.changes}


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A part of a run with a mixture of its own."""

    name: str
    until: Extent | None
    """Where it ends, counted from the beginning of the run; None for the last stage: with the run."""
    mixture: Mixture | None = None
    """Its components; None for those of the run's mixture."""
    weights: tuple[tuple[str, float], ...] = ()
    """Shares of some of the components; the others share the rest in the proportions that they had."""
    ramp: Ramp | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the config that declares this stage."""
        return {
            "until": self.until and self.until.to_dict(),
            "mixture": self.mixture and self.mixture.to_dict(),
            "weights": dict(self.weights) or None,
            "ramp": self.ramp and self.ramp.to_dict(),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Curriculum:
    """The stages of a run, in order.

    >>> base = Mixture.from_dict({"components": {"web": {"weight": 1}}})
    >>> curriculum = Curriculum.from_dict({"stages": {"stable": {"until": {"fraction": 0.9}}, "anneal": {}}}, base)
    >>> [stage.name for stage in curriculum.stages]
    ['stable', 'anneal']
    """

    stages: tuple[Stage, ...]

    @classmethod
    def from_dict(cls, config: Mapping[str, Any], base: Mixture, path: str = "curriculum") -> Curriculum:
        """Return the curriculum that a config declares (README: "Curricula").

        Args:
            config: the config.
            base: the run's mixture: what the stages' mixtures do not say about units, filter and shuffling is taken
                from it.
            path: where the config stands, for messages.

        Raises:
            ConfigError: naming the path of what is wrong.
        """
        declared.mapping(config, path, "a mapping with 'stages'")
        declared.check_keys(config, path, required=["stages"], optional=[])
        stages = config["stages"]
        if not isinstance(stages, Mapping) or not stages:
            raise ConfigError(f"{path}.stages: expected at least one named stage, got {stages!r}")
        read = [_stage(name, value, base, f"{path}.stages") for name, value in stages.items()]
        for stage in read[:-1]:
            if stage.until is None:
                raise ConfigError(f"{path}.stages.{stage.name} lacks 'until'; only the last stage ends with the run")
        if read[0].ramp is not None:
            raise ConfigError(f"{path}.stages.{read[0].name}.ramp: there is no stage before the first to come from")
        return cls(stages=tuple(read))

    @classmethod
    def from_yaml(cls, path: str | Path, base: Mixture) -> Curriculum:
        """Return the curriculum that a YAML file declares.

        Raises:
            ConfigError: the file is missing or not YAML, or the curriculum is wrong.
        """
        try:
            config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"curriculum file {str(path)!r} cannot be read: {error}") from error
        return cls.from_dict(declared.mapping(config, f"curriculum file {str(path)!r}", "a mapping"), base)

    def to_dict(self) -> dict[str, Any]:
        """Return the config that declares this curriculum, every default written out."""
        return {"stages": {stage.name: stage.to_dict() for stage in self.stages}}


def _stage(name: Any, config: Any, base: Mixture, parent: str) -> Stage:
    path = f"{parent}.{declared.name(name, parent)}"
    config = {} if config is None else declared.mapping(config, path, "until, mixture, weights and ramp")
    declared.check_keys(config, path, optional=["until", "mixture", "weights", "ramp"])
    given = {key: value for key, value in config.items() if value is not None}
    if "mixture" in given and "weights" in given:
        raise ConfigError(f"{path} has both mixture and weights; a mixture has its own weights")
    return Stage(
        name=name,
        until=Extent.from_config(given["until"], f"{path}.until") if "until" in given else None,
        mixture=_mixture(given["mixture"], base, f"{path}.mixture") if "mixture" in given else None,
        weights=tuple(declared.weights(given["weights"], f"{path}.weights").items()) if "weights" in given else (),
        ramp=_ramp(given["ramp"], f"{path}.ramp") if "ramp" in given else None,
    )


def _mixture(config: Any, base: Mixture, path: str) -> Mixture:
    declared.mapping(config, path, "a mapping with 'components'")
    common = {key: base.to_dict()[key] for key in ("unit", "filter", "shuffle")}
    mixture = Mixture.from_dict({**common, **config}, path)
    for key, mine, other in (
        ("unit", mixture.unit.value, base.unit.value),
        ("shuffle.window", mixture.window, base.window),
    ):
        if mine != other:
            raise ConfigError(f"{path}.{key} is {mine!r}, but the run's mixture has {other!r}; a run has only one")
    return mixture


def _ramp(config: Any, path: str) -> Ramp:
    declared.mapping(config, path, "over, shape and changes")
    declared.check_keys(config, path, required=["over"], optional=["shape", "changes"])
    return Ramp(
        shape=declared.choice(Shape, config.get("shape", "linear"), f"{path}.shape"),
        over=Extent.from_config(config["over"], f"{path}.over"),
        changes=declared.whole(config.get("changes", 100), f"{path}.changes", "changes"),
    )
