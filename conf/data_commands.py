"""What the commands about data do."""

from __future__ import annotations

import json
from typing import Any

from omegaconf import DictConfig

from mixlake.catalog import Catalog, Proposals, propose_properties, tokenize
from mixlake.catalog.tables import ColumnRow, describe_columns, describe_tables
from mixlake.conf.composed import open_catalog, plain, read_properties, read_source, read_tokenizer
from mixlake.conf.display import Answer, ProgressDisplay, Rows, counted


def register(config: DictConfig) -> Answer:
    """Index files where they lie."""
    catalog = Catalog.open(config.lake, create=True)
    proposed = _proposed(config) if config.properties == "infer" else None
    properties = read_properties(config.properties) if proposed is None else proposed.properties
    with ProgressDisplay(f"registering {config.name}") as progress:
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
    num_skipped = catalog.sql(f"SELECT file_id FROM skipped WHERE dataset = '{dataset.name}'").count()
    lines = [
        f"{dataset.name}: {counted(dataset.num_samples, 'sample')} in {counted(dataset.num_files, 'file')}, "
        f"{dataset.num_bytes:,} bytes; datasets@{version}"
    ]
    if num_skipped:
        left_out = counted(num_skipped, "record or file", "records or files")
        lines.append(f"left out: {left_out}; SELECT * FROM skipped tells which, and why")
    counts = {"num_samples": dataset.num_samples, "num_files": dataset.num_files, "num_bytes": dataset.num_bytes}
    done = {"dataset": dataset.name, "version": version, **counts, "num_skipped": num_skipped, "proposed": proposed}
    return Answer.of_report(done, "\n".join([*([] if proposed is None else [str(proposed)]), *lines]))


def _proposed(config: DictConfig) -> Proposals:
    return propose_properties(
        plain(config.uri),
        format=config.format,
        text=config.text,
        exclude=plain(config.exclude),
        options=plain(config.options),
    )


def datasets(config: DictConfig) -> Answer:
    """List the datasets."""
    return Answer.of_frame(open_catalog(config).datasets(), spare=("num_parts", "num_removed", "text", "registered_at"))


def properties(config: DictConfig) -> Answer:
    """List the properties."""
    return Answer.of_frame(open_catalog(config).properties())


def history(config: DictConfig) -> Answer:
    """List the catalog's versions."""
    frame = open_catalog(config).history()
    rows = frame.to_pylist()
    shown = [{**row, "details": _in_short(json.loads(row["details"]))} for row in rows]
    return Answer(data=rows, view=Rows(shown, frame.schema().names, spare=("num_samples",)))


def _in_short(details: dict[str, Any]) -> str:
    """Return what a version's details say to people: no ids, and names instead of what they stand for."""
    return "; ".join(f"{key}: {_names(value)}" for key, value in details.items() if key != "registration")


def _names(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number:,}" if isinstance(number, int) else name for name, number in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def refresh(config: DictConfig) -> Answer:
    """Bring a dataset up to date."""
    catalog = Catalog.open(config.lake)
    with ProgressDisplay(f"refreshing {config.name}") as progress:
        done = catalog.refresh(config.name, on_error=config.on_error, progress=progress)
    return Answer.of_report(done)


def add_property(config: DictConfig) -> Answer:
    """Give samples one property more."""
    catalog = Catalog.open(config.lake)
    with ProgressDisplay(f"adding {config.name}") as progress:
        version = catalog.add_property(
            config.name, read_source(config.source), plain(config.to), replace=config.replace, progress=progress
        )
    return Answer.of_report(
        {"property": config.name, "version": version}, f"{config.name} is added; datasets@{version}"
    )


def tokenize_dataset(config: DictConfig) -> Answer:
    """Write a dataset's tokens."""
    catalog = Catalog.open(config.lake)
    tokenizer = read_tokenizer(config.tokenizer)
    with ProgressDisplay(f"tokenizing {config.name}") as progress:
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
    num_tokens, num_samples = counts[0]["n"] or 0, catalog.dataset(config.into).num_samples
    return Answer.of_report(
        {"dataset": config.into, "version": version, "num_samples": num_samples, "num_tokens": num_tokens},
        f"{config.into}: {counted(num_tokens, 'token')} of {counted(num_samples, 'sample')}; datasets@{version}",
    )


def unregister(config: DictConfig) -> Answer:
    """Take a dataset away."""
    version = Catalog.open(config.lake).unregister(config.name)
    return Answer.of_report(
        {"dataset": config.name, "version": version},
        f"{config.name} is unregistered; older versions still show it; datasets@{version}",
    )


def remove(config: DictConfig) -> Answer:
    """Take samples out."""
    catalog = Catalog.open(config.lake)
    with ProgressDisplay("removing") as progress:
        done = catalog.remove(config.where, reason=config.reason, progress=progress)
    return Answer.of_report(done)


def collect(config: DictConfig) -> Answer:
    """Collect old versions."""
    catalog = Catalog.open(config.lake)
    with ProgressDisplay("collecting") as progress:
        done = catalog.gc(
            config.older_than, keep_versions=config.keep_versions, dry_run=config.dry_run, progress=progress
        )
    return Answer.of_report(done)


def compare(config: DictConfig) -> Answer:
    """Compare two versions."""
    return Answer.of_report(Catalog.open(config.lake).diff(config.before, config.after))


def tables(config: DictConfig) -> Answer:
    """List the tables, or the columns of one."""
    catalog = open_catalog(config)
    if config.table is None:
        rows = describe_tables(catalog)
        return Answer(data=rows, view=Rows(rows, list(rows[0])))
    rows = [row._asdict() for row in describe_columns(catalog, config.table)]
    return Answer(data=rows, view=Rows(rows, ColumnRow._fields))


def query(config: DictConfig) -> Answer:
    """Query the lake."""
    return Answer.of_frame(open_catalog(config).sql(config.query))
