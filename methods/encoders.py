"""Encoders that several methods share: a ConvNet over images, a Transformer over hourly EHR."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from bench.data.layout import Packing
from bench.errors import UserError, nearest
from methods.attention import EncoderLayer

IMAGENET = {
    "resnet34": torchvision.models.ResNet34_Weights.IMAGENET1K_V1,
    "resnet50": torchvision.models.ResNet50_Weights.IMAGENET1K_V1,
}
"""ImageNet weights of the paper's time, by backbone."""

IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue, as torchvision's weights were trained with."""

SMALL = {"small": (16, 32, 64, 128), "small_film": (16, 32, 64, 96, 96, 128)}
"""Channels of the ConvNets for crops and for whole films of the demo and medium presets."""

BACKBONES = (*SMALL, *IMAGENET)


class Backbone(nn.Module):
    """A network over pixels that may come pretrained, and then learn at a lower rate."""


class Encoder(nn.Module):
    """A module from images, uint8 [N, H, W], to features, float [N, width]."""

    width: int


class SmallConvNet(nn.Sequential):
    """Strided 3x3 convolutions for small grey images, trained from scratch.

    With four of them a place of the map sees 31 pixels a side: as much as a crop of the small
    presets has. With six it sees 127, a whole film of theirs.
    """

    def __init__(self, *channels: int) -> None:
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise((1, *channels)):
            layers += [
                nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(n_out),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


class ImageEncoder(Encoder, Backbone):
    """A ConvNet without its classifier, over grey images.

    Args:
        backbone: 'small' or, seeing whole films, 'small_film' (both from scratch, any size from
            16 px), 'resnet34' or 'resnet50'
        weights: 'none', 'imagenet', or the path of a state dict file of that backbone
        standardised: shift and scale pixels as ImageNet weights were trained with; what follows
            undoes it in training, but not in a frozen network

    Attributes:
        width: features per image

    Raises:
        UserError: unknown backbone, or weights that cannot be had or do not fit.
    """

    def __init__(self, backbone: str, weights: str, standardised: bool = False) -> None:
        super().__init__()
        self.standardised = standardised
        self.register_buffer("mean", _per_channel(IMAGENET_MEAN), persistent=False)
        self.register_buffer("sd", _per_channel(IMAGENET_SD), persistent=False)
        self.mean: Tensor
        self.sd: Tensor
        if backbone not in BACKBONES:
            raise UserError(f"unknown backbone '{backbone}': {nearest(backbone, BACKBONES)}")
        if backbone in SMALL:
            self.network: nn.Module = SmallConvNet(*SMALL[backbone])
            self.width, self.n_channels = SMALL[backbone][-1], 1
        else:
            resnet = torchvision.models.get_model(backbone, weights=None)
            self.width, self.n_channels = resnet.fc.in_features, 3
            del resnet.avgpool, resnet.fc
            self.network = nn.Sequential(OrderedDict(resnet.named_children()))
        if weights != "none":
            _load(self.network, _read_weights(backbone, weights), f"{backbone} weights '{weights}'")
        # A ConvNet is a third faster channels-last, on CPU and GPU.
        self.network.to(memory_format=torch.channels_last)

    def feature_map(self, images: Tensor) -> Tensor:
        """Encode [N, H, W], 0..255, scaled to 0..1 (the paper's input), to [N, width, h, w]."""
        x = images[:, None].float() / 255
        x = x.expand(-1, self.n_channels, -1, -1)
        if self.standardised:
            x = (x - self.mean) / self.sd
        x = x.contiguous(memory_format=torch.channels_last)
        return self.network(x)

    def forward(self, images: Tensor) -> Tensor:
        """The mean of `feature_map` over its places, float [N, width]."""
        return F.adaptive_avg_pool2d(self.feature_map(images), 1).flatten(1)


def _per_channel(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values)[:, None, None]


def shrink(films: Tensor, max_size: int) -> Tensor:
    """Average films [N, S, S] down to `max_size` px a side; 0, or smaller films: as they are."""
    if 0 < max_size < films.shape[-1]:
        return F.adaptive_avg_pool2d(films.float(), max_size)
    return films


def to_size(films: Tensor, size: int) -> Tensor:
    """Bring films [N, S, S] to `size` px a side: larger ones averaged, smaller ones bilinear."""
    films = shrink(films, size)
    if films.shape[-1] < size:
        films = F.interpolate(films[:, None].float(), (size, size), mode="bilinear")[:, 0]
    return films


def _read_weights(backbone: str, weights: str) -> dict[str, Any]:
    if weights == "imagenet":
        return _download_imagenet(backbone)
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(
            f"model.weights: there is no file '{weights}'; give none, imagenet or a state dict file"
        )
    except Exception as error:
        # torch.load raises many kinds for a file that is no checkpoint.
        raise UserError(f"model.weights: {weights} is not a state dict file: {_one_line(error)}")
    if not isinstance(state, dict):
        raise UserError(f"model.weights: {weights} holds a {type(state).__name__}, no state dict")
    return state


def _download_imagenet(backbone: str) -> dict[str, Any]:
    if backbone not in IMAGENET:
        raise UserError(f"backbone '{backbone}' has no ImageNet weights: --set model.weights=none")
    entry = IMAGENET[backbone]
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
    try:
        return entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:
        # Whatever the network, the proxy or the disk says, the way out is the same.
        raise UserError(
            f"cannot download ImageNet weights of {backbone} ({_one_line(error)}): place "
            f"{entry.url} at {file}, or start from scratch with --set model.weights=none"
        )


def _load(network: nn.Module, state: dict[str, Any], what: str) -> None:
    """Load a state dict strictly, a classifier's `fc.*` aside."""
    state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{what} do not fit: {_one_line(error)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def encode_valid(encoder: Encoder, images: Tensor, valid: Packing) -> Tensor:
    """Encode the valid images only, so that padding enters no batch statistics.

    Args:
        encoder: from uint8 [N, H, W] to float [N, width]
        images: uint8 [*valid.shape, ..., H, W]
        valid: which of them, usually one of `Batch.layout`

    Returns:
        float [*valid.shape, ..., width]; zero where not valid.
    """
    chosen = valid.pack(images)
    if not len(chosen):
        return torch.zeros(*images.shape[:-2], encoder.width, device=images.device)
    flat = chosen.flatten(0, -3)
    with nullcontext() if len(flat) > 1 else _running_statistics(encoder):
        return valid.unpack(encoder(flat).unflatten(0, chosen.shape[:-2]))


def mean_of_valid(x: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid rows of x, float [B, L, d] -> [B, d]; zero for a sample without one."""
    total = torch.where(valid[..., None], x, 0).sum(dim=1)
    return total / valid.sum(dim=1, keepdim=True).clamp_min(1)


@contextmanager
def _running_statistics(encoder: Encoder) -> Iterator[None]:
    """Normalise by running statistics meanwhile: one value has no variance of its own."""
    norms = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    modes = [norm.training for norm in norms]
    try:
        for norm in norms:
            norm.eval()
        yield
    finally:
        for norm, mode in zip(norms, modes, strict=True):
            norm.train(mode)


class SinusoidalPositions(nn.Module):
    """Adds sin and cos of the row number j: sin(j / 10000^(2i/d)) at 2i, its cos at 2i + 1."""

    def __init__(self, d: int) -> None:
        super().__init__()
        if d % 2:
            raise UserError(f"width {d} is odd: sinusoidal positions need an even one")
        rate = 10000.0 ** (-torch.arange(0, d, 2) / d)
        self.register_buffer("rate", rate, persistent=False)
        self.rate: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return x + positions; x is float [B, L, d]."""
        angle = torch.arange(x.shape[1], device=x.device)[:, None] * self.rate
        positions = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
        return x + positions


class EhrEncoder(nn.Module):
    """One Transformer layer over hourly EHR rows and a class token (paper section 2.4, E_global).

    The class token comes in front after the positions, so it has none; row j keeps position j.
    """

    def __init__(self, n_variables: int, d: int, n_heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.input_proj = nn.Sequential(
            nn.Linear(n_variables, d), nn.LayerNorm(d), nn.Dropout(dropout)
        )
        self.positions = SinusoidalPositions(d)
        self.dropout = nn.Dropout(dropout)
        self.cls_token = nn.Parameter(torch.randn(1, d))
        self.layer = EncoderLayer(d, n_heads, dropout)

    def forward(self, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Encode each hour in the light of the others.

        Args:
            values: float [B, L, n_variables]
            valid: bool [B, L]; a sample may have no valid hour

        Returns:
            hours float [B, L, d] (meaningless where not valid) and the class token's float [B, d].
        """
        x = self.dropout(self.positions(self.input_proj(values)))
        cls = self.cls_token.expand(len(x), 1, -1)
        always = valid.new_ones(len(valid), 1)
        x = self.layer(torch.cat([cls, x], dim=1), torch.cat([always, valid], dim=1))
        return x[:, 1:], x[:, 0]
