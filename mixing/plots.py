"""Plots of mixtures and runs: what is declared, what was drawn, how weights and losses went.

A component has one colour in all plots of a run: that of its place among the run's components.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mixlake.catalog import ConfigError
from mixlake.catalog.figures import (
    GREY,
    LIGHT_GREY,
    Plot,
    add_legend,
    add_note,
    count_axis,
    label_axes,
    largest,
    name_colours,
    name_lines,
    new_plot,
    share_axis,
    shortened,
)
from mixlake.catalog.records import IntArray
from mixlake.mixing.adapt import Adapt
from mixlake.mixing.adaptation import replay
from mixlake.mixing.drawn import Drawn, drawn
from mixlake.mixing.explain import Explanation, summarize
from mixlake.mixing.extents import Axis
from mixlake.mixing.inference import FloatArray
from mixlake.mixing.laws import Laws, Limits, fit_laws
from mixlake.mixing.loss_history import BinnedHistory
from mixlake.mixing.quotas import SCALE
from mixlake.mixing.run import Run
from mixlake.mixing.tilting import prior

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS = 60
_HATCHES = {"-": "", "--": "//", ":": "..", "-.": "xx"}
"""Of areas, in the place of what lines have."""
_OTHERS = "others"
_CAUSES = ("declared", "curriculum", "adapt", "manual", "exhausted")
_LEAST_POINTS = 8
"""Of a component, for a law."""
_LEAST_EPSILON = 0.2
_LONGER = 4.0
"""How far a law is drawn beyond the losses, in parts of the tokens so far."""


def plot_mixture(of: Run | Explanation) -> Plot:
    """Plot the share of each component beside its weight: what a run has drawn, or for a dry run what there is."""
    found = of if isinstance(of, Explanation) else summarize(of.plan, of.config)
    names = [component.name for component in found.components]
    if isinstance(of, Explanation):
        title, label = f"mixture over samples@{of.catalog_version}", "natural: as much as there is"
        declared, other = ([getattr(c, key) for c in found.components] for key in ("share", "natural_share"))
    else:
        title, label = f"mixture of run {of.name}", "drawn"
        so_far = _drawn(of)
        names, declared, other = list(of.components), so_far.asked.tolist(), so_far.shares.tolist()
    plot, (axes,) = new_plot(height=1.5 + 0.34 * len(names))
    places, colours = np.arange(len(names))[::-1], name_colours(names)
    axes.barh(places, other, color=[colours[name] for name in names], height=0.66)
    axes.bar([0], [0], color=GREY, label=label)
    axes.scatter(declared, places, marker="|", s=260, color="black", linewidth=2, zorder=3, label="weight")
    for place, there, asked in zip(places, other, declared, strict=True):
        add_note(axes, f"  {there:.2%}", (max(there, asked), float(place)), va="center")
    axes.set_yticks(places, [shortened(name) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 1.16 * max([*declared, *other]))
    label_axes(axes, title=title, x=f"share of {found.unit.value}", y="component", grid="x")
    share_axis(axes, "x")
    add_legend(axes)
    return plot


def plot_shares(run: Run, *, over: str = "chunks") -> Plot:
    """Plot what part each component had of what was drawn, over the run's time.

    Args:
        run: the run.
        over: ``chunks``; ``units`` (bytes or tokens, as the mixture counts them); or ``steps`` of training, where
            shares are those of the tokens that it reported, beside the newest weights that a step had.

    Raises:
        ConfigError: there is no such axis, or nothing to show.
    """
    if over == "steps":
        steps = _feedback(run)
        starts_N = np.array([losses.step for losses in steps], np.int64)
        edges = np.append(starts_N, starts_N[-1] + 1)
        units_NK = np.array([losses.num_tokens for losses in steps], np.float64)
        weights_NK = np.array([run.shares(losses.weights_version) for losses in steps]) / SCALE
        label, unit = "training step", "tokens with a loss"
    elif over in ("chunks", "units"):
        so_far, unit = _drawn(run), run.program.unit.value
        units_NK, weights_NK = so_far.units_NK, so_far.weights_NK
        by_chunk = np.append(so_far.chunk_N, so_far.chunk_N[-1] + 1)
        edges = by_chunk if over == "chunks" else np.append(0.0, np.cumsum(units_NK.sum(axis=1)))
        label = "chunk" if over == "chunks" else f"{unit} drawn"
    else:
        raise ConfigError(f"over is {over!r}; expected chunks, units or steps")
    plot, (axes,) = new_plot()
    layers = _stack(axes, run.components, *_binned(edges.astype(np.float64), units_NK))
    weights_NL = np.array([weights_NK[:, columns].sum(axis=1) for columns in layers]).T
    for line in np.cumsum(weights_NL, axis=1).T[:-1]:
        axes.step(edges, np.append(line, line[-1]), where="post", color="black", linewidth=0.9, linestyle=":")
    axes.plot([], [], color="black", linewidth=0.9, linestyle=":", label="weights in force")
    label_axes(axes, title=f"shares in run {run.name}", x=label, y=f"share of {unit}", grid="")
    _finish_stack(axes, float(edges[0]), float(edges[-1]))
    return plot


def plot_weights(run: Run) -> Plot:
    """Plot the run's weights versions over its chunks, each with its cause."""
    rows = run.weights().to_pylist()
    last = max(run.chunks.last()[0] + 1, *(row["chunk"] for row in rows), 1)
    weights_VK = np.array([run.shares(row["version"]) for row in rows]) / SCALE
    chunks = np.array([row["chunk"] for row in rows])
    plot, (axes,) = new_plot(height=4.2)
    _lines(axes, run.components, np.append(chunks, last), np.append(weights_VK, weights_VK[-1:], axis=0))
    causes = [cause for cause in _CAUSES if any(row["cause"] == cause for row in rows)]
    for place, cause in enumerate(reversed(causes)):
        mine, height = [row["chunk"] for row in rows if row["cause"] == cause], 1.04 + 0.055 * place
        axes.scatter(
            mine,
            [height] * len(mine),
            s=30,
            marker="|",
            color="black",
            transform=axes.get_xaxis_transform(),
            clip_on=False,
        )
        add_note(axes, f" {cause} ({len(mine):,})", (1.0, height), within="axes fraction", va="center")
    label_axes(axes, title=f"weights of run {run.name}", x="chunk", y="weight")
    axes.set_title(axes.get_title("left"), loc="left", pad=10 + 11 * len(causes))
    axes.set_xlim(0, last)
    axes.set_ylim(bottom=0)
    share_axis(axes, "y")
    count_axis(axes, "x")
    add_legend(axes)
    return plot


