"""What each command does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from omegaconf import DictConfig
from rich.console import Console

from mixlake.catalog import Catalog, ConfigError, propose_properties, tokenize
from mixlake.conf.composed import (
    open_catalog,
    plain,
    read_mixture,
    read_properties,
    read_settings,
    read_source,
    read_tokenizer,
)
from mixlake.conf.display import ProgressDisplay, print_frame
from mixlake.conf.plotting import write_plots
from mixlake.conf.replay import print_replay
from mixlake.mixing import Adapter, Run, explain, list_runs


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One word after `mixlake`; its config is conf/NAME.yaml."""

    summary: str
    function: Callable[[DictConfig, Console], None]
    positional: str | None = None
    """The config key that an argument which is no override means."""


def _demo(config: DictConfig, console: Console) -> None:
    from mixlake.conf.demo import run_demo  # noqa: PLC0415  (torch takes seconds, which no other command needs)

    run_demo(config, console)


def _register(config: DictConfig, console: Console) -> None:
    catalog = Catalog.open(config.lake, create=True)
    properties = _proposed(config, console) if config.properties == "infer" else read_properties(config.properties)
    with ProgressDisplay(console, f"registering {config.name}") as progress:
        version = catalog.register(
            config.name,
            plain(config.uri),
            format=config.format,
            text=config.text,
            properties=properties,
            exclude=plain(config.exclude),
            options=plain(config.options),
            replace=config.replace,
            on_error=config.on_error,
            progress=progress,
        )
    dataset = catalog.dataset(config.name)
    console.print(
        f"{dataset.name}: {dataset.num_samples:,} samples in {dataset.num_files:,} files, "
        f"{dataset.num_bytes:,} bytes; datasets@{version}"
    )
    num_skipped = catalog.sql(f"SELECT file_id FROM skipped WHERE dataset = '{dataset.name}'").count()
    if num_skipped:
        console.print(f"{num_skipped:,} records or files were left out: SELECT * FROM skipped tells which, and why")


def _proposed(config: DictConfig, console: Console) -> dict[str, str]:
    proposals = propose_properties(
        plain(config.uri),
        format=config.format,
        text=config.text,
        exclude=plain(config.exclude),
        options=plain(config.options),
    )
    console.print(str(proposals), markup=False, soft_wrap=True)
    return proposals.properties


def _datasets(config: DictConfig, console: Console) -> None:
    print_frame(console, open_catalog(config).datasets())


def _properties(config: DictConfig, console: Console) -> None:
    print_frame(console, open_catalog(config).properties())


def _history(config: DictConfig, console: Console) -> None:
    print_frame(console, open_catalog(config).history())


def _refresh(config: DictConfig, console: Console) -> None:
    catalog = Catalog.open(config.lake)
    with ProgressDisplay(console, f"refreshing {config.name}") as progress:
        done = catalog.refresh(config.name, on_error=config.on_error, progress=progress)
    _print_report(console, done)


def _add(config: DictConfig, console: Console) -> None:
    catalog = Catalog.open(config.lake)
    with ProgressDisplay(console, f"adding {config.name}") as progress:
        version = catalog.add_property(
            config.name, read_source(config.source), plain(config.to), replace=config.replace, progress=progress
        )
    console.print(f"{config.name} is added; datasets@{version}", markup=False)


def _tokenize(config: DictConfig, console: Console) -> None:
    catalog = Catalog.open(config.lake)
    tokenizer = read_tokenizer(config.tokenizer)
    with ProgressDisplay(console, f"tokenizing {config.name}") as progress:
        version = tokenize(
            catalog,
            config.name,
            config.into,
            config.to,
            tokenizer=tokenizer,
            replace=config.replace,
            progress=progress,
        )
    counts = catalog.sql(f"SELECT sum(num_tokens) AS n FROM samples WHERE dataset = '{config.into}'").to_pylist()
    num_samples = catalog.dataset(config.into).num_samples
    console.print(f"{config.into}: {counts[0]['n'] or 0:,} tokens of {num_samples:,} samples; datasets@{version}")


def _unregister(config: DictConfig, console: Console) -> None:
    version = Catalog.open(config.lake).unregister(config.name)
    console.print(f"{config.name} is unregistered; older versions still show it; datasets@{version}", markup=False)


def _remove(config: DictConfig, console: Console) -> None:
    catalog = Catalog.open(config.lake)
    with ProgressDisplay(console, "removing") as progress:
        done = catalog.remove(config.where, reason=config.reason, progress=progress)
    _print_report(console, done)


def _gc(config: DictConfig, console: Console) -> None:
    catalog = Catalog.open(config.lake)
    with ProgressDisplay(console, "collecting") as progress:
        done = catalog.gc(
            config.older_than, keep_versions=config.keep_versions, dry_run=config.dry_run, progress=progress
        )
    _print_report(console, done)


def _diff(config: DictConfig, console: Console) -> None:
    _print_report(console, Catalog.open(config.lake).diff(config.before, config.after))


def _print_report(console: Console, report: object) -> None:
    console.print(str(report), markup=False, soft_wrap=True)


def _sql(config: DictConfig, console: Console) -> None:
    print_frame(console, open_catalog(config).sql(config.query))


def _explain(config: DictConfig, console: Console) -> None:
    console.print(explain(open_catalog(config), read_mixture(config), **read_settings(config)))


