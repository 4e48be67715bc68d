"""UTDE: irregular EHR and irregular films on one hourly grid, joined by interleaved attention.

Zhang, Li, Chen, Yan, Petzold, "Improving Medical Predictions by Irregular Multimodal Electronic
Health Records Modeling", ICML 2023, PMLR 202. Its unified temporal discretisation embedding blends,
by a gate, hourly imputed EHR with what learnt interpolation (multi-time attention, mTAND) makes of
the charted values. A second mTAND puts notes on the same grid: here films, as in the DiPro paper
(appendix A.2.2). Differences from the released code:

- films instead of notes; the two are on one clock (there notes lie an hour before the EHR of their
  hour) and the grid's points are an hour apart, as the imputed rows are (there 48/47 hours);
- the grid ends with a sample's window, which for a pair of films is not 48 hours long;
- the imputed rows are the benchmark's; the released loader empties hours without any charting;
- imputed values and padding never enter mTAND: there they would, for variables without a charting;
- the channels of a head share their dropped attention weights, there each has its own: with the
  softmax over charted rows as a ratio of two products, memory does not grow with the channels;
- demographics beside the two summaries; the released code reads none;
- all that is trained is trained in every epoch with one rate, there notes' encoder every second
  epoch with a lower one;
- samples without EHR or without a film are kept; parts that reach no output are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contract import MethodConfig, Output, Preset, Recipe, TaskSpec
from bench.data.batch import Batch, Inputs
from bench.data.cohort import Cohort
from bench.data.vocabulary import ICU_HORIZON_HOURS, Cxr, Task
from methods.attention import Attention
from methods.base import Method
from methods.encoders import BACKBONES, Encoder, ImageEncoder, encode_valid, shrink

GATE_LEVELS = ("batch", "batch_seq", "batch_seq_feature")

MTAND_DROPOUT = FILM_DROPOUT = 0.1
"""Fixed in the released code, whatever the dropout of the rest (films: the notes' encoder's)."""

POSITION_SD = 0.02

LAST_POINT = slice(-1, None)

LEAST_WEIGHT = 1e-9
"""Of all rows of a variable together, so that no ratio overflows."""


@dataclass(frozen=True)
class UtdeConfig(MethodConfig):
    """Sizes of UTDE.

    backbone, weights: see `methods.encoders.ImageEncoder`
    d_model: width d of every grid point; a multiple of n_heads
    time_width: width of the embedding of time; a multiple of n_heads
    gate: one gate per sample 'batch', per grid point 'batch_seq', or also per feature
        'batch_seq_feature'
    n_grid: grid points, an hour apart; 49 for cohorts that show the hour after the prediction time
    max_film_size: larger films are averaged down to this many pixels a side; 0 leaves them
    use_demographics: classify by demographics too; UTDE itself reads none
    """

    backbone: str = "resnet50"
    weights: str = "imagenet"
    d_model: int = 128
    time_width: int = 64
    n_heads: int = 8
    n_layers: int = 3
    dropout: float = 0.1
    gate: str = "batch"
    n_grid: int = 48
    max_film_size: int = 224
    use_demographics: bool = True

    choices = {"gate": GATE_LEVELS, "backbone": BACKBONES}
    least = {
        **dict.fromkeys(("n_heads", "d_model", "n_layers", "n_grid"), 1),
        "time_width": 2,
        "max_film_size": 0,
    }
    multiples = {"d_model": "n_heads", "time_width": "n_heads"}


SMALLER: dict[Preset, dict[str, Any]] = {
    Preset.DEMO: {
        "backbone": "small_film",
        "weights": "none",
        "d_model": 64,
        "n_heads": 4,
        "n_layers": 2,
        "max_film_size": 96,
    },
    Preset.MEDIUM: {
        "backbone": "small_film",
        "weights": "none",
        "d_model": 96,
        "n_heads": 4,
        "n_layers": 2,
        "max_film_size": 128,
    },
    Preset.PAPER: {},
}
"""What a preset changes in the paper's configuration: sizes only."""


def first_grid_hour(batch: Batch, task: Task, n_grid: int) -> Tensor:
    """The hour of each sample's first grid point, float [B]; the last one ends its window.

    The ICU window starts at hour 0. A pair's ends with its last EHR row or, without a row, with the
    hour that the second film is in: where its last row would be.
    """
    if task.is_icu:
        return batch.film_hours.new_zeros(len(batch))
    last_row = _latest(batch.ehr_hours, batch.ehr_valid)
    last_film = _latest(batch.film_hours, batch.film_valid).floor()
    last = torch.where(last_row.isinf(), last_film, last_row)
    return last.nan_to_num(neginf=0) - (n_grid - 1)


