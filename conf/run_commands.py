"""What the commands about mixtures and runs do."""

from __future__ import annotations

from dataclasses import fields

from omegaconf import DictConfig

from mixlake.catalog import Catalog, ConfigError
from mixlake.conf.composed import open_catalog, plain, read_mixture, read_settings
from mixlake.conf.display import Answer, ProgressDisplay, counted
from mixlake.conf.plotting import write_plots
from mixlake.conf.replay import replay_answer
from mixlake.conf.weights_table import weights_table
from mixlake.mixing import Adapter, Run, explain, list_runs

_ADDRESS = ("registration", "file_id")
"""What SQL joins tables by; people have datasets and URIs."""


def explain_mixture(config: DictConfig) -> Answer:
    """Say what a run would draw."""
    found = explain(open_catalog(config), read_mixture(config), **read_settings(config))
    data = {field.name: getattr(found, field.name) for field in fields(found) if field.name != "program"}
    return Answer(data=data, view=found)


def start_run(config: DictConfig) -> Answer:
    """Declare a run."""
    run = Run.start(
        open_catalog(config), config.name, read_mixture(config), **read_settings(config), composed=plain(config)
    )
    return _started(run, "")


def fork_run(config: DictConfig) -> Answer:
    """Go on from a chunk of a run."""
    catalog = Catalog.open(config.lake)
    run = Run.load(catalog, config.run)
    settings = read_settings(config)
    for key in ("length", "step"):
        if settings[key] is None and getattr(run.config, key) is not None:
            raise ConfigError(f"{key} is null, but run {run.name!r} has one; a fork can only have another one")
    fork = run.fork(
        config.name,
        at_chunk=config.at_chunk,
        mixture=read_mixture(config),
        **settings,
        catalog=_version(catalog, config.version),
        composed=plain(config),
    )
    return _started(fork, f", which goes on from {run.name} at chunk {config.at_chunk:,},")


def _started(run: Run, origin: str) -> Answer:
    version = run.config.catalog_version
    return Answer.of_report(
        {"run": run.name, "catalog_version": version, "config_hash": run.config.config_hash},
        f"started run {run.name}{origin} over samples@{version}",
    )


def _version(catalog: Catalog, version: object) -> Catalog | None:
    if version is None or version == "newest":
        return catalog if version else None
    if isinstance(version, bool) or not isinstance(version, int):
        raise ConfigError(f"version is {version!r}; expected a number, or newest")
    return catalog.at(version=version)


def runs(config: DictConfig) -> Answer:
    """List the runs."""
    return Answer.of_frame(list_runs(open_catalog(config)), spare=("config_hash",))


def schedule_run(config: DictConfig) -> Answer:
    """Draw a run's next chunks."""
    if config.follow and config.num_chunks is not None:
        raise ConfigError("follow=true schedules until the run ends; leave num_chunks out")
    if config.lookahead is not None and not config.follow:
        raise ConfigError("lookahead is for follow=true; without it num_chunks says how many")
    run = Run.load(open_catalog(config), config.run)
    with ProgressDisplay(f"scheduling {run.name}") as progress:
        if config.follow:
            lookahead = 4 * run.config.lanes if config.lookahead is None else config.lookahead
            num = run.follow(lookahead=lookahead, progress=progress)
        else:
            num = run.schedule(100 if config.num_chunks is None else config.num_chunks, progress=progress)
    last, _, is_ended, _ = run.chunks.last()
    return Answer.of_report(
        {"run": run.name, "num_chunks": num, "last_chunk": last, "is_ended": is_ended},
        f"{counted(num, 'chunk')}; the last one is {last:,}{', which ends the run' if is_ended else ''}",
    )


def adapt_run(config: DictConfig) -> Answer:
    """Adapt a run's weights, or replay another policy."""
    run = Run.load(open_catalog(config), config.run)
    if config.replay:
        return replay_answer(run, plain(config.adapt), config.rows)
    if config.adapt:
        raise ConfigError("adapt=… is for --replay; a run adapts as it was declared")
    adapter = Adapter(run)
    with ProgressDisplay(f"adapting {run.name}") as progress:
        num = adapter.follow(progress=progress) if config.follow else adapter.catch_up()
    return Answer.of_report(
        {"run": run.name, "num_steps": num, "last_step": adapter.last_step},
        f"{counted(num, 'step')} taken in; the last one is {adapter.last_step:,}",
    )


def weights(config: DictConfig) -> Answer:
    """List a run's weights versions, or set weights by hand."""
    run = Run.load(open_catalog(config), config.run)
    if not config.set:
        if config.from_chunk is not None:
            raise ConfigError(
                f"from_chunk={config.from_chunk}, but nothing to set from there: set.NAME=SHARE is missing"
            )
        if config.details:
            return Answer.of_frame(run.weights())
        versions = run.weights().to_pylist()
        return Answer(data=versions, view=weights_table(versions))
    chunk = run.set_weights(plain(config.set), from_chunk=config.from_chunk)
    return Answer.of_report({"run": run.name, "from_chunk": chunk}, f"set from chunk {chunk:,} on")


def samples(config: DictConfig) -> Answer:
    """List the samples of a chunk."""
    return Answer.of_frame(Run.load(open_catalog(config), config.run).samples(config.chunk), spare=_ADDRESS)


def lineage(config: DictConfig) -> Answer:
    """Find the chunks that drew some samples."""
    return Answer.of_frame(Run.load(open_catalog(config), config.run).lineage(config.where), spare=_ADDRESS)


def plot(config: DictConfig) -> Answer:
    """Draw plots."""
    paths = [str(path) for path in write_plots(config)]
    return Answer.of_report(paths, "\n".join(paths))
