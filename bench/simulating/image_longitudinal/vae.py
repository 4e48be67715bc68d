"""A variational autoencoder of films whose decoder is also told what the film should show.

The paper's has no conditions: its films are decode(z). Ours follow a trajectory, so that film j is
decode(z, x(t_j)): z is the subject, the conditions x are the severities at the film's hour. With no
conditions it is the paper's model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVE_NATS: Final = 0.05
"""A latent that carries less about its film has collapsed."""

MSE_WEIGHT: Final = 400 / 3


@dataclass(frozen=True)
class VaeConfig:
    """What decides a model; the defaults train on a CPU.

    size: pixels a side; latent: coordinates of z; n_conditions: C
    widths: channels of the decoder from its smallest map on, each twice as large as the one before
    resnet: the encoder is a ResNet-18, and decoder levels have two convolutions
    beta: weight of the KL divergence, reached linearly over the first `warm_up` epochs
    """

    size: int = 64
    latent: int = 32
    n_conditions: int = 0
    widths: tuple[int, ...] = (256, 128, 64, 32, 16)
    resnet: bool = False
    beta: float = 0.03756
    warm_up: float = 5.0

    @classmethod
    def paper(cls) -> VaeConfig:
        """The paper's model; for a GPU."""
        return cls(224, 128, widths=(1024, 512, 256, 128, 64, 32), resnet=True)

    def beta_at(self, epoch: float) -> float:
        """Weight of the KL divergence after so many epochs."""
        return self.beta * min(epoch / self.warm_up, 1.0)


class ImageVAE(nn.Module):
    """Films float [B, 1, S, S] in [0, 1] to latents [B, L] and back, given conditions [B, C].

    Conditions come in the units of training; `condition_mean` and `condition_sd` standardise them.
    """

    condition_mean: Tensor
    condition_sd: Tensor
    n_seen: Tensor

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        self.side = config.size // 2 ** (len(config.widths) - 1)
        trunk = _resnet() if config.resnet else _convolutions(config.widths[-2::-1], self.side)
        self.trunk, n_features = trunk
        n_in = n_features + config.n_conditions
        self.to_mu, self.to_logvar = (nn.Linear(n_in, config.latent) for _ in range(2))
        smallest = config.widths[0] * self.side**2
        self.from_latent = nn.Linear(config.latent + config.n_conditions, smallest)
        self.decoder = _decoder(config)
        self.register_buffer("condition_mean", torch.zeros(config.n_conditions))
        self.register_buffer("condition_sd", torch.ones(config.n_conditions))
        # Kept with the weights, so that the warm-up of a resumed training goes on where it was.
        self.register_buffer("n_seen", torch.zeros((), dtype=torch.int64))

    def encode(self, films: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of z, [B, L] each."""
        features = torch.cat([self.trunk(films), self.scaled(conditions)], dim=1)
        return self.to_mu(features), self.to_logvar(features).clamp(-12, 6)

    def decode(self, z: Tensor, conditions: Tensor) -> Tensor:
        """Films [B, 1, S, S] in (0, 1)."""
        h = F.relu(self.from_latent(torch.cat([z, self.scaled(conditions)], dim=1)))
        return self.decoder(h.reshape(len(z), -1, self.side, self.side))

    def scaled(self, conditions: Tensor) -> Tensor:
        """Conditions in units of training's sd, about its mean."""
        return (conditions - self.condition_mean) / self.condition_sd


def _convolutions(widths: tuple[int, ...], side: int) -> tuple[nn.Module, int]:
    """Strided 4 x 4 convolutions down to side x side, and how many numbers come out."""
    layers: list[nn.Module] = []
    for n_in, n_out in zip((1, *widths[:-1]), widths, strict=True):
        layers += [nn.Conv2d(n_in, n_out, 4, 2, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten()), widths[-1] * side**2


def _resnet() -> tuple[nn.Module, int]:
    from torchvision.models import resnet18

    network = resnet18(num_classes=512)
    network.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    return nn.Sequential(network, nn.ReLU()), 512


def _decoder(config: VaeConfig) -> nn.Module:
    """Convolutions and nearest-neighbour doublings, from the first width to one grey channel."""
    layers: list[nn.Module] = []
    for n_in, n_out in zip(config.widths[:-1], config.widths[1:], strict=True):
        if config.resnet:
            layers += _convolution(n_in, n_in)
        layers += [*_convolution(n_in, n_out), nn.Upsample(scale_factor=2)]
    last = config.widths[-1]
    return nn.Sequential(
        *layers, *_convolution(last, last), nn.Conv2d(last, 1, 3, padding=1), nn.Sigmoid()
    )


def _convolution(n_in: int, n_out: int) -> list[nn.Module]:
    return [nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]


def kl_by_latent(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL divergence of each coordinate from N(0, 1), mean over the batch, nats [L]."""
    return (-0.5 * (1 + logvar - mu**2 - logvar.exp())).mean(dim=0)


def vae_loss(
    model: ImageVAE,
    films: Tensor,
    conditions: Tensor,
    noise: Tensor,
    beta: float,
    likeness: nn.Module,
) -> Tensor:
    """(400 / 3) MSE + likeness + beta KL; `noise` [B, L], `likeness` compares two films."""
    mu, logvar = model.encode(films, conditions)
    decoded = model.decode(mu + torch.exp(0.5 * logvar) * noise, conditions)
    reconstruction = MSE_WEIGHT * F.mse_loss(decoded, films) + likeness(decoded, films)
    return reconstruction + beta * kl_by_latent(mu, logvar).sum()


@torch.no_grad()
def rank_latents(
    model: ImageVAE,
    how: Literal["effect", "recovery"],
    conditions: Tensor,
    n_batches: int = 32,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Coordinates of z in order of importance, and their scores, [L] each in z's own order.

    Args:
        how: "effect": how much a film changes when the coordinate is drawn again (large first);
            "recovery": the error with which it is found again in its film (small first)
        conditions: [B, C], of the films that are decoded
    """
    generator = torch.Generator().manual_seed(seed)
    scores = torch.zeros(model.config.latent)
    for _ in range(n_batches):
        z = torch.randn(len(conditions), model.config.latent, generator=generator)
        films = model.decode(z, conditions)
        if how == "recovery":
            scores += ((model.encode(films, conditions)[0] - z) ** 2).mean(dim=0) / n_batches
            continue
        for i in range(model.config.latent):
            other = z.clone()
            other[:, i] = torch.randn(len(z), generator=generator)
            scores[i] += F.mse_loss(model.decode(other, conditions), films) / n_batches
    return scores.argsort(descending=how == "effect", stable=True), scores


@torch.no_grad()
def latent_nats(model: ImageVAE, films: Tensor, conditions: Tensor) -> Tensor:
    """What each coordinate carries about films, nats [L]; active ones exceed `ACTIVE_NATS`."""
    parts = zip(films.split(256), conditions.split(256), strict=True)
    encoded = [model.encode(film, condition) for film, condition in parts]
    mu, logvar = (torch.cat(part) for part in zip(*encoded, strict=True))
    return kl_by_latent(mu, logvar)
