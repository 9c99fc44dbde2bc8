"""From composed Hydra configs to the library's own records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mixlake.catalog import Catalog, ConfigError
from mixlake.catalog.tokenizers import TokenizerFile, TokenizerSpec
from mixlake.mixing import Mixture, Run

FROM_RUN = "from_run"
"""The name under which the declaration of another run is composed."""


def plain(node: Any) -> Any:
    """Return a config node as plain dicts, lists and values."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def read_source(node: Any) -> Any:
    """Return what a property is computed from: SQL, a declaration, or the batch function that ``_target_`` names.

    Raises:
        ConfigError: the function cannot be made.
    """
    declared = plain(node)
    if not isinstance(declared, dict):
        return declared
    if "_target_" in declared:
        return instance(declared)
    return {key: read_source(value) for key, value in declared.items()}


def read_tokenizer(node: Any) -> TokenizerSpec:
    """Return a tokenizer as it was composed: ``bytes``, a path, or the fields of a TokenizerFile.

    Raises:
        ConfigError: it has other fields.
    """
    given = plain(node)
    if not isinstance(given, dict):
        return str(given)
    try:
        return TokenizerFile(**{**given, "special_tokens": tuple((given.get("special_tokens") or {}).items())})
    except TypeError as error:
        raise ConfigError(f"tokenizer is {given}: {error}; fields: {', '.join(TokenizerFile.__slots__)}") from error


def read_properties(node: Any) -> dict[str, Any]:
    """Return the properties that were composed, by name."""
    return {name: read_source(source) for name, source in (plain(node) or {}).items()}


def instance(declared: dict[str, Any]) -> Any:
    """Return what ``_target_`` names, made with the other values.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        return instantiate(declared)
    except InstantiationException as error:
        causes: list[BaseException] = [error]
        while causes[-1].__cause__ is not None:
            causes.append(causes[-1].__cause__)
        raise ConfigError(f"{declared['_target_']}: {str(causes[-1]).splitlines()[0]}") from error


def read_mixture(config: DictConfig) -> Mixture:
    """Return the mixture that was composed.

    Raises:
        ConfigError: it is missing or wrong.
    """
    if config.get("mixture") is None:
        raise ConfigError("no mixture is chosen; pass mixture=NAME, a file in the mixture/ group")
    return Mixture.from_dict(plain(config.mixture))


def read_settings(config: DictConfig) -> dict[str, Any]:
    """Return what a run is declared with besides its mixture, as `mixlake.mixing.Run.start` and `fork` take it."""
    keys = ("curriculum", "seed", "chunk_size", "lanes", "length", "step", "tokens_per_byte", "tokenizer", "adapt")
    settings = {key: plain(config[key]) for key in keys if key in config}
    if settings.get("curriculum") == {}:  # curriculum=none
        settings["curriculum"] = None
    return settings


def write_declaration(run: Run, folder: Path, keys: Sequence[str]) -> dict[str, str]:
    """Write what a run was declared with as config groups; return, by group, the override that chooses it.

    Args:
        run: the run.
        folder: where the groups go.
        keys: which of its settings, besides mixture, curriculum and adapt.
    """
    config = run.config
    settings = {
        "seed": config.seed,
        "chunk_size": config.chunk_size,
        "lanes": config.lanes,
        "length": config.length and config.length.to_dict(),
        "step": config.step and config.step.to_dict(),
        **config.estimate(is_kept=False),
    }
    groups: dict[str, dict[str, Any]] = {
        "mixture": config.mixture.to_dict(),
        "origin": {key: settings[key] for key in keys},
    }
    if config.curriculum is not None:
        groups["curriculum"] = _without_common(config.curriculum.to_dict())
    if config.adapt is not None:
        groups["adapt"] = config.adapt.to_dict()
    for group, declared in groups.items():
        package = "# @package _global_\n" if group == "origin" else ""
        (folder / group).mkdir()
        (folder / group / f"{FROM_RUN}.yaml").write_text(package + OmegaConf.to_yaml(declared), encoding="utf-8")
    return {group: f"{group}={FROM_RUN}" for group in groups}


def _without_common(curriculum: dict[str, Any]) -> dict[str, Any]:
    """Return a curriculum whose stages leave to the run's mixture what all of them share, so that it can be changed."""
    mixtures = [stage["mixture"] for stage in curriculum["stages"].values() if stage["mixture"] is not None]
    for mixture in mixtures:
        del mixture["unit"], mixture["shuffle"]
    return curriculum


def open_catalog(config: DictConfig) -> Catalog:
    """Return the catalog of ``config.lake``, at ``config.version`` or ``config.timestamp`` where one is given."""
    catalog = Catalog.open(config.lake)
    version, timestamp = config.get("version"), config.get("timestamp")
    return catalog if version is None and timestamp is None else catalog.at(version=version, timestamp=timestamp)
