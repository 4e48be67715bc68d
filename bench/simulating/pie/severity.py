"""The severity net: what a film shows, read from 64 pixels a side. Judges edits, sees no label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.simulating.diffusion.cache import key, trained
from bench.simulating.diffusion.model import to_unit
from bench.simulating.diffusion.stages import Stage, run_stage, seeded
from bench.simulating.diffusion.training import Films
from bench.simulating.pie.compose import shrunk
from bench.simulating.population import FILM_SEVERITIES

FORMAT: Final = 1
WIDTHS: Final = (24, 48, 64, 96)


@dataclass(frozen=True)
class SeverityConfig:
    """How the net is trained."""

    steps: int = 1000
    batch_size: int = 32
    lr: float = 2e-3
    seed: int = 0


class SeverityNet(nn.Module):
    """Films float [B, 1, 64, 64] in [-1, 1] to levels [B, 12] (`findings.level`)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((1, *WIDTHS), WIDTHS, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after)]
            layers += [nn.ReLU()]
        self.trunk = nn.Sequential(*layers, nn.Flatten())
        self.features_of = nn.Sequential(nn.Linear(WIDTHS[-1] * 16, 96), nn.ReLU())
        self.head = nn.Linear(96, len(FILM_SEVERITIES))

    def features(self, films: Tensor) -> Tensor:
        """What the head reads, [B, 96]."""
        return self.features_of(self.trunk(films))

    def forward(self, films: Tensor) -> Tensor:
        """Levels, not clipped at 0."""
        return self.head(self.features(films))


def train_severity(
    config: SeverityConfig, films: Callable[[], Films], data: Mapping[str, Any], cache: Path
) -> SeverityNet:
    """Return the net of these films (levels as conditions), from the cache or trained into it."""
    with seeded(config.seed):
        net = SeverityNet()
    settings = {"format": FORMAT, "config": asdict(config), "data": dict(data)}
    folder = cache / f"severity-{key(settings)}"
    return trained(net, folder, settings, lambda folder: _fit(net, *films(), config, folder))


def _fit(
    net: SeverityNet,
    images: np.ndarray,
    levels: np.ndarray,
    config: SeverityConfig,
    folder: Path,
) -> None:
    films, wanted = to_unit(images), torch.from_numpy(levels)

    def loss(rows: Tensor, generator: torch.Generator) -> Tensor:
        # Edited films are a little smoother and noisier than drawn ones: neither may matter.
        sd = 0.1 * torch.rand(len(rows), 1, 1, 1, generator=generator)
        seen = films[rows] + sd * torch.randn(films[rows].shape, generator=generator)
        return F.mse_loss(net(seen), wanted[rows])

    stage = Stage(
        "severity net", net, loss, len(films), config.steps, config.batch_size, config.lr,
        config.seed,
    )  # fmt: skip
    run_stage(stage, folder / "severity.checkpoint.pt")


def levels_of(net: SeverityNet, films: Tensor) -> np.ndarray:
    """Levels of films of any size [B, 1, S, S], float32 [B, 12]."""
    with torch.inference_mode():
        return torch.cat([net(shrunk(part)) for part in films.split(256)]).numpy()
