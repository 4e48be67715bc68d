"""UMSE: every charted value and every film patch is an element of a set: value + time + type.

Lee, Lee, Hahn, Hyun, Choi, Ahn, Lee, "Learning Missing Modal Electronic Health Records with Unified
Multi-modal Data Embedding and Modality-Aware Attention", MLHC 2023, PMLR 219. EHR and films have a
Transformer stream each; a few bottleneck tokens are all that passes between them, and the copy of a
missing modality is skipped. The EHR stream is the anchor: its class token is read, or the films' if
EHR is withheld. Differences from the released code:

- two modalities: its anchored model has a third, text, and does not run for these two;
- films are encoded by the ConvNet that every baseline has, fine-tuned, all films of a sample, one
  that is not there never; there a Swin Transformer whose weights, learnt from reports, are not
  released, frozen, three films at most, as many stand-ins as films are missing;
- what is missing is told by masks, also all EHR of a sample; there by reserved times, and EHR is
  never missing;
- no element for a variable's last value before the window: ours starts at admission;
- of a set that is too large the newest elements are kept, there the oldest;
- values are z-scored; the released loader takes most variables as they are;
- demographics are all that the benchmark has, there age and sex;
- norms have the usual sd, there the unbiased one, a constant factor;
- samples are drawn alike for all methods, there evenly over labels and missing parts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contract import MethodConfig, Output, Preset, Recipe, TaskSpec
from bench.data.batch import Batch, Inputs
from bench.data.layout import Packing
from bench.data.vocabulary import ICU_HORIZON_HOURS, Cxr, Task
from methods.base import Method
from methods.encoders import (
    BACKBONES,
    Encoder,
    ImageEncoder,
    encode_valid,
    mean_of_valid,
    shrink,
)


@dataclass(frozen=True)
class UmseConfig(MethodConfig):
    """Sizes of UMSE.

    backbone, weights: see `methods.encoders.ImageEncoder`
    d_model: width d of every token; a multiple of n_heads
    n_bottlenecks: tokens that the streams share, n_b
    max_observations: charted values of a sample that are read, the newest
    time_unit_hours: times are read in units of this many hours; embedded hours, as published,
        differ little beyond a dozen, so the smaller presets count days
    film_tokens: a film is one token per place of the ConvNet's map 'patch', or one 'pooled'
    readout: logits from the anchor's class token 'anchor', or the mean 'mean' of those from every
        available modality's (the family of UMSE models that is not anchored)
    head_norm: normalise inside the head over the 'batch' or per sample, 'layer'
    freeze_backbone: leave the ConvNet as its weights are, batch statistics included
    max_film_size: larger films are averaged down to this many pixels a side; 0 leaves them
    residual_bottlenecks: average the bottlenecks after a layer with those before it, an option of
        the released code
    """

    backbone: str = "resnet50"
    weights: str = "imagenet"
    d_model: int = 256
    n_heads: int = 4
    n_layers: int = 6
    n_bottlenecks: int = 4
    dropout: float = 0.1
    max_observations: int = 1000
    time_unit_hours: float = 1.0
    film_tokens: str = "patch"
    readout: str = "anchor"
    head_norm: str = "batch"
    freeze_backbone: bool = False
    max_film_size: int = 224
    residual_bottlenecks: bool = False

    choices = {
        "backbone": BACKBONES,
        "film_tokens": ("patch", "pooled"),
        "readout": ("anchor", "mean"),
        "head_norm": ("batch", "layer"),
    }
    least = {
        **dict.fromkeys(("n_heads", "d_model", "n_layers", "max_observations"), 1),
        **dict.fromkeys(("n_bottlenecks", "max_film_size"), 0),
        "time_unit_hours": 0.01,
    }
    multiples = {"d_model": "n_heads"}


SMALLER: dict[Preset, dict[str, Any]] = {
    Preset.DEMO: {
        "backbone": "small_film",
        "time_unit_hours": 24.0,
        "weights": "none",
        "d_model": 32,
        "n_heads": 2,
        "n_layers": 3,
        "max_observations": 256,
        "max_film_size": 64,
    },
    Preset.MEDIUM: {
        "backbone": "small_film",
        "time_unit_hours": 24.0,
        "weights": "none",
        "d_model": 32,
        "n_heads": 2,
        "n_layers": 3,
        "max_observations": 384,
        "max_film_size": 96,
    },
    Preset.PAPER: {},
}
"""What a preset changes in the published configuration: sizes only."""


@dataclass(frozen=True)
class TokenSet:
    """One modality's elements: tokens, float [B, N, d], and which are valid, bool [B, N]."""

    tokens: Tensor
    valid: Tensor

    @property
    def available(self) -> Tensor:
        """Whether a sample has the modality at all, bool [B]."""
        return self.valid.any(dim=1)


