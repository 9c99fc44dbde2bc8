"""Typed schemas of the command configs: Hydra refuses a wrong type or an unknown key when it composes.

Each class is the schema of conf/NAME.yaml, whose comments say what the keys mean. Mixtures are checked by
`mixlake.mixing.Mixture`, which knows more than types.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass(kw_only=True)
class LakeConfig:
    """Any command."""

    lake: str = MISSING
    output: str = "text"
    """``text`` for people, ``json`` for programs."""


@dataclass(kw_only=True)
class ReadConfig(LakeConfig):
    """A command that reads a catalog version."""

    version: int | None = None
    timestamp: str | None = None


@dataclass(kw_only=True)
class RegisterConfig(LakeConfig):
    """`mixlake register`."""

    name: str = MISSING
    uri: Any = MISSING
    format: str | None = None
    text: str | None = None
    properties: Any = field(default_factory=dict)
    exclude: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    replace: bool = MISSING
    on_error: str = MISSING


@dataclass(kw_only=True)
class DatasetConfig(LakeConfig):
    """A command about one dataset."""

    name: str = MISSING


@dataclass(kw_only=True)
class RefreshConfig(DatasetConfig):
    """`mixlake refresh`."""

    on_error: str = MISSING


@dataclass(kw_only=True)
class RemoveConfig(LakeConfig):
    """`mixlake remove`."""

    where: str = MISSING
    reason: str = MISSING


@dataclass(kw_only=True)
class GcConfig(LakeConfig):
    """`mixlake gc`."""

    older_than: str = MISSING
    keep_versions: int = MISSING
    dry_run: bool = MISSING


@dataclass(kw_only=True)
class DiffConfig(LakeConfig):
    """`mixlake diff`."""

    before: int = MISSING
    after: int | None = None


@dataclass(kw_only=True)
class TablesConfig(ReadConfig):
    """`mixlake tables`."""

    table: str | None = None


@dataclass(kw_only=True)
class SqlConfig(ReadConfig):
    """`mixlake sql`."""

    query: str = MISSING


@dataclass(kw_only=True)
class DeclaredConfig(LakeConfig):
    """A command that declares a run, or what one would do."""

    mixture: Any = MISSING
    curriculum: Any = None
    seed: int = MISSING
    chunk_size: int = MISSING
    lanes: int = MISSING
    length: Any = None
    step: Any = None
    tokens_per_byte: Any = None
    tokenizer: str | None = None


@dataclass(kw_only=True)
class ExplainConfig(DeclaredConfig):
    """`mixlake explain`."""

    version: int | None = None
    timestamp: str | None = None


@dataclass(kw_only=True)
class StartConfig(DeclaredConfig):
    """`mixlake run`."""

    adapt: Any = None
    name: str = MISSING


@dataclass(kw_only=True)
class ForkConfig(LakeConfig):
    """`mixlake fork`."""

    run: str = MISSING
    name: str = MISSING
    at_chunk: int = MISSING
    version: Any = None
    mixture: Any = MISSING
    curriculum: Any = None
    adapt: Any = None
    seed: int = MISSING
    length: Any = None
    step: Any = None
    tokens_per_byte: Any = None
    tokenizer: str | None = None


@dataclass(kw_only=True)
class RunConfig(LakeConfig):
    """A command about one run."""

    run: str = MISSING


@dataclass(kw_only=True)
class ScheduleConfig(RunConfig):
    """`mixlake schedule`."""

    num_chunks: int | None = None
    follow: bool = MISSING
    lookahead: int | None = None


@dataclass(kw_only=True)
class AdaptConfig(RunConfig):
    """`mixlake adapt`."""

    adapt: Any = None
    follow: bool = MISSING
    replay: bool = MISSING
    rows: int = MISSING


@dataclass(kw_only=True)
class WeightsConfig(RunConfig):
    """`mixlake weights`."""

    set: dict[str, Any] = field(default_factory=dict)
    from_chunk: int | None = None
    details: bool = False


@dataclass(kw_only=True)
class SamplesConfig(RunConfig):
    """`mixlake samples`."""

    chunk: int = MISSING


@dataclass(kw_only=True)
class LineageConfig(RunConfig):
    """`mixlake lineage`."""

    where: str = MISSING


@dataclass(kw_only=True)
class PlotConfig(ReadConfig):
    """`mixlake plot`."""

    kind: str = MISSING
    run: str | None = None
    over: str = MISSING
    property: str | None = None
    by: str | None = None
    where: str = MISSING
    stats: str | None = None
    to: str | None = None


@dataclass(kw_only=True)
class DemoRunConfig:
    """The run that the demo starts."""

    name: str | None = None
    seed: int = MISSING
    chunk_size: int = MISSING
    lanes: int = MISSING


@dataclass(kw_only=True)
class DemoTrainingConfig:
    """The training that the demo does."""

    steps: int = MISSING
    batch_size: int = MISSING
    sequence_length: int = MISSING
    num_workers: int = MISSING
    width: int = MISSING
    layers: int = MISSING
    learning_rate: float = MISSING


@dataclass(kw_only=True)
class DemoConfig(LakeConfig):
    """`mixlake demo`."""

    mixture: Any = MISSING
    adapt: Any = None
    run: DemoRunConfig = field(default_factory=DemoRunConfig)
    demo: DemoTrainingConfig = field(default_factory=DemoTrainingConfig)


@dataclass(kw_only=True)
class AddConfig(LakeConfig):
    """`mixlake add-property`."""

    name: str = MISSING
    source: Any = MISSING
    to: Any = None
    replace: bool = MISSING


@dataclass(kw_only=True)
class FitMixtureConfig(ReadConfig):
    """`mixlake fit-mixture`."""

    mixture: Any = MISSING
    fit: Any = MISSING
    into: str = MISSING
    replace: bool = MISSING
    floor: Any = MISSING
    cap: Any = MISSING
    experiments: int | None = None
    name: str = MISSING
    seed: int = MISSING
    concentration: tuple[float, float] = MISSING
    temperature: float = MISSING
    runs: str | None = None
    losses: str | None = None
    last: float = MISSING
    at_step: int | None = None
    importance: Any = None
    extrapolate: bool = MISSING


@dataclass(kw_only=True)
class TokenizeConfig(DatasetConfig):
    """`mixlake tokenize`."""

    into: str = MISSING
    to: str = MISSING
    tokenizer: Any = MISSING
    replace: bool = MISSING


SCHEMAS: dict[str, type[LakeConfig]] = {
    "demo": DemoConfig,
    "register": RegisterConfig,
    "datasets": ReadConfig,
    "properties": ReadConfig,
    "history": ReadConfig,
    "diff": DiffConfig,
    "refresh": RefreshConfig,
    "add-property": AddConfig,
    "tokenize": TokenizeConfig,
    "unregister": DatasetConfig,
    "remove": RemoveConfig,
    "gc": GcConfig,
    "tables": TablesConfig,
    "sql": SqlConfig,
    "explain": ExplainConfig,
    "run": StartConfig,
    "fork": ForkConfig,
    "runs": LakeConfig,
    "schedule": ScheduleConfig,
    "adapt": AdaptConfig,
    "weights": WeightsConfig,
    "fit-mixture": FitMixtureConfig,
    "samples": SamplesConfig,
    "lineage": LineageConfig,
    "plot": PlotConfig,
}


def store_schemas() -> None:
    """Make the schemas known to Hydra as ``schema/NAME``, which the configs name first in their defaults."""
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        store.store(group="schema", name=name, node=schema, package="_global_")
