"""The dry run: what a mixture would draw on, and when it runs out."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from mixlake.catalog import Catalog
from mixlake.mixing.cells import CellPlan
from mixlake.mixing.mixture import Mixture, OnExhausted, Unit
from mixlake.mixing.program import Program
from mixlake.mixing.resolution import plan_cells, program_of


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """The answer of `explain`; printed, it is a table."""

    catalog_version: int
    unit: Unit
    components: tuple[ComponentSummary, ...]
    num_unmatched: int
    """Samples that pass the filter and match no component."""
    num_cells: int
    num_blocks: int

    @property
    def stops_after(self) -> float:
        """Units after which the first component with ``on_exhausted: stop`` runs out; infinite where none has it.

        Components that run out before it leave their shares to the others: it runs out sooner than if it kept its own.
        """
        first = self._first_to_stop()
        if first is None:
            return float("inf")
        return math.fsum(min(c.num_units, c.share * first.lasts_for) for c in self.components)

    def table(self) -> Table:
        """Return the components as a table."""
        unit = self.unit.value
        table = Table(box=box.SIMPLE_HEAD, title=f"mixture over samples@{self.catalog_version}", title_justify="left")
        table.add_column("component", no_wrap=True)
        columns = ["share", "natural", "samples", *([] if self.unit is Unit.SAMPLES else [unit])]
        for name in [*columns, f"lasts for ({unit})", "then", "overlaps"]:
            table.add_column(name, justify="left" if name == "then" else "right")
        for c in self.components:
            units = [] if self.unit is Unit.SAMPLES else [f"{c.num_units:,}"]
            lasts = "∞" if c.lasts_for == float("inf") else f"{c.lasts_for:,.0f}"
            shares = [f"{c.share:.4%}" if 0 < c.share < 0.001 else f"{c.share:.2%}", f"{c.natural_share:.2%}"]
            table.add_row(
                Text(c.name), *shares, f"{c.num_samples:,}", *units, lasts, c.on_exhausted.value, f"{c.num_overlaps:,}"
            )
        return table

    def notes(self) -> list[str]:
        """Return what the table does not show, as sentences."""
        notes = [
            f"{self.num_cells} cells in {self.num_blocks:,} blocks; {self.num_unmatched:,} samples match no component."
        ]
        first = self._first_to_stop()
        if first is not None:
            notes.append(
                f"The run stops after about {self.stops_after:,.0f} {self.unit.value}, when {first.name} runs out."
            )
        return notes

    def _first_to_stop(self) -> ComponentSummary | None:
        stopping = [c for c in self.components if c.on_exhausted is OnExhausted.STOP and c.share]
        return min(stopping, key=lambda c: c.lasts_for, default=None)

    def __rich__(self) -> Group:
        return Group(self.table(), *map(Text, self.notes()))

    def __str__(self) -> str:
        buffer = io.StringIO()
        console = Console(file=buffer, width=120, no_color=True)
        console.print(self)
        return "\n".join(line.rstrip() for line in buffer.getvalue().strip("\n").splitlines())


def explain(catalog: Catalog, mixture: Mixture) -> Explanation:
    """Return, per component, what the mixture finds in the catalog and when it runs out; nothing is written.

    Raises:
        QueryError: the filter or a predicate is wrong.
        ConfigError: a component is empty, or samples lack the property that the unit counts.
    """
    program = program_of(catalog, mixture)
    return summarize(plan_cells(catalog, program), program, catalog.version)


def summarize(plan: CellPlan, program: Program, catalog_version: int) -> Explanation:
    """Return the explanation of a plan that is there already."""
    leaves = program.segments[0].leaves
    component_C = plan.owners(leaves)
    all_units = int(plan.num_units_C[component_C >= 0].sum())
    summaries = []
    for index, leaf in enumerate(leaves):
        mine = component_C == index
        matching = plan.matching(leaf)
        units = int(plan.num_units_C[mine].sum())
        summaries.append(
            ComponentSummary(
                name=leaf.name,
                share=leaf.share,
                natural_share=units / all_units if all_units else 0.0,
                num_samples=int(plan.num_samples_C[mine].sum()),
                num_units=units,
                lasts_for=units / leaf.share if leaf.share else float("inf"),
                num_overlaps=int(plan.num_samples_C[matching & ~mine].sum()),
                num_cells=int(mine.sum()),
                on_exhausted=leaf.on_exhausted,
            )
        )
    return Explanation(
        catalog_version=catalog_version,
        unit=program.unit,
        components=tuple(summaries),
        num_unmatched=int(plan.num_samples_C[component_C < 0].sum()),
        num_cells=int(np.count_nonzero(component_C >= 0)),
        num_blocks=len(plan.block_number_B),
    )
