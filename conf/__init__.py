"""The front door: Hydra configs, and the `mixlake` command that composes them."""

__all__: list[str] = []
