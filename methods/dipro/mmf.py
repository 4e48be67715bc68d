"""MMF, multiscale multimodal fusion: EHR meets films within intervals, then over the whole stay.

Paper section 2.4. N counts the valid pairs of a batch, B its samples, L hours, R regions.

    E_global  every hour in the light of the stay           methods.encoders.EhrEncoder
    E_local   the hours within an interval                  IntervalAttention
    D_fuse    dynamic features that looked at E_local       LocalFusion
    H         hours that looked at all D_fuse               GlobalFusion
    cls       one token per output, over [cls ; D_fuse ; H] MultiscaleFusion
    then      static features and demographics              StaticFusion
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.contract import TaskSpec
from bench.data.batch import Batch
from methods.attention import Attention, EncoderLayer
from methods.dipro.config import DiProConfig
from methods.encoders import EhrEncoder

Maps = dict[str, Tensor]
"""Attention maps by name."""


@dataclass(frozen=True)
class Intervals:
    """The time between the films of N pairs, and the EHR hours of their samples.

    sample: int64 [N]; which sample of the batch a pair belongs to
    start, end: float [N, 1]; t_i and t_{i+1}
    hours: float [N, L]; t_j
    hour_valid: bool [N, L]
    """

    sample: Tensor
    start: Tensor
    end: Tensor
    hours: Tensor
    hour_valid: Tensor

    @classmethod
    def of(cls, batch: Batch) -> Intervals:
        """The intervals of a batch's valid pairs."""
        pairs = batch.layout.pairs
        sample = pairs.index // max(pairs.shape[1], 1)
        start, end = pairs.pack(batch.pair_hours).split(1, dim=-1)
        hours, valid = (x.index_select(0, sample) for x in (batch.ehr_hours, batch.ehr_valid))
        return cls(sample, start, end, hours, valid)

    @property
    def inside(self) -> Tensor:
        """t_i <= t_j <= t_{i+1}, bool [N, L]."""
        return self.hour_valid & (self.start <= self.hours) & (self.hours <= self.end)

    @property
    def nearness(self) -> Tensor:
        """M_ij within the interval: minus the hours to its centre, float [N, L]."""
        return -(self.hours - (self.start + self.end) / 2).abs()

    @property
    def times(self) -> Tensor:
        """[t_j - t_i, t_{i+1} - t_j, sigmoid of their product], float [N, L, 3]."""
        since, until = self.hours - self.start, self.end - self.hours
        return torch.stack([since, until, (since * until).sigmoid()], dim=-1)


