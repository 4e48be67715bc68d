"""How methods that compare films, and know no EHR by themselves, are given it.

The DiPro paper adds "our EHR encoder and attention fusion" to CheXRelNet, CheXRelFormer and SDPL,
and joins demographics to the series (appendix A.2.2); it says no more, so the reading is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.contract import TaskSpec
from bench.data.batch import Batch
from methods.attention import Attention, EncoderLayer
from methods.encoders import EhrEncoder

QUERIES = ("image", "ehr")
"""What looks at what: image tokens at the hours, or the class token of the hours at the image."""


class EhrFusion(nn.Module):
    """Image tokens Z in the light of the encoded hours E (a class token and the hours).

    With query 'image', tokens look at the hours: Z' = LayerNorm(Z + MHA(Z, E, E)). With 'ehr', the
    direction of DiPro's own fusion (its paper, section 2.4), the hours look at each token z by
    itself, E' = LayerNorm(E + MHA(E, z, z)), and Z' is the class token of one more encoder layer
    over E'. As its only key z has all the weight, so every hour gets the same of it: not the
    default.
    """

    def __init__(
        self,
        d: int,
        spec: TaskSpec,
        n_heads: int = 8,
        dropout: float = 0.1,
        query: str = "image",
    ) -> None:
        super().__init__()
        self.encoder = EhrEncoder(spec.n_variables + spec.n_demographics, d, n_heads, dropout)
        self.attention = Attention(d, n_heads)
        self.norm = nn.LayerNorm(d)
        self.layer = EncoderLayer(d, n_heads, dropout) if query == "ehr" else None

    def forward(self, Z: Tensor, batch: Batch) -> Tensor:
        """Fuse image tokens Z, float [B, M, d], with the batch's EHR; returns the same shape."""
        static = batch.demographics[:, None].expand(-1, batch.ehr_values.shape[1], -1)
        hours, cls = self.encoder(torch.cat([batch.ehr_values, static], dim=-1), batch.ehr_valid)
        E = torch.cat([cls[:, None], hours], dim=1)
        always = batch.ehr_valid.new_ones(len(batch), 1)
        valid = torch.cat([always, batch.ehr_valid], dim=1)
        if self.layer is not None:
            return self._seen_by_hours(self.layer, Z, E, valid)
        return self.norm(Z + self.attention(Z, E, E, valid))

    def _seen_by_hours(self, layer: EncoderLayer, Z: Tensor, E: Tensor, valid: Tensor) -> Tensor:
        """Z' where the hours E, float [B, L + 1, d], are the queries and each token is a key."""
        z = Z.flatten(0, 1)[:, None]
        E, valid = (x.repeat_interleave(Z.shape[1], dim=0) for x in (E, valid))
        E = self.norm(E + self.attention(E, z, z, valid.new_ones(len(z), 1)))
        return layer(E, valid)[:, 0].unflatten(0, Z.shape[:2])
