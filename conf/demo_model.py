"""A small byte-level transformer, big enough to learn something in a minute on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class ByteTransformer(nn.Module):
    """A pre-norm decoder that never looks across documents."""

    def __init__(self, *, vocab_size: int, width: int, layers: int, sequence_length: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(sequence_length, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        """Return logits of shape (B, T, V) for the tokens that follow."""
        documents = batch["document_ids"]
        causal = torch.ones(documents.shape[1], documents.shape[1], dtype=torch.bool).tril()
        mask_B1TT = (causal & (documents[:, :, None] == documents[:, None, :]))[:, None]
        hidden_BTC = self.tokens(batch["input_ids"]) + self.positions(batch["position_ids"])
        for block in self.blocks:
            hidden_BTC = block(hidden_BTC, mask_B1TT)
        return functional.linear(self.norm(hidden_BTC), self.tokens.weight)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = max(1, width // 32)
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, hidden_BTC: torch.Tensor, mask_B1TT: torch.Tensor) -> torch.Tensor:
        heads = self.qkv(self.attention_norm(hidden_BTC)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (B, heads, T, C / heads)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask_B1TT)
        hidden_BTC = hidden_BTC + self.out(mixed.transpose(1, 2).flatten(2))
        changed_BTC: torch.Tensor = self.mlp(self.mlp_norm(hidden_BTC))
        return hidden_BTC + changed_BTC
