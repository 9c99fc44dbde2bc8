"""Configs composed in Python as the command line composes them, for notebooks and scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from mixlake.catalog import ConfigError
from mixlake.conf.cli import check_complete
from mixlake.conf.composed import read_mixture, read_settings
from mixlake.conf.config_errors import CONFIG_ERRORS, compose_with, explain_config_error
from mixlake.conf.overrides import hydra_arguments
from mixlake.conf.schema import store_schemas
from mixlake.mixing import Curriculum


def load_config(*overrides: str, config_dir: str | Path | None = None) -> dict[str, Any]:
    """Return what `mixlake run` would declare a run with, as arguments of `Run.start` and `explain`.

    Args:
        overrides: as on the command line: ``mixture=pile_natural``, ``mixture.components.german.weight=0.3``.
        config_dir: a folder with groups of your own: ``mixture/both.yaml`` in it is ``mixture=both``.

    Raises:
        ConfigError: a group, a key or a value is wrong.

    >>> found = load_config("mixture=slimpajama", "mixture.components.books.weight=8", "seed=7")
    >>> found["seed"], {c.name: c.weight for c in found["mixture"].components}["books"]
    (7, 8.0)
    """
    _, given = hydra_arguments("run", None, overrides)
    if config_dir is not None:
        given.append(f"hydra.searchpath=[file://{Path(config_dir).resolve()}]")
    store_schemas()
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()  # a notebook may have one of its own
    try:
        with initialize_config_module("mixlake.conf", version_base="1.3"):
            config = compose_with(lambda wanted: compose("run", wanted), [*given, "name=composed"])
        check_complete("run", config)
        settings = {key: value for key, value in read_settings(config).items() if value is not None}
    except CONFIG_ERRORS as error:
        raise ConfigError(explain_config_error(error)) from error
    finally:
        GlobalHydra.instance().hydra = before
    mixture = read_mixture(config)
    if "curriculum" in settings:
        settings["curriculum"] = Curriculum.from_dict(settings["curriculum"], mixture)
    return {"mixture": mixture, **settings}
