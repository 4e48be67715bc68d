"""The noise schedule of a diffusion model, and the DDIM update in both directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from bench.errors import UserError

CLEAN: Final = -1
"""The step after the last one: no noise is left."""


@dataclass(frozen=True)
class Schedule:
    """How much of a latent is left at each training step (Stable Diffusion's scaled-linear betas).

    With abar_t = prod_{s<=t} (1 - beta_s): z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps.
    """

    n_steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012

    def alphas_bar(self) -> Tensor:
        """abar_t of every training step, float64 [n_steps], falling."""
        ends = self.beta_start**0.5, self.beta_end**0.5
        betas = torch.linspace(*ends, self.n_steps, dtype=torch.float64) ** 2
        return torch.cumprod(1 - betas, dim=0)

    def alpha_bar(self, t: int) -> float:
        """abar_t of one step; 1 at `CLEAN`."""
        return 1.0 if t == CLEAN else float(self.alphas_bar()[t])

    def timesteps(self, inference_steps: int) -> list[int]:
        """The steps that are run, noisiest first: every (n_steps / inference_steps)-th, plus 1.

        Raises:
            UserError: the model was trained on fewer steps.
        """
        if inference_steps > self.n_steps:
            raise UserError(
                f"{inference_steps} inference steps of a model of {self.n_steps} training steps"
            )
        stride = self.n_steps // inference_steps
        return [min(i * stride + 1, self.n_steps - 1) for i in reversed(range(inference_steps))]

    def noised(self, z: Tensor, t: int, noise: Tensor) -> Tensor:
        """sqrt(abar_t) z + sqrt(1 - abar_t) eps."""
        alpha = self.alpha_bar(t)
        return alpha**0.5 * z + (1 - alpha) ** 0.5 * noise

    def ddim(self, z: Tensor, noise: Tensor, t: int, to: int) -> Tensor:
        """Move z from step t to another by DDIM with eta = 0; upwards it is DDIM inversion.

        z_to = sqrt(abar_to) (z - sqrt(1 - abar_t) eps) / sqrt(abar_t) + sqrt(1 - abar_to) eps
        """
        alpha = self.alpha_bar(t)
        clean = (z - (1 - alpha) ** 0.5 * noise) / alpha**0.5
        return self.noised(clean, to, noise)
