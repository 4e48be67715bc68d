"""From stage to severity: the share of a change that PIE has made after each stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from sklearn.isotonic import IsotonicRegression

from bench.simulating.boxes import Box
from bench.simulating.diffusion.generator import Generator
from bench.simulating.diffusion.model import to_unit
from bench.simulating.pie.compose import SIZE, with_change
from bench.simulating.pie.edit import Options, pie
from bench.simulating.pie.findings import level, most_levels
from bench.simulating.pie.masks import finding_mask, union
from bench.simulating.pie.severity import SeverityNet, levels_of
from bench.simulating.population import FILM_SEVERITIES

UP, DOWN = 0, 1
P_ASKED: Final = 0.3
"""Share of findings that a calibration film is asked to change, each way."""

LEAST_LEVEL: Final = 0.8
"""A finding is asked to go down where its level is this high, to go up where it is lower."""


@dataclass(frozen=True)
class Calibration:
    """Share of the asked change of level after stages 0..N, rising: float [2, 12, N + 1].

    The first axis is `UP` (asked for the worst) and `DOWN` (asked for nothing).
    """

    share: np.ndarray

    @property
    def n_stages(self) -> int:
        """N."""
        return self.share.shape[-1] - 1

    def stage(self, finding: int, direction: int, wanted: float) -> float:
        """The stage, between two if need be, at which a wanted share is reached; 0 to N."""
        wanted = max(wanted, 0.0)
        curve = self.share[direction, finding]
        if wanted >= curve[-1]:
            # The first stage of a plateau: more stages would change nothing but the rest.
            return float(np.argmax(curve >= curve[-1]))
        above = int(np.argmax(curve > wanted))
        return above - 1 + (wanted - curve[above - 1]) / (curve[above] - curve[above - 1])

    def to_json(self) -> dict[str, Any]:
        """Plain lists by direction and finding."""
        return {
            name: dict(zip(FILM_SEVERITIES, np.round(rows, 4).tolist(), strict=True))
            for name, rows in zip(("up", "down"), self.share, strict=True)
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Calibration:
        """Inverse of `to_json`.

        Raises:
            ValueError, LookupError, TypeError: the content is something else.
        """
        rows = [[content[d][f] for f in FILM_SEVERITIES] for d in ("up", "down")]
        share = np.array(rows, dtype=float)
        if share.ndim != 3 or not np.isfinite(share).all():
            raise ValueError("not a curve of shares by direction and finding")
        return cls(share)


@dataclass(frozen=True)
class Goal:
    """What films are asked for.

    levels: float32 [B, 12], the condition; asked: bool [B, 12], the findings that shall change
    """

    levels: np.ndarray
    asked: np.ndarray


def masks_of(
    asked: np.ndarray, boxes: Sequence[dict[str, Box]], size: int, side: int = SIZE
) -> np.ndarray:
    """Where each film shall change, float32 [B, side, side]; boxes are of films of `size` px."""
    nothing = np.zeros((side, side), dtype=np.float32)
    rows = []
    for wanted, own in zip(asked, boxes, strict=True):
        found = [FILM_SEVERITIES[f] for f in np.flatnonzero(wanted)]
        rows.append(union([nothing, *(finding_mask(f, own, size, side) for f in found)]))
    return np.stack(rows)


def draw_goal(levels: np.ndarray, rng: np.random.Generator) -> Goal:
    """Ask films of these levels [B, 12] for changes of random findings in both directions."""
    asked = rng.random(levels.shape) < P_ASKED
    goal = np.where(levels < LEAST_LEVEL, most_levels(), 0.0)
    return Goal(np.where(asked, goal, levels).astype(np.float32), asked)


def edited_levels(
    images: np.ndarray,
    goal: Goal,
    boxes: Sequence[dict[str, Box]],
    generator: Generator,
    net: SeverityNet,
    options: Options,
    seed: int,
) -> tuple[np.ndarray, list[torch.Tensor]]:
    """Levels that the net sees after stages 0..N, [N + 1, B, 12], and the films themselves."""
    start = to_unit(images)
    mask = torch.from_numpy(masks_of(goal.asked, boxes, SIZE))[:, None]
    seeds = [seed * len(images) + k for k in range(len(images))]
    stages = pie(
        start, torch.from_numpy(goal.levels), generator, seeds=seeds, mask=mask, options=options
    )
    films = [with_change(start, stages[0], after, mask) for after in stages]
    return np.stack([levels_of(net, film) for film in films]), films


def calibrate(
    images: np.ndarray,
    severities: np.ndarray,
    boxes: Sequence[dict[str, Box]],
    generator: Generator,
    net: SeverityNet,
    options: Options,
    seed: int,
) -> Calibration:
    """Fit the shares on films whose severities [B, 12] are known.

    Per finding and direction the regression of the seen on the asked change of level through the
    origin, made monotone over the stages.
    """
    levels = level(severities)
    goal = draw_goal(levels, np.random.default_rng(seed))
    seen, _ = edited_levels(images, goal, boxes, generator, net, options, seed)
    change, wanted = seen - seen[0], goal.levels - levels
    share = np.zeros((2, len(FILM_SEVERITIES), options.steps + 1))
    for direction, sign in ((UP, 1), (DOWN, -1)):
        for f in range(len(FILM_SEVERITIES)):
            rows = goal.asked[:, f] & (sign * wanted[:, f] > 0)
            share[direction, f] = rising_share(change[:, rows, f], wanted[rows, f])
    return Calibration(share)


def rising_share(change: np.ndarray, wanted: np.ndarray, most: float | None = 1.0) -> np.ndarray:
    """Rising shares [N + 1] from 0 to `most`, of changes [N + 1, films] that were wanted."""
    slope = change @ wanted / max(float(wanted @ wanted), 1e-9)
    stages = np.arange(len(slope))
    rising = IsotonicRegression(y_min=0.0, y_max=most).fit_transform(stages[1:], slope[1:])
    return np.concatenate([[0.0], rising])
