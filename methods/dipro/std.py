"""STD, spatiotemporal disentanglement: what stays and what changes between two films.

Paper section 2.2. For region r of pair i, with region features F:

    S_i^r = f_s([F_i^r ; F_{i+1}^r])      static
    D_i^r = f_d([F_i^r ; F_{i+1}^r])      dynamic

Pairs are packed here: N counts the valid pairs of a batch, so padding reaches no batch statistics.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.data.layout import Packing


def film_pairs(F: Tensor, pairs: Packing) -> Tensor:
    """Return [F_i ; F_{i+1}] of the valid pairs.

    Args:
        F: float [B, T, R, d]
        pairs: the N valid ones, through [B, T - 1]

    Returns:
        float [N, R, 2d]
    """
    return pairs.pack(torch.cat([F[:, :-1], F[:, 1:]], dim=-1))


class PairProjection(nn.Sequential):
    """f_s or f_d: Linear(2d, 4d) -> GELU -> Linear(4d, d) -> BatchNorm -> Dropout."""

    def __init__(self, d: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(2 * d, 4 * d),
            nn.GELU(),
            nn.Linear(4 * d, d),
            nn.BatchNorm1d(d),
            nn.Dropout(dropout),
        )

    def forward(self, pair: Tensor) -> Tensor:
        """Project each region alike: float [N, R, 2d] -> [N, R, d]."""
        return super().forward(pair.flatten(0, 1)).unflatten(0, pair.shape[:2])


class Disentanglement(nn.Module):
    """f_s and f_d side by side; without `static` only f_d is built."""

    def __init__(self, d: int, dropout: float, static: bool) -> None:
        super().__init__()
        self.f_s = PairProjection(d, dropout) if static else None
        self.f_d = PairProjection(d, dropout)

    def forward(self, pair: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return S (None without `static`) and D, float [N, R, d], of pairs, float [N, R, 2d]."""
        S = None if self.f_s is None else self.f_s(pair)
        return S, self.f_d(pair)
