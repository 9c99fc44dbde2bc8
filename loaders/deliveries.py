"""What is handed from the lanes to the trainer: items, with what must be kept of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from mixlake.loaders.stats import Counts

Item = TypeVar("Item")

Place: TypeAlias = Any
"""Where a lane stands after an item, as `Lanes.lane_state` understands it: one is made for every item."""


class Delivery(NamedTuple, Generic[Item]):
    """One item, with what must be kept when it has been delivered; a tuple, as millions of them are made and sent."""

    turn: tuple[int, int]
    """(items that the lane gave before, lane): items are delivered in this order."""
    item: Item
    place: Place
    """Where the lane stands after the item."""


class Source(Protocol[Item]):
    """What workers read."""

    is_sent: bool
    """Whether items go to another process, so that texts in them may stay UTF-8 until they are there."""

    def deliveries(self, worker: int, num_workers: int, *, schedules: bool | None) -> Iterator[Delivery[Item]]:
        """Yield the items of a worker's lanes in turn; see `Lanes.deliveries`."""

    def counts(self) -> Counts:
        """Return what this process has read."""
