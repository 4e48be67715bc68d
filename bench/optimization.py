"""The optimizer and its learning rate, the same for every method."""

from __future__ import annotations

import math

import torch
from torch import nn

from bench.config import TrainingConfig
from methods.base import Method


def adamw(model: Method, training: TrainingConfig) -> torch.optim.AdamW:
    """The optimizer of every run; a group of parameters per share of the rate."""
    of_backbones = {id(p) for backbone in model.backbones() for p in backbone.parameters()}
    by_share: dict[float, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        share = training.backbone_lr_share if id(parameter) in of_backbones else 1.0
        by_share.setdefault(share, []).append(parameter)
    return torch.optim.AdamW(
        [{"params": parameters, "share": share} for share, parameters in by_share.items()],
        lr=training.lr,
        betas=(training.beta_1, training.beta_2),
        weight_decay=training.weight_decay,
        fused=training.fused or None,
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group of `adamw` its share of a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]


def learning_rate(training: TrainingConfig, epoch: int, n_epochs: int) -> float:
    """Of an epoch, counted from 0, out of `n_epochs`.

    It rises evenly over the warm-up, then falls from lr to lr_min (the paper's: by a cosine, from
    the first epoch on; ledger T2), or stays.
    """
    if epoch < training.warmup_epochs:
        share = (epoch + 1) / (training.warmup_epochs + 1)
    else:
        gone = (epoch - training.warmup_epochs) / (n_epochs - training.warmup_epochs)
        share = {
            "cosine": 0.5 * (1 + math.cos(math.pi * gone)),
            "linear": 1 - gone,
            "constant": 1.0,
        }[training.schedule]
    return training.lr_min + (training.lr - training.lr_min) * share
