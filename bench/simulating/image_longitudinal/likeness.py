"""How alike two films look beyond their pixels: the perceptual part of the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import UserError

GREY_MEAN, GREY_SD = 0.449, 0.226
FEATURE_WEIGHTS: Final = {4: 6.25 / 3, 16: 1.0 / 3}
"""Layers of VGG-16 (torchvision's order) after which features are compared, and their weights."""

GRADIENT_WEIGHT: Final = 400 / 3
"""Of the gradients' MSE, where no network is at hand."""


class Gradients(nn.Module):
    """MSE of gradient magnitudes at full and half resolution: sharp edges without a network."""

    def forward(self, films: Tensor, others: Tensor) -> Tensor:
        """Scalar of two batches [B, 1, S, S]."""
        total = F.mse_loss(_gradient(films), _gradient(others))
        x, y = (_gradient(F.avg_pool2d(film, 2)) for film in (films, others))
        small = F.mse_loss(x, y)
        return GRADIENT_WEIGHT * (total + small) / 2


def _gradient(films: Tensor) -> Tensor:
    across = films[..., :-1, 1:] - films[..., :-1, :-1]
    down = films[..., 1:, :-1] - films[..., :-1, :-1]
    # The root's slope at 0 is infinite.
    return torch.sqrt(across**2 + down**2 + 1e-8)


class Perceptual(nn.Module):
    """The paper's: MSE of VGG-16 features, early and late, of weights that the user has."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        from torchvision.models.vgg import cfgs, make_layers

        network = make_layers(cfgs["D"])[: max(FEATURE_WEIGHTS)]
        try:
            stored = torch.load(weights, map_location="cpu", weights_only=True)
            known = {
                name.removeprefix("features."): value
                for name, value in stored.items()
                if name.removeprefix("features.") in network.state_dict()
            }
            network.load_state_dict(known)
        except Exception as error:
            raise UserError(
                f"{weights} holds no VGG-16 weights of torchvision ({type(error).__name__})"
            )
        self.network = network.eval().requires_grad_(False)

    def forward(self, films: Tensor, others: Tensor) -> Tensor:
        """Scalar of two batches [B, 1, S, S]."""
        x, y = (((film - GREY_MEAN) / GREY_SD).repeat(1, 3, 1, 1) for film in (films, others))
        total, first = torch.zeros(()), 0
        for last, weight in FEATURE_WEIGHTS.items():
            x, y = self.network[first:last](x), self.network[first:last](y)
            total, first = total + weight * F.mse_loss(x, y), last
        return total