def _latest(hours: Tensor, valid: Tensor) -> Tensor:
    """The latest valid hour, float [B]; -inf if there is none."""
    never = float("-inf")
    return F.pad(hours.masked_fill(~valid, never), (0, 1), value=never).amax(dim=1)


class TimeEmbedding(nn.Module):
    """phi(tau) = [w_0 tau + b_0 ; sin(w tau + b)], one for EHR, films and grid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)
        self.periodic = nn.Linear(1, width - 1)

    def forward(self, tau: Tensor) -> Tensor:
        """Embed times, float [...], in units of 48 hours, to [..., width]."""
        # Half precision would blur the hours: they lie 1/48 apart.
        with torch.autocast(tau.device.type, enabled=False):
            tau = tau[..., None]
            return torch.cat([self.linear(tau), self.periodic(tau).sin()], dim=-1)


class MultiTimeAttention(nn.Module):
    """mTAND: each grid point averages what was seen, by similarity of time, in every head.

    Args:
        time_width: width of embedded times
        n_channels: channels C of what is averaged
        d: width of the result
    """

    def __init__(self, time_width: int, n_channels: int, d: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.to_query = nn.Linear(time_width, time_width)
        self.to_key = nn.Linear(time_width, time_width)
        self.dropout = nn.Dropout(MTAND_DROPOUT)
        self.out = nn.Linear(n_heads * n_channels, d)  # W_o

    def forward(self, grid: Tensor, times: Tensor, z: Tensor, seen: Tensor) -> Tensor:
        """W_o [u_1 ; ... ; u_heads] for every grid point, float [B, Q, d]; arguments: `average`."""
        return self.out(self.average(grid, times, z, seen).transpose(1, 2).flatten(2))

    def average(self, grid: Tensor, times: Tensor, z: Tensor, seen: Tensor) -> Tensor:
        """u: the weighted mean of a channel's seen rows; there is no value projection.

        The softmax over seen rows is that over all rows, as far as seen, divided by its sum.

        Args:
            grid: float [Q, time_width]; embedded times of the grid
            times: float [B, N, time_width]; embedded times of the rows
            z: float [B, N, C]; zero where not seen
            seen: bool [B, N, C], or [B, N, 1] if the same for all channels

        Returns:
            float [B, n_heads, Q, C]; zero in a channel that no row shows.
        """
        with torch.autocast(z.device.type, enabled=False):
            z, shown = z.float()[:, None], seen.float()[:, None]
            weights = self._weights(grid, times, seen.any(dim=-1))
            return self.dropout(weights) @ z / (weights @ shown).clamp_min(LEAST_WEIGHT)

    def _weights(self, grid: Tensor, times: Tensor, row_seen: Tensor) -> Tensor:
        """Softmax over the rows that show anything, float [B, n_heads, Q, N]."""
        q = self.to_query(grid).unflatten(-1, (self.n_heads, -1)).transpose(0, 1)
        k = self.to_key(times).unflatten(-1, (self.n_heads, -1)).permute(0, 2, 3, 1)
        logits = q @ k / math.sqrt(q.shape[-1])
        return logits.masked_fill(~row_seen[:, None, None], -1e4).softmax(dim=-1)


class Gate(nn.Module):
    """g = sigmoid(MLP([E_attn ; E_imp])), the share of learnt interpolation."""

    def __init__(self, d: int, level: str, dropout: float) -> None:
        super().__init__()
        self.level = level
        n_gates = d if level == "batch_seq_feature" else 1
        self.mlp = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(2 * d, d), nn.ReLU(), nn.Linear(d, n_gates)
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)

    def forward(self, E_attn: Tensor, E_imp: Tensor) -> Tensor:
        """Gates of two embeddings, float [B, Q, d] each: [B, 1, 1], [B, Q, 1] or [B, Q, d]."""
        both = torch.cat([E_attn, E_imp], dim=-1)
        if self.level == "batch":
            both = both.amax(dim=1, keepdim=True)
        return self.mlp(both).sigmoid()


class UnifiedDiscretisation(nn.Module):
    """EHR on the grid, by learnt interpolation and by imputation, blended by the gate."""

    def __init__(self, config: UtdeConfig, n_variables: int) -> None:
        super().__init__()
        d, n_channels = config.d_model, 2 * n_variables
        self.n_grid = config.n_grid
        self.interpolate = MultiTimeAttention(config.time_width, n_channels, d, config.n_heads)
        self.impute = nn.Linear(n_channels, d, bias=False)  # a convolution over one hour
        self.gate = Gate(d, config.gate, config.dropout)

    def forward(self, grid: Tensor, times: Tensor, place: Tensor, batch: Batch) -> Tensor:
        """E_ts = g E_attn + (1 - g) E_imp, float [B, Q, d].

        Args:
            grid, times: embedded times of the grid and of the EHR rows, see `MultiTimeAttention`
            place: float [B, L]; the rows' hours, counted from the first grid point
        """
        E_attn = self.interpolated(grid, times, batch)
        E_imp = self.impute(self.imputed_rows(place, batch))
        g = self.gate(E_attn, E_imp)
        return g * E_attn + (1 - g) * E_imp

    def interpolated(self, grid: Tensor, times: Tensor, batch: Batch) -> Tensor:
        """E_attn: mTAND over [charted value ; charted]; imputed values do not enter it."""
        observed = batch.ehr_observed & batch.ehr_valid[..., None]
        z = torch.cat([batch.ehr_values * observed, observed.float()], dim=-1)
        return self.interpolate(grid, times, z, observed.repeat(1, 1, 2))

    def imputed_rows(self, place: Tensor, batch: Batch) -> Tensor:
        """[imputed value ; charted] of every grid hour, float [B, Q, 76]; zero without a row."""
        rows = torch.cat([batch.ehr_values, batch.ehr_observed.float()], dim=-1)
        points = torch.arange(self.n_grid, device=place.device)[:, None]
        is_here = (place.round()[:, None] == points) & batch.ehr_valid[:, None]
        return is_here.float() @ rows


class Stream(nn.Module):
    """One modality's part of a fusion layer; every block is pre-norm and residual."""

    def __init__(self, d: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(d, n_heads, dropout)
        self.cross_attn = Attention(d, n_heads, dropout)
        self.linear1 = nn.Linear(d, 4 * d)
        self.linear2 = nn.Linear(4 * d, d)
        self.self_norm, self.cross_norm, self.norm = (nn.LayerNorm(d) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        for attention in (self.self_attn, self.cross_attn):
            nn.init.xavier_uniform_(attention.out_proj.weight)

    def attend_to_itself(self, x: Tensor) -> Tensor:
        """x + SelfAttn(LN x)."""
        y = self.self_norm(x)
        return x + self.dropout(self.self_attn(y, y, y, _all_valid(y)))

    def attend_to(self, x: Tensor, y: Tensor, other: Tensor) -> Tensor:
        """x + CrossAttn(y -> other), where y = LN x and `other` is the other modality's."""
        return x + self.dropout(self.cross_attn(y, other, other, _all_valid(other)))

    def feed_forward(self, x: Tensor) -> Tensor:
        """x + W_2 ReLU(W_1 LN x)."""
        drop = self.dropout
        return x + drop(self.linear2(drop(F.relu(self.linear1(self.norm(x))))))


def _all_valid(x: Tensor) -> Tensor:
    return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)


class InterleavedLayer(nn.Module):
    """Self-attention of both modalities, then cross-attention both ways, then feed-forward."""

    def __init__(self, d: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.cxr = Stream(d, n_heads, dropout)
        self.ts = Stream(d, n_heads, dropout)

    def forward(
        self, cxr: Tensor, ts: Tensor, wanted: slice = slice(None)
    ) -> tuple[Tensor, Tensor]:
        """Update both grids, float [B, Q, d] each; only the `wanted` points are returned."""
        cxr, ts = self.cxr.attend_to_itself(cxr), self.ts.attend_to_itself(ts)
        # Both look at the other as it was before either did.
        y_cxr, y_ts = self.cxr.cross_norm(cxr), self.ts.cross_norm(ts)
        cxr = self.cxr.attend_to(cxr[:, wanted], y_cxr[:, wanted], y_ts)
        ts = self.ts.attend_to(ts[:, wanted], y_ts[:, wanted], y_cxr)
        return self.cxr.feed_forward(cxr), self.ts.feed_forward(ts)


class InterleavedFusion(nn.Module):
    """Layers over both grids with one table of positions; s = both grids' last points."""

    def __init__(self, config: UtdeConfig) -> None:
        super().__init__()
        d = config.d_model
        self.positions = nn.Parameter(torch.randn(config.n_grid, d) * POSITION_SD)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            InterleavedLayer(d, config.n_heads, config.dropout) for _ in range(config.n_layers)
        )
        self.cxr_norm, self.ts_norm = nn.LayerNorm(d), nn.LayerNorm(d)

    def forward(self, E_cxr: Tensor, E_ts: Tensor) -> Tensor:
        """Fuse two grids, float [B, Q, d] each, to s, float [B, 2d]."""
        cxr, ts = (self.dropout(E * math.sqrt(E.shape[-1]) + self.positions) for E in (E_cxr, E_ts))
        for layer in self.layers[:-1]:
            cxr, ts = layer(cxr, ts)
        cxr, ts = self.layers[-1](cxr, ts, wanted=LAST_POINT)
        return torch.cat([self.cxr_norm(cxr[:, -1]), self.ts_norm(ts[:, -1])], dim=-1)


class Readout(nn.Module):
    """s' = s + W_b ReLU(W_a s), then a linear layer to all logits."""

    def __init__(self, width: int, n: int, dropout: float) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, width)
        )
        self.out = nn.Linear(width, n)

    def forward(self, s: Tensor) -> Tensor:
        """Logits of s, float [B, width]: [B, n]."""
        return self.out(s + self.block(s))


