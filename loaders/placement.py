"""Which part of a run a process reads, and whether it schedules: from numbers, or from torch.distributed's groups."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from mixlake.catalog import ConfigError

if TYPE_CHECKING:
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh

Group: TypeAlias = "dist.ProcessGroup | DeviceMesh"
"""The processes that share a run out among them: a data-parallel group, or the data-parallel dimensions of a mesh."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where a process stands among those that read a run."""

    rank: int
    """Data-parallel rank: processes of the same rank read the same."""
    world_size: int
    leads: bool
    """Whether it is the one process that speaks for all: of rank 0, with a group of global rank 0."""
    schedules: bool
    is_alone: bool
    """Whether no other process reads the run."""


def place(
    *, rank: int | None, world_size: int | None, group: Group | None, schedules: bool | None, num_lanes: int
) -> Placement:
    """Return where this process stands.

    Args:
        rank: data-parallel rank; 0 where neither it nor a group is given.
        world_size: number of data-parallel ranks; 1 where neither it nor a group is given.
        group: tells both. Tensor, pipeline and context parallel ranks have the same rank in groups of their own, so
            they read the same.
        schedules: whether this process schedules the run; where it is None, the one that leads does.
        num_lanes: the run's lanes, which the world size must divide.

    Raises:
        ConfigError: the numbers do not go together, or torch.distributed runs several processes and nothing says
            which part is whose.
    """
    if group is not None:
        if rank is not None or world_size is not None:
            raise ConfigError(f"rank={rank} and world_size={world_size} are known from group=; give one or the other")
        rank, world_size = _rank_in(group)
    elif rank is None and world_size is None and _num_processes() > 1:
        raise ConfigError(
            f"torch.distributed runs {_num_processes()} processes; say what this one reads: group= (the data-parallel "
            "group or mesh dimension), or rank= and world_size="
        )
    is_alone = group is None and world_size in (None, 1)
    rank, world_size = rank or 0, 1 if world_size is None else world_size
    if world_size < 1 or num_lanes % world_size:
        raise ConfigError(f"world_size is {world_size}; the run has {num_lanes} lanes, which it must divide")
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank is {rank}; expected 0 to {world_size - 1}")
    leads = rank == 0 if group is None else _global_rank() == 0
    return Placement(
        rank=rank,
        world_size=world_size,
        leads=leads,
        schedules=leads if schedules is None else schedules,
        is_alone=is_alone,
    )


def _rank_in(group: Group) -> tuple[int, int]:
    import torch.distributed as dist  # noqa: PLC0415  (as below)
    from torch.distributed.device_mesh import DeviceMesh  # noqa: PLC0415

    if isinstance(group, DeviceMesh):
        here: Sequence[int] | None = group.get_coordinate()
        if here is None:
            raise ConfigError(f"group is {group}, which this process (rank {dist.get_rank()}) is not part of")
        rank = 0
        for coordinate, size in zip(here, group.shape, strict=True):
            rank = rank * size + coordinate
        return rank, group.size()
    if not isinstance(group, dist.ProcessGroup) or dist.get_rank(group) < 0:
        raise ConfigError(f"group is {group!r}; expected a ProcessGroup or DeviceMesh that this process is part of")
    return dist.get_rank(group), dist.get_world_size(group)


def _global_rank() -> int:
    import torch.distributed as dist  # noqa: PLC0415  (worker processes need this module, but not torch)

    return dist.get_rank()


def _num_processes() -> int:
    dist = sys.modules.get("torch.distributed")  # whoever runs several processes has imported it
    if dist is None:
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
