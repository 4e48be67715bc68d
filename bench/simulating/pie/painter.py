"""The films of a cohort by PIE: a subject's first film is drawn, the others are edits of it.

Every later film is asked for the worst of the findings that got worse since the first film and for
none of those that got better, where they show; each region then takes the stage whose calibrated
severity is the wanted one. The edit is made at 64 pixels a side and its difference is added to the
first film, which keeps anatomy and detail. Position and devices stay those of the first film; tone
and noise differ a little.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.simulating.boxes import Box
from bench.simulating.diffusion.model import to_bytes, to_unit
from bench.simulating.film import Film
from bench.simulating.painter import Painter, Sitter
from bench.simulating.pie.calibration import DOWN, UP, Calibration, masks_of
from bench.simulating.pie.compose import at_stage, shrunk, with_change
from bench.simulating.pie.edit import pie_latents
from bench.simulating.pie.engine import Engine, EngineConfig, load_engine
from bench.simulating.pie.findings import level, most_levels, severity_of
from bench.simulating.pie.masks import finding_mask
from bench.simulating.pie.severity import levels_of
from bench.simulating.population import FILM_SEVERITIES
from bench.simulating.procedural import ProceduralPainter
from bench.simulating.streams import Tag, stream
from bench.simulating.threads import one_thread

LEAST_CHANGE: Final = 0.1
"""Change of level that an edit is made for (0 to severity 0.03, or 1 to 1.13)."""

N_DRAWS: Final = 3
"""Edits of a film at most: one whose main finding went the wrong way is drawn again."""

TONE_SD, NOISE_SD = 0.08, 0.015
"""Of the tone curve's exponent (log) and of the noise (of grey levels 0..1) of each later film."""


@dataclass(frozen=True)
class PiePainter:
    """Loads the cached engine where it paints, so that it travels light.

    size: pixels a side of the films; nuisance: how much exposures differ, 1 = as usual
    """

    config: EngineConfig
    cache: Path
    size: int
    nuisance: float = 1.0

    def paint(self, sitter: Sitter) -> list[Film]:
        """One film per row of `sitter.severity`."""
        with one_thread():
            first_only = replace(sitter, severity=sitter.severity[:1])
            (first,) = ProceduralPainter(self.size, self.nuisance).paint(first_only)
            engine = load_engine(self.config, 1, self.cache)
            return [first, *_later_films(engine, first, sitter, self.nuisance)]


def pie_painter(size: int, seed: int, jobs: int, cache: Path, nuisance: float = 1.0) -> Painter:
    """The painter of a cohort of this seed; trains the engine unless `cache` holds it.

    Args:
        size: pixels a side of the films
        seed: of the engine; it sees no patient of the cohort
        jobs: processes that draw training films
        cache: folder of engines
        nuisance: how much exposures differ, 1 = as usual
    """
    config = EngineConfig(seed=seed)
    load_engine(config, jobs, cache)
    return PiePainter(config, cache.absolute(), size, nuisance)


def rejection_line(films: pd.DataFrame) -> str:
    """How often edits went the wrong way, of a simulation's `truth/films.csv`."""
    rejected = films["n_rejected"].dropna()
    kept = int((rejected == N_DRAWS).sum())
    return (
        f"{len(rejected)} edited films: {int(rejected.sum())} edits went the wrong way and were "
        f"rejected; {kept} films ({kept / max(len(rejected), 1):.1%}) still did after {N_DRAWS} "
        "draws and keep their label"
    )


def _later_films(engine: Engine, first: Film, sitter: Sitter, nuisance: float) -> list[Film]:
    """Edit all at once; those that went the wrong way again, by themselves."""
    n = len(sitter.severity) - 1
    if n == 0:
        return []
    plan = plan_edits(level(sitter.severity), first.boxes, len(first.image), engine.calibration)
    start = to_unit(first.image[None])
    before = levels_of(engine.net, shrunk(start))
    films, achieved = start.repeat(n, 1, 1, 1), np.repeat(before, n, axis=0)
    rejected, open_rows = np.zeros(n, dtype=int), np.flatnonzero(plan.asked.any(axis=1))
    for draw in range(N_DRAWS):
        if len(open_rows) == 0:
            break
        rows = torch.from_numpy(open_rows)
        seeds = [_seed(sitter, row, draw) for row in open_rows.tolist()]
        films[rows] = _edit(engine, start, plan.rows(open_rows), seeds)
        achieved[open_rows] = levels_of(engine.net, shrunk(films[rows]))
        open_rows = open_rows[_is_wrong(plan.rows(open_rows), achieved[open_rows] - before)]
        rejected[open_rows] += 1
    exposed = [_expose(film, sitter, row, nuisance) for row, film in enumerate(films)]
    return [
        Film(image, first.boxes, first.view, _truth(seen, count))
        for image, seen, count in zip(exposed, achieved, rejected, strict=True)
    ]


