"""Progressive image editing (PIE, arXiv 2309.11745): a film of today to films of what may follow.

Symbols: E, D encoder and decoder; S inference steps; gamma strength; w guidance; M mask (1 = to be
edited); y condition; N stages. One stage runs the last k = floor(gamma S) denoising steps:

    z   = z_(n-1), noised to the first of them
    for each step t:   z_t = (1 - M) u_t + M z_t              from the second step on, if masked
                       e   = eps(z_t, t) + w (eps(z_t, t, y) - eps(z_t, t))
                       z_t = DDIM(z_t, e)
    z_n = z_0 + [beta1 (1 - M) + beta2 M] (z_t - z_0)         if masked, else z_t
    x_n = D(z_n)

where u_t is the start film at the same noise level. The authors' code decodes and encodes again
between stages, which alone blurs and drifts; here latents are kept unless `reencode` is set. It
also draws every encoding at random; here the encoder's mean is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.errors import UserError
from bench.simulating.diffusion.generator import Generator
from bench.simulating.diffusion.schedule import CLEAN


class Inversion(StrEnum):
    """How a stage goes up to its first noise level."""

    NOISE = "noise"
    """Gaussian noise, as the authors' code."""
    DDIM = "ddim"
    """The DDIM update upwards without condition, as the paper's figure: deterministic."""


class Anchor(StrEnum):
    """What a masked stage is blended with."""

    START = "start"
    """The start film, as the authors' code: the change saturates."""
    PREVIOUS = "previous"
    """The stage before."""


@dataclass(frozen=True)
class Options:
    """How films are edited; the defaults are PIE's.

    steps: N; strength: gamma, 0..1; guidance: w; beta1, beta2: blend outside and inside the mask
    inference_steps: S
    reencode: decode and encode again between stages, as the authors' code
    """

    steps: int = 10
    strength: float = 0.5
    guidance: float = 7.5
    beta1: float = 0.01
    beta2: float = 0.75
    inference_steps: int = 50
    inversion: Inversion = Inversion.NOISE
    anchor: Anchor = Anchor.START
    reencode: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise UserError(f"strength {self.strength:g}: choose a number from 0 to 1")
        if not math.isfinite(self.guidance):
            raise UserError(f"guidance {self.guidance}: choose a finite number")
        if not (0 <= self.beta1 <= 1 and 0 <= self.beta2 <= 1):
            raise UserError(f"beta {self.beta1:g} and {self.beta2:g}: choose numbers from 0 to 1")
        if self.steps < 1 or self.inference_steps < 1:
            raise UserError("steps and inference steps: choose whole numbers above 0")


def pie(
    x0: Tensor,
    condition: Tensor,
    generator: Generator,
    *,
    seeds: Sequence[int],
    mask: Tensor | None = None,
    options: Options | None = None,
) -> list[Tensor]:
    """Edit B films at once; a film does not depend on the others of its batch.

    Args:
        x0: start films, float [B, channels, H, W] in [-1, 1]
        condition: what `generator` is conditioned on, [B, ...]
        generator: the diffusion model
        seeds: one per film
        mask: float [B or 1, 1, H, W] in [0, 1], 1 = to be edited; None edits everything, unanchored
        options: PIE's defaults

    Returns:
        Films of stages 0 (the start through the autoencoder) to N, each [B, channels, H, W].
    """
    stages = pie_latents(
        x0, condition, generator, seeds=seeds, mask=mask, options=options or Options()
    )
    with torch.inference_mode():
        return [generator.decode(z).clamp(-1, 1) for z in stages]


def pie_latents(
    x0: Tensor,
    condition: Tensor,
    generator: Generator,
    *,
    seeds: Sequence[int],
    mask: Tensor | None,
    options: Options,
) -> list[Tensor]:
    """As `pie`, latents instead of films."""
    _check(x0, mask, generator.factor)
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    with torch.inference_mode():
        z0 = generator.encode(x0)
        M = None if mask is None else _latent_mask(mask, generator.factor).to(z0)
        stages = [z0]
        for _ in range(options.steps):
            z = generator.encode(generator.decode(stages[-1])) if options.reencode else stages[-1]
            end = _denoise(z, z0, M, condition, generator, draws, options)
            anchor = z0 if options.anchor is Anchor.START else stages[-1]
            stages.append(end if M is None else anchor + _blend(M, options) * (end - anchor))
    return stages


def _blend(M: Tensor, options: Options) -> Tensor:
    return options.beta1 * (1 - M) + options.beta2 * M


def _denoise(
    z: Tensor,
    z0: Tensor,
    M: Tensor | None,
    condition: Tensor,
    generator: Generator,
    draws: Sequence[torch.Generator],
    options: Options,
) -> Tensor:
    """Take one stage's latent up to its first noise level and down again towards the condition."""
    schedule = generator.schedule
    timesteps = schedule.timesteps(options.inference_steps)
    # The small term keeps 0.58 * 50 from being 28.999999999999996.
    k = int(options.strength * options.inference_steps + 1e-9)
    down = timesteps[len(timesteps) - k :]
    noise, kept_noise = _noise_like(z0, draws), _noise_like(z0, draws)
    if not down:
        return z
    if options.inversion is Inversion.NOISE:
        z_t = schedule.noised(z, down[0], noise)
    else:
        z_t = _invert(z, down, generator)
    for i, (t, to) in enumerate(zip(down, [*down[1:], CLEAN], strict=True)):
        if M is not None and i > 0:
            z_t = (1 - M) * schedule.noised(z0, t, kept_noise) + M * z_t
        z_t = schedule.ddim(z_t, _guided(z_t, t, condition, generator, options.guidance), t, to)
    return z_t


def _guided(
    z_t: Tensor, t: int, condition: Tensor, generator: Generator, guidance: float
) -> Tensor:
    """eps + w (eps_y - eps); a branch of weight 0 is not computed."""
    if guidance == 1:
        return generator.noise(z_t, t, condition)
    free = generator.noise(z_t, t, None)
    if guidance == 0:
        return free
    return free + guidance * (generator.noise(z_t, t, condition) - free)


def _invert(z: Tensor, down: Sequence[int], generator: Generator) -> Tensor:
    """DDIM upwards, through the steps that will be taken down."""
    at = CLEAN
    for to in reversed(down):
        # The model knows no step before the first: there the next level's noise is taken.
        noise = generator.noise(z, to if at == CLEAN else at, None)
        z, at = generator.schedule.ddim(z, noise, at, to), to
    return z


def _noise_like(z: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
    """Each film's own noise, drawn on the CPU: the same on any device and in any batch."""
    shape, dtype = z.shape[1:], z.dtype
    return torch.stack([torch.randn(shape, generator=d, dtype=dtype) for d in draws]).to(z.device)


def _latent_mask(mask: Tensor, factor: int) -> Tensor:
    return F.avg_pool2d(mask, factor) if factor > 1 else mask


def _check(x0: Tensor, mask: Tensor | None, factor: int) -> None:
    height, width = x0.shape[-2:]
    if height % factor or width % factor:
        raise UserError(
            f"films of {width} x {height} px: this generator needs multiples of {factor}"
        )
    if mask is not None and mask.shape[-2:] != x0.shape[-2:]:
        raise UserError(f"the mask is {tuple(mask.shape[-2:])} px, the films {(height, width)}")
    if mask is not None and (mask.min() < 0 or mask.max() > 1):
        raise UserError("the mask has values outside 0 to 1")
