"""A small network that estimates random effects from a film."""

from __future__ import annotations

import copy
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.simulating.diffusion.stages import seeded

WIDTHS: Final = (16, 32, 64, 128)
BATCH_SIZE: Final = 32
LR: Final = 1e-3
VALIDATED: Final = 0.15
"""Share of the training subjects that choose the epoch."""


class ImageModel(nn.Module):
    """Strided convolutions; films float [B, 1, S, S] to effects [B, 3]."""

    def __init__(self, size: int, n_outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in zip((1, *WIDTHS[:-1]), WIDTHS, strict=True):
            layers += [nn.Conv2d(n_in, n_out, 3, 2, 1), nn.BatchNorm2d(n_out), nn.ReLU()]
        n_features = WIDTHS[-1] * (size // 2 ** len(WIDTHS)) ** 2
        self.network = nn.Sequential(
            *layers, nn.Flatten(), nn.Dropout(0.5), nn.Linear(n_features, n_outputs)
        )

    def forward(self, films: Tensor) -> Tensor:
        """[B, n_outputs]."""
        return self.network(films)


def fit_image_model(
    films: np.ndarray, targets: np.ndarray, n_epochs: int = 20, seed: int = 0
) -> ImageModel:
    """Regress targets [N, K] from films uint8 [N, S, S] by MSE and Adam.

    The first subjects choose the epoch and teach nothing else.
    """
    x, y = scaled(films), torch.from_numpy(targets).float()
    n_validated = round(VALIDATED * len(x))
    generator = torch.Generator().manual_seed(seed)
    with seeded(seed):
        model = ImageModel(films.shape[-1], targets.shape[1])
        optimizer = torch.optim.Adam(model.parameters(), lr=LR, weight_decay=1e-4)
        best, kept = np.inf, copy.deepcopy(model.state_dict())
        for _ in range(n_epochs):
            model.train()
            order = n_validated + torch.randperm(len(x) - n_validated, generator=generator)
            for rows in order.split(BATCH_SIZE)[: len(order) // BATCH_SIZE]:
                optimizer.zero_grad()
                F.mse_loss(model(x[rows]), y[rows]).backward()
                optimizer.step()
            error = float(
                ((predict(model, films[:n_validated]) - targets[:n_validated]) ** 2).mean()
            )
            if error < best:
                best, kept = error, copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    return model.eval()


@torch.no_grad()
def predict(model: ImageModel, films: np.ndarray) -> np.ndarray:
    """Estimates [N, K] from films uint8 [N, S, S]."""
    model.eval()
    return torch.cat([model(part) for part in scaled(films).split(256)]).double().numpy()


def scaled(films: np.ndarray) -> Tensor:
    """uint8 [N, S, S] to float32 [N, 1, S, S] about 0."""
    return torch.from_numpy(films)[:, None].float() / 128 - 1
