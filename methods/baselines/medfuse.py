"""MedFuse: an LSTM that reads one vector of the EHR, then one vector per film.

Hayat, Geras, Shamout, "MedFuse: Multi-modal fusion with clinical time-series data and chest X-ray
images", MLHC 2022, PMLR 182:479-503. It reads the last film; with several, oldest to newest, it is
the DiPro paper's longitudinal variant (appendix A.2.2). Differences from the released code:

- films that are not there are not encoded, so they enter no batch statistics;
- one stage of training: encoders start from ImageNet (films) and from scratch (EHR), unless
  `--weights stage-one:FILE` brings those of a first stage, see `medfuse_stage_one`;
- no random flips or rotations: drawn per film, they would misalign the films of a pair;
- films are scaled to 0..1 as for every method here; the first batch normalisation of the ConvNet
  undoes the mean and sd that the released code subtracts, borders aside.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.contract import MethodConfig, Output, Preset, Recipe, TaskSpec
from bench.data.batch import Batch, Inputs
from bench.data.vocabulary import Cxr, Task
from bench.errors import UserError
from methods.base import Method
from methods.encoders import BACKBONES, Encoder, ImageEncoder, encode_valid, shrink

STAGE_ONE = "stage-one"
"""Kind of weights that a first stage of training wrote."""

ENCODERS = ("ehr.", "films.images.")
"""Where the encoders are among the parameters of both stages."""


@dataclass(frozen=True)
class MedFuseConfig(MethodConfig):
    """Sizes of MedFuse.

    backbone, weights: see `methods.encoders.ImageEncoder`; the DiPro paper's parameter count is
        that of resnet50, MedFuse itself has resnet34
    hidden: width of the EHR LSTM and of projected films
    fusion_width: width of the fusion LSTM
    max_film_size: larger films are averaged down to this many pixels a side; 0 leaves them
    use_demographics: append demographics to every hour of EHR; MedFuse itself reads none
    """

    backbone: str = "resnet50"
    weights: str = "imagenet"
    hidden: int = 320
    fusion_width: int = 512
    dropout: float = 0.3
    max_film_size: int = 224
    use_demographics: bool = False

    choices = {"backbone": BACKBONES}
    least = {"hidden": 1, "fusion_width": 1, "max_film_size": 0}


SMALLER: dict[Preset, dict[str, Any]] = {
    Preset.DEMO: {"backbone": "small_film", "weights": "none", "hidden": 64, "fusion_width": 128},
    Preset.MEDIUM: {
        "backbone": "small_film",
        "weights": "none",
        "hidden": 128,
        "fusion_width": 256,
    },
    Preset.PAPER: {},
}
"""What a preset changes in the paper's configuration: sizes only."""


