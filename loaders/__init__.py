"""How training reads it: chunk reading, ordering, packing, torch datasets and state."""

__all__: list[str] = []
