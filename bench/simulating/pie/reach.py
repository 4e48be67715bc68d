"""How far the edit of one film goes: to the stages at which it shows the severities asked for.

PIE tells its generator the severity itself, and a condition that is near what the film shows pulls
little: the change saturates far below it. So the generator is asked for the extreme, as for the
films of a cohort, and the stage decides how much. A cohort's stages come from the calibration of
the engine's own options and boxes; one film with other options or another mask is its own: what the
severity net sees of it after each stage.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.simulating.diffusion.autoencoder import FACTOR
from bench.simulating.pie.calibration import rising_share
from bench.simulating.pie.compose import SIZE, at_stage
from bench.simulating.pie.findings import most_levels
from bench.simulating.pie.masks import finding_mask, roomy_boxes
from bench.simulating.population import FILM_SEVERITIES

ELSEWHERE = 1e-3
"""Weight of the mean stage, which decides where no region of an asked finding is."""


def extremes(levels: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """What the generator is asked for, float32 [B, 12]: the worst, nothing, or what is seen.

    Args:
        levels: of the start films, [B, 12]
        wanted: levels to come to
    """
    less = np.where(wanted < levels, 0.0, levels)
    return np.where(wanted > levels, most_levels(), less).astype(np.float32)


def stage_of(curve: np.ndarray, wanted: float, extreme: float) -> float:
    """The stage, between two if need be, at which a film comes nearest to a wanted level; 0 to N.

    Args:
        curve: level that is seen after stages 0..N
        wanted: the level; the last stage is taken if none reaches it
        extreme: what the generator was asked for, beyond `wanted` or equal to it
    """
    share = rising_share((curve - curve[0])[:, None], np.array([extreme - curve[0]]), most=None)
    asked = (wanted - curve[0]) / (extreme - curve[0])
    if asked > share[-1]:
        return float(len(curve) - 1)
    after = int(np.argmax(share >= asked))
    return float(np.interp(asked, share[after - 1 : after + 1], [after - 1, after]))


def stage_map(curves: np.ndarray, wanted: np.ndarray, goal: np.ndarray) -> Tensor:
    """The last stage at each latent pixel of a film, float32 [1, 1, 16, 16].

    Each region takes the stage of the finding that shows there; where findings overlap, the one
    that shall change most decides most.

    Args:
        curves: levels seen after stages 0..N, [N + 1, 12]
        wanted: levels to come to, [12]
        goal: `extremes` of the film, [12]
    """
    change = wanted - curves[0]
    asked = np.flatnonzero(goal != curves[0])
    stages = {f: stage_of(curves[:, f], wanted[f], goal[f]) for f in asked.tolist()}
    total, weight = np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE))
    for f, stage in stages.items():
        where = finding_mask(FILM_SEVERITIES[f], roomy_boxes(SIZE), SIZE, SIZE)
        share = (where + ELSEWHERE) * abs(change[f])
        total += share * stage
        weight += share
    pixels = torch.from_numpy(total / np.maximum(weight, 1e-9)).float()
    return F.avg_pool2d(pixels[None, None], FACTOR)


def up_to(stages: Tensor, last: Tensor) -> Tensor:
    """Latents of N even steps from the start to the stages `last`.

    Args:
        stages: [N + 1, 1, channels, h, w]
        last: 0..N at each latent pixel, [1, 1, h, w]
    """
    n = len(stages) - 1
    return torch.stack([at_stage(stages, last * step / n) for step in range(n + 1)])