def plot_stages(of: Run | Explanation) -> Plot:
    """Plot what the stages of a curriculum say about each component, from the run's beginning to its end."""
    found = of if isinstance(of, Explanation) else summarize(of.plan, of.config)
    program = found.program
    starts = [segment.start for segment in program.segments]
    stop = _end(found, starts[-1])
    shares = np.array([segment.shares for segment in program.segments]) / SCALE
    shares = shares / shares.sum(axis=1, keepdims=True)
    x = np.repeat([*starts, stop], 2)[1:-1]
    plot, (axes,) = new_plot()
    _stack(axes, program.components, np.asarray(x, np.float64), np.repeat(shares, 2, axis=0))
    begins = {segment.stage: segment.start for segment in reversed(program.segments)}
    for number, name in enumerate(program.stages):
        start, end = begins.get(number, 0), begins.get(number + 1, stop)
        if number:
            axes.axvline(start, color="black", linewidth=1)
        add_note(axes, shortened(name, 18), ((start + end) / 2, 1.02), within="x data", ha="center", color="black")
    unit = "chunk" if program.axis is Axis.CHUNKS else f"{program.unit.value} drawn"
    title = (
        f"stages over samples@{found.catalog_version}" if isinstance(of, Explanation) else f"stages of run {of.name}"
    )
    label_axes(axes, title=title, x=unit, y=f"weight, of {program.unit.value}", grid="")
    axes.set_title(axes.get_title("left"), loc="left", pad=22)
    _finish_stack(axes, 0, stop)
    return plot