class IntervalAttention(nn.Module):
    """E_local_i = softmax(Q Kᵀ / √d_h + M_i) V with Q from times T_i and K, V from E_global."""

    def __init__(self, d: int, n_heads: int) -> None:
        super().__init__()
        self.f_te = nn.Sequential(nn.Linear(3, d // 2), nn.GELU(), nn.Linear(d // 2, d))
        self.attention = Attention(d, n_heads)

    def forward(self, E_global: Tensor, intervals: Intervals) -> Tensor:
        """Return E_local, float [N, L, d]; zero for an interval without an hour.

        Args:
            E_global: float [B, L, d]
            intervals: N of them
        """
        T, E = self.f_te(intervals.times), E_global.index_select(0, intervals.sample)
        return self.attention(T, E, E, intervals.inside, intervals.nearness)

    def weights(self, E_global: Tensor, intervals: Intervals) -> Tensor:
        """Attention to each hour, mean over heads and over querying hours: float [N, L]."""
        T, E = self.f_te(intervals.times), E_global.index_select(0, intervals.sample)
        weights = self.attention.weights(T, E, intervals.inside, intervals.nearness)
        queries = intervals.hour_valid[..., None]
        return (weights * queries).sum(dim=1) / queries.sum(dim=1).clamp_min(1)


class LocalFusionLayer(nn.Module):
    """D_fuse_i = LayerNorm(D_i + CrossAttn(D_i, [D_i ; E_local_i])), each modality projected first.

    Without `ehr` the keys are D_i alone.
    """

    def __init__(self, d: int, n_heads: int, ehr: bool) -> None:
        super().__init__()
        self.region_proj = nn.Linear(d, 3 * d)
        self.ehr_proj = nn.Linear(d, 2 * d) if ehr else None
        self.attention = Attention(d, n_heads)
        self.norm = nn.LayerNorm(d)

    def forward(self, D: Tensor, E_local: Tensor, hour_valid: Tensor) -> Tensor:
        """Return float [N, R, d] from D of that shape, E_local [N, L, d] and hour_valid [N, L]."""
        query, key, value = self.region_proj(D).chunk(3, dim=-1)
        valid = valid_everywhere(D)
        if self.ehr_proj is not None:
            ehr_key, ehr_value = self.ehr_proj(E_local).chunk(2, dim=-1)
            key, value = torch.cat([key, ehr_key], dim=1), torch.cat([value, ehr_value], dim=1)
            valid = torch.cat([valid, hour_valid], dim=1)
        return self.norm(D + self.attention(query, key, value, valid))


class LocalFusion(nn.Module):
    """Fusion within each interval: 1 layer (progression, length of stay) or 2 (mortality)."""

    def __init__(self, d: int, n_heads: int, n_layers: int, ehr: bool) -> None:
        super().__init__()
        self.interval = IntervalAttention(d, n_heads) if ehr else None
        self.layers = nn.ModuleList(LocalFusionLayer(d, n_heads, ehr) for _ in range(n_layers))

    def forward(self, D: Tensor, E_global: Tensor, intervals: Intervals) -> Tensor:
        """Return D_fuse, float [N, R, d], from D of that shape and E_global, float [B, L, d]."""
        # An interval without an hour has nothing to say: its rows are no keys.
        hour_valid = intervals.hour_valid & intervals.inside.any(dim=-1, keepdim=True)
        E_local = E_global if self.interval is None else self.interval(E_global, intervals)
        for layer in self.layers:
            D = layer(D, E_local, hour_valid)
        return D


class GlobalFusion(nn.Module):
    """H = LayerNorm(E_global + CrossAttn(E_global, D_global)): hours look at every region token."""

    def __init__(self, d: int, n_heads: int) -> None:
        super().__init__()
        self.attention = Attention(d, n_heads)
        self.norm = nn.LayerNorm(d)

    def forward(self, E_global: Tensor, D_global: Tensor, region_valid: Tensor) -> Tensor:
        """Return H, float [B, L, d], from D_global [B, P R, d] and region_valid [B, P R]."""
        return self.norm(E_global + self.attention(E_global, D_global, D_global, region_valid))


class MultiscaleFusion(nn.Module):
    """From dynamic features and EHR to one class token per output.

    Parts that the configuration turns off, or that need EHR where there is none, are not built:
    see the ablations in `methods.dipro.config`.
    """

    def __init__(self, config: DiProConfig, spec: TaskSpec) -> None:
        super().__init__()
        d, n_heads, dropout = config.d_model, config.n_heads, config.dropout
        self.ehr_encoder = EhrEncoder(spec.n_variables, d, n_heads, dropout) if spec.ehr else None
        self.local_fusion = self.global_fusion = None
        if config.mmf and config.local_fusion:
            self.local_fusion = LocalFusion(d, n_heads, config.local_fusion_layers, spec.ehr)
        if config.mmf and config.global_fusion and spec.ehr:
            self.global_fusion = GlobalFusion(d, n_heads)
        self.hour_tokens = spec.ehr and (config.global_fusion or not config.mmf)
        self.cls_token = nn.Parameter(torch.randn(1, spec.n_outputs, d))
        self.layer = EncoderLayer(d, n_heads, dropout)

    def forward(self, D: Tensor, batch: Batch, with_attention: bool = False) -> tuple[Tensor, Maps]:
        """Fuse dynamic features D, float [N, R, d], with the batch's EHR.

        Returns:
            cls float [B, C, d], and on request the maps 'dynamic' [B, C, P, R] (class tokens to
            D_fuse) and 'interval' [B, P, L] (E_local to hours).
        """
        n_outputs, intervals = self.cls_token.shape[1], Intervals.of(batch)
        E_global = D.new_zeros(len(batch), 0, D.shape[-1])
        if self.ehr_encoder is not None:
            E_global, _ = self.ehr_encoder(batch.ehr_values, batch.ehr_valid)
        D_fuse = D if self.local_fusion is None else self.local_fusion(D, E_global, intervals)
        tokens, valid = self._sequence(D_fuse, E_global, batch)
        fused = self.layer(tokens, valid)[:, :n_outputs]
        if not with_attention:
            return fused, {}
        weights = self.layer.self_attn.weights(tokens[:, :n_outputs], tokens, valid)
        maps = {"dynamic": region_map(weights[:, :, n_outputs:], batch)}
        if self.local_fusion is not None and self.local_fusion.interval is not None:
            rows = self.local_fusion.interval.weights(E_global, intervals)
            maps["interval"] = batch.layout.pairs.unpack(rows)
        return fused, maps

    def _sequence(self, D_fuse: Tensor, E_global: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """[class tokens ; D_global ; hours], float [B, C + P R + L, d], and what of it is valid."""
        D_global, region_valid = region_tokens(D_fuse, batch)
        cls = self.cls_token.expand(len(batch), -1, -1)
        tokens, valid = [cls, D_global], [valid_everywhere(cls), region_valid]
        if self.hour_tokens:
            H = E_global
            if self.global_fusion is not None:
                H = self.global_fusion(E_global, D_global, region_valid)
            tokens, valid = [*tokens, H], [*valid, batch.ehr_valid]
        return torch.cat(tokens, dim=1), torch.cat(valid, dim=1)


class GroupEmbedding(nn.Module):
    """GE(X) = softmax(X W) G: each token becomes a mixture of K vectors (appendix A.2.1)."""

    def __init__(self, d: int, k: int) -> None:
        super().__init__()
        self.W = nn.Parameter(nn.init.xavier_uniform_(torch.empty(d, k)))
        self.G = nn.Parameter(nn.init.xavier_uniform_(torch.empty(k, d)))

    def forward(self, X: Tensor) -> Tensor:
        """Mix: float [B, M, d] -> [B, M, d]."""
        return (X @ self.W).softmax(dim=-1) @ self.G


class StaticFusion(nn.Module):
    """Class tokens look at static features and demographics; LayerNorm with residual.

    Without static features (ablation std) the keys are demographics only, without EHR and
    demographics the static features only.
    """

    def __init__(self, config: DiProConfig, spec: TaskSpec) -> None:
        super().__init__()
        d = config.d_model
        self.demographic_encoder = (
            nn.Sequential(nn.Linear(spec.n_demographics, d), nn.ReLU(), nn.Dropout(config.dropout))
            if spec.ehr
            else None
        )
        self.group_embedding = GroupEmbedding(d, config.group_embedding_k)
        self.attention = Attention(d, config.n_heads)
        self.norm = nn.LayerNorm(d)

    def forward(
        self, cls: Tensor, S: Tensor | None, batch: Batch, with_attention: bool = False
    ) -> tuple[Tensor, Maps]:
        """Fuse class tokens, float [B, C, d], with S, float [N, R, d], and the demographics.

        Returns:
            float [B, C, d], and on request the map 'static' [B, C, P, R] (class tokens to S).
        """
        tokens, valid = [], []
        if S is not None:
            S_global, region_valid = region_tokens(S, batch)
            tokens, valid = [S_global], [region_valid]
        if self.demographic_encoder is not None:
            demographics = self.demographic_encoder(batch.demographics)[:, None]
            tokens, valid = [*tokens, demographics], [*valid, valid_everywhere(demographics)]
        keys, key_valid = self.group_embedding(torch.cat(tokens, dim=1)), torch.cat(valid, dim=1)
        maps = {}
        if with_attention and S is not None:
            maps["static"] = region_map(self.attention.weights(cls, keys, key_valid), batch)
        return self.norm(cls + self.attention(cls, keys, keys, key_valid)), maps


def region_tokens(rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Lay out the pairs' region features, float [N, R, d], as one sequence per sample.

    Returns:
        float [B, P R, d] and its mask, bool [B, P R].
    """
    tokens = batch.layout.pairs.unpack(rows).flatten(1, 2)
    return tokens, batch.pair_valid.repeat_interleave(rows.shape[1], dim=1)


def region_map(weights: Tensor, batch: Batch) -> Tensor:
    """Cut float [B, C, P R + more] to its region tokens: [B, C, P, R]."""
    shape = (batch.pair_valid.shape[1], TaskSpec.n_regions)
    return weights[:, :, : shape[0] * shape[1]].unflatten(-1, shape)


def valid_everywhere(tokens: Tensor) -> Tensor:
    """An all-True mask, bool [B, M], for tokens, float [B, M, d]."""
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
