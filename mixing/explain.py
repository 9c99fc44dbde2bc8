"""The dry run: what a mixture would draw on, and when it runs out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from mixlake.catalog import Catalog
from mixlake.catalog.records import IntArray
from mixlake.catalog.showing import Shown
from mixlake.catalog.tokenizers import TokenizerSpec
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.components import OnExhausted
from mixlake.mixing.contents import find_contents
from mixlake.mixing.curriculum import Curriculum
from mixlake.mixing.forecast import Forecast, StageComponent, forecast
from mixlake.mixing.locality import Locality, expected_locality
from mixlake.mixing.mixture import Mixture, Unit
from mixlake.mixing.program import Leaf, Program
from mixlake.mixing.resolution import plan_cells
from mixlake.mixing.run_config import RunConfig

_MANY_PASSES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class ComponentSummary:
    """What a mixture says about one component."""

    name: str
    share: float
    """Declared share of the units."""
    natural_share: float
    """Its share of all units that any component holds."""
    num_samples: int
    num_units: int
    lasts_for: float
    """Units of the whole run after which it runs out, if it keeps its share; infinite for a share of zero."""
    num_overlaps: int
    """Samples that match its predicate but belong to a component before it."""
    num_cells: int
    on_exhausted: OnExhausted
    contents: Mapping[str, int]
    """``bytes`` and ``tokens`` of its samples, as far as they are known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSummary:
    """What the components of one stage are, whatever was drawn before it."""

    name: str
    components: tuple[ComponentSummary, ...]
    num_unmatched: int
    """Samples that pass the filters and match no component of the stage."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Explanation(Shown):
    """The answer of `explain`; printed, it is a table."""

    catalog_version: int
    unit: Unit
    components: tuple[ComponentSummary, ...]
    num_unmatched: int
    """Samples that pass the filter and match no component."""
    num_cells: int
    num_blocks: int
    has_length: bool
    """Whether the length of the run is declared."""
    stages: tuple[StageSummary, ...]
    """The components of every stage; those of the first are `components`."""
    program: Program
    """What the run would draw, and when."""
    forecast: Forecast
    locality: Locality
    """Of the first stage."""
    warnings: tuple[str, ...]
    """What one would regret."""
    tokens_per_byte: Mapping[str, float] | None = None
    """By component, where tokens are estimated."""
    measurement: Mapping[str, Any] | None = None
    """What that rests on, where it was measured (see `Resolution`)."""

    def table(self) -> Table:
        """Return the components as a table."""
        unit = self.unit.value
        table = Table(box=box.SIMPLE_HEAD, title=f"mixture over samples@{self.catalog_version}", title_justify="left")
        table.add_column("component", no_wrap=True)
        columns = ["share", "natural", "samples", *self.components[0].contents]
        for name in [*columns, f"lasts for ({unit})", "then", "overlaps"]:
            table.add_column(name, justify="left" if name == "then" else "right")
        for c in self.components:
            held = [f"{amount:,}" for amount in c.contents.values()]
            lasts = "∞" if c.lasts_for == float("inf") else f"{c.lasts_for:,.0f}"
            shares = [f"{c.share:.4%}" if 0 < c.share < 0.001 else f"{c.share:.2%}", f"{c.natural_share:.2%}"]
            table.add_row(
                Text(c.name), *shares, f"{c.num_samples:,}", *held, lasts, c.on_exhausted.value, f"{c.num_overlaps:,}"
            )
        return table

    def stage_table(self) -> Table:
        """Return what the components give in each stage as a table."""
        unit = self.unit.value
        table = Table(box=box.SIMPLE_HEAD, title="stages", title_justify="left")
        for name in ("stage", "component"):
            table.add_column(name, no_wrap=True)
        held = self.components[0].contents
        for name in ("share", "samples", *held, "passes", f"runs out ({unit})", "overlaps", "cells"):
            table.add_column(name, justify="right")
        known: dict[str, ComponentSummary] = {}
        for stage, about, exhausted in zip(self.forecast.stages, self.stages, self._exhausted(), strict=True):
            mine = {c.name: c for c in about.components}
            known |= mine
            for number, c in enumerate(stage.components):
                row = [f"{c.share:.2%}", *(_rounded(amount) for amount in self._amounts(c, known[c.name]))]
                row += [f"{c.passes:.2f}", f"{exhausted[c.name]:,.0f}" if c.name in exhausted else ""]
                own = mine.get(c.name)  # None where it is of the stage before, in a ramp
                row += ["", ""] if own is None else [f"{own.num_overlaps:,}", f"{own.num_cells:,}"]
                table.add_row(Text("" if number else stage.name), Text(c.name), *row)
        return table

    def _amounts(self, given: StageComponent, about: ComponentSummary) -> Iterator[float]:
        """Yield the samples that a component gives in a stage, and the bytes and tokens of as many in the mean."""
        yield given.num_samples
        for unit, amount in about.contents.items():
            mean = amount / max(1, about.num_samples)
            yield given.num_units if unit == self.unit else given.num_samples * mean if mean else 0.0

    def _unmatched_later(self) -> str:
        """Return how many samples match no component of later stages, where that is another number."""
        later = [s for s in self.stages[1:] if s.num_unmatched != self.num_unmatched]
        return "".join(f"; in stage {stage.name}: {stage.num_unmatched:,}" for stage in later)

    def _exhausted(self) -> Iterator[dict[str, float]]:
        """Yield, for each stage, the components that run out in it, and after how many units of the run."""
        begin = 0.0
        for stage in self.forecast.stages:
            end = begin + stage.num_units
            yield {name: at for name, at in self.forecast.exhausted if begin < at <= end * (1 + 1e-9)}
            begin = end

    def ratio_table(self) -> Table:
        """Return how tokens are estimated as a table."""
        by = "as given" if self.measurement is None else f"measured with {self.measurement['tokenizer']}"
        table = Table(box=box.SIMPLE_HEAD, title=f"tokens per byte, {by}", title_justify="left")
        table.add_column("component", no_wrap=True)
        columns = [] if self.measurement is None else ["documents", "bytes", "tokens"]
        for name in ("tokens per byte", *columns):
            table.add_column(name, justify="right")
        for name, ratio in (self.tokens_per_byte or {}).items():
            counts = [] if self.measurement is None else self.measurement["components"][name].values()
            table.add_row(Text(name), f"{ratio:.4f}", *(f"{count:,}" for count in counts))
        return table

    def notes(self) -> list[str]:
        """Return what the tables do not show, as sentences."""
        notes = [
            f"{_counted(self.num_cells, 'cell')} in {_counted(self.num_blocks, 'block')}; "
            f"samples that match no component: {self.num_unmatched:,}{self._unmatched_later()}.",
            f"Neighbours are {_rounded(self.locality.neighbour_distance)} samples apart "
            f"({_rounded(self.locality.unshuffled_distance)} unshuffled); formats whose blocks are decoded as a whole "
            f"decode {self.locality.read_amplification:.2f} times what they deliver.",
        ]
        unit, end = self.unit.value, self.forecast.num_units
        if self.forecast.stopped_by is not None:
            notes.append(f"The run stops after about {end:,.0f} {unit}, when {self.forecast.stopped_by} runs out.")
        elif math.isfinite(end):
            notes.append(f"The run ends after about {end:,.0f} {unit}.")
        else:
            notes.append("The run has no end: its components are repeated, and it has no length.")
        return notes

    def __rich__(self) -> Group:
        is_staged = len(self.forecast.stages) > 1 or self.has_length
        tables = [self.table(), *([self.stage_table()] if is_staged else [])]
        tables += [self.ratio_table()] if self.tokens_per_byte else []
        return Group(*tables, *map(Text, self.notes()), *(Text(f"warning: {text}") for text in self.warnings))


def explain(
    catalog: Catalog,
    mixture: Mixture | Mapping[str, Any],
    *,
    curriculum: Curriculum | Mapping[str, Any] | None = None,
    seed: int = 0,
    chunk_size: int = 1024,
    lanes: int = 8,
    length: Mapping[str, Any] | None = None,
    step: Mapping[str, Any] | None = None,
    tokens_per_byte: float | Mapping[str, float] | None = None,
    tokenizer: TokenizerSpec | None = None,
) -> Explanation:
    """Return what a run would find in the catalog, give, and run out of; nothing is written.

    The arguments are those of `Run.start`, which would refuse the same.

    Raises:
        QueryError: a predicate is wrong.
        ConfigError: a component is empty, a number is out of range, or something cannot be known.
    """
    pinned = catalog.at(version=catalog.version)
    config = RunConfig.declare(
        pinned,
        "explained",
        mixture,
        curriculum=curriculum,
        seed=seed,
        chunk_size=chunk_size,
        lanes=lanes,
        length=length,
        step=step,
        tokens_per_byte=tokens_per_byte,
        tokenizer=tokenizer,
        composed=None,
    )
    plan = plan_cells(pinned, config.program())
    return summarize(plan, config.settled(plan), find_contents(pinned, config.program(), plan))


def summarize(
    plan: CellPlan, config: RunConfig, contents: Mapping[str, IntArray] = MappingProxyType({})
) -> Explanation:
    """Return the explanation of a plan that is there already, with what its cells hold if that is known."""
    program = config.program()
    pairs = zip(program.stages, program.stage_leaves, strict=True)
    stages = [_stage_summary(plan, program, name, leaves, contents) for name, leaves in pairs]
    leaves = program.segments[0].leaves
    owner_C = plan.owners(leaves)
    shares = [leaf.share for leaf in leaves]
    expected = forecast(program, plan, config.chunk_size)
    locality = expected_locality(
        plan, owner_C, shares, window=program.window, chunk_size=config.chunk_size, lanes=config.lanes
    )
    explanation = Explanation(
        catalog_version=config.catalog_version,
        unit=program.unit,
        components=stages[0].components,
        num_unmatched=stages[0].num_unmatched,
        num_cells=int(np.count_nonzero(owner_C >= 0)),
        num_blocks=len(plan.block_number_B),
        has_length=program.end is not None,
        stages=tuple(stages),
        program=program,
        forecast=expected,
        locality=locality,
        warnings=(),
        tokens_per_byte=config.tokens_per_byte,
        measurement=config.resolution.measurement,
    )
    return replace(explanation, warnings=tuple(_warnings(explanation, int(plan.num_samples_C.sum()))))


def _stage_summary(
    plan: CellPlan, program: Program, name: str, leaves: Sequence[Leaf], contents: Mapping[str, IntArray]
) -> StageSummary:
    owner_C = plan.owners(leaves)
    components = tuple(_summaries(plan, program, leaves, owner_C, contents))
    return StageSummary(name=name, components=components, num_unmatched=int(plan.num_samples_C[owner_C < 0].sum()))


def _summaries(
    plan: CellPlan, program: Program, leaves: Sequence[Leaf], owner_C: IntArray, contents: Mapping[str, IntArray]
) -> Iterator[ComponentSummary]:
    ratios = program.tokens_per_byte
    units_L = [
        int(plan.num_units_C[owner_C == index].sum() * (1.0 if ratios is None else ratios[leaf.name]))
        for index, leaf in enumerate(leaves)
    ]
    for index, (leaf, units) in enumerate(zip(leaves, units_L, strict=True)):
        mine = owner_C == index
        held = {unit: int(amount_C[mine].sum()) for unit, amount_C in contents.items()}
        if program.unit is not Unit.SAMPLES:
            held[program.unit.value] = units
        yield ComponentSummary(
            name=leaf.name,
            share=leaf.share,
            natural_share=units / sum(units_L) if any(units_L) else 0.0,
            num_samples=int(plan.num_samples_C[mine].sum()),
            num_units=units,
            lasts_for=_lasting(units, leaf),
            num_overlaps=int(plan.num_samples_C[plan.matching(leaf) & ~mine].sum()),
            num_cells=int(mine.sum()),
            on_exhausted=leaf.on_exhausted,
            contents=dict(sorted(held.items())),
        )


def _lasting(units: int, leaf: Leaf) -> float:
    if not leaf.share or leaf.max_passes is None:
        return float("inf")
    return units * leaf.max_passes / leaf.share


def _warnings(found: Explanation, num_samples: int) -> Iterator[str]:
    """Yield what one would regret."""
    passes: dict[str, float] = {}
    for stage in found.forecast.stages:
        passes |= {c.name: c.passes for c in stage.components}
    for name, number in passes.items():
        if number > _MANY_PASSES:
            yield f"{name} is seen {_rounded(number)} times; more than four passes help little (arXiv 2305.16264)"
    last = max((index for index, stage in enumerate(found.forecast.stages) if stage.num_chunks), default=0)
    for index, stage in enumerate(found.forecast.stages):
        if not stage.num_chunks:
            why = "the run ends before it" if index > last else "it ends in the chunk that the one before it ends with"
            yield f"stage {stage.name} never comes: {why}"
    if found.forecast.is_cut_short:
        why = "its samples run out" if found.forecast.stopped_by is None else f"{found.forecast.stopped_by} runs out"
        yield f"the run ends before its length, because {why}"
    if found.num_unmatched > num_samples / 2:
        yield f"{found.num_unmatched / num_samples:.0%} of the samples that pass the filter belong to no component"
    for component in found.components:
        matched = component.num_samples + component.num_overlaps
        if component.num_overlaps > matched / 2:
            part = f"{component.num_overlaps / matched:.0%}"
            yield f"{part} of what {component.name} matches belongs to components before it"
        if component.share == 0:
            yield f"{component.name} has no weight: its samples are never drawn"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _rounded(number: float) -> str:
    return "∞" if math.isinf(number) else f"{number:,.1f}" if number < 10 else f"{number:,.0f}"
