"""CheXRelFormer: the pyramid maps of two films are compared at every scale, coarse to fine.

Mbakwe, Wang, Moradi, Lourentzou, "Hierarchical Vision Transformers for Disease Progression
Detection in Chest X-Ray Images", MICCAI 2023, LNCS 14224:685-695. EHR, its fusion and longer stays
are the DiPro paper's variant (appendix A.2.2): each pair of neighbouring films is compared, and the
mean over pairs classifies a stay. Differences from the released code:

- parts that reach no output, 4.5 million parameters, are left out (upsampling, per-scale and
  change-map predictions);
- logits go to the loss: there a softmax comes before a loss that takes its own log-softmax, which
  keeps it above 0.55 (`double_softmax` does so);
- the first film is the earlier one: there the scripts file the current film first;
- seven diseases are read from one vector, and all their labels train it, at natural prevalence;
- no random flips, crops or colours: colours drawn per film would fake a change;
- films are brought to 224 px; there to 256 px (`film_size`);
- a pair alone in a batch is normalised by running statistics.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contract import Output, Preset, Recipe, TaskSpec
from bench.data.batch import Batch, Inputs
from bench.data.vocabulary import Cxr, Task
from bench.errors import UserError
from methods.base import Method, needs_two_films
from methods.encoders import mean_of_valid, to_size
from methods.fusion import QUERIES, EhrFusion
from methods.pyramid import PyramidConfig, PyramidEncoder, initialise


@dataclass(frozen=True)
class CheXRelFormerConfig(PyramidConfig):
    """Sizes of CheXRelFormer; those of its encoder are described with `PyramidConfig`.

    d_model: width D of comparisons and of a pair's vector; a multiple of 8
    comparison: of two maps, 'learnt' by convolutions over both, or their 'absolute' difference
    film_size: every film is brought to this many pixels a side; 256 in the released code
    scales: compare the maps of 'all' stages, or of the 'last' alone; the released code's variants
        are AbsDiff (absolute, all), LastBLK (learnt, last) and AbsDiffL (absolute, last)
    fusion_query: what looks at what when EHR is fused, 'image' or 'ehr', see `EhrFusion`
    double_softmax: in training give the loss probabilities for logits, as the released code does;
        not for mortality, which has one logit
    """

    d_model: int = 256
    comparison: str = "learnt"
    film_size: int = 224
    scales: str = "all"
    fusion_query: str = "image"
    double_softmax: bool = False

    choices = {
        "comparison": ("learnt", "absolute"),
        "scales": ("all", "last"),
        "fusion_query": QUERIES,
    }
    least = {"d_model": 8, "film_size": 1}
    multiples = {"d_model": 8}


SMALLER: dict[Preset, dict[str, Any]] = {
    Preset.DEMO: {
        "channels": "16,32,64",
        "blocks": "1,1,1",
        "heads": "1,2,4",
        "reductions": "4,2,1",
        "d_model": 32,
        "film_size": 64,
    },
    Preset.MEDIUM: {
        "channels": "16,32,64,96",
        "blocks": "1,1,1,1",
        "heads": "1,2,4,8",
        "reductions": "4,2,1,1",
        "d_model": 48,
        "film_size": 96,
    },
    Preset.PAPER: {},
}
"""What a preset changes in the paper's configuration: sizes only."""


class PairNorm(nn.BatchNorm2d):
    """Batch norm over pairs, and over running statistics for a pair alone.

    By its own statistics such a pair's mean over places is the norm's bias, whatever it shows.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise maps of pairs, float [N, C, h, w]."""
        if len(x) > 1 or not self.training:
            return super().forward(x)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


class LearntDifference(nn.Sequential):
    """phi_s: two convolutions over both maps of a scale; of equal maps it need not be zero."""

    def __init__(self, n_in: int, d: int) -> None:
        super().__init__(
            nn.Conv2d(2 * n_in, d, 3, padding=1),
            nn.ReLU(),
            PairNorm(d),
            nn.Conv2d(d, d, 3, padding=1),
            nn.ReLU(),
        )

    def forward(self, both: Tensor) -> Tensor:
        """Delta_s of the maps P_s and Q_s, float [N, 2, n_in, h, w]: float [N, D, h, w]."""
        return super().forward(both.flatten(1, 2))


class AbsoluteDifference(nn.Module):
    """|P_s - Q_s|, which does not know which film came first."""

    def forward(self, both: Tensor) -> Tensor:
        """Delta_s of the maps P_s and Q_s, float [N, 2, D, h, w]: float [N, D, h, w]."""
        return (both[:, 0] - both[:, 1]).abs()


class PairDecoder(nn.Module):
    """From the pyramid maps of both films of a pair to one vector v.

    Args:
        channels: of the maps, finest first
        d: width D of the comparisons and of v
        comparison: 'learnt' or 'absolute'
    """

    def __init__(self, channels: tuple[int, ...], d: int, comparison: str) -> None:
        super().__init__()
        self.width = d
        self.project = nn.ModuleList(nn.Conv2d(n, d, 1) for n in channels)
        self.compare = nn.ModuleList(
            LearntDifference(d, d) if comparison == "learnt" else AbsoluteDifference()
            for _ in channels
        )
        self.fuse = nn.Sequential(nn.Conv2d(len(channels) * d, d, 1), PairNorm(d))
        self.apply(initialise)
        self.to(memory_format=torch.channels_last)

    def forward(self, maps: list[Tensor], pairs: Tensor) -> Tensor:
        """Compare films at every scale, join the scales and average over places.

        Args:
            maps: per scale, finest first, float [films, C_s, h_s, w_s]
            pairs: int64 [N, 2]; indices of a pair's first and second film

        Returns:
            v, float [N, D].
        """
        Delta = [
            compare(project(x)[pairs])
            for x, project, compare in zip(maps, self.project, self.compare, strict=True)
        ]
        return self.fuse(at_finest(coarse_to_fine(Delta))).mean(dim=(-2, -1))


