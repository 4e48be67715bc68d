"""DiPro's own loss terms (paper sections 2.2 and 2.3), each a float32 scalar.

They are means over valid pairs, regions and features, as in the released code: the paper prints
sums, but its weights belong to the means (ledger M2).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.data.layout import Packing
from bench.objective import progression_loss
from methods.dipro.pae import reversed_labels


def orthogonality(S: Tensor, D: Tensor) -> Tensor:
    """L_orth = mean over (i, r) of cos(S_i^r, D_i^r)^2; S and D are float [N, R, d]."""
    return F.cosine_similarity(S.float(), D.float(), dim=-1).square().mean()


def temporal_consistency(S: Tensor, neighbours: Packing) -> Tensor:
    """L_temp = mean over neighbouring valid pairs, r and features of (S_i^r - S_{i+1}^r)^2.

    Args:
        S: float [B, P, R, d]
        neighbours: pairs whose next one is valid, too, through [B, P - 1]

    Returns:
        0 if no sample has two pairs.
    """
    change = neighbours.pack((S[:, :-1] - S[:, 1:]).float())
    return change.square().sum() / max(change.numel(), 1)


def dynamic_progression(
    logits: Tensor, logits_reversed: Tensor, labels: Tensor, class_weights: Tensor
) -> Tensor:
    """L_PAE(dynamic) = sum_k weighted mean of CE(f_k(D), y_k) and CE(f_k(D~), rev(y_k)) together.

    Args:
        logits, logits_reversed: float [N, R, 7, 3]
        labels: int64 [N, R, 7]; unlabelled regions do not count
        class_weights: float32 [7, 3], the same for reversed labels (ledger T6)
    """
    return progression_loss(
        torch.cat([logits, logits_reversed]),
        torch.cat([labels, reversed_labels(labels)]),
        class_weights,
    )


def static_reversal(S: Tensor, S_reversed: Tensor) -> Tensor:
    """L_PAE(static) = mean of (S - stopgrad(S~))^2; both are float [N, R, d]."""
    return F.mse_loss(S.float(), S_reversed.detach().float())
