"""How a run ends for ranks whose lanes give unequally many batches.

A trainer that talks to the others in every step must not take one more step than they do, and nobody knows in advance
how many sequences the texts of a lane make. So ranks may ask one another before every batch: one number each, in a gloo
group of their own, which disturbs no other.
"""

from __future__ import annotations

from enum import StrEnum

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from mixlake.catalog import ConfigError
from mixlake.loaders.placement import Group, Placement


class Ends(StrEnum):
    """When a rank's batches end."""

    EACH = "each"
    """With its own lanes."""
    TOGETHER = "together"
    """For all ranks before the first step for which one of them has no full batch."""
    PADDED = "padded"
    """For all ranks with the last batch of any; those that have none get padding."""


class Ending:
    """Says whether there is another batch for a rank."""

    def __init__(self, ends: str, batch_size: int, placement: Placement, group: Group | None) -> None:
        """Make the group in which ranks ask one another, where they have to: all of them do at the same time.

        Args:
            ends: one of `Ends`.
            batch_size: of a full batch.
            placement: where this process stands.
            group: the ranks; where there is none, all processes of torch.distributed, if they are as many.

        Raises:
            ConfigError: ``ends`` is unknown, or ranks are to ask one another and cannot.
        """
        if ends not in list(Ends):
            raise ConfigError(f"ends is {ends!r}; expected one of {', '.join(Ends)}")
        self.ends = Ends(ends)
        self._batch_size = batch_size
        self._group: dist.ProcessGroup | None = None
        if self.ends is not Ends.EACH and placement.world_size > 1:
            ranks = _ranks(placement, group)
            self._group = dist.new_group(ranks, backend="gloo", use_local_synchronization=True)

    def goes_on(self, num_items: int) -> bool:
        """Say whether there is another batch, for which this rank has so many items."""
        if self.ends is Ends.TOGETHER:
            return not self._is_any(num_items < self._batch_size)
        return self._is_any(num_items > 0)

    def _is_any(self, value: bool) -> bool:
        """Say whether something is so at any rank."""
        if self._group is None:
            return value
        flag = torch.tensor([value], dtype=torch.int32)
        dist.all_reduce(flag, dist.ReduceOp.MAX, self._group)
        return bool(flag.item())


def _ranks(placement: Placement, group: Group | None) -> list[int]:
    """Return the global ranks that share the run out among them with this one."""
    if isinstance(group, DeviceMesh):
        return [int(rank) for rank in group.mesh.flatten().tolist()]
    if group is not None:
        return dist.get_process_group_ranks(group)
    is_running = dist.is_available() and dist.is_initialized()
    if not is_running or (dist.get_rank(), dist.get_world_size()) != (placement.rank, placement.world_size):
        raise ConfigError(
            f"ends other than 'each' need group=, in which {placement.world_size} ranks ask one another; "
            "rank= and world_size= say it only where they are those of torch.distributed"
        )
    return list(range(placement.world_size))
