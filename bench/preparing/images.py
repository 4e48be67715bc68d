"""Films as arrays: whole films letterboxed to a square, region crops from full resolution.

A film of real size is shrunk in two steps where that is much faster: by a power of two, inside the
JPEG decoder if every box allows it, and then to its target from at least twice as many pixels. The
grey values differ from those of one step by less than 1 in the mean and 32 in any pixel. Films up
to `LARGE_FILM` and nearest-neighbour crops are resized in one step.
"""

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
from bench.preparing.row_store import RowLayout, RowStore
from bench.preparing.scene_graphs import Box
from bench.preparing.workplace import key_of_inputs, mark_of

BLACK = 0
GREY = "L"
DEEP = "I"
"""How Pillow's names of modes with more than 8 bits begin."""
FORMATS = ("JPEG", "PNG")
"""Other formats are not even tried: for some, a file's content would be run by another program."""
DEPTHS = (8, 10, 12, 14, 16)
"""Bits a pixel of films that are stored in 16."""

LARGE_FILM = 1024
"""Longer side in pixels above which films are shrunk in two steps."""
LAST_STEP = 2.0
"""How often a target's side fits into what the second step begins with, at least."""
N_HALVES = 3
"""How often a film is halved for its larger regions."""
DCT_FACTORS = (8, 4, 2)
"""Factors by which the JPEG decoder can shrink."""

N_NAMED = 5
"""How many broken films an error names beside the first."""


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


Broken = dict[Path, UserError]
"""Films that cannot be used, and why."""


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
        UserError: films are missing, no images or not of their size, so that boxes are of no use;
            all of them are told at once.
    """
    _check_all_there(films)
    broken: Broken = {}
    for film in films:
        try:
            _inspect_film(film, oddities)
        except UserError as error:
            broken[film.path] = error
    _refuse_broken(broken, len(films))


def _inspect_film(film: FilmFile, oddities: Counter[str]) -> None:
    with _opened(film.path) as image:
        size, mode = image.size, _mode(image)
    if film.size is not None and film.size != size:
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
    """Decode films in parallel into the cohort's film arrays, which lie in the folder `scratch`.

    Films that an earlier process decoded there from the same file in the same way are taken over.
    A broken film does not stop the others: all that are broken are told at once.

    Raises:
        UserError: films are missing, broken or no images.
    """
    _check_all_there(films)
    store = RowStore(scratch, len(films), _layout(sizes))
    keys = [_key(film, sizes, nearest) for film in films]
    rows = [row for row, key in enumerate(keys) if not store.holds(row, key)]
    # Threads: Pillow decodes and resizes without holding Python's lock.
    parallel = joblib.Parallel(n_jobs=jobs, prefer="threads", return_as="generator")
    decoded = parallel(joblib.delayed(_film_or_error)(films[row], sizes, nearest) for row in rows)
    n_before = len(films) - len(rows)
    bar = tqdm(decoded, total=len(films), initial=n_before, desc="films", unit="film", disable=None)
    broken: Broken = {}
    for row, film in zip(rows, bar, strict=True):
        if isinstance(film, UserError):
            broken[films[row].path] = film
        else:
            store.write(row, keys[row], _parts(film))
    _refuse_broken(broken, len(films))
    return store.arrays


def _film_or_error(film: FilmFile, sizes: Sizes, nearest: bool) -> FilmArrays | UserError:
    try:
        return prepare_film(film, sizes, nearest)
    except UserError as error:
        return error


def _refuse_broken(broken: Broken, n_films: int) -> None:
    """Raise the first film's error, in one line with the names of the others."""
    if not broken:
        return
    first, *others = broken
    more = ""
    if others:
        named = ", ".join(str(path) for path in others[:N_NAMED])
        unnamed = f" and {len(others) - N_NAMED} more" if len(others) > N_NAMED else ""
        more = f" ({len(broken)} of {n_films} films are broken; the others: {named}{unnamed})"
    raise UserError(f"{broken[first]}{more}")


def _parts(film: FilmArrays) -> dict[str, np.ndarray]:
    """A film's row of each of the cohort's arrays."""
    return {
        "films": film.film,
        "regions": film.regions,
        "region_present": film.present,
        "boxes": film.boxes,
    }


def _layout(sizes: Sizes) -> RowLayout:
    return {
        "films": (np.uint8, (sizes.film, sizes.film)),
        "regions": (np.uint8, (len(REGIONS), sizes.region, sizes.region)),
        "region_present": (np.bool_, (len(REGIONS),)),
        "boxes": (np.float32, (len(BOX_REGIONS), 4)),
    }


def _key(film: FilmFile, sizes: Sizes, nearest: bool) -> str:
    return key_of_inputs(mark_of(film.path), sorted(film.boxes.items()), sizes, nearest)