def plot_losses(run: Run) -> Plot:
    """Plot each component's loss over the tokens of training, with the law L(n) = ε + β n^-α that fits it best.

    Points are means over stretches of steps that are equally long in log n; laws are drawn on beyond them, dashed.

    Raises:
        ConfigError: training has not reported any step.
    """
    counts_KN, losses_KN, tokens_KN = _loss_points(run)
    reference = counts_KN[tokens_KN > 0].min()
    has_law = (tokens_KN > 0).sum(axis=1) >= _LEAST_POINTS
    plot, (axes,) = new_plot(height=4.2)
    names, _ = largest(dict(zip(run.components, tokens_KN.sum(axis=1).tolist(), strict=True)))
    colours, top = name_colours(run.components), counts_KN[tokens_KN > 0].max()
    for k, name in enumerate(run.components):
        seen = tokens_KN[k] > 0
        if name not in names or not seen.any():
            continue
        label = shortened(name)
        axes.scatter(counts_KN[k][seen], losses_KN[k][seen], s=9, color=colours[name], alpha=0.55, linewidth=0)
        if has_law[k]:
            laws = _law(counts_KN[k] / reference, losses_KN[k], tokens_KN[k])
            label += f"  α={laws.alpha[0]:.2f} ε={math.exp(laws.log_epsilon[0]):.2f}"
            for first, last, style in ((reference, top, "-"), (top, _LONGER * top, "--")):
                grid = np.geomspace(first, last, 80)
                axes.plot(
                    grid,
                    laws.losses(grid / reference),
                    style,
                    color=colours[name],
                    linewidth=1.6,
                    label=label if style == "-" else None,
                )
        else:
            axes.plot([], [], "o", color=colours[name], markersize=4, label=label)
    label_axes(
        axes, title=f"losses in run {run.name}", x="tokens with a loss, of all components", y="loss (nats per token)"
    )
    axes.set_xscale("log")
    axes.axvline(top, color=GREY, linewidth=0.8, linestyle=":")
    count_axis(axes, "x")
    add_legend(axes, "fitted laws ε + β n^-α")
    return plot


def plot_passes(run: Run) -> Plot:
    """Plot how often each component's samples have been gone through, over the run's chunks."""
    so_far = _drawn(run)
    program, plan = run.program, run.plan
    sizes = dict.fromkeys(run.components, 0)
    for leaves in program.stage_leaves:
        owner_C = plan.owners(leaves)
        for index, leaf in enumerate(leaves):
            sizes[leaf.name] = max(sizes[leaf.name], int(plan.num_samples_C[owner_C == index].sum()))
    passes_NK = np.cumsum(so_far.samples_NK, axis=0) / np.maximum([sizes[name] for name in run.components], 1)
    plot, (axes,) = new_plot()
    num_chunks = np.append(0, so_far.chunk_N + 1)
    _lines(axes, run.components, num_chunks, np.append(np.zeros_like(passes_NK[:1]), passes_NK, axis=0), is_step=False)
    top = float(passes_NK.max())
    for whole in range(1, math.ceil(top) if top < 12 else 0):
        axes.axhline(whole, color="#d0d0d0", linewidth=0.8, zorder=0)
    label_axes(axes, title=f"passes of run {run.name}", x="chunks drawn", y="passes over a component's samples")
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, num_chunks[-1])
    count_axis(axes, "x")
    add_legend(axes)
    return plot


def plot_policies(run: Run, policies: Mapping[str, Adapt | Mapping[str, Any]]) -> Plot:
    """Plot what policies make of the losses of a run, one below the other: weights over training steps.

    Raises:
        ConfigError: training has not reported any step, or a policy is wrong.
    """
    steps = _feedback(run)
    start_K, last = prior(run.program), steps[-1].step
    plot, rows = new_plot(rows=max(len(policies), 1), height=0.8 + 2.3 * max(len(policies), 1))
    for axes, (title, declared) in zip(rows, policies.items(), strict=True):
        adapt = declared if isinstance(declared, Adapt) else Adapt.from_config(declared)
        decisions = replay(adapt, run.program, run.delay, steps)
        weights = [start_K, *([d.weights.get(name, 0.0) for name in run.components] for d in decisions)]
        at = np.array([0, *(decision.step for decision in decisions), last])
        _lines(axes, run.components, at, np.array([*weights, weights[-1]]))
        label_axes(axes, title=title, x="training step" if axes is rows[-1] else "", y="weight")
        axes.sharex(rows[0])
        axes.sharey(rows[0])
        share_axis(axes, "y")
    rows[0].set_ylim(bottom=0)
    add_legend(rows[0])
    return plot


def _drawn(run: Run) -> Drawn:
    found = drawn(run)
    if not len(found.chunk_N):
        raise ConfigError(
            f"run {run.name!r} has no chunks yet; schedule some, or plot what is declared: stages, weights"
        )
    return found


def _feedback(run: Run) -> Sequence[Any]:
    steps = run.feedback.read()
    if not steps:
        raise ConfigError(f"run {run.name!r} has no feedback; training reports losses with loader.report(…)")
    return steps


