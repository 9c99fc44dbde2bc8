"""The front door: Hydra configs, and the `mixlake` command that composes them."""

from mixlake.conf.loading import load_config

__all__ = ["load_config"]
