"""DiPro: disentangled film pairs, made aware of progression, fused with EHR at two time scales.

Liu et al., "Multimodal Disease Progression Modeling via Spatiotemporal Disentanglement and
Multiscale Alignment", NeurIPS 2025. README.md beside this file maps modules to equations and lists
every difference between the paper, the released code and this implementation.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from bench.contract import Output, Preset, Recipe, TaskSpec
from bench.data.batch import Batch, Inputs
from bench.data.vocabulary import Cxr, Task
from methods.base import Method
from methods.dipro import losses
from methods.dipro.config import ABLATIONS, RECIPE, DiProConfig, configure
from methods.dipro.mmf import MultiscaleFusion, StaticFusion
from methods.dipro.pae import RegionHeads, reversed_pair
from methods.dipro.std import Disentanglement, film_pairs
from methods.encoders import Encoder, ImageEncoder, encode_valid
from methods.heads import TaskHeads


class RegionEncoder(Encoder):
    """F: ConvNet over a crop, then Linear -> BatchNorm -> ReLU -> Dropout (paper section 2.1)."""

    def __init__(self, config: DiProConfig) -> None:
        super().__init__()
        self.width = config.d_model
        self.images = ImageEncoder(config.backbone, config.weights)
        self.adapter = nn.Sequential(
            nn.Linear(self.images.width, self.width),
            nn.BatchNorm1d(self.width),
            nn.ReLU(),
            nn.Dropout(config.dropout),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Encode crops, uint8 [N, H, W], to float [N, d]."""
        return self.adapter(self.images(images))


class DiPro(Method[DiProConfig]):
    """The paper's model and its ablations, for all three tasks."""

    title = "DiPro"
    inputs = Inputs(regions=True, ehr=True, demographics=True)
    ablations: ClassVar = ABLATIONS

    def __init__(self, config: DiProConfig, spec: TaskSpec) -> None:
        super().__init__(config, spec)
        d = config.d_model
        self.regions = RegionEncoder(config)
        self.std = Disentanglement(d, config.dropout, static=config.std)
        self.region_heads = RegionHeads(d) if config.pae else None
        self.fusion = MultiscaleFusion(config, spec)
        self.static_fusion = StaticFusion(config, spec) if config.std or spec.ehr else None
        self.heads = TaskHeads(spec, d, d, config.dropout)
        self.register_buffer("class_weights", spec.class_weights, persistent=False)
        self.class_weights: Tensor

    @classmethod
    def configure(cls, preset: Preset, task: Task) -> DiProConfig:
        """The paper's configuration of the task, at the preset's size."""
        return configure(preset, task)

    @classmethod
    def recipe(cls, task: Task) -> Recipe:
        """Rate, batch size and accumulation of the paper."""
        return RECIPE[task]

    @classmethod
    def decline(cls, task: Task, cxr: Cxr, ehr: bool) -> str | None:
        """Without a pair of films nothing of DiPro is left."""
        if cxr is Cxr.NONE:
            return "DiPro without films is the EHR Transformer: use --method ehr_transformer"
        if cxr is Cxr.LAST:
            return "DiPro needs two films: use --cxr long"
        return None

    def load_weights(self, kind: str, file: Path) -> list[str]:
        """Take over weights; kind 'official' is a checkpoint that the authors published."""
        if kind != "official":
            return super().load_weights(kind, file)
        from methods.dipro import official

        left_out = official.load_into(self, official.read(file))
        return [f"official checkpoint; left out: {', '.join(left_out)}"]

    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        """Logits, the terms of STD and PAE, and on request the maps of `methods.dipro.mmf`."""
        F = encode_valid(self.regions, batch.regions, batch.layout.films)  # [B, T, R, d]
        pair = film_pairs(F, batch.layout.pairs)  # [N, R, 2d]
        S, D = self.std(pair)  # [N, R, d] each
        cls, maps = self.fusion(D, batch, with_attention)  # [B, C, d]
        if self.static_fusion is not None:
            cls, static_maps = self.static_fusion(cls, S, batch, with_attention)
            maps |= static_maps
        return Output(self.heads(cls), self._losses(pair, S, D, batch), maps)

    def _losses(self, pair: Tensor, S: Tensor | None, D: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The terms that `DiProConfig.loss_weights` names; none without targets."""
        if batch.targets is None:
            return {}
        terms = {}
        if S is not None:
            terms["orth"] = losses.orthogonality(S, D)
            terms["temp"] = losses.temporal_consistency(
                batch.layout.pairs.unpack(S), batch.layout.neighbours
            )
        if self.region_heads is not None:
            S_reversed, D_reversed = self.std(reversed_pair(pair, self.config.reversal))
            terms["pae_dynamic"] = losses.dynamic_progression(
                self.region_heads(D),
                self.region_heads(D_reversed),
                batch.layout.pairs.pack(batch.targets.region_progression),
                self.class_weights,
            )
            if S is not None:
                terms["pae_static"] = losses.static_reversal(S, S_reversed)
        return terms
