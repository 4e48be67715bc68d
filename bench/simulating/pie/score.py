"""How well PIE progresses: response to the stage, off-target change, identity, realism."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import uniform_filter
from scipy.stats import spearmanr
from torch import Tensor

from bench.simulating.diffusion.model import to_unit
from bench.simulating.pie.calibration import Goal, edited_levels, masks_of
from bench.simulating.pie.clip import ClipImages
from bench.simulating.pie.compose import SIZE
from bench.simulating.pie.edit import Options
from bench.simulating.pie.engine import Engine
from bench.simulating.pie.films import draw_films
from bench.simulating.pie.findings import most_levels, named, severity_of
from bench.simulating.pie.severity import SeverityNet
from bench.simulating.population import FILM_SEVERITIES

HELD_OUT: Final = 2_000_000
"""First held-out patient: far beyond any that trains or calibrates an engine."""

WINDOW: Final = 7
"""Side of the windows of structural similarity, in pixels."""


@dataclass(frozen=True)
class Score:
    """Films of healthy held-out patients, edited towards the worst of one finding.

    severity: mean severity of the finding by the net after stages 0..N, [N + 1]
    spearman: of stage and mean severity; film_spearman: mean over films of each one's own
    off_target: largest mean change of level of any other finding at stage N, and its name
    similarity: mean SSIM of start and stage N outside the mask
    recognised: share of stage-N films whose own start film is the nearest of 50 start films
    kid, kid_floor: kernel distance of stage-N films to rendered films of equal severity, and of
        these to other rendered films (features of the severity net)
    fid, fid_floor: Fréchet distance of the same features. It is biased upwards with n films of
        d = 96 features, strongly for n < d, where covariances have rank n - 1: only its excess over
        the floor, which has the same bias, says something, and only for equal n
    clip_similarity: CLIP-I, mean cosine of CLIP embeddings of start and stage N; None without CLIP
    """

    finding: str
    severity: np.ndarray
    spearman: float
    film_spearman: float
    off_target: tuple[str, float]
    similarity: float
    recognised: float
    kid: float
    kid_floor: float
    fid: float
    fid_floor: float
    clip_similarity: float | None
    films: list[Tensor]


def score(
    engine: Engine,
    finding: str,
    n_films: int,
    options: Options,
    jobs: int,
    clip: ClipImages | None = None,
) -> Score:
    """Edit `n_films` films towards a finding, named with or without its side."""
    own = [FILM_SEVERITIES.index(name) for name in named({finding: 0.0})]
    nothing = np.zeros(len(FILM_SEVERITIES), dtype=np.float32)
    seed, patients = engine.config.seed, range(HELD_OUT, HELD_OUT + n_films)
    images, severities, boxes = draw_films(seed, patients, 1, SIZE, jobs, nothing)
    asked = np.zeros(severities.shape, dtype=bool)
    asked[:, own] = True
    goal = Goal(np.where(asked, most_levels(), 0.0).astype(np.float32), asked)
    seen, films = edited_levels(images, goal, boxes, engine.generator, engine.net, options, seed)
    curve = severity_of(seen[:, :, own]).mean(axis=2)
    change = (seen[-1] - seen[0]).mean(axis=0)
    others = [f for f in range(len(FILM_SEVERITIES)) if f not in own]
    worst = max(others, key=lambda f: abs(change[f]))
    shown = nothing.copy()
    shown[own] = curve[-1].mean()
    rendered = [
        draw_films(seed, range(first, first + n_films), 1, SIZE, jobs, shown)[0]
        for first in (HELD_OUT + n_films, HELD_OUT + 2 * n_films)
    ]
    edited, *references = (_features(engine.net, f) for f in (films[-1], *map(to_unit, rendered)))
    outside = masks_of(asked, boxes, SIZE) < 0.02
    return Score(
        finding=finding,
        severity=curve.mean(axis=1),
        spearman=_rank_correlation(curve.mean(axis=1)),
        film_spearman=float(np.mean([_rank_correlation(row) for row in curve.T])),
        off_target=(FILM_SEVERITIES[worst], float(change[worst])),
        similarity=structural_similarity(films[0], films[-1], outside),
        recognised=recognised(films[0][:50], films[-1][:50]),
        kid=kernel_distance(edited, references[0]),
        kid_floor=kernel_distance(references[1], references[0]),
        fid=frechet_distance(edited, references[0]),
        fid_floor=frechet_distance(references[1], references[0]),
        clip_similarity=None if clip is None else clip.similarity(films[0], films[-1]),
        films=films,
    )


def _rank_correlation(curve: Sequence[float] | np.ndarray) -> float:
    """Spearman's of stages 0..N and a curve; 0 for a flat one."""
    if np.ptp(curve) == 0:
        return 0.0
    return float(spearmanr(np.arange(len(curve)), curve).statistic)


def structural_similarity(first: Tensor, second: Tensor, where: np.ndarray) -> float:
    """Mean SSIM of films [B, 1, S, S] over the pixels of `where`, bool [B, S, S]."""
    a, b = (((films[:, 0].numpy() + 1) / 2).astype(np.float64) for films in (first, second))

    def mean(x: np.ndarray) -> np.ndarray:
        return uniform_filter(x, size=(1, WINDOW, WINDOW))

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    index /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return float(index[where].mean())


def recognised(start: Tensor, edited: Tensor) -> float:
    """Share of edited films [B, 1, S, S] that are nearest to their own start film (correlation)."""
    rows = [films.flatten(1) for films in (edited, start)]
    a, b = (F.normalize(row - row.mean(dim=1, keepdim=True), dim=1) for row in rows)
    nearest = (a @ b.T).argmax(dim=1)
    return float((nearest == torch.arange(len(nearest))).float().mean())


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Unbiased squared MMD with the kernel (x . y / d + 1)^3 of KID, of features [N, d], [M, d]."""
    d, n, m = first.shape[1], len(first), len(second)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / d + 1) ** 3

    own = kernel(first, first), kernel(second, second)
    within = [(k.sum() - np.trace(k)) / (s * (s - 1)) for k, s in zip(own, (n, m), strict=True)]
    return float(sum(within) - 2 * kernel(first, second).mean())


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """FID's distance of the Gaussians of features [N, d] and [M, d].

    |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)); with C = A^T A, the last trace is the sum of
    the singular values of A_1 A_2^T, which needs no root of a matrix and no full rank. Those of
    R_1 R_2^T are the same, with A = Q R, and it is [d, d] at most.
    """
    a, b = ((x - x.mean(axis=0)) / np.sqrt(len(x) - 1) for x in (first, second))
    shift = np.sum((first.mean(axis=0) - second.mean(axis=0)) ** 2)
    r_1, r_2 = np.linalg.qr(a).R, np.linalg.qr(b).R
    common = np.linalg.svd(r_1 @ r_2.T, compute_uv=False).sum()
    return float(shift + np.sum(a**2) + np.sum(b**2) - 2 * common)


def _features(net: SeverityNet, films: Tensor) -> np.ndarray:
    with torch.inference_mode():
        return net.features(films).numpy().astype(np.float64)
