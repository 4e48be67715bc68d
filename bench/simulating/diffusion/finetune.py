"""Full fine-tuning of a Stable Diffusion U-Net on films; autoencoder and text encoder are frozen.

Two recipes: of films told by text (PIE, arXiv 2309.11745) and of films told by vectors
(Image-Longitudinal, arXiv 2410.16177).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from bench.errors import UserError
from bench.simulating.diffusion.epsilon import epsilon_loss
from bench.simulating.diffusion.stable_diffusion import StableDiffusion
from bench.simulating.diffusion.stages import Stage, run_stage


class Condition(StrEnum):
    """What tells the U-Net of a film."""

    TEXT = "text"
    VECTOR = "vector"


class Examples(Protocol):
    """Films and what the U-Net is told of them."""

    def __len__(self) -> int:
        """Number of films."""
        ...

    def films(self, rows: Tensor) -> Tensor:
        """Grey films float [B, 1, S, S] in [-1, 1] of rows int64 [B]."""
        ...

    def conditions(self, rows: Tensor) -> Tensor:
        """Their conditions, float [B, tokens, width]."""
        ...


@dataclass(frozen=True)
class Recipe:
    """How a U-Net is fine-tuned.

    accumulate: batches of `batch_size` films whose mean gradient makes a step
    last_lr: share of `lr` that is left at the end of the cosine; 1: a constant `lr`
    noise_offset, min_snr: of `epsilon_loss`
    ema: decay of the average of weights that is kept; 0: the last weights
    checkpoint_every: steps; decides nothing
    """

    n_steps: int
    batch_size: int
    accumulate: int
    lr: float
    warm_up: int
    last_lr: float
    noise_offset: float
    min_snr: float
    ema: float
    resolution: int = 512
    seed: int = 0
    checkpoint_every: int = 250

    def settings(self) -> dict[str, Any]:
        """What decides the result, JSON-able."""
        decides = asdict(self) | {"min_snr": None if math.isinf(self.min_snr) else self.min_snr}
        del decides["checkpoint_every"]
        return decides

    def changed(self, **given: Any) -> Recipe:
        """With what is not None in place of the paper's."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})


RECIPES: Final = {
    Condition.TEXT: Recipe(
        n_steps=20_000, batch_size=64, accumulate=2, lr=5e-5, warm_up=1000, last_lr=0.0,
        noise_offset=0.0, min_snr=math.inf, ema=0.0,
    ),
    Condition.VECTOR: Recipe(
        n_steps=115_000, batch_size=4, accumulate=1, lr=1e-5, warm_up=0, last_lr=1.0,
        noise_offset=0.1, min_snr=5.0, ema=0.9999,
    ),
}  # fmt: skip
"""As the two papers train; the decay of the average is the usual one, the paper does not say."""


def check_resolution(generator: StableDiffusion, resolution: int) -> None:
    """Raise `UserError` unless the U-Net can halve the latents of such films at every level."""
    multiple = generator.factor * 2 ** (len(generator.unet.config.block_out_channels) - 1)
    if resolution % multiple:
        raise UserError(f"--resolution {resolution}: choose a multiple of {multiple}")


def finetune(
    generator: StableDiffusion, examples: Examples, recipe: Recipe, checkpoint: Path
) -> None:
    """Train the generator's U-Net in place, from `checkpoint` if it is there.

    Latents are the autoencoder's means. On CUDA the matrix products are made in bfloat16; weights,
    noise and loss are float32 everywhere.
    """
    unet, device = generator.unet, generator.device
    unet.requires_grad_(True)
    unet.enable_gradient_checkpointing()
    alphas = generator.schedule.alphas_bar().float()

    def loss(rows: Tensor, draws: torch.Generator) -> Tensor:
        told = examples.conditions(rows).to(device)

        def predict(noised: Tensor, t: Tensor) -> Tensor:
            return unet(noised, t, encoder_hidden_states=told).sample

        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            with torch.no_grad():
                z = generator.encode(examples.films(rows)).float()
            return epsilon_loss(
                predict, z, alphas, draws,
                noise_offset=recipe.noise_offset, min_snr=recipe.min_snr,
            )  # fmt: skip

    stage = Stage(
        "U-Net", unet, loss, len(examples), recipe.n_steps, recipe.batch_size, recipe.lr,
        recipe.seed, recipe.ema, recipe.checkpoint_every, recipe.warm_up, recipe.last_lr,
        recipe.accumulate,
    )  # fmt: skip
    run_stage(stage, checkpoint)
    unet.requires_grad_(False)
