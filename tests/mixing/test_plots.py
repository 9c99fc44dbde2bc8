"""Plots of runs show what the lake says, and a component has one colour in all of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex

from mixlake.catalog import Catalog, ConfigError
from mixlake.catalog.figures import COLOURS, Plot
from mixlake.mixing import Mixture, Run, explain
from mixlake.mixing.drawn import drawn
from mixlake.mixing.feedback import StepLosses
from mixlake.mixing.plots import (
    plot_losses,
    plot_mixture,
    plot_passes,
    plot_policies,
    plot_shares,
    plot_stages,
    plot_weights,
)
from mixlake.mixing.quotas import SCALE

CURRICULUM = {
    "stages": {
        "broad": {"until": {"chunks": 6}},
        "narrow": {"ramp": {"over": {"chunks": 4}, "changes": 2}, "weights": {"c0": 0.5}},
    }
}
LAWS = ((1.5, 40.0, 0.4), (2.5, 9.0, 0.3))
"""ε, β and α of both components."""


@pytest.fixture(scope="module")
def mixture(make_mixture: Callable[..., Mixture]) -> Mixture:
    return make_mixture(("language = 'de'", 1, "repeat"), ("language = 'en'", 3, "repeat"))


@pytest.fixture(scope="module")
def run(catalog: Catalog, mixture: Mixture) -> Run:
    """A run with stages, weights set by hand, and the feedback of forty steps."""
    run = Run.start(
        catalog,
        "plotted",
        mixture,
        curriculum=CURRICULUM,
        length={"chunks": 12},
        chunk_size=64,
        adapt={"policy": {"_target_": "mixlake.mixing.policy_average.AverageLoss"}, "interval": 10},
    )
    run.schedule(3)
    run.set_weights({"c0": 0.9}, from_chunk=4)
    run.schedule(100)
    run.feedback.append([losses(step) for step in range(40)])
    return run


def losses(step: int) -> StepLosses:
    """Losses that follow two laws exactly."""
    tokens, seen = np.array([300, 700], np.int64), 1000.0 * (step + 1)
    means = np.array([epsilon + beta * seen**-alpha for epsilon, beta, alpha in LAWS])
    return StepLosses(step=step, loss_sum=tokens * means, num_tokens=tokens, weights_version=1, chunk=0)


def axes_of(plot: Plot) -> Any:
    return plot.figure.axes[0]


def legend(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def line(axes: Any, label: str) -> Any:
    return next(line for line in axes.lines if line.get_label().startswith(label))


def test_a_component_has_one_colour_in_every_plot(run: Run) -> None:
    for plot in (plot_weights(run), plot_passes(run), plot_losses(run)):
        assert [line(axes_of(plot), name).get_color() for name in run.components] == list(COLOURS[:2])
    for plot in (plot_shares(run), plot_stages(run)):
        areas = axes_of(plot).collections[:2]
        assert [to_hex(area.get_facecolor()[0]) for area in areas] == list(COLOURS[:2])
    bars = axes_of(plot_mixture(run)).patches[:2]
    assert [to_hex(bar.get_facecolor()) for bar in bars] == list(COLOURS[:2])


@pytest.mark.parametrize("draw", [plot_mixture, plot_shares, plot_weights, plot_stages, plot_losses, plot_passes])
def test_every_axis_says_what_it_counts(run: Run, draw: Callable[[Run], Any]) -> None:
    axes = axes_of(draw(run))
    assert axes.get_xlabel()
    assert axes.get_ylabel()
    assert "plotted" in axes.get_title("left")


def test_a_mixture_shows_what_was_drawn_beside_the_weights(run: Run, catalog: Catalog, mixture: Mixture) -> None:
    found = drawn(run)
    axes = axes_of(plot_mixture(run))
    assert np.allclose([bar.get_width() for bar in axes.patches[:2]], found.shares)
    assert np.allclose(axes.collections[0].get_offsets()[:, 0], found.asked)
    dry = explain(catalog, mixture)
    natural = axes_of(plot_mixture(dry)).patches[:2]
    assert [bar.get_width() for bar in natural] == [c.natural_share for c in dry.components]


def test_shares_are_those_of_the_chunks_or_of_the_steps(run: Run) -> None:
    found = drawn(run)
    shares = found.samples_NK[:, 0] / found.samples_NK.sum(axis=1)
    for over, label in (("chunks", "chunk"), ("units", "samples drawn"), ("steps", "training step")):
        axes = axes_of(plot_shares(run, over=over))
        heights = {round(float(y), 6) for _, y in axes.collections[0].get_paths()[0].vertices} - {0.0}
        assert heights == ({0.3} if over == "steps" else {round(share, 6) for share in shares.tolist()})
        assert axes.get_xlabel() == label
        stop = {"chunks": 12, "units": found.units_NK.sum(), "steps": run.feedback.last_step() + 1}[over]
        assert axes.get_xlim() == (0, stop), "from the first to the end of the last"
    with pytest.raises(ConfigError, match="over is 'time'; expected chunks, units or steps"):
        plot_shares(run, over="time")


def test_weights_in_force_are_drawn_at_the_layers_that_they_are_of(
    catalog: Catalog, make_mixture: Callable[..., Mixture]
) -> None:
    mixture = make_mixture(*((f"row % 14 = {k}", 1 + k % 3, "repeat") for k in range(14)))
    run = Run.start(catalog, "many", mixture, chunk_size=600, length={"chunks": 2})
    run.schedule(2)
    axes = axes_of(plot_shares(run))
    shown = [label for label in legend(axes) if label.startswith("c")][::-1]
    weights = dict(zip(run.components, np.array(run.shares(1)) / SCALE, strict=True))
    drawn_at = [line.get_ydata()[0] for line in axes.lines if len(line.get_ydata())]
    assert len(shown) == 10
    assert np.allclose(drawn_at, np.cumsum([weights[name] for name in shown]))
    assert len({(tuple(area.get_facecolor()[0]), area.get_hatch()) for area in axes.collections}) == 11


def test_weights_change_where_their_versions_begin_each_with_its_cause(run: Run) -> None:
    axes = axes_of(plot_weights(run))
    rows = run.weights().to_pylist()
    x, y = line(axes, "c0").get_data()
    assert x.tolist() == [*(row["chunk"] for row in rows), 12]
    assert np.allclose(y[:-1], [row["weights"][0]["weight"] for row in rows])
    causes = {cause: sum(row["cause"] == cause for row in rows) for cause in ("declared", "curriculum", "manual")}
    assert causes["manual"] == 1
    assert {text.get_text().strip() for text in axes.texts} == {f"{cause} ({num})" for cause, num in causes.items()}


def test_stages_show_the_curriculum_of_a_run_and_of_a_dry_run(run: Run, catalog: Catalog, mixture: Mixture) -> None:
    dry = explain(catalog, mixture, curriculum=CURRICULUM, length={"chunks": 12}, chunk_size=64)
    for of in (run, dry):
        axes = axes_of(plot_stages(of))
        corners = {(x, round(y, 6)) for x, y in axes.collections[0].get_paths()[0].vertices}
        assert {(0, 0.25), (6, 0.25), (6, 0.3125), (8, 0.4375), (10, 0.5), (12, 0.5)} <= corners
        assert [text.get_text() for text in axes.texts] == ["broad", "narrow"]


def test_fitted_laws_are_those_that_the_losses_follow(run: Run) -> None:
    axes = axes_of(plot_losses(run))
    for name, (epsilon, beta, alpha) in zip(run.components, LAWS, strict=True):
        fitted = line(axes, name)
        x, y = fitted.get_data()
        assert np.allclose(y, epsilon + beta * x**-alpha, rtol=2e-3)
        assert np.isclose(x[-1], 40_000)
        assert f"α={alpha:.2f}" in fitted.get_label()


def test_passes_add_up_what_was_drawn(run: Run) -> None:
    axes = axes_of(plot_passes(run))
    sizes = np.array([c.num_samples for c in explain(run.catalog, run.config.mixture).components])
    for index, name in enumerate(run.components):
        x, y = line(axes, name).get_data()
        assert x.tolist() == list(range(13))
        assert np.allclose(y, np.append(0, np.cumsum(drawn(run).samples_NK[:, index])) / sizes[index])


def test_policies_are_compared_on_the_losses_of_one_run(run: Run) -> None:
    other = {"policy": {"_target_": "mixlake.mixing.policy_bandit.OnlineDataMixing"}, "interval": 20}
    assert run.config.adapt is not None
    above, below = plot_policies(run, {"average": run.config.adapt, "bandit": other}).figure.axes
    assert (above.get_title("left"), below.get_title("left")) == ("average", "bandit")
    assert line(above, "c0").get_data()[0].tolist()[:2] == [0, 9]
    assert line(below, "c0").get_data()[0].tolist()[:2] == [0, 19]


def test_what_is_not_there_yet_is_not_drawn(catalog: Catalog, mixture: Mixture) -> None:
    empty = Run.start(catalog, "empty", mixture)
    for draw in (plot_mixture, plot_shares, plot_passes):
        with pytest.raises(ConfigError, match="run 'empty' has no chunks yet"):
            draw(empty)
    with pytest.raises(ConfigError, match="run 'empty' has no feedback"):
        plot_losses(empty)
    assert axes_of(plot_weights(empty)).get_xlim() == (0, 1)
    assert axes_of(plot_stages(empty)).get_ylim() == (0, 1)


def test_many_components_are_still_readable(catalog: Catalog, new_name: Callable[[], str]) -> None:
    many = Mixture.from_dict({"kind": "inferred", "by": ["language", "kind", "dataset"]})
    run = Run.start(catalog, new_name(), many, chunk_size=256)
    run.schedule(3)
    num = len(run.components)
    assert num > 20
    assert f"others ({num - 10})" in legend(axes_of(plot_shares(run)))
    assert f"others ({num - 10})" in legend(axes_of(plot_weights(run)))
