"""The commands, in the groups in which `mixlake` lists them: what each is for, an example, and what does it.

Names that are nouns show something and change nothing; names that are verbs do something, to one thing unless they say
otherwise: `remove` samples, `add-property`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from omegaconf import DictConfig

from mixlake.catalog import Catalog
from mixlake.conf import data_commands, run_commands
from mixlake.conf.display import Answer, make_console
from mixlake.conf.fitting import fit_mixture
from mixlake.mixing import list_runs


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One word after `mixlake`; its config is conf/NAME.yaml."""

    summary: str
    example: str
    """What comes after `mixlake NAME`."""
    function: Callable[[DictConfig], Answer]
    positional: str | None = None
    """The config key that an argument which is no override means."""


def _demo(config: DictConfig) -> Answer:
    from mixlake.conf.demo import run_demo  # noqa: PLC0415  (torch takes seconds, which no other command needs)

    run_demo(config, make_console(stderr=config.output == "json"))
    runs = list_runs(Catalog.open(config.lake)).to_pylist()
    return Answer(data=max(runs, key=lambda run: run["created_at"]), view="")


GROUPS: dict[str, dict[str, Command]] = {
    "start here": {
        "demo": Command(
            summary="run the main job on the text of this Python installation",
            example="demo.steps=50 mixture.components.python.weight=0.1",
            function=_demo,
        ),
    },
    "look at data": {
        "datasets": Command(
            summary="list the datasets of a catalog version", example="version=3", function=data_commands.datasets
        ),
        "properties": Command(
            summary="list the properties of a catalog version", example="lake=lake", function=data_commands.properties
        ),
        "tables": Command(
            summary="list the tables that SQL can ask, or the columns of one",
            example="samples",
            function=data_commands.tables,
            positional="table",
        ),
        "sql": Command(
            summary="query the lake, read-only",
            example='"SELECT language, count(*) AS n FROM samples GROUP BY 1"',
            function=data_commands.query,
            positional="query",
        ),
        "history": Command(
            summary="list the catalog's versions", example="output=json", function=data_commands.history
        ),
        "diff": Command(
            summary="compare two catalog versions", example="before=1 after=3", function=data_commands.compare
        ),
    },
    "change data": {
        "register": Command(
            summary="index files where they lie",
            example="name=manuals uri='data/*.jsonl' properties.language=meta.language",
            function=data_commands.register,
        ),
        "refresh": Command(
            summary="bring a dataset up to date with its files",
            example="manuals",
            function=data_commands.refresh,
            positional="name",
        ),
        "add-property": Command(
            summary="give samples one property more",
            example='name=is_long "num_chars > 2000"',
            function=data_commands.add_property,
            positional="source",
        ),
        "tokenize": Command(
            summary="write a dataset's tokens once, and register them",
            example="manuals into=tokens to=data/tokens tokenizer=bytes",
            function=data_commands.tokenize_dataset,
            positional="name",
        ),
        "remove": Command(
            summary="take samples out of their datasets, by predicate",
            example="\"url LIKE '%//example.org/%'\" reason='asked to'",
            function=data_commands.remove,
            positional="where",
        ),
        "unregister": Command(
            summary="take a dataset away", example="manuals", function=data_commands.unregister, positional="name"
        ),
        "gc": Command(
            summary="collect old catalog versions that no run is pinned to",
            example="older_than=30d dry_run=true",
            function=data_commands.collect,
        ),
    },
    "mix": {
        "explain": Command(
            summary="dry-run a mixture or a whole run: what it finds, when it runs out",
            example="--config-dir my mixture=both mixture.components.german.weight=0.3",
            function=run_commands.explain_mixture,
        ),
        "fit-mixture": Command(
            summary="design experiments with mixtures, or find the best mixture by them",
            example="--config-dir my mixture=both into=sweep experiments=24",
            function=fit_mixture,
        ),
        "run": Command(
            summary="declare a training run",
            example="--config-dir my mixture=both name=exp1",
            function=run_commands.start_run,
        ),
        "fork": Command(
            summary="go on from a chunk of a run with something else",
            example="run=exp1 name=exp1b at_chunk=40 mixture.components.german.weight=0.6",
            function=run_commands.fork_run,
        ),
        "schedule": Command(
            summary="draw and commit a run's next chunks, or follow its loaders",
            example="run=exp1 num_chunks=1000",
            function=run_commands.schedule_run,
        ),
        "adapt": Command(
            summary="adapt a run's weights to its losses, or replay another policy",
            example="--replay run=exp1 adapt=average",
            function=run_commands.adapt_run,
        ),
    },
    "look at runs": {
        "runs": Command(summary="list the runs of a lake", example="lake=lake", function=run_commands.runs),
        "weights": Command(
            summary="list a run's weights versions and their causes, or set weights by hand",
            example="run=exp1 set.german=0.4 from_chunk=1000",
            function=run_commands.weights,
        ),
        "samples": Command(
            summary="list the samples of a chunk in delivery order",
            example="run=exp1 chunk=7",
            function=run_commands.samples,
        ),
        "lineage": Command(
            summary="find the chunks that drew some samples",
            example="run=exp1 \"dataset = 'manuals' AND row = 17\"",
            function=run_commands.lineage,
            positional="where",
        ),
        "plot": Command(
            summary="draw plots of a run or a property, as files",
            example="shares run=exp1 to=shares.svg",
            function=run_commands.plot,
            positional="kind",
        ),
    },
}
COMMANDS: dict[str, Command] = {name: command for group in GROUPS.values() for name, command in group.items()}