def _run(config: DictConfig, console: Console) -> None:
    run = Run.start(
        open_catalog(config), config.name, read_mixture(config), **read_settings(config), composed=plain(config)
    )
    console.print(f"started run {run.name} over samples@{run.config.catalog_version}")


def _fork(config: DictConfig, console: Console) -> None:
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
    console.print(
        f"started run {fork.name}, which goes on from {run.name} at chunk {config.at_chunk:,}, over "
        f"samples@{fork.config.catalog_version}"
    )


def _version(catalog: Catalog, version: object) -> Catalog | None:
    if version is None or version == "newest":
        return catalog if version else None
    if isinstance(version, bool) or not isinstance(version, int):
        raise ConfigError(f"version is {version!r}; expected a number, or newest")
    return catalog.at(version=version)


def _runs(config: DictConfig, console: Console) -> None:
    print_frame(console, list_runs(open_catalog(config)))


def _schedule(config: DictConfig, console: Console) -> None:
    if config.follow and config.num_chunks is not None:
        raise ConfigError("follow=true schedules until the run ends; leave num_chunks out")
    if config.lookahead is not None and not config.follow:
        raise ConfigError("lookahead is for follow=true; without it num_chunks says how many")
    run = Run.load(open_catalog(config), config.run)
    with ProgressDisplay(console, f"scheduling {run.name}") as progress:
        if config.follow:
            lookahead = 4 * run.config.lanes if config.lookahead is None else config.lookahead
            num = run.follow(lookahead=lookahead, progress=progress)
        else:
            num = run.schedule(100 if config.num_chunks is None else config.num_chunks, progress=progress)
    last, _, is_ended, _ = run.chunks.last()
    console.print(f"{num:,} chunks; the last one is {last:,}{', which ends the run' if is_ended else ''}")


def _adapt(config: DictConfig, console: Console) -> None:
    run = Run.load(open_catalog(config), config.run)
    if config.replay:
        print_replay(console, run, plain(config.adapt), config.rows)
        return
    if config.adapt is not None:
        raise ConfigError("adapt=… is for --replay; a run adapts as it was declared")
    adapter = Adapter(run)
    with ProgressDisplay(console, f"adapting {run.name}") as progress:
        num = adapter.follow(progress=progress) if config.follow else adapter.catch_up()
    console.print(f"{num:,} steps taken in; the last one is {adapter.last_step:,}")


def _weights(config: DictConfig, console: Console) -> None:
    run = Run.load(open_catalog(config), config.run)
    if config.set:
        chunk = run.set_weights(plain(config.set), from_chunk=config.from_chunk)
        console.print(f"set from chunk {chunk:,} on")
    elif config.from_chunk is not None:
        raise ConfigError("from_chunk is given, but no weights to set: set.NAME=SHARE")
    print_frame(console, run.weights())


def _samples(config: DictConfig, console: Console) -> None:
    print_frame(console, Run.load(open_catalog(config), config.run).samples(config.chunk))


def _lineage(config: DictConfig, console: Console) -> None:
    print_frame(console, Run.load(open_catalog(config), config.run).lineage(config.where))


def _plot(config: DictConfig, console: Console) -> None:
    for path in write_plots(config):
        console.print(str(path), markup=False, soft_wrap=True)


COMMANDS = {
    "demo": Command(summary="run the main job on the text of this Python installation", function=_demo),
    "register": Command(summary="index files where they lie", function=_register),
    "datasets": Command(summary="list the datasets of a catalog version", function=_datasets),
    "properties": Command(summary="list the properties of a catalog version", function=_properties),
    "history": Command(summary="list the catalog's versions", function=_history),
    "diff": Command(summary="compare two catalog versions", function=_diff),
    "refresh": Command(summary="bring a dataset up to date with its files", function=_refresh, positional="name"),
    "add": Command(summary="give samples one property more", function=_add, positional="source"),
    "tokenize": Command(
        summary="write a dataset's tokens once, and register them", function=_tokenize, positional="name"
    ),
    "unregister": Command(summary="take a dataset away", function=_unregister, positional="name"),
    "remove": Command(summary="take samples out of their datasets, by predicate", function=_remove, positional="where"),
    "gc": Command(summary="collect old catalog versions that no run is pinned to", function=_gc),
    "sql": Command(summary="query the lake, read-only", function=_sql, positional="query"),
    "explain": Command(summary="dry-run a mixture or a whole run: what it finds, when it runs out", function=_explain),
    "run": Command(summary="declare a training run", function=_run),
    "fork": Command(summary="go on from a chunk of a run with something else", function=_fork),
    "runs": Command(summary="list the runs of a lake", function=_runs),
    "schedule": Command(summary="draw and commit a run's next chunks, or follow its loaders", function=_schedule),
    "adapt": Command(summary="adapt a run's weights to its losses, or replay another policy", function=_adapt),
    "weights": Command(summary="list a run's weights versions and their causes, or set weights", function=_weights),
    "samples": Command(summary="list the samples of a chunk in delivery order", function=_samples),
    "lineage": Command(summary="find the chunks that drew some samples", function=_lineage, positional="where"),
    "plot": Command(summary="draw plots of a run or a property, as files", function=_plot, positional="kind"),
}
