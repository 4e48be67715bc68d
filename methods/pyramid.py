"""A four-stage pyramid Transformer over images, the encoder of CheXRelFormer and of SDPL.

Both methods' released code descends from ChangeFormer (Bandara and Patel, IGARSS 2022), whose
encoder is the Mix Transformer of SegFormer (Xie et al., NeurIPS 2021) with 7x7 convolutions between
all stages. It has no position code: padded convolutions know where they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contract import MethodConfig
from bench.errors import UserError
from methods.attention import Attention
from methods.encoders import Backbone

INITIAL_SD = 0.02
"""Of all weights at the start; those of batch norms have mean 1."""

FIRST_STRIDE, STRIDE = 4, 2
"""How far each stage shrinks its input: the first stage, and those after it."""


@dataclass(frozen=True)
class PyramidConfig(MethodConfig):
    """Sizes of a pyramid encoder; base of the configurations of the methods that have one.

    channels, blocks, heads, reductions: one number per stage, finest first: width, Transformer
        blocks, attention heads, and how many places a side share one key
    drop_path: how often the last block's branches are skipped; it rises evenly from 0
    """

    channels: str = "64,128,320,512"
    blocks: str = "3,3,4,3"
    heads: str = "1,2,4,8"
    reductions: str = "8,4,2,1"
    dropout: float = 0.1
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        stages = {name: _integers(name, getattr(self, name)) for name in STAGE_FIELDS}
        if len({len(numbers) for numbers in stages.values()}) > 1:
            raise UserError(f"model.{', model.'.join(stages)}: give one number per stage in each")
        for channels, heads in zip(stages["channels"], stages["heads"], strict=True):
            if channels % heads:
                raise UserError(f"model.channels {channels} cannot be split into {heads} heads")


STAGE_FIELDS = ("channels", "blocks", "heads", "reductions")


class DropPath(nn.Module):
    """Zeroes a branch for a share `rate` of the samples in training, scaling up the others'."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drop rows of x, float [N, ...]."""
        if not self.training or not self.rate:
            return x
        kept = torch.rand(len(x), *(1 for _ in x.shape[1:]), device=x.device) >= self.rate
        return x * kept.to(x.dtype) / (1 - self.rate)