class EhrLstm(nn.Module):
    """v_ehr: last state of a two-layer LSTM, then dropout (MedFuse, EHR encoder)."""

    def __init__(self, n_inputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(n_inputs, width, num_layers=2, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("weight_ih"):
                nn.init.xavier_uniform_(parameter)
            elif name.startswith("weight_hh"):
                nn.init.orthogonal_(parameter)
            else:
                nn.init.zeros_(parameter)

    def forward(self, hours: Tensor, valid: Tensor) -> Tensor:
        """Encode hours, float [B, L, n_inputs], of which a prefix is valid, to [B, width]."""
        return self.dropout(last_state(self.lstm, hours, valid))


class FilmEncoder(Encoder):
    """v*_cxr = phi(v_cxr): a ConvNet over a whole film and a linear projection."""

    def __init__(self, config: MedFuseConfig) -> None:
        super().__init__()
        self.width = config.hidden
        self.max_film_size = config.max_film_size
        self.images = ImageEncoder(config.backbone, config.weights)
        self.phi = nn.Linear(self.images.width, self.width)

    def forward(self, films: Tensor) -> Tensor:
        """Encode films, uint8 [N, S, S], to float [N, width]."""
        return self.phi(self.images(shrink(films, self.max_film_size)))


class MedFuse(Method[MedFuseConfig]):
    """The fusion LSTM over [v_ehr, v*_1, ..., v*_T] and a linear classifier."""

    title = "MedFuse"
    inputs = Inputs(films=True, ehr=True, demographics=True)

    def __init__(self, config: MedFuseConfig, spec: TaskSpec) -> None:
        super().__init__(config, spec)
        n_inputs = spec.n_variables + (spec.n_demographics if config.use_demographics else 0)
        self.ehr = EhrLstm(n_inputs, config.hidden, config.dropout) if spec.ehr else None
        self.films = FilmEncoder(config)
        self.fusion = nn.LSTM(config.hidden, config.fusion_width, batch_first=True)
        self.classifier = nn.Linear(config.fusion_width, spec.n_outputs * spec.n_logits)

    @classmethod
    def configure(cls, preset: Preset, task: Task) -> MedFuseConfig:
        """One configuration for every task, at the preset's size."""
        return replace(MedFuseConfig(), **SMALLER[preset])

    @classmethod
    def recipe(cls, task: Task) -> Recipe:
        """Defaults of MedFuse's released code."""
        return {
            "lr": 1e-4,
            "weight_decay": 0.0,
            "batch_size": 16,
            "accumulation": 1,
            "max_epochs": 50,
            "patience": 15,
        }

    @classmethod
    def decline(cls, task: Task, cxr: Cxr, ehr: bool) -> str | None:
        """It fuses a sequence: one vector alone is none."""
        if cxr is Cxr.NONE:
            return "MedFuse without films is an EHR LSTM: use --method ehr_transformer"
        if cxr is Cxr.LAST and not ehr:
            return "MedFuse has nothing to fuse in one film: use --cxr long, or give it the EHR"
        return None

    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        """Logits; there are no further loss terms and no maps."""
        sequence = encode_valid(self.films, batch.films, batch.layout.films)  # v*, [B, T, hidden]
        valid = batch.film_valid
        if self.ehr is not None:
            v_ehr = self.ehr(hours_of(batch, self.config.use_demographics), batch.ehr_valid)
            sequence = torch.cat([v_ehr[:, None], sequence], dim=1)
            valid = torch.cat([batch.ehr_valid.any(dim=1, keepdim=True), valid], dim=1)
        h_fusion = last_state(self.fusion, *valid_first(sequence, valid))
        logits = self.classifier(h_fusion)
        n_outputs = self.spec.n_outputs
        return Output(logits.unflatten(-1, (n_outputs, -1)) if n_outputs > 1 else logits)

    def load_weights(self, kind: str, file: Path) -> list[str]:
        """As of every method; kind 'stage-one' brings the encoders, and nothing else.

        Raises:
            UserError: the file holds no encoders of these sizes.
        """
        if kind != STAGE_ONE:
            return super().load_weights(kind, file)
        names = [name for name in self.state_dict() if name.startswith(ENCODERS)]
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            self.load_state_dict({name: state[name] for name in names}, strict=False)
        except Exception as error:
            # torch.load raises many kinds for a file that is no checkpoint.
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{file} holds no encoders of this {self.title}: {reason}")
        return [f"encoders are those of a first stage, {file.name}; the rest starts from scratch"]


def hours_of(batch: Batch, use_demographics: bool) -> Tensor:
    """What the LSTM reads: EHR values, float [B, L, 38], on request beside demographics."""
    if not use_demographics:
        return batch.ehr_values
    static = batch.demographics[:, None].expand(-1, batch.ehr_values.shape[1], -1)
    return torch.cat([batch.ehr_values, static], dim=-1)


def valid_first(x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Move the valid steps of x, float [B, N, d], to the front, in order; valid is bool [B, N]."""
    order = valid.int().argsort(dim=1, descending=True, stable=True)
    return x.take_along_dim(order[..., None], dim=1), valid.take_along_dim(order, dim=1)


def last_state(lstm: nn.LSTM, x: Tensor, valid: Tensor) -> Tensor:
    """The top layer's hidden state after the last valid step.

    An LSTM reads forward, so what comes after that step, padding, cannot reach its state.

    Args:
        lstm: one direction, batch first
        x: float [B, N, d]
        valid: bool [B, N]; a prefix of True

    Returns:
        float [B, width]; zero for a sample without a valid step.
    """
    if not valid.shape[1]:
        return x.new_zeros(len(x), lstm.hidden_size)
    states, _ = lstm(x)
    last = (valid.sum(dim=1) - 1).clamp_min(0)
    return states[torch.arange(len(x), device=x.device), last] * valid.any(dim=1, keepdim=True)
