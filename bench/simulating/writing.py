"""A population as raw files, in one folder that appears only when it is whole."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.simulating.identifiers import Identifiers
from bench.simulating.images import draw_images
from bench.simulating.mimic_cxr import write_films, write_tables
from bench.simulating.mimic_iv import write_mimic_iv
from bench.simulating.painter import Painter
from bench.simulating.population import Population
from bench.simulating.scene_graphs import write_scene_graphs
from bench.simulating.sizes import Engine, Knobs
from bench.simulating.truth import write_truth

FORMAT = 3
SETTINGS_FILE = "simulation.json"


@dataclass(frozen=True)
class Settings:
    """What decides the raw files.

    mimic_iv: a real directory whose stays get films
    options: what the engine was told besides; empty for the procedural one
    """

    size: str
    seed: int = 7
    film_size: int = 256
    gzip: bool = False
    mimic_iv: str | None = None
    knobs: Knobs = field(default_factory=Knobs)
    engine: Engine = Engine.PROCEDURAL
    options: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As `simulation.json` holds it."""
        content = {"engine": str(self.engine), "format": FORMAT, **asdict(self)}
        if not self.options:
            del content["options"]
        return content


def is_there(out: Path, settings: Settings, force: bool) -> bool:
    """Whether `out` already holds this simulation.

    Raises:
        UserError: it holds something else and may not be replaced, or cannot be written.
    """
    if not out.exists():
        parent = next(p for p in out.absolute().parents if p.exists())
        if not os.access(parent, os.W_OK) or not parent.is_dir():
            raise UserError(f"cannot write {out}: {parent} is not a writable folder")
        return False
    file = out / SETTINGS_FILE
    if file.is_file() and _read(file) == settings.to_json():
        return not force
    if not force:
        raise UserError(
            f"{out} exists and is not this simulation: remove it, choose another --out or --force"
        )
    if not file.is_file():
        raise UserError(f"{out} is no simulation: --force does not remove it, choose another --out")
    return False


def _read(file: Path) -> Any:
    """The settings in a file; None if it is not JSON, which are nobody's settings."""
    try:
        return json.loads(file.read_text())
    except ValueError:
        return None


def write_raw(
    out: Path,
    population: Population,
    ids: Identifiers,
    settings: Settings,
    painter: Painter,
    jobs: int,
) -> None:
    """Write every file into a hidden sibling of `out`, then rename it."""
    out = out.absolute()
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        cxr = partial / "mimic-cxr-jpg"
        boxes, masks, film_truth = write_films(cxr, population, ids, painter, jobs)
        images = draw_images(population, ids)
        write_tables(cxr, population, images, settings.film_size, settings.gzip)
        imagenome = partial / "chest-imagenome"
        write_scene_graphs(imagenome, population, ids, images, boxes, settings.film_size)
        if settings.mimic_iv is None:
            write_mimic_iv(partial / "mimic-iv", population, ids, settings.gzip)
        write_truth(partial / "truth", population, ids, masks, film_truth)
        (partial / SETTINGS_FILE).write_text(json.dumps(settings.to_json(), indent=1))
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}")
    finally:
        shutil.rmtree(partial, ignore_errors=True)
