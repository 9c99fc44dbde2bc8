"""From what is declared to what it means at a catalog version: components with predicates and shares."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from datafusion import DataFrame

from mixlake.catalog import Catalog, ConfigError
from mixlake.catalog.sql import check_predicate
from mixlake.catalog.tokenizers import TokenizerSpec
from mixlake.mixing.bands import find_bands
from mixlake.mixing.cells import CellPlan, find_cells
from mixlake.mixing.components import Component, OnExhausted, OrderBy, Rules
from mixlake.mixing.consumed import Consumed
from mixlake.mixing.curriculum import Curriculum
from mixlake.mixing.extents import Clock
from mixlake.mixing.index_frames import check_unit_property
from mixlake.mixing.inference import find_groups, inferred_shares
from mixlake.mixing.mixture import Inference, Kind, Mixture, Unit
from mixlake.mixing.predicates import failures_named
from mixlake.mixing.program import Leaf, Program, Resolution, make_program, with_shares
from mixlake.mixing.token_ratios import TokenRatios


def resolve(
    catalog: Catalog,
    mixture: Mixture,
    curriculum: Curriculum | None = None,
    *,
    tokens_per_byte: float | Mapping[str, float] | None = None,
    tokenizer: TokenizerSpec | None = None,
) -> Resolution:
    """Return what a mixture and a curriculum mean at the catalog's version.

    Args:
        catalog: at the version.
        mixture: the run's mixture.
        curriculum: its stages, if it has any.
        tokens_per_byte: estimates tokens from bytes, for all components or by name.
        tokenizer: measures such estimates.

    Raises:
        QueryError: a predicate is wrong.
        ConfigError: a name is unknown, or a property is missing.
        DataError: a document that is measured cannot be read.
    """
    samples = catalog.samples()
    where = f"samples@{catalog.version}"
    ratios = TokenRatios.declared(catalog, mixture.unit, tokens_per_byte, tokenizer)
    stages = [] if curriculum is None else curriculum.stages
    mixtures = [("mixture", mixture)]
    mixtures += [(f"curriculum.stages.{s.name}.mixture", s.mixture) for s in stages if s.mixture is not None]
    resolved = {path: _resolve_mixture(samples, found, path, where, ratios) for path, found in mixtures}
    by_stage: list[tuple[str, Mixture, tuple[Leaf, ...]]] = []
    for stage in stages:
        path, found = f"curriculum.stages.{stage.name}.mixture", stage.mixture
        leaves = resolved["mixture" if found is None else path]
        if stage.weights:
            leaves = with_shares(leaves, dict(stage.weights), f"curriculum.stages.{stage.name}.weights")
        by_stage.append((path, found or mixture, leaves))
    if not by_stage:
        by_stage = [("mixture", mixture, resolved["mixture"])]
    condition, all_leaves = _common_filter(by_stage)
    if ratios is None:
        return Resolution(stages=all_leaves, filter=condition, tokens_per_byte=None)
    names = list(dict.fromkeys(leaf.name for leaves in all_leaves for leaf in leaves))
    ratios.check_names(names)
    found_ratios = {name: ratios.found[name] for name in names}
    return Resolution(
        stages=all_leaves, filter=condition, tokens_per_byte=found_ratios, measurement=ratios.measurement()
    )


def program_of(catalog: Catalog, mixture: Mixture) -> Program:
    """Return the program of one mixture throughout, as `resolve` finds it."""
    clock = Clock(unit=mixture.unit, chunk_size=1, step=None, length=None)
    return make_program(mixture, None, resolve(catalog, mixture), clock)


def settle(resolution: Resolution, plan: CellPlan) -> Resolution:
    """Return the resolution with what it takes to know the cells: where components go that a ramp leaves behind."""
    pairs = zip(resolution.stages, resolution.stages[1:], strict=False)
    return replace(resolution, flows=({}, *(_flows(plan, before, after) for before, after in pairs)))


def count_passes(resolution: Resolution, plan: CellPlan) -> Resolution:
    """Return the resolution with the units that one pass over each component has."""
    names = dict.fromkeys(leaf.name for leaves in resolution.stages for leaf in leaves)
    is_drawn = {name: np.zeros(plan.num_cells, np.bool_) for name in names}
    for leaves in resolution.stages:
        owner_C = plan.owners(leaves)
        for index, leaf in enumerate(leaves):
            is_drawn[leaf.name] |= owner_C == index
    ratios = resolution.tokens_per_byte or {}
    units = {name: float(plan.num_units_C[mine].sum()) * ratios.get(name, 1.0) for name, mine in is_drawn.items()}
    return replace(resolution, units_per_pass=units)


def _flows(plan: CellPlan, before: Sequence[Leaf], after: Sequence[Leaf]) -> dict[str, dict[str, float]]:
    """Return, of each component that only the stage before has, to which components of a ramp its units belong."""
    owner_C, ramp_owner_C = plan.owners(before), plan.owners((*after, *before))
    names = [leaf.name for leaf in (*after, *before)]
    flows: dict[str, dict[str, float]] = {}
    for index, leaf in enumerate(before):
        units_C = np.where(owner_C == index, plan.num_units_C, 0)
        if leaf.name not in names[: len(after)] and units_C.any():
            parts = np.bincount(ramp_owner_C + 1, units_C, minlength=len(names) + 1)[1:] / units_C.sum()
            for name, part in zip(names, parts.tolist(), strict=True):
                if part:
                    mine = flows.setdefault(leaf.name, {})
                    mine[name] = mine.get(name, 0.0) + part
    return flows


def plan_cells(catalog: Catalog, program: Program, consumed: Consumed | None = None) -> CellPlan:
    """Return the cells that a program draws from; every component has samples.

    Args:
        catalog: at the run's version.
        program: what the run draws.
        consumed: what was drawn before the run began.

    Raises:
        QueryError: the filter or a predicate fails on a sample.
        ConfigError: a component is empty, or samples lack the property that the unit counts.
    """
    plan = find_cells(catalog, program, consumed)
    check_components(plan, program, catalog.version)
    return plan


def check_components(plan: CellPlan, program: Program, version: int) -> None:
    """Refuse a program of which a component has no samples in the cells of a catalog version.

    Raises:
        ConfigError: a component is empty, or its samples hold no units.
    """
    at = f"samples@{version}"
    for leaves in dict.fromkeys(program.stage_leaves):
        owner_C = plan.owners(leaves)
        for index, leaf in enumerate(leaves):
            mine_C = owner_C == index
            condition = " AND ".join(leaf.requires) or "everything"
            if mine_C.any() and leaf.share and not plan.num_units_C[mine_C].any():
                raise ConfigError(
                    f"{leaf.path} has a share of {leaf.share:g}, but its {plan.num_samples_C[mine_C].sum()} samples "
                    f"hold no {program.unit.value} ({condition}) in {at}"
                )
            if mine_C.any():
                continue
            matched = int(plan.num_samples_C[plan.matching(leaf)].sum())
            nothing = "the components beside it leave no sample" if leaf.is_rest else "no sample matches"
            why = f"all {matched} samples that match belong to other components" if matched else nothing
            also = " after the filter" if program.filter else ""
            raise ConfigError(f"{leaf.path} is empty: {why}{also} ({condition}) in {at}")


def _resolve_mixture(
    samples: DataFrame,
    mixture: Mixture,
    path: str,
    where: str,
    ratios: TokenRatios | None,
) -> tuple[Leaf, ...]:
    unit = mixture.unit.property_name if ratios is None else Unit.BYTES.property_name
    check_unit_property(samples.schema(), mixture.unit, unit, where)
    unfiltered = samples
    if mixture.filter is not None:
        check_predicate(samples, mixture.filter, f"{path}.filter", where)
        samples = samples.filter(samples.parse_sql_expr(mixture.filter))
    leaves: tuple[Leaf, ...] = ()
    if mixture.kind is Kind.STATIC:
        leaves = tuple(_static(mixture.components, path, samples, where))
    with failures_named(unfiltered, mixture.filter, leaves, where, path):
        if mixture.kind is Kind.ARBITRARY:
            leaves = (_leaf("all", path, 1.0, mixture.rules),)
        elif mixture.kind is Kind.INFERRED:
            assert mixture.inference is not None
            leaves = _inferred(samples, mixture, mixture.inference, path, where, ratios)
        if ratios is not None:
            ratios.of(leaves, samples)
        orders = _orders(mixture, leaves)
        return tuple(
            leaf if order is None else replace(leaf, bands=find_bands(samples, leaf, order, where))
            for leaf, order in zip(leaves, orders, strict=True)
        )


def _static(
    components: Sequence[Component],
    path: str,
    samples: DataFrame,
    where: str,
    around: Sequence[Component] = (),
    requires: tuple[str, ...] = (),
    excludes: tuple[str, ...] = (),
    share: float = 1.0,
) -> Iterator[Leaf]:
    """Yield the innermost components with their predicates and shares."""
    total = math.fsum(component.weight for component in components)
    for index, component in enumerate(components):
        here = f"{path}.components.{component.name}"
        own, others = requires, excludes
        if component.where is None:
            others += tuple(c.where for c in components if c.where is not None)
        else:
            check_predicate(samples, component.where, f"{here}.where", where)
            own += (component.where,)
            # Innermost components are told apart by their order; what a component with others inside leaves unmatched
            # is nobody's.
            others += tuple(c.where for c in components[:index] if c.components and c.where is not None)
        inner_share = share * component.weight / total if total else 0.0
        chain = (*around, component)
        if component.components:
            yield from _static(component.components, here, samples, where, chain, own, others, inner_share)
        else:
            name = ".".join(c.name for c in chain)
            leaf = _leaf(name, here, inner_share, component.rules)
            yield replace(leaf, requires=own, excludes=others, is_rest=component.where is None)


def _inferred(
    samples: DataFrame,
    mixture: Mixture,
    inference: Inference,
    path: str,
    where: str,
    ratios: TokenRatios | None,
) -> tuple[Leaf, ...]:
    unit = mixture.unit.property_name if ratios is None else Unit.BYTES.property_name
    groups = find_groups(samples, inference.by, "1" if unit is None else f'"{unit}"', f"{path}.by", where)
    if not groups:
        raise ConfigError(f"{path}: no sample passes the filter in {where}")
    leaves = [
        replace(_leaf(group.name, f"{path} ({group.name})", 0.0, mixture.rules), requires=group.predicates)
        for group in groups
    ]
    found = {} if ratios is None else ratios.of(leaves, samples)
    units = [group.num_units * found.get(group.name, 1.0) for group in groups]
    shares = inferred_shares(units, inference, path)
    return tuple(replace(leaf, share=share) for leaf, share in zip(leaves, shares, strict=True))


def _leaf(name: str, path: str, share: float, rules: Rules) -> Leaf:
    return Leaf(
        name=name,
        path=path,
        requires=(),
        excludes=(),
        share=share,
        on_exhausted=rules.on_exhausted,
        max_passes=rules.max_passes if rules.on_exhausted is OnExhausted.REPEAT else 1,
    )


def _orders(mixture: Mixture, leaves: Sequence[Leaf]) -> list[OrderBy | None]:
    if mixture.kind is not Kind.STATIC:
        return [mixture.rules.order_by] * len(leaves)

    def inner(components: Sequence[Component]) -> Iterator[OrderBy | None]:
        for component in components:
            if component.components:
                yield from inner(component.components)
            else:
                yield component.rules.order_by

    return list(inner(mixture.components))


def _common_filter(
    stages: Sequence[tuple[str, Mixture, tuple[Leaf, ...]]],
) -> tuple[str | None, tuple[tuple[Leaf, ...], ...]]:
    """Return what samples of any stage must match, and the components, which require what their own stage does."""
    filters = list(dict.fromkeys(mixture.filter for _, mixture, _ in stages))
    if len(filters) == 1:
        return filters[0], tuple(leaves for _, _, leaves in stages)
    either = None if None in filters else " OR ".join(f"(\n{condition}\n)" for condition in filters)
    return either, tuple(
        tuple(replace(leaf, requires=(mixture.filter, *leaf.requires)) if mixture.filter else leaf for leaf in leaves)
        for _, mixture, leaves in stages
    )