def _truth(achieved: np.ndarray, n_rejected: int) -> dict[str, float]:
    """What the severity net sees, and how many edits were thrown away before this one."""
    severity = severity_of(achieved).round(4).tolist()
    names = [f"achieved_{name}" for name in FILM_SEVERITIES]
    return {**dict(zip(names, severity, strict=True)), "n_rejected": int(n_rejected)}


@dataclass(frozen=True)
class Plan:
    """What B later films are edited towards.

    change: float32 [B, 12], wanted change of level; asked: bool [B, 12], worth an edit
    goal: float32 [B, 12], the condition
    mask: float32 [B, 64, 64]; stage: float32 [B, 64, 64], 0..N at each pixel
    """

    change: np.ndarray
    asked: np.ndarray
    goal: np.ndarray
    mask: np.ndarray
    stage: np.ndarray

    def rows(self, rows: np.ndarray) -> Plan:
        """Some of the films."""
        return Plan(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def plan_edits(
    levels: np.ndarray, boxes: dict[str, Box], size: int, calibration: Calibration
) -> Plan:
    """Plan the edits of films 1.. of levels [F, 12] from film 0, whose boxes are in `size` px.

    Levels above the worst that the generator has seen count as that.
    """
    levels = np.minimum(levels, most_levels())
    change = levels[1:] - levels[0]
    asked = np.abs(change) > LEAST_CHANGE
    extreme = np.where(change > 0, most_levels(), 0.0)
    goal = np.where(asked, extreme, levels[0]).astype(np.float32)
    mask = masks_of(asked, [boxes] * len(asked), size)
    stage = np.zeros_like(mask)
    weight = np.full_like(mask, 1e-6)
    for row, finding in zip(*np.nonzero(asked), strict=True):
        own = finding_mask(FILM_SEVERITIES[finding], boxes, size, mask.shape[-1])
        wanted = change[row, finding] / (goal[row, finding] - levels[0, finding])
        direction = UP if change[row, finding] > 0 else DOWN
        # Where findings overlap, the one that changes most decides most.
        share = own * abs(change[row, finding])
        stage[row] += share * calibration.stage(finding, direction, float(wanted))
        weight[row] += share
    return Plan(change, asked, goal, mask, stage / weight)


def _edit(engine: Engine, start: Tensor, plan: Plan, seeds: list[int]) -> Tensor:
    """Films [B, 1, S, S] of a plan, from a start film [1, 1, S, S]."""
    small = shrunk(start).expand(len(seeds), -1, -1, -1)
    mask = torch.from_numpy(plan.mask)[:, None]
    stages = torch.stack(
        pie_latents(
            small,
            torch.from_numpy(plan.goal),
            engine.generator,
            seeds=seeds,
            mask=mask,
            options=engine.config.options,
        )
    )
    stage = F.avg_pool2d(torch.from_numpy(plan.stage)[:, None], engine.generator.factor)
    with torch.inference_mode():
        before, after = map(engine.generator.decode, (stages[0], at_stage(stages, stage)))
    return with_change(start, before, after, mask)


def _is_wrong(plan: Plan, seen: np.ndarray) -> np.ndarray:
    """Whether the finding that should change most went the other way, bool [B]."""
    main = np.abs(plan.change).argmax(axis=1)[:, None]
    wanted, found = (np.take_along_axis(a, main, axis=1)[:, 0] for a in (plan.change, seen))
    return np.sign(wanted) != np.sign(found)


def _expose(film: Tensor, sitter: Sitter, row: int, nuisance: float) -> np.ndarray:
    """A film [1, S, S] as another exposure of the same position, uint8 [S, S]."""
    rng = stream(sitter.seed, Tag.FILM, sitter.subject, row + 1)
    grey = (film[0].numpy() + 1) / 2
    grey = np.clip(grey, 0, 1) ** np.exp(nuisance * rng.normal(0, TONE_SD))
    grey += nuisance * NOISE_SD * rng.standard_normal(grey.shape, dtype=np.float32)
    return to_bytes(torch.from_numpy(2 * grey - 1)[None, None].float())[0]


def _seed(sitter: Sitter, row: int, draw: int) -> int:
    return int(stream(sitter.seed, Tag.EDIT, sitter.subject, row, draw).integers(2**62))
