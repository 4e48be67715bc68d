"""EHR Transformer: one Transformer layer over hourly EHR, beside demographics; no films.

Vaswani et al., "Attention Is All You Need", NeurIPS 2017, as the DiPro paper uses it (Tables 10 and
12): DiPro's encoder of hourly EHR with its heads. It is the control for what films are worth.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from bench.contract import MethodConfig, Output, Preset, Recipe, TaskSpec
from bench.data.batch import Batch, Inputs
from bench.data.vocabulary import Cxr, Task
from methods.base import Method
from methods.dipro.config import RECIPE
from methods.encoders import EhrEncoder, mean_of_valid
from methods.heads import TaskHeads


@dataclass(frozen=True)
class EhrTransformerConfig(MethodConfig):
    """Sizes of the EHR Transformer.

    d_model: width d; a multiple of n_heads
    use_observed: also read which values were charted in their hour (input 76 wide instead of 38)
    pooling: what stands for the series, the class token 'cls' or the 'mean' of the hours
    """

    d_model: int = 256
    n_heads: int = 8
    dropout: float = 0.1
    use_observed: bool = False
    pooling: str = "cls"

    choices = {"pooling": ("cls", "mean")}
    least = {"n_heads": 1, "d_model": 1}
    multiples = {"d_model": "n_heads"}


class EhrTransformer(Method[EhrTransformerConfig]):
    """A class token over the hours, joined with demographics, one head per output."""

    title = "EHR Transformer"
    inputs = Inputs(ehr=True, demographics=True)

    def __init__(self, config: EhrTransformerConfig, spec: TaskSpec) -> None:
        super().__init__(config, spec)
        d = config.d_model
        n_inputs = spec.n_variables * (2 if config.use_observed else 1)
        self.encoder = EhrEncoder(n_inputs, d, config.n_heads, config.dropout)
        self.demographics = nn.Sequential(
            nn.Linear(spec.n_demographics, d), nn.ReLU(), nn.Dropout(config.dropout)
        )
        self.heads = TaskHeads(spec, 2 * d, d, config.dropout)

    @classmethod
    def configure(cls, preset: Preset, task: Task) -> EhrTransformerConfig:
        """DiPro's width for the task, or its width at the preset's size."""
        paper = 128 if task is Task.LENGTH_OF_STAY else 256
        d_model = {Preset.DEMO: 64, Preset.MEDIUM: 128, Preset.PAPER: paper}[preset]
        return EhrTransformerConfig(d_model)

    @classmethod
    def recipe(cls, task: Task) -> Recipe:
        """DiPro's: the paper calls this row DiPro without films (Table 2)."""
        return RECIPE[task]

    @classmethod
    def decline(cls, task: Task, cxr: Cxr, ehr: bool) -> str | None:
        """It reads EHR and demographics, and nothing else."""
        if cxr is not Cxr.NONE:
            return "the EHR Transformer reads no films: use --cxr none"
        if not ehr:
            return "the EHR Transformer reads nothing but EHR"
        return None

    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        """Logits; there are no further loss terms and no maps."""
        x = batch.ehr_values
        if self.config.use_observed:
            x = torch.cat([x, batch.ehr_observed.to(x.dtype)], dim=-1)
        hours, cls = self.encoder(x, batch.ehr_valid)
        e = cls if self.config.pooling == "cls" else mean_of_valid(hours, batch.ehr_valid)
        m = self.demographics(batch.demographics)
        return Output(self.heads(torch.cat([e, m], dim=-1)))
