"""A small network that estimates random effects from a film."""

from __future__ import annotations

import copy
import math
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.simulating.diffusion.stages import seeded

WIDTHS: Final = (16, 32, 48, 64)
BATCH_SIZE: Final = 32
LR: Final = 3e-3
WEIGHT_DECAY: Final = 0.05
WARMUP_STEPS: Final = 50
MAX_SHIFT: Final = 2
"""Pixels by which a batch of films is moved, so that few subjects teach more."""

VALIDATED: Final = 0.15
"""Share of the training subjects that choose the epoch."""


class ImageModel(nn.Module):
    """Convolutions and poolings; films float [B, 1, S, S] to effects [B, K].

    It learns effects in units of their sd, and starts by saying their mean of every film.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, size: int, targets: Tensor) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in zip((1, *WIDTHS[:-1]), WIDTHS, strict=True):
            layers += [nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out)]
            layers += [nn.ReLU(), nn.MaxPool2d(2)]
        n_features = WIDTHS[-1] * (size // 2 ** len(WIDTHS)) ** 2
        head = nn.Linear(n_features, targets.shape[1])
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        self.network = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), head)
        self.register_buffer("mean", targets.mean(dim=0))
        self.register_buffer("sd", targets.std(dim=0).clamp(min=1e-6))

    def forward(self, films: Tensor) -> Tensor:
        """[B, K], in the units of the targets."""
        return self.mean + self.sd * self.network(films)

    def loss(self, films: Tensor, targets: Tensor) -> Tensor:
        """MSE in units of the targets' sd: no effect counts more than another."""
        return F.mse_loss(self.network(films), (targets - self.mean) / self.sd)


def fit_image_model(
    films: np.ndarray, targets: np.ndarray, n_epochs: int = 20, seed: int = 0
) -> ImageModel:
    """Regress targets [N, K] from films uint8 [N, S, S]: MSE, AdamW, warm-up and a cosine.

    The first subjects choose the epoch and teach nothing else; they may choose the start, so that
    films that tell nothing give the mean.
    """
    x, y = scaled(films), torch.from_numpy(targets).float()
    n_validated = round(VALIDATED * len(x))
    n_batches = max((len(x) - n_validated) // BATCH_SIZE, 1)
    n_steps = n_epochs * n_batches
    generator = torch.Generator().manual_seed(seed)
    with seeded(seed):
        model = ImageModel(films.shape[-1], y[n_validated:])
        optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: _lr_share(i, n_steps))
        best, kept = _error(model, films, targets, n_validated), copy.deepcopy(model.state_dict())
        for _ in range(n_epochs):
            model.train()
            order = n_validated + torch.randperm(len(x) - n_validated, generator=generator)
            for rows in order.split(BATCH_SIZE)[:n_batches]:
                optimizer.zero_grad()
                model.loss(_moved(x[rows], generator), y[rows]).backward()
                optimizer.step()
                schedule.step()
            error = _error(model, films, targets, n_validated)
            if error < best:
                best, kept = error, copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    return model.eval()


def _lr_share(step: int, n_steps: int) -> float:
    return min((step + 1) / WARMUP_STEPS, 1.0) * 0.5 * (1 + math.cos(math.pi * step / n_steps))


def _moved(films: Tensor, generator: torch.Generator) -> Tensor:
    """The films, all moved alike by a few pixels; what leaves the frame is lost."""
    down, across = torch.randint(0, 2 * MAX_SHIFT + 1, (2,), generator=generator).tolist()
    padded = F.pad(films, (MAX_SHIFT,) * 4, mode="replicate")
    return padded[..., down : down + films.shape[-2], across : across + films.shape[-1]]


def _error(model: ImageModel, films: np.ndarray, targets: np.ndarray, n: int) -> float:
    """MSE of the first n, in units of the targets' sd."""
    missed = (predict(model, films[:n]) - targets[:n]) / model.sd.numpy()
    return float((missed**2).mean())


@torch.no_grad()
def predict(model: ImageModel, films: np.ndarray) -> np.ndarray:
    """Estimates [N, K] from films uint8 [N, S, S]."""
    model.eval()
    return torch.cat([model(part) for part in scaled(films).split(256)]).double().numpy()


def scaled(films: np.ndarray) -> Tensor:
    """uint8 [N, S, S] to float32 [N, 1, S, S] about 0."""
    return torch.from_numpy(films)[:, None].float() / 128 - 1
