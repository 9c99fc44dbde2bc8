"""How long something lasts, as it is declared, and where that is on the axis that a run is scheduled along.

A run goes along two axes that are known exactly while it is scheduled: chunks, and the units that its mixture counts.
Whatever else is declared is translated, or refused where it cannot be: steps need to know what a step takes, a fraction
needs to know the length of the run, and tokens cannot be told from samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Any

from mixlake.catalog import ConfigError
from mixlake.catalog.errors import listed, nearest
from mixlake.mixing import declared
from mixlake.mixing.mixture import Unit


class Measure(StrEnum):
    """What an extent is measured in."""

    STEPS = "steps"
    CHUNKS = "chunks"
    SAMPLES = "samples"
    BYTES = "bytes"
    TOKENS = "tokens"
    FRACTION = "fraction"


class Axis(StrEnum):
    """What is counted while a run is scheduled."""

    CHUNKS = "chunks"
    UNITS = "units"


STEP_MEASURES = (Measure.SAMPLES, Measure.BYTES, Measure.TOKENS)
LENGTH_MEASURES = (Measure.STEPS, Measure.CHUNKS, *STEP_MEASURES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Extent:
    """A declared length: ``{steps: 1000}``."""

    measure: Measure
    amount: float
    """A whole number, or for a fraction a number up to 1."""

    @classmethod
    def from_config(cls, config: Any, path: str, allowed: Iterable[Measure] = Measure) -> Extent:
        """Return the extent that a mapping with one key declares.

        Raises:
            ConfigError: it is no such mapping.
        """
        names = [measure.value for measure in allowed]
        given = {} if not isinstance(config, Mapping) else {k: v for k, v in config.items() if v is not None}
        if len(given) != 1:
            raise ConfigError(f"{path} is {config!r}; expected one of {listed(names)}, such as {names[0]}: 1000")
        ((key, amount),) = given.items()
        if key not in names:
            raise ConfigError(f"{path} has no key {key!r}; allowed: {listed(names)}.{nearest(str(key), names)}")
        if key == Measure.FRACTION:
            fraction = declared.number(amount, f"{path}.fraction", most=1.0)
            if not fraction:
                raise ConfigError(f"{path}.fraction is 0; expected more than 0, up to 1")
            return cls(measure=Measure.FRACTION, amount=fraction)
        return cls(measure=Measure(key), amount=declared.whole(amount, f"{path}.{key}", key))

    def to_dict(self) -> dict[str, float]:
        """Return the config that declares this."""
        return {self.measure.value: self.amount}


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """A place on one of a run's axes."""

    axis: Axis
    at: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Clock:
    """What a run says about its own time; with it an extent becomes a position."""

    unit: Unit
    chunk_size: int
    """Samples."""
    step: Extent | None
    """What one training step takes on all ranks: samples, bytes or tokens."""
    length: Extent | None
    """Of the whole run."""

    def position(self, extent: Extent, path: str) -> Position:
        """Return where an extent that begins with the run ends; a part of a chunk counts as the whole chunk.

        Raises:
            ConfigError: it cannot be known.
        """
        measure, amount = extent.measure, extent.amount
        if measure is Measure.FRACTION:
            if self.length is None:
                raise ConfigError(f"{path}.fraction is {amount:g} of the run, whose length is not declared; set length")
            whole = self.position(self.length, "length")
            return Position(axis=whole.axis, at=-(-Fraction(str(amount)) * whole.at // 1))
        if measure is Measure.STEPS:
            if self.step is None:
                raise ConfigError(
                    f"{path}.steps is {amount:g}, but what a step takes is not declared; set step.samples, or "
                    f"step.{'tokens' if self.unit is Unit.SAMPLES else self.unit.value} where the mixture counts them"
                )
            measure, amount = self.step.measure, amount * self.step.amount
        if measure is Measure.CHUNKS:
            return Position(axis=Axis.CHUNKS, at=int(amount))
        if measure is Measure.SAMPLES:
            return Position(axis=Axis.CHUNKS, at=-(-int(amount) // self.chunk_size))
        if measure.value != self.unit.value:
            by = f"{path}.{extent.measure.value}"
            raise ConfigError(
                f"{by} is a number of {measure.value}, but the mixture counts {self.unit.value}, so it cannot be known "
                f"when they are reached; set mixture.unit: {measure.value}, or give {path} in chunks or samples"
            )
        return Position(axis=Axis.UNITS, at=int(amount))
