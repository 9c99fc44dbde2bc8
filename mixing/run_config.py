"""What decides every chunk of a run: the record that a run is started with and loaded from."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from mixlake.catalog import Catalog, ConfigError
from mixlake.catalog.tokenizers import TokenizerSpec
from mixlake.mixing.adapt import Adapt
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.curriculum import Curriculum
from mixlake.mixing.extents import LENGTH_MEASURES, STEP_MEASURES, Clock, Extent
from mixlake.mixing.mixture import Mixture
from mixlake.mixing.program import Program, Resolution, make_program
from mixlake.mixing.resolution import count_passes, resolve, settle
from mixlake.mixing.tilting import setting

_MAX_LANES = 4096
"""What is taken of every cell is kept for each lane, in every snapshot."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One run's declaration, and what it means at its catalog version: a row of `runs`."""

    name: str
    catalog_version: int
    mixture: Mixture
    curriculum: Curriculum | None
    resolution: Resolution
    seed: int
    chunk_size: int
    """Samples per chunk."""
    lanes: int
    """Deterministic sub-streams: chunk c belongs to lane c modulo ``lanes``."""
    length: Extent | None
    """Of the whole run; None is until its samples run out."""
    step: Extent | None
    """What one training step takes on all ranks, where the curriculum or the length counts steps."""
    parent: str | None
    """The run that this one goes on from."""
    at_chunk: int
    """The first chunk of its own; those before it are its parent's."""
    adapt: Adapt | None
    """How its weights follow what training reports, if they do."""
    composed: Mapping[str, Any] | None
    """The config that it was composed from, for a run that is started with the same."""

    @classmethod
    def declare(
        cls,
        catalog: Catalog,
        name: str,
        mixture: Mixture | Mapping[str, Any],
        *,
        curriculum: Curriculum | Mapping[str, Any] | None,
        seed: int,
        chunk_size: int,
        lanes: int,
        length: Extent | Mapping[str, Any] | None,
        step: Extent | Mapping[str, Any] | None,
        tokens_per_byte: float | Mapping[str, float] | None,
        adapt: Adapt | Mapping[str, Any] | None = None,
        tokenizer: TokenizerSpec | None,
        composed: Mapping[str, Any] | None,
    ) -> RunConfig:
        """Return the config of a run over the catalog's version.

        Raises:
            ConfigError: a name or a number is wrong, or the stages' ends cannot be known.
            QueryError: a predicate is wrong.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(f"run name {name!r}: expected letters, digits, '_', '-' and '.'")
        limits = (("seed", seed, 0, 2**63), ("chunk_size", chunk_size, 1, 2**31), ("lanes", lanes, 1, _MAX_LANES + 1))
        for label, value, least, limit in limits:
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < limit:
                raise ConfigError(f"{label} is {value!r}; expected a whole number, {least} to {limit - 1}")
        if not isinstance(mixture, Mixture):
            mixture = Mixture.from_dict(mixture)
        if curriculum is not None and not isinstance(curriculum, Curriculum):
            curriculum = Curriculum.from_dict(curriculum, mixture)
        if length is not None and not isinstance(length, Extent):
            length = Extent.from_config(length, "length", LENGTH_MEASURES)
        if step is not None and not isinstance(step, Extent):
            step = Extent.from_config(step, "step", STEP_MEASURES)
        if not isinstance(adapt, Adapt):
            adapt = Adapt.from_config(adapt) if adapt else None
        config = cls(
            name=name,
            catalog_version=catalog.version,
            mixture=mixture,
            curriculum=curriculum,
            resolution=resolve(catalog, mixture, curriculum, tokens_per_byte=tokens_per_byte, tokenizer=tokenizer),
            seed=seed,
            chunk_size=chunk_size,
            lanes=lanes,
            length=length,
            step=step,
            parent=None,
            at_chunk=0,
            adapt=adapt,
            composed=composed,
        )
        if adapt is not None:
            adapt.make_policy(setting(config.program()))  # refused here rather than in training
        return config

    def settled(self, plan: CellPlan) -> RunConfig:
        """Return the config with what it takes to know the cells."""
        settled = settle(self.resolution, plan)
        return replace(self, resolution=settled if self.adapt is None else count_passes(settled, plan))

    def program(self) -> Program:
        """Return what the run draws, and when.

        Raises:
            ConfigError: the stages' ends cannot be known, or are not in order.
        """
        clock = Clock(unit=self.mixture.unit, chunk_size=self.chunk_size, step=self.step, length=self.length)
        return make_program(self.mixture, self.curriculum, self.resolution, clock)

    @property
    def tokens_per_byte(self) -> Mapping[str, float] | None:
        """What tokens are estimated by, if they are."""
        return self.resolution.tokens_per_byte

    def estimate(self, *, is_kept: bool) -> dict[str, Any]:
        """Return the arguments of `declare` that estimate tokens as this run does.

        Args:
            is_kept: whether the components are the same; of others a tokenizer measures the ratios anew.
        """
        source = self.resolution.measurement and self.resolution.measurement["source"]
        if source is None or is_kept:
            return {"tokens_per_byte": self.tokens_per_byte, "tokenizer": None}
        return {"tokens_per_byte": None, "tokenizer": source}

    @property
    def config_hash(self) -> str:
        """The same for runs, whatever their names, that draw the same chunks."""
        row = self._decisive()
        return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:16]

    def to_row(self) -> dict[str, Any]:
        """Return the row of `runs`."""
        return {
            "run": self.name,
            **self._decisive(),
            "config": None if self.composed is None else json.dumps(self.composed),
            "config_hash": self.config_hash,
            "created_at": datetime.now(UTC),
        }

    def _decisive(self) -> dict[str, Any]:
        return {
            "catalog_version": self.catalog_version,
            "mixture": json.dumps(self.mixture.to_dict()),
            "curriculum": None if self.curriculum is None else json.dumps(self.curriculum.to_dict()),
            "resolution": json.dumps(self.resolution.to_dict()),
            "seed": self.seed,
            "chunk_size": self.chunk_size,
            "lanes": self.lanes,
            "length": None if self.length is None else json.dumps(self.length.to_dict()),
            "step": None if self.step is None else json.dumps(self.step.to_dict()),
            "parent": self.parent,
            "at_chunk": self.at_chunk,
            **({} if self.adapt is None else {"adapt": json.dumps(self.adapt.to_dict())}),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> RunConfig:
        """Return the config of a row of `runs`."""
        mixture = Mixture.from_dict(json.loads(row["mixture"]))
        return cls(
            name=row["run"],
            catalog_version=row["catalog_version"],
            mixture=mixture,
            curriculum=row["curriculum"] and Curriculum.from_dict(json.loads(row["curriculum"]), mixture),
            resolution=Resolution.from_dict(json.loads(row["resolution"])),
            seed=row["seed"],
            chunk_size=row["chunk_size"],
            lanes=row["lanes"],
            length=row["length"] and Extent.from_config(json.loads(row["length"]), "length"),
            step=row["step"] and Extent.from_config(json.loads(row["step"]), "step"),
            parent=row["parent"],
            at_chunk=row["at_chunk"] or 0,
            adapt=row["adapt"] and Adapt.from_config(json.loads(row["adapt"])),
            composed=row["config"] and json.loads(row["config"]),
        )


def fork_config(
    parent: RunConfig, components: Sequence[str], catalog: Catalog, name: str, at_chunk: int, changes: Mapping[str, Any]
) -> RunConfig:
    """Return the config of a run whose chunks before ``at_chunk`` are those of another.

    Args:
        parent: the other run.
        components: its components; their ids are the same in the fork.
        catalog: at the fork's version.
        name: the fork's name.
        at_chunk: its first chunk.
        changes: arguments of `RunConfig.declare`; what is None stays as it is.

    Raises:
        ConfigError: something is wrong as in `RunConfig.declare`, or the mixture counts other units.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    kept = {
        "mixture": parent.mixture,
        "curriculum": None if "mixture" in given else parent.curriculum,
        "seed": parent.seed,
        "chunk_size": parent.chunk_size,
        "lanes": parent.lanes,
        "length": parent.length,
        "step": parent.step,
        "adapt": parent.adapt,
        **parent.estimate(is_kept="mixture" not in given and "curriculum" not in given),
        "composed": None,
    }
    if "tokens_per_byte" in given or "tokenizer" in given:
        kept |= {"tokens_per_byte": None, "tokenizer": None}
    config = RunConfig.declare(catalog, name, **{**kept, **given})
    mine, other = parent.mixture.unit, config.mixture.unit
    if mine is not other:
        raise ConfigError(
            f"mixture.unit is {other.value}, but run {parent.name!r} counts {mine.value}; what its components are "
            "owed could not be carried over"
        )
    known = replace(config.resolution, known=tuple(components))
    return replace(config, parent=parent.name, at_chunk=at_chunk, resolution=known)
