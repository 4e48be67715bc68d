"""Multi-head attention and the post-norm encoder layer that every Transformer here is built of.

Parameters are named as in `torch.nn.MultiheadAttention` and `torch.nn.TransformerEncoderLayer`, so
published checkpoints fit. Unlike these, there is no separate path in evaluation mode (which returns
zeros at padded rows since torch 1.12), and a sample without any valid key gives zeros, not NaN.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import UserError


class Attention(nn.Module):
    """softmax(Q Kᵀ / √d_h + bias) V over `n_heads` heads, with input and output projections."""

    def __init__(self, d: int, n_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if d % n_heads:
            raise UserError(
                f"width {d} cannot be split into {n_heads} heads: choose a multiple of {n_heads}"
            )
        self.n_heads = n_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * d, d))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * d))
        self.out_proj = nn.Linear(d, d)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_valid: Tensor,
        key_bias: Tensor | None = None,
    ) -> Tensor:
        """Attend; the same keys are visible to every query of a sample.

        Args:
            query: float [B, Q, d]
            key, value: float [B, K, d]
            key_valid: bool [B, K]; other keys get weight 0
            key_bias: float [B, K], added to the logits of every query

        Returns:
            float [B, Q, d]; zero for a sample without a valid key.
        """
        q, k, v = (self._project(x, i) for i, x in enumerate((query, key, value)))
        bias = _additive_mask(key_valid, key_bias).to(q.dtype)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, bias[:, None, None], dropout)
        out = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out * key_valid.any(dim=-1)[:, None, None]

    def weights(
        self, query: Tensor, key: Tensor, key_valid: Tensor, key_bias: Tensor | None = None
    ) -> Tensor:
        """The weights that `forward` uses in evaluation mode, mean over heads: float [B, Q, K]."""
        q, k = self._project(query, 0), self._project(key, 1)
        logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        bias = _additive_mask(key_valid, key_bias)
        weights = (logits.float() + bias[:, None, None]).softmax(dim=-1).mean(dim=1)
        return weights * key_valid.any(dim=-1)[:, None, None]

    def _project(self, x: Tensor, part: int) -> Tensor:
        """Part 0, 1, 2 = query, key, value of x: [B, N, d] -> [B, n_heads, N, d / n_heads]."""
        weight, bias = (p.chunk(3)[part] for p in (self.in_proj_weight, self.in_proj_bias))
        return F.linear(x, weight, bias).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


def _additive_mask(key_valid: Tensor, key_bias: Tensor | None) -> Tensor:
    """Logit offsets float32 [B, K]: -inf where masked; finite in a sample without valid keys."""
    offset = torch.zeros(key_valid.shape, device=key_valid.device)
    if key_bias is not None:
        offset = offset + key_bias
    masked = ~key_valid & key_valid.any(dim=-1, keepdim=True)
    return offset.masked_fill(masked, float("-inf"))


class EncoderLayer(nn.Module):
    """Post-norm Transformer encoder layer: self-attention, then a ReLU feed-forward of width 4d."""

    def __init__(self, d: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(d, n_heads, dropout)
        self.linear1 = nn.Linear(d, 4 * d)
        self.linear2 = nn.Linear(4 * d, d)
        self.norm1 = nn.LayerNorm(d)
        self.norm2 = nn.LayerNorm(d)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Encode x, float [B, N, d]; tokens where valid (bool [B, N]) is False get no attention."""
        drop = self.dropout
        x = self.norm1(x + drop(self.self_attn(x, x, x, valid)))
        return self.norm2(x + drop(self.linear2(drop(F.relu(self.linear1(x))))))
