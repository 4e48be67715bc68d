"""A sound little method, and one relative of it for each way to break the contract."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from bench.contract import Ablation, MethodConfig, Output, Preset, TaskSpec
from bench.data.batch import Batch, Inputs
from bench.data.vocabulary import Cxr, Task
from methods.base import Method
from methods.heads import TaskHeads

BINS = 8


@dataclass(frozen=True)
class SoundConfig(MethodConfig):
    width: int = 16
    lambda_size: float = 0.1
    unused: float = 0.0

    def loss_weights(self) -> dict[str, float]:
        return {"task": 1.0, "size": self.lambda_size}


class Sound(Method[SoundConfig]):
    """Change from the first film to the last, mean of the hours and demographics, one head each."""

    title = "Sound"
    inputs = Inputs(films=True, ehr=True, demographics=True)
    ablations: ClassVar[dict[str, Ablation]] = {
        "size": Ablation("No size term.", lambda config: replace(config, lambda_size=0.0))
    }

    def __init__(self, config: SoundConfig, spec: TaskSpec) -> None:
        super().__init__(config, spec)
        self.films = nn.Linear(BINS**2, config.width)
        self.ehr = nn.Linear(spec.n_variables + spec.n_demographics, config.width)
        self.norm = nn.BatchNorm1d(BINS**2)
        self.heads = TaskHeads(spec, 2 * config.width, config.width, 0.1)

    @classmethod
    def configure(cls, preset: Preset, task: Task) -> SoundConfig:
        return SoundConfig()

    @classmethod
    def decline(cls, task: Task, cxr: Cxr, ehr: bool) -> str | None:
        return None if ehr and cxr in (Cxr.LONG, Cxr.PAIR) else "needs several films and EHR"

    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        change = torch.tanh(self.films(self.norm(self.change_of_films(batch))))
        x = torch.cat([change, self.encoded_series(batch)], dim=-1)
        losses = {"size": x.square().mean()} if batch.targets is not None else {}
        attention = {"hours": self.attention(batch)} if with_attention else {}
        return Output(self.heads(x), losses, attention)

    def encoded_series(self, batch: Batch) -> Tensor:
        series = torch.cat([self.mean_of_hours(batch), batch.demographics], dim=-1)
        return torch.tanh(self.ehr(series))

    def mean_of_hours(self, batch: Batch) -> Tensor:
        valid = batch.ehr_valid[..., None]
        return (batch.ehr_values * valid).sum(1) / valid.sum(1).clamp_min(1)

    def change_of_films(self, batch: Batch) -> Tensor:
        bins = self.bins(batch)
        last = batch.film_valid.sum(1) - 1
        return bins[torch.arange(len(bins)), last] - 0.5 * bins[:, 0]

    def bins(self, batch: Batch) -> Tensor:
        """Mean grey of 8 x 8 fields, [B, T, 64]."""
        pooled = nn.functional.adaptive_avg_pool2d(batch.films.float() / 255, BINS)
        return pooled.flatten(2)

    def attention(self, batch: Batch) -> Tensor:
        return (batch.pair_valid[:, :, None] & batch.ehr_valid[:, None]).float()


class WrongShape(Sound):
    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        output = super().forward(batch, with_attention)
        return replace(output, logits=output.logits.squeeze(-1).mean(-1))


class TermWithoutWeight(Sound):
    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        output = super().forward(batch, with_attention)
        return replace(output, losses={**output.losses, "extra": torch.zeros(())})


class TermPerSample(Sound):
    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        output = super().forward(batch, with_attention)
        return replace(output, losses={"size": torch.zeros(len(batch))})


class InfiniteGradient(Sound):
    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        output = super().forward(batch, with_attention)
        return replace(output, losses={"size": (self.films.bias * 0).sqrt().sum()})


class DeadPart(Sound):
    def __init__(self, config: SoundConfig, spec: TaskSpec) -> None:
        super().__init__(config, spec)
        self.forgotten = nn.Linear(2, 2)


class DetachedPart(Sound):
    def encoded_series(self, batch: Batch) -> Tensor:
        return super().encoded_series(batch).detach()


class ReadsPaddedHours(Sound):
    def mean_of_hours(self, batch: Batch) -> Tensor:
        return batch.ehr_values.mean(dim=1)


class ReadsPaddedFilms(Sound):
    def change_of_films(self, batch: Batch) -> Tensor:
        return self.bins(batch).mean(dim=1)


class PaddingInStatistics(Sound):
    def bins(self, batch: Batch) -> Tensor:
        bins = super().bins(batch)
        return self.norm(bins.flatten(0, 1)).view_as(bins)


class ReadsBatchMates(Sound):
    def mean_of_hours(self, batch: Batch) -> Tensor:
        mean = super().mean_of_hours(batch)
        return mean - mean.mean(dim=0)


class ReadsLabels(Sound):
    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        output = super().forward(batch, with_attention)
        shift = 0.0 if batch.targets is None else 1.0
        return replace(output, logits=output.logits + shift)


class ReadsLabelsInTraining(Sound):
    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        output = super().forward(batch, with_attention)
        if self.training and batch.targets is not None:
            return replace(output, logits=output.logits + batch.targets.mortality.mean() + 1)
        return output


class LossWithoutLabels(Sound):
    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        output = super().forward(batch, with_attention)
        return replace(output, losses={"size": torch.zeros(())})


class UnaskedAttention(Sound):
    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        return super().forward(batch, with_attention=True)


class AttentionOfNoShape(Sound):
    def attention(self, batch: Batch) -> Tensor:
        return super().attention(batch).mean(dim=1)


class AttentionToPadding(Sound):
    def attention(self, batch: Batch) -> Tensor:
        return torch.ones_like(super().attention(batch))


class BlindToOrder(Sound):
    def change_of_films(self, batch: Batch) -> Tensor:
        valid = batch.film_valid[..., None]
        return (self.bins(batch) * valid).sum(1) / valid.sum(1)


class BlindToOrderInTheIcu(BlindToOrder):
    @classmethod
    def decline(cls, task: Task, cxr: Cxr, ehr: bool) -> str | None:
        return super().decline(task, cxr, ehr) or (None if task.is_icu else "is for ICU stays")


class SetsTheSeedAsItIsBuilt(Sound):
    def __init__(self, config: SoundConfig, spec: TaskSpec) -> None:
        torch.manual_seed(0)
        super().__init__(config, spec)


class SetsTheSeedInTraining(Sound):
    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        if self.training:
            torch.manual_seed(0)
        return super().forward(batch, with_attention)


class DrawsInPrediction(Sound):
    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        output = super().forward(batch, with_attention)
        return replace(output, logits=output.logits + 1e-9 * torch.randn(()))


class DrawsFromNumpy(Sound):
    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        kept = np.random.rand() < 2  # noqa: NPY002 - that is the fault
        return super().forward(batch, with_attention and kept)


class DrawsItsOwnSeed(Sound):
    draws: ClassVar = itertools.count()

    def __init__(self, config: SoundConfig, spec: TaskSpec) -> None:
        super().__init__(config, spec)
        generator = torch.Generator().manual_seed(next(self.draws))
        nn.init.normal_(self.films.weight, generator=generator)


class IgnoresTheSeed(Sound):
    def __init__(self, config: SoundConfig, spec: TaskSpec) -> None:
        super().__init__(config, spec)
        for parameter in self.parameters():
            nn.init.constant_(parameter, 0.1)


class UnsavedState(Sound):
    def __init__(self, config: SoundConfig, spec: TaskSpec) -> None:
        super().__init__(config, spec)
        self.register_buffer("offset", torch.randn(()), persistent=False)

    def change_of_films(self, batch: Batch) -> Tensor:
        return super().change_of_films(batch) + self.offset


class IdleAblation(Sound):
    ablations: ClassVar[dict[str, Ablation]] = {"idle": Ablation("Nothing.", lambda config: config)}


class AblationOfAnUnusedField(Sound):
    ablations: ClassVar[dict[str, Ablation]] = {
        "idle": Ablation("A field nobody reads.", lambda config: replace(config, unused=1.0))
    }


class CannotLearn(Sound):
    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        output = super().forward(batch, with_attention)
        return replace(output, logits=torch.tanh(output.logits) * 0.1)


class Crashes(Sound):
    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        raise RuntimeError("no such thing")


@dataclass(frozen=True)
class NestedConfig(SoundConfig):
    widths: tuple[int, ...] = (16, 32)


class Nested(Sound):
    @classmethod
    def configure(cls, preset: Preset, task: Task) -> Any:
        return NestedConfig()


class DeclinesAll(Sound):
    @classmethod
    def decline(cls, task: Task, cxr: Cxr, ehr: bool) -> str | None:
        return "never"


class LacksConfigure(Method[SoundConfig]):
    title = "Lacks configure"
    inputs = Inputs(ehr=True)

    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        return Output(batch.ehr_values.sum((1, 2))[:, None])


class ReadsRegions(Sound):
    """The mean grey of every region's crop; black crops, of regions that are absent, count too."""

    inputs = Inputs(regions=True, ehr=True, demographics=True)

    def __init__(self, config: SoundConfig, spec: TaskSpec) -> None:
        super().__init__(config, spec)
        self.films = nn.Linear(spec.n_regions, config.width)
        self.norm = nn.BatchNorm1d(spec.n_regions)

    def bins(self, batch: Batch) -> Tensor:
        return batch.regions.float().mean(dim=(-2, -1)) / 255


