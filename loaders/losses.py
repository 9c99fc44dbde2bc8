"""Losses per component, for reports and for adaptive mixing."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from mixlake.loaders.documents import NO_LABEL


def component_losses(logits: torch.Tensor, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the summed cross-entropy and the number of tokens with a loss, per component; ready to all-reduce.

    Args:
        logits: shape (B, T, V), for the batch's ``labels``.
        batch: as a token loader yields it.

    Returns:
        Losses in nats (float32) and counts (int64), both of shape (K,), K components.
    """
    labels = batch["labels"].to(logits.device)
    losses = functional.cross_entropy(
        logits.detach().flatten(0, 1).float(), labels.flatten(), ignore_index=NO_LABEL, reduction="none"
    )
    return sum_by_component(losses.view_as(labels), batch)


def sum_by_component(token_losses: torch.Tensor, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return per-token losses that are there already, shape (B, T), as sums and counts per component, shape (K,)."""
    has_loss = batch["labels"].to(token_losses.device) != NO_LABEL
    component = batch["component_ids"].to(token_losses.device)[has_loss]
    num_components = len(batch["components"])
    loss_sum = torch.zeros(num_components, device=token_losses.device)
    loss_sum.index_add_(0, component, token_losses.detach()[has_loss].float())
    return loss_sum, torch.bincount(component, minlength=num_components)
