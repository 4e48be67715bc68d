"""A U-Net that predicts the noise in a latent, given the step and a vector of conditions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 8


class UNet(nn.Module):
    """One residual block per level, attention at half resolution and below.

    Conditions float [B, n_conditions] come with a flag bool [B]; without the flag they are not
    read, which is the unconditional branch of classifier-free guidance.
    """

    def __init__(
        self,
        channels: int,
        n_conditions: int,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
    ) -> None:
        super().__init__()
        widths = [width * m for m in multipliers]
        context = 4 * width
        self.step_width = width
        self.embed_step = _mlp(width, context)
        self.embed_condition = _mlp(n_conditions + 1, context)
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        before = width
        for level, out in enumerate(widths):
            self.down.append(Block(before, out, context, attention=level > 0))
            before = out
        self.middle = Block(before, before, context, attention=True)
        for level, out in reversed(list(enumerate(widths))):
            self.up.append(Block(before + out, out, context, attention=level > 0))
            before = out
        self.leave = nn.Sequential(
            nn.GroupNorm(GROUPS, before), nn.SiLU(), nn.Conv2d(before, channels, 3, padding=1)
        )
        nn.init.zeros_(self.leave[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.leave[-1].bias)  # type: ignore[arg-type]

    def forward(self, z: Tensor, t: Tensor, conditions: Tensor, conditioned: Tensor) -> Tensor:
        """Noise [B, channels, h, w] in z at steps t (int64 [B])."""
        flag = conditioned.to(z.dtype)[:, None]
        seen = torch.cat([conditions * flag, flag], dim=1)
        context = self.embed_step(_waves(t, self.step_width)) + self.embed_condition(seen)
        h, skips = self.enter(z), []
        for level, block in enumerate(self.down):
            h = block(F.avg_pool2d(h, 2) if level else h, context)
            skips.append(h)
        h = self.middle(h, context)
        for level, block in enumerate(self.up):
            h = F.interpolate(h, scale_factor=2) if level else h
            h = block(torch.cat([h, skips.pop()], dim=1), context)
        return self.leave(h)


class Block(nn.Module):
    """A residual block that the context scales and shifts, then attention over pixels if wanted."""

    def __init__(self, n_in: int, n_out: int, context: int, attention: bool) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.GroupNorm(GROUPS, n_in), nn.GroupNorm(GROUPS, n_out)
        self.conv_1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.conv_2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.modulate = nn.Linear(context, 2 * n_out)
        self.skip = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        self.attention = Attention(n_out) if attention else nn.Identity()
        nn.init.zeros_(self.conv_2.weight)
        nn.init.zeros_(self.conv_2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """[B, n_in, h, w] and [B, context] to [B, n_out, h, w]."""
        scale, shift = self.modulate(F.silu(context))[..., None, None].chunk(2, dim=1)
        h = self.conv_1(F.silu(self.norm_1(x)))
        h = self.conv_2(F.silu(self.norm_2(h) * (1 + scale) + shift))
        return self.attention(self.skip(x) + h)


class Attention(nn.Module):
    """Self-attention over the pixels, added to its input."""

    def __init__(self, width: int, n_heads: int = 4) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.GroupNorm(GROUPS, width)
        self.project = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, h, w] to the same shape."""
        n, width, height, breadth = x.shape
        parts = self.project(self.norm(x)).reshape(n, 3, self.n_heads, -1, height * breadth)
        query, key, value = parts.transpose(-1, -2).unbind(dim=1)
        seen = F.scaled_dot_product_attention(query, key, value)
        return x + self.out(seen.transpose(-1, -2).reshape(n, width, height, breadth))


def _mlp(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, n_out), nn.SiLU(), nn.Linear(n_out, n_out))


def _waves(t: Tensor, width: int) -> Tensor:
    """Sines and cosines of the step, float32 [B, width]."""
    rate = torch.exp(torch.arange(width // 2, device=t.device) * (-math.log(10_000) * 2 / width))
    angle = t[:, None].float() * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1)
