"""How methods that compare films, and know no EHR by themselves, are given it.

The DiPro paper adds "our EHR encoder and attention fusion" to CheXRelNet, CheXRelFormer and SDPL,
and joins demographics to the series (appendix A.2.2); it says no more, so the reading is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.contract import TaskSpec
from bench.data.batch import Batch
from methods.attention import Attention
from methods.encoders import EhrEncoder


class EhrFusion(nn.Module):
    """Z' = LayerNorm(Z + MHA(Z, E, E)): image tokens look at the encoded hours E.

    The tokens of images are the queries: with one of them as the only key, as DiPro's own layer
    would have it, its attention would be trivial.
    """

    def __init__(self, d: int, spec: TaskSpec, n_heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = EhrEncoder(spec.n_variables + spec.n_demographics, d, n_heads, dropout)
        self.attention = Attention(d, n_heads)
        self.norm = nn.LayerNorm(d)

    def forward(self, Z: Tensor, batch: Batch) -> Tensor:
        """Fuse image tokens Z, float [B, M, d], with the batch's EHR; returns the same shape."""
        static = batch.demographics[:, None].expand(-1, batch.ehr_values.shape[1], -1)
        hours, cls = self.encoder(torch.cat([batch.ehr_values, static], dim=-1), batch.ehr_valid)
        E = torch.cat([cls[:, None], hours], dim=1)
        always = batch.ehr_valid.new_ones(len(batch), 1)
        valid = torch.cat([always, batch.ehr_valid], dim=1)
        return self.norm(Z + self.attention(Z, E, E, valid))
