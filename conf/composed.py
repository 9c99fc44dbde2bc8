"""From composed Hydra configs to the library's own records."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from mixlake.catalog import Catalog, ConfigError
from mixlake.mixing import Mixture


def plain(node: Any) -> Any:
    """Return a config node as plain dicts, lists and values."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def read_mixture(config: DictConfig) -> Mixture:
    """Return the mixture that was composed.

    Raises:
        ConfigError: it is missing or wrong.
    """
    if config.get("mixture") is None:
        raise ConfigError("no mixture is chosen; pass mixture=NAME, a file in the mixture/ group")
    return Mixture.from_dict(plain(config.mixture))


def open_catalog(config: DictConfig) -> Catalog:
    """Return the catalog of ``config.lake``, at ``config.version`` where one is given."""
    catalog = Catalog.open(config.lake)
    version = config.get("version")
    return catalog if version is None else catalog.at(version=version)
