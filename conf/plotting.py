"""Plots as files: what `mixlake plot` draws, and where it puts it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from omegaconf import DictConfig

from mixlake.catalog import Catalog, ConfigError
from mixlake.catalog.errors import listed, nearest
from mixlake.catalog.figures import Plot
from mixlake.catalog.plots import plot_property
from mixlake.conf.composed import open_catalog
from mixlake.mixing import Run
from mixlake.mixing.plots import plot_losses, plot_mixture, plot_passes, plot_shares, plot_stages, plot_weights

_OF_RUN: dict[str, Callable[[Run], Plot]] = {
    "mixture": plot_mixture,
    "shares": plot_shares,
    "weights": plot_weights,
    "stages": plot_stages,
    "losses": plot_losses,
    "passes": plot_passes,
}
PLOT_KINDS = ("all", *_OF_RUN, "property", "waiting")


def write_plots(config: DictConfig) -> list[Path]:
    """Draw what a config of `mixlake plot` asks for; return the files.

    Raises:
        ConfigError: something that it takes is missing or wrong.
    """
    kind = config.kind
    if kind not in PLOT_KINDS:
        raise ConfigError(f"there is no plot {kind!r}; plots: {listed(PLOT_KINDS)}.{nearest(kind, PLOT_KINDS)}")
    if kind == "waiting":
        from mixlake.loaders.plots import plot_waiting  # noqa: PLC0415  (torch takes seconds)
        from mixlake.loaders.stats import read_stats  # noqa: PLC0415

        return [plot_waiting(read_stats(_needed(config, "stats"))).save(config.to or "waiting.png")]
    if kind == "property":
        name = _needed(config, "property")
        plot = plot_property(open_catalog(config), name, by=config.by, where=config.where)
        return [plot.save(config.to or f"{name}.png")]
    run = Run.load(Catalog.open(config.lake), _needed(config, "run"))
    if kind == "all":
        folder = Path(config.to or ".")
        folder.mkdir(parents=True, exist_ok=True)
        return [_OF_RUN[name](run).save(folder / f"{run.name}-{name}.png") for name in _drawable(run)]
    plot = plot_shares(run, over=config.over) if kind == "shares" else _OF_RUN[kind](run)
    return [plot.save(config.to or f"{run.name}-{kind}.png")]


def _needed(config: DictConfig, key: str) -> str:
    if config[key] is None:
        raise ConfigError(f"mixlake plot {config.kind} needs {key}=…; see mixlake plot --help")
    return str(config[key])


def _drawable(run: Run) -> Iterator[str]:
    """Yield the kinds of plots that a run has something for."""
    for kind in _OF_RUN:
        is_of_chunks, is_of_losses = kind in ("mixture", "shares", "passes"), kind == "losses"
        if not (is_of_chunks and run.chunks.last()[0] < 0) and not (is_of_losses and run.feedback.last_step() < 0):
            yield kind