class FilmEncoder(Encoder):
    """Pooled features of whole films, dropped out as the notes' are in the released code."""

    def __init__(self, config: UtdeConfig) -> None:
        super().__init__()
        self.max_film_size = config.max_film_size
        self.images = ImageEncoder(config.backbone, config.weights)
        self.width = self.images.width
        self.dropout = nn.Dropout(FILM_DROPOUT)

    def forward(self, films: Tensor) -> Tensor:
        """Encode films, uint8 [N, S, S], to float [N, width]."""
        return self.dropout(self.images(shrink(films, self.max_film_size)))


class Utde(Method[UtdeConfig]):
    """EHR and films on one grid, interleaved attention, a classifier on the grid's last point."""

    title = "UTDE"
    inputs = Inputs(films=True, ehr=True, demographics=True)

    def __init__(self, config: UtdeConfig, spec: TaskSpec) -> None:
        super().__init__(config, spec)
        d = config.d_model
        self.films = FilmEncoder(config)
        self.time = TimeEmbedding(config.time_width)
        self.ehr = UnifiedDiscretisation(config, spec.n_variables)
        self.film_grid = MultiTimeAttention(config.time_width, self.films.width, d, config.n_heads)
        if spec.cxr is Cxr.LAST:
            # A softmax over one film is 1 whatever its time: nothing to learn there.
            self.film_grid.to_query.requires_grad_(False)
            self.film_grid.to_key.requires_grad_(False)
        self.fusion = InterleavedFusion(config)
        self.demographics = (
            nn.Sequential(nn.Linear(spec.n_demographics, d), nn.ReLU(), nn.Dropout(config.dropout))
            if config.use_demographics
            else None
        )
        width = 3 * d if config.use_demographics else 2 * d
        self.readout = Readout(width, spec.n_outputs * spec.n_logits, config.dropout)
        grid_tau = torch.arange(config.n_grid) / ICU_HORIZON_HOURS
        self.register_buffer("grid_tau", grid_tau, persistent=False)
        self.grid_tau: Tensor

    @classmethod
    def configure(cls, preset: Preset, task: Task) -> UtdeConfig:
        """One configuration for every task, at the preset's size."""
        return replace(UtdeConfig(), **SMALLER[preset])

    @classmethod
    def recipe(cls, task: Task) -> Recipe:
        """Defaults of UTDE's released scripts: a constant rate, steps of 32 samples.

        There they are 16 batches of 2, too few for the batch norms that a ConvNet brings.
        """
        return {
            "lr": 4e-4,
            "schedule": "constant",
            "weight_decay": 0.0,
            "batch_size": 16,
            "accumulation": 2,
            "max_epochs": 6,
        }

    @classmethod
    def decline(cls, task: Task, cxr: Cxr, ehr: bool) -> str | None:
        """It joins two modalities."""
        if cxr is Cxr.NONE:
            return "UTDE joins films with EHR: without films use --method ehr_transformer"
        if not ehr:
            return "UTDE joins films with EHR: it cannot do without EHR"
        return None

    def remarks(self, cohort: Cohort) -> list[str]:
        """What a run should say of its cohort: hours after the grid's last point are not read."""
        longest = int(cohort.stays["n_hours"].max())
        if not self.spec.task.is_icu or longest <= self.config.n_grid:
            return []
        return [
            f"{self.title}: stays of this cohort show up to {longest} hours, its grid has "
            f"{self.config.n_grid} points: --set model.n_grid={longest}"
        ]

    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        """Logits; there are no further loss terms and no maps."""
        s = self.fusion(*self.on_grid(batch))
        if self.demographics is not None:
            s = torch.cat([s, self.demographics(batch.demographics)], dim=-1)
        logits = self.readout(s)
        n_outputs = self.spec.n_outputs
        return Output(logits.unflatten(-1, (n_outputs, -1)) if n_outputs > 1 else logits)

    def on_grid(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """E_cxr and E_ts, float [B, Q, d] each."""
        first = first_grid_hour(batch, self.spec.task, self.config.n_grid)[:, None]
        film_place, row_place = batch.film_hours - first, batch.ehr_hours - first
        grid, film_times, row_times = (
            self.time(tau)
            for tau in (
                self.grid_tau,
                film_place / ICU_HORIZON_HOURS,
                row_place / ICU_HORIZON_HOURS,
            )
        )
        features = encode_valid(self.films, batch.films, batch.layout.films)
        E_cxr = self.film_grid(grid, film_times, features, batch.film_valid[..., None])
        return E_cxr, self.ehr(grid, row_times, row_place, batch)