class LastStageDecoder(nn.Module):
    """A pair's vector from the last stage's maps alone, as they are: no projection, no scales.

    Args:
        n_channels: of the last map
        d: width D of a learnt comparison
        comparison: 'learnt' or 'absolute'
    """

    def __init__(self, n_channels: int, d: int, comparison: str) -> None:
        super().__init__()
        is_learnt = comparison == "learnt"
        self.width = d if is_learnt else n_channels
        self.compare = LearntDifference(n_channels, d) if is_learnt else AbsoluteDifference()
        self.apply(initialise)
        self.to(memory_format=torch.channels_last)

    def forward(self, maps: list[Tensor], pairs: Tensor) -> Tensor:
        """Compare films and average over places; arguments as of `PairDecoder`: [N, width]."""
        return self.compare(maps[-1][pairs]).mean(dim=(-2, -1))


def coarse_to_fine(Delta: list[Tensor]) -> list[Tensor]:
    """G_s = Delta_s + Up(G_s+1), from the coarsest scale on, where G is Delta; finest first."""
    G = [Delta[-1]]
    for finer in reversed(Delta[:-1]):
        G.insert(0, finer + resize(G[0], finer))
    return G


def at_finest(G: list[Tensor]) -> Tensor:
    """All scales at the size of the finest, coarsest first, joined: float [N, scales x D, h, w]."""
    return torch.cat([resize(g, G[0]) for g in reversed(G)], dim=1)


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Bring maps x to the height and width of others."""
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(x, like.shape[-2:], mode="bilinear")


class CheXRelFormer(Method[CheXRelFormerConfig]):
    """Every film's pyramid, every pair's vector, EHR for each, one linear layer on top."""

    title = "CheXRelFormer"
    inputs = Inputs(films=True, ehr=True, demographics=True)

    def __init__(self, config: CheXRelFormerConfig, spec: TaskSpec) -> None:
        super().__init__(config, spec)
        if config.double_softmax and spec.n_logits == 1:
            raise UserError("model.double_softmax: the softmax of one logit is 1; leave it out")
        d = config.d_model
        self.encoder = PyramidEncoder.of(config)
        channels = self.encoder.channels
        self.decoder: PairDecoder | LastStageDecoder = (
            PairDecoder(channels, d, config.comparison)
            if config.scales == "all"
            else LastStageDecoder(channels[-1], d, config.comparison)
        )
        width = self.decoder.width
        self.token = nn.Linear(width, d) if spec.ehr and width != d else nn.Identity()
        self.fusion = (
            EhrFusion(d, spec, dropout=config.dropout, query=config.fusion_query)
            if spec.ehr
            else None
        )
        self.classifier = nn.Linear(d if spec.ehr else width, spec.n_outputs * spec.n_logits)
        initialise(self.classifier)

    @classmethod
    def configure(cls, preset: Preset, task: Task) -> CheXRelFormerConfig:
        """One configuration for every task, at the preset's size."""
        return replace(CheXRelFormerConfig(), **SMALLER[preset])

    @classmethod
    def recipe(cls, task: Task) -> Recipe:
        """Values of the released script, which never stops early; its rate falls evenly."""
        return {
            "lr": 6e-5,
            "schedule": "linear",
            "weight_decay": 0.01,
            "batch_size": 4,
            "accumulation": 1,
            "max_epochs": 100,
            "patience": 100,
        }

    @classmethod
    def decline(cls, task: Task, cxr: Cxr, ehr: bool) -> str | None:
        """It compares films."""
        return needs_two_films(cls.title, cxr)

    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        """Logits; there are no further loss terms and no maps."""
        v = self.token(self._pair_vectors(batch))
        Z = v if self.fusion is None else self.fusion(v, batch)
        logits = self.classifier(mean_of_valid(Z, batch.pair_valid))
        n_outputs = self.spec.n_outputs
        logits = logits.unflatten(-1, (n_outputs, -1)) if n_outputs > 1 else logits
        twice = self.config.double_softmax and self.training
        return Output(logits.softmax(dim=-1) if twice else logits)

    def _pair_vectors(self, batch: Batch) -> Tensor:
        """v of every pair, float [B, P, D], zero where not valid; each film is encoded once."""
        films, pairs = batch.layout.films, batch.layout.pairs
        maps = self.encoder(self._scaled(films.pack(batch.films)))
        row = films.unpack(torch.arange(len(films), device=films.index.device))
        rows_of_pairs = pairs.pack(torch.stack([row[:, :-1], row[:, 1:]], dim=-1))
        return pairs.unpack(self.decoder(maps, rows_of_pairs))

    def _scaled(self, films: Tensor) -> Tensor:
        """Films, uint8 [N, S, S], in -1..1 on three channels, as the released code has them."""
        x = to_size(films, self.config.film_size).float() / 127.5 - 1
        return x[:, None].expand(-1, 3, -1, -1)
