"""How fast films of real size are prepared, how fast prepared ones are read, and how exactly.

python -m bench.studies.film_preparation_speed
python -m bench.studies.film_preparation_speed 00000013_004.jpg 00000013_018.jpg

Images, simulated unless some are named, are enlarged to 2544 x 3056 pixels with the noise of a
detector and stored as JPEG of quality 95. The baseline is what a data set class without
preparation does in every epoch: decode the whole JPEG, expand it to RGB, cut and resize the ten
regions. It has one worker, the preparation two.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from bench.arguments import positive
from bench.data.vocabulary import REGIONS
from bench.errors import Parser, run_command
from bench.preparing.images import (
    FilmFile,
    Sizes,
    crop,
    letterbox,
    open_film,
    prepare_film,
    prepare_films,
)
from bench.preparing.scene_graphs import Box
from bench.simulating.anatomy import draw_anatomy
from bench.simulating.boxes import canonical_boxes
from bench.simulating.film import render_film
from bench.simulating.population import FILM_SEVERITIES

WIDTH, HEIGHT = 2544, 3056
DRAWN_SIZE: Final = 512
NOISE_GREY_LEVELS: Final = 2.0
JPEG_QUALITY: Final = 95
N_DRAWN: Final = 4
"""Different images; copies of them with other noise make up the rest."""

PAPER, MEDIUM, DEMO = Sizes(224, 224), Sizes(128, 48), Sizes(128, 32)
BILINEAR: Final = Image.Resampling.BILINEAR
READS_PER_FILM: Final = 20
N_COMPARED: Final = 4
FILMS_PER_ROUND: Final = 20
PREPARED: Final = "reading ten prepared crops"
FROM_JPEG: Final = "JPEG, RGB, ten crops, 1 worker"


@dataclass(frozen=True)
class Cost:
    """Milliseconds a film: by the clock, and of all cores together."""

    wall_ms: float
    cpu_ms: float


def write_films(folder: Path, images: Sequence[Path], n: int) -> list[FilmFile]:
    """Write n films of real size, all with the boxes of a typical patient."""
    rng = np.random.default_rng(0)
    sources = [open_film(path) for path in images] or [_draw(rng) for _ in range(N_DRAWN)]
    large = [np.asarray(source.resize((WIDTH, HEIGHT))) for source in sources]
    boxes = _boxes()
    films = []
    for i in range(n):
        noise = rng.normal(0, NOISE_GREY_LEVELS, (HEIGHT, WIDTH))
        noisy = np.clip(large[i % len(large)] + noise, 0, 255)
        path = folder / f"{i}.jpg"
        Image.fromarray(noisy.astype(np.uint8)).save(path, quality=JPEG_QUALITY)
        films.append(FilmFile(path, boxes))
    return films


def _draw(rng: np.random.Generator) -> Image.Image:
    anatomy = draw_anatomy(rng, sex="F", age=64.0, bmi=28.0, size=DRAWN_SIZE)
    severity = rng.gamma(2.0, 0.4, len(FILM_SEVERITIES))
    return Image.fromarray(render_film(anatomy, severity, False, rng).image)


def _boxes() -> dict[str, Box]:
    corners = {
        name: np.rint(box).astype(int) for name, box in canonical_boxes(WIDTH, HEIGHT).items()
    }
    return {
        name: (int(x1), int(y1), int(x2), int(y2)) for name, (x1, y1, x2, y2) in corners.items()
    }


def read_from_jpeg(films: Sequence[FilmFile]) -> None:
    """What an epoch does without preparation."""
    for film in films:
        crops_from_jpeg(film, PAPER.region)


def read_prepared(regions: np.ndarray, order: np.ndarray) -> None:
    """What an epoch does with it; `regions` lie on disk."""
    for row in order:
        np.array(regions[row])


def crops_from_jpeg(film: FilmFile, size: int) -> list[np.ndarray]:
    """The ten regions, each uint8 [size, size, 3], straight from the file."""
    with Image.open(film.path) as image:
        rgb = image.convert("RGB")
    regions = (rgb.crop(film.boxes[name]) for name in REGIONS)
    return [np.asarray(region.resize((size, size), BILINEAR)) for region in regions]


def cost(work: Callable[[], object], n_films: int) -> Cost:
    """What `work` on n films takes for each."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Cost(wall / n_films * 1e3, cpu / n_films * 1e3)


def differences(film: FilmFile, sizes: Sizes) -> np.ndarray:
    """Grey levels by which a prepared film and its crops differ from those shrunk in one step."""
    prepared, image = prepare_film(film, sizes), open_film(film.path)
    once = [crop(image, film.boxes[name], sizes.region, BILINEAR) for name in REGIONS]
    pairs = [(prepared.film, letterbox(image, sizes.film)), (prepared.regions, np.stack(once))]
    return np.concatenate([np.abs(a.astype(int) - b).ravel() for a, b in pairs])


def main() -> None:
    """Print costs a film, their ratios, and the differences in grey levels."""
    parser = Parser(prog="python -m bench.studies.film_preparation_speed", description=__doc__)
    parser.add_argument("images", type=Path, nargs="*", metavar="IMAGE", help="films to enlarge")
    parser.add_argument("--films", type=positive, default=40, metavar="N", help="to be prepared")
    parser.add_argument("--jobs", type=positive, default=2, metavar="N", help="workers")
    arg = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        films = write_films(Path(folder), arg.images, arg.films)
        mb = np.mean([film.path.stat().st_size for film in films]) / 1e6
        print(f"{len(films)} films of {WIDTH} x {HEIGHT}, {mb:.1f} MB each")
        _print_costs(films, Path(folder), arg.jobs)
        print("differences_from_one_step  film_px  region_px  mean  largest")
        for sizes in (PAPER, MEDIUM, DEMO):
            off = np.concatenate([differences(film, sizes) for film in films[:N_COMPARED]])
            print(f"{sizes.film:34d}  {sizes.region:9d}  {off.mean():4.2f}  {off.max():7d}")


def _print_costs(films: list[FilmFile], folder: Path, jobs: int) -> None:
    """Films are taken in rounds, so that other programs slow everything alike."""
    crops_from_jpeg(films[0], PAPER.region)
    costs: dict[str, list[Cost]] = defaultdict(list)
    for start in range(0, len(films), FILMS_PER_ROUND):
        part = films[start : start + FILMS_PER_ROUND]
        costs[FROM_JPEG].append(cost(partial(read_from_jpeg, part), len(part)))
        for sizes in (PAPER, MEDIUM):
            scratch = folder / f"{start}-{sizes.region}"
            prepare = partial(prepare_films, part, sizes, scratch, jobs)
            name = f"preparation to {sizes.region} px, {jobs} workers"
            costs[name].append(cost(prepare, len(part)))
        regions = prepare_films(part, PAPER, folder / f"{start}-{PAPER.region}", jobs)["regions"]
        order = np.random.default_rng(0).permutation(
            np.repeat(np.arange(len(part)), READS_PER_FILM)
        )
        costs[PREPARED].append(cost(partial(read_prepared, regions, order), len(order)))
    print(f"{'each film':37s}  wall_ms  cpu_ms  films_per_s  times_as_fast")
    slowest = np.mean([of.wall_ms for of in costs[FROM_JPEG]])
    for name, rounds in costs.items():
        wall, cpu = (np.mean([getattr(of, ms) for of in rounds]) for ms in ("wall_ms", "cpu_ms"))
        print(f"{name:37s}  {wall:7.2f}  {cpu:6.2f}  {1e3 / wall:11.1f}  {slowest / wall:13.1f}")


if __name__ == "__main__":
    run_command(main)
