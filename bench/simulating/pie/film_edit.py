"""One film of the user's through PIE, from files to files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from bench.environment import choose_device
from bench.errors import UserError
from bench.simulating.boxes import canonical_boxes
from bench.simulating.diffusion.model import to_unit
from bench.simulating.diffusion.stable_diffusion import TextStableDiffusion
from bench.simulating.pie.calibration import masks_of
from bench.simulating.pie.compose import shrunk, with_change
from bench.simulating.pie.edit import Options, pie
from bench.simulating.pie.engine import EngineConfig, load_engine, load_severity
from bench.simulating.pie.findings import level, severity_of
from bench.simulating.pie.severity import SeverityNet, levels_of
from bench.simulating.pie.sheets import check_free, write_edit
from bench.simulating.population import FILM_SEVERITIES

MASK_FROM_REGIONS = "regions"


@dataclass(frozen=True)
class Request:
    """An edit as it was asked for; `pipeline` None is the tiny engine, which takes no prompt.

    condition: severities by entry of `FILM_SEVERITIES`
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

    def __post_init__(self) -> None:
        if self.pipeline is None and (self.prompt or self.finetuned):
            raise UserError(
                "--prompt and --finetuned-path are for Stable Diffusion: add "
                "--pretrained-model-name-or-path DIR, or use --condition with the tiny engine"
            )
        if self.pipeline is None and not self.condition:
            raise UserError("nothing to edit towards: give --condition, e.g. edema=1.2")
        if self.pipeline is not None and not self.prompt:
            raise UserError("Stable Diffusion needs --prompt TEXT")
        if self.mask == MASK_FROM_REGIONS and not self.condition:
            raise UserError(f"--mask {MASK_FROM_REGIONS} needs --condition: it names the regions")
        if self.resolution < 64:
            raise UserError(f"--resolution {self.resolution}: choose 64 or more")


def edit_film(request: Request, config: EngineConfig, jobs: int, cache: Path, out: Path) -> None:
    """Edit and write films, mask, GIF and confidence curve.

    Raises:
        UserError: a file cannot be read, the folder is something else's, or there is no engine.
    """
    check_free(out)
    start = to_unit(read_grey(request.image, request.resolution)[None])
    mask = _mask(request)
    edit = _with_tiny if request.pipeline is None else _with_stable_diffusion
    films, net = edit(request, config, jobs, cache, start, mask)
    seen = np.stack([severity_of(levels_of(net, shrunk(film))[0]) for film in films])
    own = list(request.condition) or list(FILM_SEVERITIES)
    write_edit(out, films, mask, seen, own)


def read_grey(file: Path, size: int) -> np.ndarray:
    """A picture as a grey square, uint8 [size, size]: short side to `size`, then its centre."""
    try:
        with Image.open(file) as picture:
            grey = picture.convert("I") if picture.mode.startswith("I") else picture.convert("L")
            if grey.mode == "I":
                grey = ImageOps.autocontrast(Image.fromarray(_to_8_bits(np.asarray(grey))))
            return np.asarray(ImageOps.fit(grey, (size, size), Image.Resampling.BILINEAR))
    except OSError as error:
        raise UserError(f"cannot read {file} as a picture: {error.strerror or error}")


def _to_8_bits(deep: np.ndarray) -> np.ndarray:
    return (deep / max(int(deep.max()), 1) * 255).astype(np.uint8)


def _mask(request: Request) -> Tensor | None:
    """The mask at the films' size, float [1, 1, S, S] in [0, 1]."""
    size = request.resolution
    if request.mask is None:
        return None
    if request.mask == MASK_FROM_REGIONS:
        asked = np.array([[name in request.condition for name in FILM_SEVERITIES]])
        mask = masks_of(asked, [canonical_boxes(size, size)], size, size)
        return torch.from_numpy(mask)[:, None]
    grey = read_grey(Path(request.mask), size)
    return torch.from_numpy(grey.astype(np.float32) / 255)[None, None]


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
    levels = np.maximum(levels_of(engine.net, small), 0)
    for name, severity in request.condition.items():
        levels[:, FILM_SEVERITIES.index(name)] = level(np.array(severity))
    small_mask = None if mask is None else shrunk(mask).clamp(0, 1)
    stages = pie(
        small,
        torch.from_numpy(levels),
        engine.generator,
        seeds=[request.seed],
        mask=small_mask,
        options=request.options,
    )
    return [with_change(start, stages[0], stage, small_mask) for stage in stages], engine.net


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
    stages = pie(
        start,
        generator.embed([request.prompt]),
        generator,
        seeds=[request.seed],
        mask=mask,
        options=request.options,
    )
    return [start, *(stage.cpu() for stage in stages[1:])], load_severity(config, jobs, cache)
