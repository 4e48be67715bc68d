"""DiPro's configuration: the paper's values, smaller ones for small machines, and the ablations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bench.contract import Ablation, MethodConfig, Preset, Recipe
from bench.data.vocabulary import Task
from bench.errors import UserError
from methods.dipro.pae import REVERSALS
from methods.encoders import BACKBONES


@dataclass(frozen=True)
class DiProConfig(MethodConfig):
    """Sizes, parts and loss weights of DiPro.

    backbone, weights: see `methods.encoders.ImageEncoder`
    d_model: width d of every token
    std, pae, mmf: the paper's three modules; a part that is off is not built
    local_fusion, global_fusion: the two scales of MMF
    reversal: how PAE reverses a pair, 'swap' (paper) or 'interleave' (official code, ledger M1)
    lambda_*: weights of the loss terms (paper section 2.5)
    """

    backbone: str = "resnet50"
    weights: str = "imagenet"
    d_model: int = 256
    n_heads: int = 8
    dropout: float = 0.1
    local_fusion_layers: int = 1
    group_embedding_k: int = 8
    std: bool = True
    pae: bool = True
    mmf: bool = True
    local_fusion: bool = True
    global_fusion: bool = True
    reversal: str = "swap"
    lambda_pred: float = 1.0
    lambda_orth: float = 1.0
    lambda_temp: float = 1.0
    lambda_pae_dynamic: float = 1.0
    lambda_pae_static: float = 1.0

    choices = {"reversal": REVERSALS, "backbone": BACKBONES}
    least = dict.fromkeys(("n_heads", "d_model", "local_fusion_layers", "group_embedding_k"), 1)
    multiples = {"d_model": "n_heads"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mmf and not (self.local_fusion or self.global_fusion):
            raise UserError("model.mmf needs local_fusion or global_fusion: leave one on")

    def loss_weights(self) -> dict[str, float]:
        """The weight of every term that this configuration has."""
        weights = {"task": self.lambda_pred}
        if self.std:
            weights |= {"orth": self.lambda_orth, "temp": self.lambda_temp}
        if self.pae:
            weights["pae_dynamic"] = self.lambda_pae_dynamic
        if self.std and self.pae:
            weights["pae_static"] = self.lambda_pae_static
        return weights


PAPER: dict[Task, dict[str, Any]] = {
    Task.DISEASE_PROGRESSION: {
        "d_model": 256,
        "local_fusion_layers": 1,
        "lambda_pred": 2.0,
        "lambda_orth": 1.0,
        "lambda_temp": 0.0,
        "lambda_pae_dynamic": 2.0,
        "lambda_pae_static": 0.5,
    },
    Task.MORTALITY: {
        "d_model": 256,
        "local_fusion_layers": 2,
        "lambda_pred": 6.0,
        "lambda_orth": 0.1,
        "lambda_temp": 1.0,
        "lambda_pae_dynamic": 0.1,
        "lambda_pae_static": 0.5,
    },
    Task.LENGTH_OF_STAY: {
        "d_model": 128,
        "local_fusion_layers": 1,
        "lambda_pred": 10.0,
        "lambda_orth": 0.001,
        "lambda_temp": 0.1,
        "lambda_pae_dynamic": 0.1,
        "lambda_pae_static": 0.5,
    },
}
"""Paper, Table 8 and Table 16, and the released launch scripts (width, layers, lambda_pae_static).

The released code weighs the static reversal term by itself, not within lambda_pae (ledger M3).
"""

RECIPE: dict[Task, Recipe] = {
    Task.DISEASE_PROGRESSION: {"lr": 5e-6 * 4 * 8, "batch_size": 8, "accumulation": 4},
    Task.MORTALITY: {"lr": 1e-5 * 4 * 4, "batch_size": 4, "accumulation": 4},
    Task.LENGTH_OF_STAY: {"lr": 8e-6 * 4 * 4, "batch_size": 4, "accumulation": 4},
}
"""Paper, Table 8; lr is base rate x accumulation x batch size, as the optimizer gets it (T1)."""

SMALLER: dict[Preset, dict[str, Any]] = {
    Preset.DEMO: {"backbone": "small", "weights": "none", "d_model": 64},
    Preset.MEDIUM: {"backbone": "small", "weights": "none", "d_model": 128},
    Preset.PAPER: {},
}
"""What a preset changes in the paper's configuration: sizes only."""


def configure(preset: Preset, task: Task) -> DiProConfig:
    """DiPro's configuration for a preset and a task."""
    return replace(DiProConfig(**PAPER[task]), **SMALLER[preset])


def _changed(sentence: str, **changes: Any) -> Ablation[DiProConfig]:
    return Ablation(sentence, lambda config: replace(config, **changes))


ABLATIONS: dict[str, Ablation[DiProConfig]] = {
    "std": _changed(
        "No disentanglement: one projection f([F_i ; F_i+1]) stands for D_i; there is no S, "
        "L_orth, L_temp or static PAE term, and static fusion sees demographics only.",
        std=False,
    ),
    "pae": _changed(
        "No progression-aware enhancement: no region heads, no reversed pass, no PAE losses "
        "(paper A2).",
        pae=False,
    ),
    "mmf": _changed(
        "No multiscale fusion: [class tokens ; D ; E_global] go through one self-attention layer; "
        "static fusion is kept (paper A1).",
        mmf=False,
    ),
    "pae+mmf": _changed("Neither PAE nor MMF (paper A3).", pae=False, mmf=False),
    "std+pae+mmf": _changed(
        "None of the three: f([F_i ; F_i+1]) and E_global are concatenated and go through one "
        "self-attention layer (paper A4).",
        std=False,
        pae=False,
        mmf=False,
    ),
    "local-only": _changed(
        "Fusion within intervals only: one self-attention over [class tokens ; D_fuse], no hour "
        "tokens, no attention from EHR to regions.",
        global_fusion=False,
    ),
    "global-only": _changed(
        "Fusion over the stay only: D_fuse = D, no time embedding, no interval attention.",
        local_fusion=False,
    ),
    "orth": _changed("Weight of L_orth zero (paper Table 15).", lambda_orth=0.0),
    "temp": _changed(
        "Weight of L_temp zero (paper Table 15); no change for disease_progression, where it is "
        "zero already.",
        lambda_temp=0.0,
    ),
    "pae-loss": _changed(
        "PAE is built but both its losses weigh zero (paper Table 15): the one ablation with "
        "unused parameters.",
        lambda_pae_dynamic=0.0,
        lambda_pae_static=0.0,
    ),
}