class ReducedAttention(nn.Module):
    """Self-attention of all places, over keys that each stand for reduction x reduction places."""

    def __init__(self, d: int, n_heads: int, reduction: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(d, n_heads, dropout)
        self.dropout = nn.Dropout(dropout)
        reduced = reduction > 1
        self.reduce = nn.Conv2d(d, d, reduction, stride=reduction) if reduced else None
        self.norm = nn.LayerNorm(d) if reduced else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Attend within maps x, float [N, h, w, d]; returns the same shape."""
        keys = x if self.reduce is None else _places_first(self.reduce, x)
        keys = self.norm(keys).flatten(1, 2)
        always = torch.ones(keys.shape[:2], dtype=torch.bool, device=x.device)
        attended = self.attention(x.flatten(1, 2), keys, keys, always)
        return self.dropout(attended.unflatten(1, x.shape[1:3]))


class MixFeedForward(nn.Module):
    """Linear -> 3x3 convolution of each channel -> GELU -> Linear."""

    def __init__(self, d: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(d, hidden)
        self.mix = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.linear2 = nn.Linear(hidden, d)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform maps x, float [N, h, w, d]; returns the same shape."""
        x = F.gelu(_places_first(self.mix, self.linear1(x)))
        return self.dropout(self.linear2(self.dropout(x)))


class Block(nn.Module):
    """x + Attention(LN x), then x + FeedForward(LN x), each branch skipped now and then."""

    def __init__(
        self,
        d: int,
        n_heads: int,
        reduction: int,
        mlp_ratio: int,
        dropout: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(d, eps=1e-6)
        self.attention = ReducedAttention(d, n_heads, reduction, dropout)
        self.norm2 = nn.LayerNorm(d, eps=1e-6)
        self.feed_forward = MixFeedForward(d, mlp_ratio * d, dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Transform maps x, float [N, h, w, d]; returns the same shape."""
        x = x + self.drop_path(self.attention(self.norm1(x)))
        return x + self.drop_path(self.feed_forward(self.norm2(x)))


class Stage(nn.Module):
    """Overlapping 7x7 patches, normalised, then blocks, then a norm."""

    def __init__(self, n_in: int, d: int, stride: int, blocks: list[Block]) -> None:
        super().__init__()
        self.embed = nn.Conv2d(n_in, d, 7, stride=stride, padding=3)
        self.embed_norm = nn.LayerNorm(d)
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(d, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """From maps [N, n_in, H, W] to [N, d, H / stride, W / stride], rounded up."""
        x = self.embed_norm(self.embed(x).permute(0, 2, 3, 1))
        return self.norm(self.blocks(x)).permute(0, 3, 1, 2)


class PyramidEncoder(Backbone):
    """From images to one map per stage, each half as large as the one before.

    Weights start as in the released code (`initialise`), not pretrained.

    Args:
        channels, blocks, heads, reductions: per stage, finest first, see `PyramidConfig`
        mlp_ratio: hidden width of the feed-forward per channel

    Raises:
        UserError: a stage's channels cannot be split into its heads.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        blocks: tuple[int, ...],
        heads: tuple[int, ...],
        reductions: tuple[int, ...],
        mlp_ratio: int = 4,
        dropout: float = 0.1,
        drop_path: float = 0.1,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.channels, self.reductions = channels, reductions
        rates = iter(np.linspace(0, drop_path, sum(blocks)).tolist())
        self.stages = nn.ModuleList()
        for i, d in enumerate(channels):
            row = [
                Block(d, heads[i], reductions[i], mlp_ratio, dropout, next(rates))
                for _ in range(blocks[i])
            ]
            n_in, stride = (channels[i - 1], STRIDE) if i else (in_channels, FIRST_STRIDE)
            self.stages.append(Stage(n_in, d, stride, row))
        self.apply(initialise)
        # Places are rows of channels: this spares the convolutions from copying them.
        self.to(memory_format=torch.channels_last)

    @classmethod
    def of(cls, config: PyramidConfig) -> PyramidEncoder:
        """The encoder of a configuration, for images of three channels."""
        channels, blocks, heads, reductions = (
            _integers(name, getattr(config, name)) for name in STAGE_FIELDS
        )
        dropout, drop_path = config.dropout, config.drop_path
        return cls(channels, blocks, heads, reductions, dropout=dropout, drop_path=drop_path)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Encode images, float [N, in_channels, H, W].

        Returns:
            Per stage a map, float [N, C_i, H_i, W_i], coarsest last; H_1 = H / 4, then halves.

        Raises:
            UserError: images are so small that a stage has fewer places than share a key.
        """
        least = max(
            FIRST_STRIDE * STRIDE**i * reduction for i, reduction in enumerate(self.reductions)
        )
        if min(images.shape[-2:]) < least:
            height, width = images.shape[-2:]
            raise UserError(
                f"films of {height} x {width} px are too small for model.reductions "
                f"{','.join(map(str, self.reductions))}: give films of {least} px or more"
            )
        maps: list[Tensor] = []
        for stage in self.stages:
            maps.append(stage(maps[-1] if maps else images))
        return maps


def initialise(module: nn.Module) -> None:
    """The released code's start, for `Module.apply`: narrow normal weights, no biases."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.BatchNorm2d):
        mean = 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0
        nn.init.normal_(module.weight, mean, INITIAL_SD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, Attention):
        nn.init.normal_(module.in_proj_weight, 0.0, INITIAL_SD)


def _places_first(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve maps whose channels come last, float [N, h, w, C]."""
    return convolution(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _integers(name: str, text: str) -> tuple[int, ...]:
    """Numbers above 0, as '64,128'."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UserError(f"model.{name} is '{text}', give numbers above 0 like 64,128")
    return tuple(int(part) for part in parts)