class ReadsPresentRegions(ReadsRegions):
    def bins(self, batch: Batch) -> Tensor:
        return super().bins(batch) * batch.region_present


class ReturnsATensor(Sound):
    def forward(self, batch: Batch, with_attention: bool = False) -> Any:
        return super().forward(batch, with_attention).logits


class IntegerLogits(Sound):
    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        output = super().forward(batch, with_attention)
        return replace(output, logits=output.logits.long())


class LossesInAList(Sound):
    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        output = super().forward(batch, with_attention)
        return replace(output, losses=list(output.losses.values()))


class WithoutTitle(Method[SoundConfig]):
    inputs = Inputs(ehr=True)
    configure = Sound.configure
    forward = Sound.forward


class ConfigureOfTheInstance(Sound):
    def configure(self, preset: Preset, task: Task) -> SoundConfig:
        return SoundConfig()


class ForwardOfTheClass(Sound):
    @classmethod
    def forward(cls, batch: Batch, with_attention: bool = False) -> Any:
        return None


class ForwardWithoutAttention(Sound):
    def forward(self, batch: Batch) -> Output:
        return super().forward(batch)


class AblationsInAList(Sound):
    ablations: ClassVar[Any] = ["size"]


class AblationIsASentence(Sound):
    ablations: ClassVar[Any] = {"size": "No size term."}


class InputsInASet(Sound):
    inputs: ClassVar[Any] = {"films", "ehr"}


class InputsNotMade(Sound):
    inputs: ClassVar[Any] = Inputs


class ConfiguredByADict(Sound):
    @classmethod
    def configure(cls, preset: Preset, task: Task) -> Any:
        return {"width": 16}


class ConfiguredByNothing(Sound):
    @classmethod
    def configure(cls, preset: Preset, task: Task) -> Any:
        SoundConfig()


class ConfigureRaises(Sound):
    @classmethod
    def configure(cls, preset: Preset, task: Task) -> Any:
        return {Preset.DEMO: SoundConfig()}[preset]


class UndecoratedConfig(SoundConfig):
    height: int = 3


class UndecoratedConfiguration(Sound):
    @classmethod
    def configure(cls, preset: Preset, task: Task) -> Any:
        return UndecoratedConfig()


class DeclinesByABool(Sound):
    @classmethod
    def decline(cls, task: Task, cxr: Cxr, ehr: bool) -> Any:
        return cxr is Cxr.NONE