@dataclass(frozen=True)
class Observations:
    """Charted values as a set, each [B, N]: value, hour, variable (its index), valid (bool)."""

    value: Tensor
    hour: Tensor
    variable: Tensor
    valid: Tensor


def newest_observations(batch: Batch, n_max: int) -> Observations:
    """The newest charted values, at most n_max a sample; imputed ones are no elements."""
    n_variables = batch.ehr_values.shape[-1]
    charted = batch.ehr_observed & batch.ehr_valid[..., None]
    never = float("-inf")
    hour = torch.where(charted, batch.ehr_hours[..., None], never).flatten(1)
    n = min(n_max, max(batch.layout.n_observed, default=0))
    newest = hour.argsort(dim=1, descending=True, stable=True)[:, :n]
    hour = hour.take_along_dim(newest, dim=1)
    return Observations(
        value=batch.ehr_values.flatten(1).take_along_dim(newest, dim=1),
        hour=hour.nan_to_num(neginf=0),
        variable=newest % n_variables,
        valid=hour > never,
    )


def last_hour(batch: Batch, task: Task) -> Tensor:
    """The hour that times are counted from, float [B, 1]; nothing a sample shows is later.

    The prediction time of the ICU tasks; of a pair, its second film, the newest that it shows.
    """
    if task.is_icu:
        return batch.film_hours.new_full((len(batch), 1), ICU_HORIZON_HOURS)
    hours = torch.cat([batch.film_hours, batch.ehr_hours], dim=1)
    valid = torch.cat([batch.film_valid, batch.ehr_valid], dim=1)
    never = float("-inf")
    # The extra column makes a sample that shows nothing end at 0.
    latest = F.pad(hours.masked_fill(~valid, never), (0, 1), value=never).amax(dim=1, keepdim=True)
    return latest.nan_to_num(neginf=0)


class Projection(nn.Module):
    """S(x) = ReLU(LayerNorm(Linear(x))), of n numbers."""

    def __init__(self, n: int, d: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n, d)
        self.norm = nn.LayerNorm(d)

    def forward(self, x: Tensor) -> Tensor:
        """Embed x, float [..., n], in [..., d]."""
        # Half precision would blur the hours.
        with torch.autocast(x.device.type, enabled=False):
            return F.relu(self.norm(self.linear(x.float())))


class FilmEncoder(Encoder):
    """The elements of films before time and type: the places of a ConvNet's map, projected."""

    def __init__(self, config: UmseConfig) -> None:
        super().__init__()
        self.width = config.d_model
        self.max_film_size = config.max_film_size
        self.pooled = config.film_tokens == "pooled"
        self.frozen = config.freeze_backbone
        self.images = ImageEncoder(config.backbone, config.weights)
        self.images.requires_grad_(not self.frozen)
        self.projection = nn.Linear(self.images.width, self.width)

    def train(self, mode: bool = True) -> FilmEncoder:
        """As ever, but what is frozen stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.images.eval()
        return self

    def forward(self, films: Tensor) -> Tensor:
        """Encode films, uint8 [N, S, S], to tokens, float [N, places or 1, width]."""
        places = self.images.feature_map(shrink(films, self.max_film_size)).flatten(2).mT
        return self.projection(places.mean(dim=1, keepdim=True) if self.pooled else places)


class UnifiedEmbedding(nn.Module):
    """UMSE: token = value + f_time(time) + E[type]; time and type are shared by the modalities."""

    def __init__(self, config: UmseConfig, spec: TaskSpec) -> None:
        super().__init__()
        d = config.d_model
        self.max_observations, self.time_unit = config.max_observations, config.time_unit_hours
        self.f_val = Projection(1, d) if spec.ehr else None
        self.f_time = Projection(1, d)
        self.films = FilmEncoder(config)
        # E: the last row is the film's.
        self.types = nn.Embedding(1 + (spec.n_variables if spec.ehr else 0), d)

    def of_ehr(self, batch: Batch, end: Tensor) -> TokenSet:
        """One token per charted value; `end`, float [B, 1], is the hour that times count from."""
        assert self.f_val is not None, "built without EHR"
        seen = newest_observations(batch, self.max_observations)
        value = self.f_val(seen.value[..., None])
        return TokenSet(value + self._time(seen.hour - end) + self.types(seen.variable), seen.valid)

    def of_films(self, batch: Batch, end: Tensor) -> TokenSet:
        """The tokens of every film; those of one film share its time."""
        if not len(batch.layout.films):
            return TokenSet(end.new_zeros(len(end), 0, self.films.width), batch.film_valid[:, :0])
        places = encode_valid(self.films, batch.films, batch.layout.films)  # [B, T, places, d]
        time = self._time(batch.film_hours - end)
        tokens = places + (time + self.types.weight[-1])[:, :, None]
        valid = batch.film_valid.repeat_interleave(places.shape[2], dim=1)
        return TokenSet(tokens.flatten(1, 2), valid)

    def _time(self, hours: Tensor) -> Tensor:
        return self.f_time(hours[..., None] / self.time_unit)


class Block(nn.Module):
    """Pre-norm Transformer block whose attention has no output projection and no dropout."""

    def __init__(self, d: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query, self.key, self.value = (nn.Linear(d, d) for _ in range(3))
        self.linear1 = nn.Linear(d, 4 * d)
        self.linear2 = nn.Linear(4 * d, d)
        self.attention_norm, self.norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, valid: Tensor, wanted: slice = slice(None)) -> Tensor:
        """x + MHA(N x), then x + FFN(N x), of the `wanted` tokens.

        Args:
            x: float [B, N, d]
            valid: bool [B, N]; tokens that may be attended to, one per sample at least
        """
        y = self.attention_norm(x)
        q, k, v = (
            layer(z).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for layer, z in ((self.query, y[:, wanted]), (self.key, y), (self.value, y))
        )
        attended = F.scaled_dot_product_attention(q, k, v, valid[:, None, None])
        x = x[:, wanted] + attended.transpose(1, 2).flatten(2)
        drop = self.dropout
        return x + drop(self.linear2(drop(F.relu(self.linear1(self.norm(x))))))


class Stream(nn.Module):
    """One modality's class token, and its own block in every layer."""

    def __init__(self, config: UmseConfig, n_layers: int) -> None:
        super().__init__()
        d = config.d_model
        self.cls = nn.Parameter(torch.randn(1, d))
        self.norm = nn.LayerNorm(d)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(d, config.n_heads, config.dropout) for _ in range(n_layers)
        )

    def start(self, tokens: Tensor) -> Tensor:
        """The class token before tokens, float [B, N, d]: [B, 1 + N, d]."""
        x = torch.cat([self.cls.expand(len(tokens), 1, -1), tokens], dim=1)
        return self.dropout(self.norm(x))


