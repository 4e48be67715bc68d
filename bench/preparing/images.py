"""Films as arrays: whole films letterboxed to a square, region crops from full resolution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from bench.data.vocabulary import BOX_REGIONS, REGIONS
from bench.errors import UserError
from bench.preparing.scene_graphs import Box

BLACK = 0
GREY = "L"


@dataclass(frozen=True)
class Sizes:
    """Side in pixels of the square arrays."""

    film: int
    region: int


@dataclass(frozen=True)
class FilmFile:
    """An image file and the boxes of its regions in its pixels; its width and height if known."""

    path: Path
    boxes: Mapping[str, Box]
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class FilmArrays:
    """One film of a cohort.

    film: uint8 [S, S]; the whole film, black at two sides if it is not square
    regions: uint8 [10, s, s]; crops resized without keeping their aspect, zero where absent
    present: bool [10]; the region has a box that meets the film
    boxes: float32 [19, 4]; x1 y1 x2 y2 as fractions of the square film, cut at its edges; NaN
        where absent
    """

    film: np.ndarray
    regions: np.ndarray
    present: np.ndarray
    boxes: np.ndarray


def inspect_films(films: Sequence[FilmFile], oddities: Counter[str]) -> None:
    """Look at the films' headers before the long work; count what decoding will mend.

    Raises:
        UserError: a film is missing, no image or not of its size, so that boxes are of no use.
    """
    _check_all_there(films)
    for film in films:
        with _opened(film.path) as image:
            size, mode = image.size, image.mode
        if film.size not in (None, size):
            raise UserError(
                f"{film.path} is {size[0]} x {size[1]} pixels, its metadata says "
                f"{film.size[0]} x {film.size[1]}: region boxes need the film at full resolution"
            )
        if mode != GREY:
            oddities[f"films turned into 8-bit grey: {mode}"] += 1
        for box in (film.boxes[name] for name in BOX_REGIONS if name in film.boxes):
            if not _meets(box, size):
                oddities["region boxes left out: outside their film"] += 1
            elif min(box) < 0 or box[2] > size[0] or box[3] > size[1]:
                oddities["region boxes cut at the edge of their film"] += 1


def prepare_films(
    films: Sequence[FilmFile], sizes: Sizes, scratch: Path, jobs: int, nearest: bool = False
) -> dict[str, np.ndarray]:
    """Decode films in parallel into the cohort's film arrays; the two large ones lie in `scratch`.

    Raises:
        UserError: a film is missing, broken or no image.
    """
    _check_all_there(films)
    n = len(films)
    arrays: dict[str, np.ndarray] = {
        "films": _on_disk(scratch / "films.npy", (n, sizes.film, sizes.film)),
        "regions": _on_disk(scratch / "regions.npy", (n, len(REGIONS), sizes.region, sizes.region)),
        "region_present": np.zeros((n, len(REGIONS)), bool),
        "boxes": np.zeros((n, len(BOX_REGIONS), 4), np.float32),
    }
    # Threads: Pillow decodes and resizes without holding Python's lock.
    parallel = joblib.Parallel(n_jobs=jobs, prefer="threads", return_as="generator")
    decoded = parallel(joblib.delayed(prepare_film)(film, sizes, nearest) for film in films)
    for i, film in enumerate(tqdm(decoded, total=n, desc="films", unit="film", disable=None)):
        arrays["films"][i], arrays["regions"][i] = film.film, film.regions
        arrays["region_present"][i], arrays["boxes"][i] = film.present, film.boxes
    return arrays


def prepare_film(film: FilmFile, sizes: Sizes, nearest: bool = False) -> FilmArrays:
    """Decode one film once; letterbox it and cut its regions from full resolution."""
    image = open_film(film.path)
    resample = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    crops = np.zeros((len(REGIONS), sizes.region, sizes.region), np.uint8)
    boxes = np.full((len(BOX_REGIONS), 4), np.nan, np.float32)
    for i, name in enumerate(BOX_REGIONS):
        box = film.boxes.get(name)
        if box is not None and _meets(box, image.size):
            boxes[i] = _in_square(box, image.size)
            if name in REGIONS:
                crops[REGIONS.index(name)] = crop(image, box, sizes.region, resample)
    present = ~np.isnan(boxes[: len(REGIONS), 0])
    return FilmArrays(letterbox(image, sizes.film), crops, present, boxes)


def open_film(path: Path) -> Image.Image:
    """Decode an image file to 8-bit grey.

    Raises:
        UserError: it is missing, broken or no image.
    """
    with _opened(path) as image:
        image.load()
        if image.mode.startswith("I"):
            # 16-bit grey: the eight high bits.
            return Image.fromarray(np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8))
        return image.convert(GREY)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except UnidentifiedImageError:
        raise UserError(f"{path} is not an image: expected a JPEG or PNG file")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be decoded ({error}): download it again")


def letterbox(image: Image.Image, size: int) -> np.ndarray:
    """The whole image in a square, uint8 [size, size]: aspect kept, centred, black around."""
    width, height, left, top = _placement(image.size, size)
    square = Image.new(GREY, (size, size), BLACK)
    square.paste(image.resize((width, height), Image.Resampling.BILINEAR), (left, top))
    return np.asarray(square)


def crop(image: Image.Image, box: Box, size: int, resample: Image.Resampling) -> np.ndarray:
    """A box resized to a square, uint8 [size, size]; what lies outside the image is black."""
    x1, y1, x2, y2 = box
    seen = (max(x1, 0), max(y1, 0), min(x2, image.width), min(y2, image.height))
    scale_x, scale_y = size / (x2 - x1), size / (y2 - y1)
    left, top = round((seen[0] - x1) * scale_x), round((seen[1] - y1) * scale_y)
    right, bottom = round((seen[2] - x1) * scale_x), round((seen[3] - y1) * scale_y)
    extent = (max(right - left, 1), max(bottom - top, 1))
    square = Image.new(GREY, (size, size), BLACK)
    # A sliver at the far side of its box stays inside.
    corner = (min(left, size - 1), min(top, size - 1))
    square.paste(image.resize(extent, resample, box=seen), corner)
    return np.asarray(square)


def _placement(image_size: tuple[int, int], size: int) -> tuple[int, int, int, int]:
    """Width, height, left and top of an image in its square."""
    scale = size / max(image_size)
    width, height = (max(round(side * scale), 1) for side in image_size)
    return width, height, (size - width) // 2, (size - height) // 2


def _in_square(box: Box, image_size: tuple[int, int]) -> np.ndarray:
    """A box in pixels as fractions of the square film, float [4]."""
    longer = max(image_size)
    margin = [(longer - side) / 2 for side in image_size]
    corners = (np.array(box, float) + np.tile(margin, 2)) / longer
    return np.clip(corners, 0, 1)


def _meets(box: Box, image_size: tuple[int, int]) -> bool:
    """Whether a box has an area and lies at least partly on the image."""
    x1, y1, x2, y2 = box
    width, height = image_size
    return max(x1, 0) < min(x2, width) and max(y1, 0) < min(y2, height)


def _on_disk(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    if shape[0] == 0:
        return np.zeros(shape, np.uint8)
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)


def _check_all_there(films: Sequence[FilmFile]) -> None:
    missing = [film.path for film in films if not film.path.is_file()]
    if missing:
        raise UserError(
            f"{missing[0]} is not there, a film that is needed "
            f"({len(missing)} of {len(films)} are missing): download it"
        )
