"""Output heads that several methods share: from features to logits in the contract's shape."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.contract import TaskSpec


class Head(nn.Sequential):
    """Linear(d_in, d) -> ReLU -> Dropout -> Linear(d, n)."""

    def __init__(self, d_in: int, d: int, n: int, dropout: float) -> None:
        super().__init__(nn.Linear(d_in, d), nn.ReLU(), nn.Dropout(dropout), nn.Linear(d, n))


class TaskHeads(nn.ModuleList):
    """One head per output of the task: seven for progression (one a disease), else one."""

    def __init__(self, spec: TaskSpec, d_in: int, d: int, dropout: float) -> None:
        super().__init__(Head(d_in, d, spec.n_logits, dropout) for _ in range(spec.n_outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of features with one row per output, [B, n_outputs, d_in], or shared, [B, d_in].

        Returns:
            float [B, 7, 3] (progression), [B, 1] (mortality) or [B, 4] (length of stay).
        """
        per_output = x[:, None].expand(-1, len(self), -1) if x.ndim == 2 else x
        logits = torch.stack([head(per_output[:, i]) for i, head in enumerate(self)], dim=1)
        return logits if len(self) > 1 else logits[:, 0]