class ModalityAwareAttention(nn.Module):
    """MAA with skip bottleneck: a stream per modality, joined by the bottleneck tokens b alone."""

    def __init__(self, config: UmseConfig, ehr: bool) -> None:
        super().__init__()
        self.n_layers = config.n_layers
        self.residual = config.residual_bottlenecks
        self.bottlenecks = nn.Parameter(torch.randn(config.n_bottlenecks, config.d_model))
        self.ehr = Stream(config, config.n_layers) if ehr else None
        # A stream that is not read ends with the last exchange, one layer earlier.
        is_read = config.readout == "mean" or not ehr
        self.films = Stream(config, config.n_layers if is_read else config.n_layers - 1)

    def forward(self, modalities: list[TokenSet]) -> Tensor:
        """The class tokens that are read, float [B, C, d]; `modalities`: EHR, if built, and films.

        C is 2 if every modality is read, else 1: the anchor.
        """
        streams = [stream for stream in (self.ehr, self.films) if stream is not None]
        available = torch.stack([m.available for m in modalities], dim=1)
        b = self.bottlenecks.expand(len(available), -1, -1)
        n_b = b.shape[1]
        # Bottlenecks and class token are there even if no other token is.
        valid = [F.pad(m.valid, (n_b + 1, 0), value=True) for m in modalities]
        x = [stream.start(m.tokens) for stream, m in zip(streams, modalities, strict=True)]
        for layer in range(self.n_layers - 1):
            joined = [
                stream.blocks[layer](torch.cat([b, x_m], dim=1), valid_m)
                for stream, x_m, valid_m in zip(streams, x, valid, strict=True)
            ]
            exchanged = exchange([tokens[:, :n_b] for tokens in joined], available, b)
            b = (exchanged + b) / 2 if self.residual else exchanged
            x = [tokens[:, n_b:] for tokens in joined]
        cls = [
            stream.blocks[-1](torch.cat([b, x_m], dim=1), valid_m, slice(n_b, n_b + 1))
            for stream, x_m, valid_m in zip(streams, x, valid, strict=True)
            if len(stream.blocks) == self.n_layers
        ]
        return torch.cat(cls, dim=1)


def exchange(copies: list[Tensor], available: Tensor, b: Tensor) -> Tensor:
    """SB: the mean of the available modalities' bottlenecks; the old ones if none is available.

    Args:
        copies: per modality float [B, n_b, d]
        available: bool [B, modalities]
        b: float [B, n_b, d]; the bottlenecks before the layer
    """
    mean = mean_of_valid(torch.stack(copies, dim=1).flatten(2), available).view_as(b)
    return torch.where(available.any(dim=1)[:, None, None], mean, b)