def prepare_film(film: FilmFile, sizes: Sizes, nearest: bool = False) -> FilmArrays:
    """Decode one film once; letterbox it and cut its regions from full resolution."""
    with _opened(film.path) as image:
        size = image.size
        is_large = max(size) > LARGE_FILM and not nearest
        factor = _dct_factor(film, size, sizes) if is_large else 1
        if factor > 1:
            # Does nothing to a file that is no JPEG.
            image.draft(None, (size[0] // factor, size[1] // factor))
            factor = size[0] // image.width
        pixels = _grey(image)
    halves, last_step = (_halves(pixels), LAST_STEP) if is_large else ([pixels], None)
    resample = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    crops = np.zeros((len(REGIONS), sizes.region, sizes.region), np.uint8)
    boxes = np.full((len(BOX_REGIONS), 4), np.nan, np.float32)
    for i, name in enumerate(BOX_REGIONS):
        box = film.boxes.get(name)
        if box is not None and _meets(box, size):
            boxes[i] = _in_square(box, size)
            if name in REGIONS:
                shorter = min(box[2] - box[0], box[3] - box[1]) / factor
                level = _level(halves, shorter, sizes.region)
                x1, y1, x2, y2 = (side / (factor * 2**level) for side in box)
                crops[REGIONS.index(name)] = crop(
                    halves[level], (x1, y1, x2, y2), sizes.region, resample, last_step
                )
    present = ~np.isnan(boxes[: len(REGIONS), 0])
    whole = halves[_level(halves, max(pixels.size), sizes.film)]
    return FilmArrays(letterbox(whole, sizes.film), crops, present, boxes)


def _halves(pixels: Image.Image) -> list[Image.Image]:
    """A film shrunk by 1, 2, 4, ...; half a pixel that is left over at an edge becomes a whole."""
    halves = [pixels]
    for _ in range(N_HALVES):
        halves.append(halves[-1].reduce(2))
    return halves


def _level(halves: Sequence[Image.Image], side: float, target: int) -> int:
    """The smallest of the halves in which `side` has enough pixels for its target."""
    steps = range(len(halves) - 1, 0, -1)
    return next((k for k in steps if side / 2**k >= LAST_STEP * target), 0)


def _dct_factor(film: FilmFile, size: tuple[int, int], sizes: Sizes) -> int:
    """By how much decoding may shrink a film: whole pixels, and enough of them for every target."""
    shown = [film.boxes[name] for name in REGIONS if name in film.boxes]
    steps = [min(x2 - x1, y2 - y1) / sizes.region for x1, y1, x2, y2 in shown]
    smallest = min([max(size) / sizes.film, *steps]) / LAST_STEP
    fitting = (f for f in DCT_FACTORS if f <= smallest and not (size[0] % f or size[1] % f))
    return next(fitting, 1)


def open_film(path: Path) -> Image.Image:
    """Decode an image file to 8-bit grey.

    Raises:
        UserError: it is missing, broken or no image.
    """
    with _opened(path) as image:
        return _grey(image)


def _grey(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode.startswith(DEEP):
        # The eight high bits of those in use.
        return Image.fromarray((np.asarray(image) >> (_depth(image) - 8)).astype(np.uint8))
    return image if image.mode == GREY else image.convert(GREY)


def _mode(image: Image.Image) -> str:
    """Mode of an image, with the bits in use where not all of those stored are."""
    if image.mode.startswith(DEEP) and (depth := _depth(image)) < DEPTHS[-1]:
        return f"{image.mode}, {depth} bits in use"
    return image.mode


def _depth(image: Image.Image) -> int:
    """Bits in use of 16: scanners have fewer, and the eight high ones would be nearly black."""
    brightest = int(np.asarray(image).max())
    return next(depth for depth in DEPTHS if brightest < 2**depth)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=FORMATS) as image:
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


def crop(
    image: Image.Image,
    box: tuple[float, float, float, float],
    size: int,
    resample: Image.Resampling,
    last_step: float | None = None,
) -> np.ndarray:
    """A box resized to a square, uint8 [size, size]; what lies outside the image is black.

    With `last_step`, a side that is more than twice as long is shrunk by a whole factor first, to
    that many times its target or more.
    """
    if resample == Image.Resampling.NEAREST:
        # Cut first, as the official code does: which pixel is nearest hangs on it.
        return np.asarray(image.crop(box).resize((size, size), resample))  # type: ignore[arg-type]
    x1, y1, x2, y2 = box
    seen = (max(x1, 0), max(y1, 0), min(x2, image.width), min(y2, image.height))
    scale_x, scale_y = size / (x2 - x1), size / (y2 - y1)
    left, top = round((seen[0] - x1) * scale_x), round((seen[1] - y1) * scale_y)
    right, bottom = round((seen[2] - x1) * scale_x), round((seen[3] - y1) * scale_y)
    extent = (max(right - left, 1), max(bottom - top, 1))
    square = Image.new(GREY, (size, size), BLACK)
    # A sliver at the far side of its box stays inside.
    corner = (min(left, size - 1), min(top, size - 1))
    square.paste(image.resize(extent, resample, box=seen, reducing_gap=last_step), corner)
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


def _check_all_there(films: Sequence[FilmFile]) -> None:
    missing = [film.path for film in films if not film.path.is_file()]
    if missing:
        raise UserError(
            f"{missing[0]} is not there, a film that is needed "
            f"({len(missing)} of {len(films)} are missing): download it"
        )
