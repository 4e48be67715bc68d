"""PAE, progression-aware enhancement: read backwards, what worsened has improved.

Paper section 2.3. The reversed pair S~ = f_s([F_{i+1} ; F_i]), D~ = f_d([F_{i+1} ; F_i]) should
have the same static features and, for a head f_k per disease, the opposite progression.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.data.vocabulary import DISEASES, N_PROGRESSION_CLASSES, Progression

REVERSALS = ("swap", "interleave")


def reversed_pair(pair: Tensor, reversal: str = "swap") -> Tensor:
    """Return [F_{i+1} ; F_i] of [F_i ; F_{i+1}], float [..., 2d].

    'interleave' mixes the two element by element, as the official code does (ledger M1).
    """
    first, second = pair.chunk(2, dim=-1)
    if reversal == "interleave":
        return torch.stack([second, first], dim=-1).flatten(-2)
    return torch.cat([second, first], dim=-1)


def reversed_labels(labels: Tensor) -> Tensor:
    """rev(y): worsened and improved trade places; no change and not mentioned stay. int64 [...]."""
    # torch.compile compares tensors with plain numbers only.
    worsened, improved = Progression.WORSENED.value, Progression.IMPROVED.value
    swapped = torch.where(labels == worsened, improved, labels)
    return torch.where(labels == improved, worsened, swapped)


class RegionHeads(nn.ModuleList):
    """f_k, one per disease: Linear(d, d) -> ReLU -> Linear(d, 3), the same for every region."""

    def __init__(self, d: int) -> None:
        super().__init__(
            nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, N_PROGRESSION_CLASSES))
            for _ in DISEASES
        )

    def forward(self, D: Tensor) -> Tensor:
        """Logits float [N, R, 7, 3] of dynamic features, float [N, R, d]."""
        return torch.stack([f_k(D) for f_k in self], dim=-2)