def _loss_points(run: Run) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return tokens of all components so far, mean losses, and tokens, each of shape (K, N)."""
    history, total = BinnedHistory(len(run.components)), 0.0
    for losses in _feedback(run):
        num = float(losses.num_tokens.sum())
        if num:
            total += num
            history.add(np.full(len(run.components), total), losses.loss_sum, losses.num_tokens, total)
    return history.points()


def _law(counts_N: FloatArray, losses_N: FloatArray, tokens_N: FloatArray) -> Laws:
    """Return the law of one component; its ε is at least a small part of the lowest loss seen, however low that is."""
    limits = Limits(min_log_epsilon=math.log(_LEAST_EPSILON * losses_N[tokens_N > 0].min()))
    return fit_laws(counts_N[None], losses_N[None], tokens_N[None], limits=limits)


def _binned(edges: FloatArray, units_NK: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return at most `_BINS` stretches: the corners of their steps, and the components' shares in each, both twice.

    Args:
        edges: where each of the N rows begins, and where the last one ends, shape (N + 1,).
        units_NK: what each row has of each component.
    """
    num = len(units_NK)
    firsts: IntArray = np.unique(np.linspace(0, num, min(_BINS, num) + 1).astype(np.int64))[:-1]
    sums = np.add.reduceat(units_NK, firsts, axis=0)
    shares = sums / np.maximum(sums.sum(axis=1, keepdims=True), 1e-300)
    return np.repeat(edges[np.append(firsts, num)], 2)[1:-1], np.repeat(shares, 2, axis=0)


def _stack(axes: Axes, names: Sequence[str], x: FloatArray, shares: FloatArray) -> list[list[int]]:
    """Draw shares on top of one another, the last component on top; small ones together.

    Layers of one colour, which there are from the eleventh component on, are told apart by hatching.

    Returns:
        The components of each layer, from the bottom up.
    """
    shown, others = largest(dict(zip(names, shares.mean(axis=0).tolist(), strict=True)))
    colours, lines = name_colours(names), name_lines(names)
    column = {name: k for k, name in enumerate(names)}
    layers = [[column[name]] for name in shown]
    labels, fills = [shortened(name) for name in shown], [colours[name] for name in shown]
    hatches = [_HATCHES[lines[name]] for name in shown]
    if others:
        layers.append([column[name] for name in others])
        labels, fills = [*labels, f"{_OTHERS} ({len(others)})"], [*fills, LIGHT_GREY]
        hatches.append("")
    heights = np.array([shares[:, columns].sum(axis=1) for columns in layers])
    for area, hatch in zip(axes.stackplot(x, heights, labels=labels, colors=fills), hatches, strict=True):
        area.set(hatch=hatch, edgecolor="white", linewidth=0)
    return layers


def _finish_stack(axes: Axes, first: float, last: float) -> None:
    axes.set_ylim(0, 1)
    if last > first:
        axes.set_xlim(first, last)
    share_axis(axes, "y")
    count_axis(axes, "x")
    add_legend(axes, is_reversed=True)


def _lines(axes: Axes, names: Sequence[str], x: IntArray, values_NK: FloatArray, *, is_step: bool = True) -> None:
    """Draw a line for each component that is not always zero, the largest ones in colour."""
    shown, _ = largest(dict(zip(names, values_NK.max(axis=0).tolist(), strict=True)))
    colours, lines = name_colours(names), name_lines(names)
    for k, name in enumerate(names):
        style: dict[str, Any] = {"color": LIGHT_GREY, "linewidth": 0.8, "zorder": 1}
        if name in shown:
            style = {"color": colours[name], "linestyle": lines[name], "linewidth": 1.9, "label": shortened(name)}
        axes.plot(x, values_NK[:, k], drawstyle="steps-post" if is_step else "default", **style)
    if len(shown) < len(names):
        axes.plot([], [], color=LIGHT_GREY, linewidth=0.8, label=f"{_OTHERS} ({len(names) - len(shown)})")


def _end(found: Explanation, last_start: int) -> float:
    """Return where a run ends on its program's axis; a little after its last change where it has no end."""
    program = found.program
    if program.end is not None and program.end.axis is program.axis:
        return program.end.at
    stages = found.forecast.stages
    total = found.forecast.num_units if program.axis is Axis.UNITS else sum(stage.num_chunks for stage in stages)
    return total if math.isfinite(total) and total > last_start else 1.25 * last_start or 1.0
