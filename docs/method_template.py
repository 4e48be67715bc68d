"""Late fusion: a template to copy. Films and hours are averaged, joined, and classified.

Copy this file anywhere on the Python path, rename the class, and replace `forward`. Then

    python -m bench.check my_method:MyMethod
    python -m bench.run --method my_method:MyMethod --task mortality
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bench.contract import MethodConfig, Output, Preset, TaskSpec
from bench.data.batch import Batch, Inputs
from bench.data.vocabulary import Cxr, Task
from methods.base import Method
from methods.encoders import ImageEncoder, encode_valid, mean_of_valid
from methods.heads import TaskHeads


@dataclass(frozen=True)
class LateFusionConfig(MethodConfig):
    """Frozen and flat: every field can be set with `--set model.FIELD=VALUE`."""

    backbone: str = "resnet50"
    weights: str = "imagenet"
    hidden: int = 256
    dropout: float = 0.1


class LateFusion(Method[LateFusionConfig]):
    """The mean film beside the mean hour."""

    title = "Late fusion"
    inputs = Inputs(films=True, ehr=True, demographics=True)

    def __init__(self, config: LateFusionConfig, spec: TaskSpec) -> None:
        super().__init__(config, spec)
        self.films = ImageEncoder(config.backbone, config.weights)
        n_ehr = spec.n_variables + spec.n_demographics if spec.ehr else 0
        # Two films in a row: their order must matter, so the newest is joined to the mean.
        self.join = nn.Sequential(nn.Linear(2 * self.films.width + n_ehr, config.hidden), nn.ReLU())
        self.heads = TaskHeads(spec, config.hidden, config.hidden, config.dropout)

    @classmethod
    def configure(cls, preset: Preset, task: Task) -> LateFusionConfig:
        """Small enough for a CPU in the demo and medium presets."""
        small = LateFusionConfig(backbone="small_film", weights="none", hidden=64)
        sizes = {Preset.DEMO: small, Preset.MEDIUM: replace(small, hidden=128)}
        return sizes.get(preset, LateFusionConfig())

    @classmethod
    def decline(cls, task: Task, cxr: Cxr, ehr: bool) -> str | None:
        """A setting that makes no sense is declined in one sentence; tables print it."""
        return "Late fusion needs films: use --cxr last or long" if cxr is Cxr.NONE else None

    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        """Logits of a batch. Padding is False in every `*_valid` mask: never let it through."""
        films = encode_valid(self.films, batch.films, batch.layout.films)  # [B, T, width]
        parts = [mean_of_valid(films, batch.film_valid), newest(films, batch.film_valid)]
        if self.spec.ehr:
            parts += [mean_of_valid(batch.ehr_values, batch.ehr_valid), batch.demographics]
        return Output(self.heads(self.join(torch.cat(parts, dim=-1))))


def newest(x: Tensor, valid: Tensor) -> Tensor:
    """The last valid row of x, float [B, T, d] -> [B, d]."""
    last = (valid.sum(dim=1) - 1).clamp_min(0)
    return x[torch.arange(len(x), device=x.device), last]
