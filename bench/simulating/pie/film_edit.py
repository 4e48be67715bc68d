"""One film of the user's through PIE, from files to files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.environment import choose_device
from bench.errors import UserError
from bench.simulating.diffusion.model import to_unit
from bench.simulating.diffusion.stable_diffusion import TextStableDiffusion
from bench.simulating.pie.calibration import masks_of
from bench.simulating.pie.compose import shrunk, with_change
from bench.simulating.pie.edit import Options, pie, pie_latents
from bench.simulating.pie.engine import EngineConfig, load_engine, load_severity
from bench.simulating.pie.findings import level, severity_of
from bench.simulating.pie.masks import roomy_boxes
from bench.simulating.pie.pictures import read_film, read_mask
from bench.simulating.pie.reach import extremes, stage_map, up_to
from bench.simulating.pie.severity import SeverityNet, levels_of
from bench.simulating.pie.sheets import check_free, write_edit
from bench.simulating.population import FILM_SEVERITIES

MASK_FROM_REGIONS = "regions"


@dataclass(frozen=True)
class Request:
    """An edit as it was asked for; `pipeline` None is the tiny engine, which takes no prompt.

    condition: severities by entry of `FILM_SEVERITIES`
    as_published: the tiny engine is told the severities themselves and goes through every stage,
        instead of being asked for the extreme and going as far as the severities
    """

    image: Path
    mask: str | None
    condition: dict[str, float]
    prompt: str | None
    pipeline: Path | None
    finetuned: Path | None
    device: str
    seed: int
    resolution: int
    options: Options
    as_published: bool = False

    def __post_init__(self) -> None:
        if self.pipeline is None and (self.prompt or self.finetuned):
            raise UserError(
                "--prompt and --finetuned-path are for Stable Diffusion: add "
                "--pretrained-model-name-or-path DIR, or use --condition with the tiny engine"
            )
        if self.pipeline is None and self.device not in ("auto", "cpu"):
            raise UserError(
                f"--device {self.device} is for Stable Diffusion: the tiny engine edits on the CPU"
            )
        if self.pipeline is None and not self.condition:
            raise UserError("nothing to edit towards: give --condition, e.g. edema=1.2")
        if self.pipeline is not None and not self.prompt:
            raise UserError("Stable Diffusion needs --prompt TEXT")
        if self.mask == MASK_FROM_REGIONS and not self.condition:
            raise UserError(f"--mask {MASK_FROM_REGIONS} needs --condition: it names the regions")
        if self.resolution < 64:
            raise UserError(f"--resolution {self.resolution}: choose 64 or more")


def edit_film(
    request: Request, config: EngineConfig, jobs: int, cache: Path, out: Path
) -> np.ndarray:
    """Edit and write films, mask, GIF and confidence curve.

    Returns:
        Levels that the severity net sees after stages 0..N, [N + 1, 12].

    Raises:
        UserError: a file cannot be read, the folder is something else's, or there is no engine.
    """
    check_free(out)
    start = to_unit(read_film(request.image, request.resolution)[None])
    mask = _mask(request)
    edit = _with_tiny if request.pipeline is None else _with_stable_diffusion
    films, net = edit(request, config, jobs, cache, start, mask)
    seen = np.concatenate([levels_of(net, film) for film in films])
    own = list(request.condition) or list(FILM_SEVERITIES)
    write_edit(out, films, mask, severity_of(seen), own)
    return seen


def _mask(request: Request) -> Tensor | None:
    """The mask at the films' size, float [1, 1, S, S] in [0, 1]."""
    size = request.resolution
    if request.mask is None:
        return None
    if request.mask == MASK_FROM_REGIONS:
        asked = np.array([[name in request.condition for name in FILM_SEVERITIES]])
        mask = masks_of(asked, [roomy_boxes(size)], size, size)
        return torch.from_numpy(mask)[:, None]
    return torch.from_numpy(read_mask(Path(request.mask), size))[None, None]


def _with_tiny(
    request: Request,
    config: EngineConfig,
    jobs: int,
    cache: Path,
    start: Tensor,
    mask: Tensor | None,
) -> tuple[list[Tensor], SeverityNet]:
    """Other findings are asked to stay as the severity net sees them."""
    engine = load_engine(config, jobs, cache)
    small = shrunk(start)
    small_mask = None if mask is None else shrunk(mask).clamp(0, 1)
    levels = np.maximum(levels_of(engine.net, small), 0)
    wanted = levels.copy()
    for name, severity in request.condition.items():
        wanted[:, FILM_SEVERITIES.index(name)] = level(np.array(severity))
    goal = wanted if request.as_published else extremes(levels, wanted)
    stages = torch.stack(
        pie_latents(
            small,
            torch.from_numpy(goal),
            engine.generator,
            seeds=[request.seed],
            mask=small_mask,
            options=request.options,
        )
    )

    def films(latents: Tensor) -> list[Tensor]:
        with torch.inference_mode():
            decoded = [engine.generator.decode(z) for z in latents]
        return [with_change(start, decoded[0], after, small_mask) for after in decoded]

    if request.as_published:
        return films(stages), engine.net
    curves = np.concatenate([levels_of(engine.net, film) for film in films(stages)])
    curves[0] = levels[0]
    return films(up_to(stages, stage_map(curves, wanted[0], goal[0]))), engine.net


def _with_stable_diffusion(
    request: Request,
    config: EngineConfig,
    jobs: int,
    cache: Path,
    start: Tensor,
    mask: Tensor | None,
) -> tuple[list[Tensor], SeverityNet]:
    """The films are Stable Diffusion's; the confidence curve is still the severity net's."""
    assert request.pipeline is not None and request.prompt is not None
    generator = TextStableDiffusion(
        request.pipeline, request.finetuned, choose_device(request.device)
    )
    condition = generator.embed([request.prompt])
    # Before the edit: it may have to be trained, or its folder be refused.
    net = load_severity(config, jobs, cache)
    stages = pie(
        start,
        condition,
        generator,
        seeds=[request.seed],
        mask=mask,
        options=request.options,
    )
    return [start, *(stage.cpu() for stage in stages[1:])], net
