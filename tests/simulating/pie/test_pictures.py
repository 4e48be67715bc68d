"""Films and masks of any depth from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.errors import UserError
from bench.simulating.pie.pictures import read_film, read_mask


def saved(folder: Path, name: str, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(folder / name)
    return folder / name


@pytest.mark.parametrize(("kind", "most"), [(np.uint8, 255), (np.uint16, 65535)])
def test_soft_masks_stay_as_soft_as_they_are(kind: type, most: int, tmp_path: Path):
    pixels = np.full((32, 32), round(0.2 * most), dtype=kind)
    pixels[:, 16:] = round(0.6 * most)
    mask = read_mask(saved(tmp_path, "mask.png", pixels), 32)
    assert mask.dtype == np.float32 and mask.shape == (32, 32)
    np.testing.assert_allclose(mask[:, [2, 30]], [[0.2, 0.6]] * 32, atol=1 / 255)


def test_deep_films_are_stretched_to_what_they_use(tmp_path: Path):
    pixels = np.linspace(1000, 3000, 32 * 32).reshape(32, 32).astype(np.uint16)
    film = read_film(saved(tmp_path, "film.png", pixels), 32)
    assert film.dtype == np.uint8 and film.min() < 5 and film.max() > 250


@pytest.mark.parametrize("read", [read_film, read_mask])
@pytest.mark.parametrize(
    "pixels", [np.linspace(0, 1, 64, dtype=np.float32), np.arange(-32, 32, dtype=np.int32)]
)
def test_grey_levels_that_mean_nothing_here_are_refused(read, pixels, tmp_path: Path):
    file = saved(tmp_path, "film.tif", pixels.reshape(8, 8))
    with pytest.raises(UserError, match=r"film\.tif has grey levels other than"):
        read(file, 64)


@pytest.mark.parametrize("read", [read_film, read_mask])
def test_huge_and_broken_files_are_refused(read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = saved(tmp_path, "film.png", np.zeros((64, 64), dtype=np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match="larger than any film"):
        read(file, 64)
    file.write_bytes(b"no picture")
    with pytest.raises(UserError, match="PNG, JPEG or TIFF"):
        read(file, 64)
