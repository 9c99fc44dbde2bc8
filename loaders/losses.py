"""Losses per component, for reports and for adaptive mixing."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed
from torch.nn import functional

from mixlake.catalog import ConfigError
from mixlake.loaders.documents import NO_LABEL


def component_losses(logits: torch.Tensor, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the summed cross-entropy and the number of tokens with a loss, per component; ready to all-reduce.

    Over gradient accumulation, add up what the micro-batches give. It goes over the vocabulary once; a trainer that has
    the losses of its tokens needs only `sum_by_component`.

    Args:
        logits: shape (B, T, V), for the batch's ``labels``.
        batch: as a token loader yields it; labels of -100, and tokens without a component, have no loss.

    Returns:
        Losses in nats (float32) and counts (int64), both of shape (K,), K components.
    """
    labels = batch["labels"].to(logits.device)
    losses = functional.cross_entropy(
        logits.detach().flatten(0, 1).float(), labels.flatten(), ignore_index=NO_LABEL, reduction="none"
    )
    return sum_by_component(losses.view_as(labels), batch)


def sum_by_component(token_losses: torch.Tensor, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return losses of tokens that a trainer has already as sums and counts per component, both of shape (K,).

    Nothing waits for the GPU. What stands in ``token_losses`` where there is no label does not matter.

    Args:
        token_losses: cross-entropy in nats, shape (B, T) or (B * T,), before any mean.
        batch: as a token loader yields it.

    Raises:
        ConfigError: there are not as many losses as labels.
    """
    labels, component_ids = (batch[key].to(token_losses.device).flatten() for key in ("labels", "component_ids"))
    losses = token_losses.detach().flatten()
    if losses.shape != labels.shape:
        raise ConfigError(
            f"token_losses has shape {tuple(token_losses.shape)}, but the batch has {len(labels):,} labels; "
            "pass the losses of all tokens, with reduction='none'"
        )
    num = len(batch["components"])
    has_loss = (labels != NO_LABEL) & (component_ids >= 0)
    component = torch.where(has_loss, component_ids, num)  # the others go to a place that is cut off again
    sums = torch.zeros(num + 1, device=losses.device).index_add_(0, component, losses.float())
    counts = torch.zeros(num + 1, dtype=torch.int64, device=losses.device)
    return sums[:num], counts.index_add_(0, component, torch.ones_like(component))[:num]


def all_reduce_losses(
    loss_sum: torch.Tensor, num_tokens: torch.Tensor, group: distributed.ProcessGroup | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sums and counts of all data-parallel ranks, by one all-reduce of 2K numbers.

    Means of ranks must not be averaged: their counts differ. Without a process group it returns what it is given.

    Args:
        loss_sum: of this rank, shape (K,).
        num_tokens: of this rank, shape (K,).
        group: the data-parallel ranks; None is all.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return loss_sum, num_tokens
    both = torch.stack([loss_sum.double(), num_tokens.double()])  # counts are exact up to 2^53
    distributed.all_reduce(both, group=group)
    return both[0], both[1].long()