class HeadBatchNorm(nn.BatchNorm1d):
    """Batch norm that falls back on running statistics for one row, which has no variance."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, float [N, d]."""
        if len(x) > 1 or not self.training:
            return super().forward(x)
        mean, variance = self.running_mean, self.running_var
        return F.batch_norm(x, mean, variance, self.weight, self.bias, eps=self.eps)


class Readout(nn.Module):
    """Logits from a class token and demographics: [N cls ; S(demographics)] through one head."""

    def __init__(self, config: UmseConfig, spec: TaskSpec) -> None:
        super().__init__()
        d = config.d_model
        self.norm = nn.LayerNorm(d)
        self.demographics = Projection(spec.n_demographics, d) if spec.ehr else None
        self.head = nn.Sequential(
            nn.Linear(2 * d if spec.ehr else d, d),
            HeadBatchNorm(d) if config.head_norm == "batch" else nn.LayerNorm(d),
            nn.ReLU(),
            nn.Linear(d, spec.n_outputs * spec.n_logits),
        )

    def forward(self, cls: Tensor, demographics: Tensor) -> Tensor:
        """Logits [N, n] of class tokens, float [N, d], and demographics, float [N, 17]."""
        x = self.norm(cls)
        if self.demographics is not None:
            x = torch.cat([x, self.demographics(demographics)], dim=-1)
        return self.head(x)


class Umse(Method[UmseConfig]):
    """Unified set embedding, modality-aware attention with skip bottleneck, and the readout."""

    title = "UMSE"
    inputs = Inputs(films=True, ehr=True, demographics=True)

    def __init__(self, config: UmseConfig, spec: TaskSpec) -> None:
        super().__init__(config, spec)
        self.embed = UnifiedEmbedding(config, spec)
        self.attention = ModalityAwareAttention(config, spec.ehr)
        self.readout = Readout(config, spec)

    @classmethod
    def configure(cls, preset: Preset, task: Task) -> UmseConfig:
        """One configuration for every task, at the preset's size."""
        return replace(UmseConfig(), **SMALLER[preset])

    @classmethod
    def recipe(cls, task: Task) -> Recipe:
        """Training of UMSE's published run; its rate is 1e-5 x sqrt(batch size)."""
        return {
            "lr": 8e-5,
            "lr_min": 1e-6,
            "warmup_epochs": 5,
            "weight_decay": 1e-6,
            "batch_size": 64,
            "accumulation": 1,
            "max_epochs": 50,
            "patience": 50,
        }

    @classmethod
    def decline(cls, task: Task, cxr: Cxr, ehr: bool) -> str | None:
        """It needs films: its streams have nothing to exchange without."""
        if cxr is Cxr.NONE:
            return "UMSE joins films with EHR: without films use --method ehr_transformer"
        return None

    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        """Logits; there are no further loss terms and no maps."""
        modalities = self.modalities(batch)
        cls = self.attention(modalities)
        read = self._read(modalities)
        packing = Packing.of(read, self._n_read(batch))
        demographics = batch.demographics[:, None].expand(-1, cls.shape[1], -1)
        # A missing modality's class token enters no batch statistics of the head.
        rows = self.readout(packing.pack(cls), packing.pack(demographics))
        logits = mean_of_valid(packing.unpack(rows), read)
        n_outputs = self.spec.n_outputs
        return Output(logits.unflatten(-1, (n_outputs, -1)) if n_outputs > 1 else logits)

    def modalities(self, batch: Batch) -> list[TokenSet]:
        """The sets of EHR, unless withheld, and of films."""
        end = last_hour(batch, self.spec.task)
        films = self.embed.of_films(batch, end)
        return [self.embed.of_ehr(batch, end), films] if self.spec.ehr else [films]

    def _read(self, modalities: list[TokenSet]) -> Tensor:
        """Which class tokens give logits, bool [B, C]; the anchor's if none is available."""
        available = torch.stack([m.available for m in modalities], dim=1)
        if self.config.readout == "anchor":
            return torch.ones_like(available[:, :1])
        available[:, 0] |= ~available.any(dim=1)
        return available

    def _n_read(self, batch: Batch) -> int:
        """How often `_read` is True, counted by the host."""
        if self.config.readout == "anchor":
            return len(batch)
        n_observed, n_films = batch.layout.n_observed, batch.layout.n_films
        n_modalities = [
            (n_values > 0 and self.spec.ehr) + (n > 0)
            for n_values, n in zip(n_observed, n_films, strict=True)
        ]
        return sum(max(n, 1) for n in n_modalities)
