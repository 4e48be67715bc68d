"""From the engine's 64 pixels a side to films of any size, and between its stages."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

SIZE = 64
"""Pixels a side that the tiny engine edits and the severity net reads."""


def shrunk(films: Tensor) -> Tensor:
    """Films [B, 1, S, S] at the engine's size, averaged where they are larger."""
    if films.shape[-1] == SIZE:
        return films
    return F.interpolate(films, size=(SIZE, SIZE), mode="bilinear", antialias=True)


def with_change(films: Tensor, before: Tensor, after: Tensor, mask: Tensor | None) -> Tensor:
    """Add what an edit changed to the start film: its anatomy, detail and noise stay.

    Args:
        films: start films [B, 1, S, S] in [-1, 1], S at least the engine's size
        before, after: decoded start and edit, [B, 1, 64, 64]; what the autoencoder loses cancels
        mask: [B or 1, 1, 64, 64]; nothing changes where it is 0
    """
    change = after.clamp(-1, 1) - before.clamp(-1, 1)
    if mask is not None:
        change = change * mask
    if films.shape[-1] != SIZE:
        change = F.interpolate(change, size=films.shape[-2:], mode="bicubic")
    return (films + change).clamp(-1, 1)


def at_stage(stages: Tensor, stage: Tensor) -> Tensor:
    """Latents between stages, linearly.

    Args:
        stages: latents of stages 0..N, [N + 1, B, channels, h, w]
        stage: 0..N at each latent pixel, [B, 1, h, w]
    """
    below = stage.floor().clamp(0, len(stages) - 2).long()
    share = stage - below
    index = below[None].expand(1, *stages.shape[1:])
    lower, upper = stages.gather(0, index)[0], stages.gather(0, index + 1)[0]
    return lower + share * (upper - lower)
