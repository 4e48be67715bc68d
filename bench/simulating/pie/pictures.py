"""The user's pictures: a film or a mask as a square, from 8 or 16 bits a pixel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageOps

from bench.errors import UserError

FORMATS: Final = ("PNG", "JPEG", "TIFF")
"""Other formats are not even tried: for some, a file's content would be run by another program."""

MOST_DEEP: Final = 2**16 - 1


def read_film(file: Path, size: int) -> np.ndarray:
    """A film as uint8 [size, size]: short side to `size`, then its centre.

    One of 16 bits is stretched to the grey levels that it uses.

    Raises:
        UserError: it is no picture, too large, or not of 8 or 16 bits.
    """
    with _opened(file) as picture:
        if _is_deep(picture):
            deep = _deep(picture, file)
            grey = (deep / max(int(deep.max()), 1) * 255).astype(np.uint8)
            picture = ImageOps.autocontrast(Image.fromarray(grey))
        return np.asarray(_square(picture.convert("L"), size))


def read_mask(file: Path, size: int) -> np.ndarray:
    """A mask as float32 [size, size] in [0, 1]: its grey levels as shares of the largest possible.

    Raises:
        UserError: as `read_film`.
    """
    with _opened(file) as picture:
        if _is_deep(picture):
            share = _deep(picture, file) / np.float32(MOST_DEEP)
        else:
            share = np.asarray(picture.convert("L")) / np.float32(255)
    return np.asarray(_square(Image.fromarray(share.astype(np.float32)), size)).clip(0, 1)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(file, formats=FORMATS) as picture:
            yield picture
    except Image.DecompressionBombError:
        raise UserError(f"cannot read {file}: it is larger than any film, make it smaller")
    except (OSError, SyntaxError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {file} as a picture, PNG, JPEG or TIFF: {reason}")


def _is_deep(picture: Image.Image) -> bool:
    """Whether it has more than 8 bits a pixel."""
    return picture.mode.startswith(("I", "F"))


def _deep(picture: Image.Image, file: Path) -> np.ndarray:
    """Its grey levels, 0 to `MOST_DEEP`."""
    pixels = np.asarray(picture)
    is_whole = np.issubdtype(pixels.dtype, np.integer)
    if not is_whole or pixels.min() < 0 or pixels.max() > MOST_DEEP:
        raise UserError(f"{file} has grey levels other than 0 to {MOST_DEEP}: save 8 or 16 bits")
    return pixels


def _square(picture: Image.Image, size: int) -> Image.Image:
    return ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
