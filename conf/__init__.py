"""The front door: Hydra groups, typed schemas and the `mixlake` command."""

__all__: list[str] = []
