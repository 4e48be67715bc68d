"""Whole films and crops from images whose pixels tell where they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data.vocabulary import BOX_REGIONS, REGIONS
from bench.errors import UserError
from bench.preparing.images import (
    FilmFile,
    Sizes,
    crop,
    letterbox,
    open_film,
    prepare_film,
    prepare_films,
)

BILINEAR = Image.Resampling.BILINEAR
SIZES = Sizes(film=40, region=20)


def ramp(width: int, height: int) -> np.ndarray:
    """Brightness grows to the right, from 50 to 250."""
    return np.tile(np.linspace(50, 250, width), (height, 1)).astype(np.uint8)


def saved(root: Path, pixels: np.ndarray, name: str = "film.png") -> Path:
    path = root / name
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(("width", "height"), [(100, 50), (50, 100), (80, 80), (30, 20)])
def test_a_whole_film_keeps_its_aspect(width: int, height: int):
    square = letterbox(Image.fromarray(ramp(width, height)), 40)
    assert square.shape == (40, 40)
    rows, columns = (square > 0).any(axis=1), (square > 0).any(axis=0)
    assert columns.sum() == round(40 * width / max(width, height))
    assert rows.sum() == round(40 * height / max(width, height))
    # Centred: as much black before as after.
    assert abs(rows.argmax() - rows[::-1].argmax()) <= 1
    assert abs(columns.argmax() - columns[::-1].argmax()) <= 1


def test_shrinking_averages_and_does_not_skip_pixels():
    checkerboard = np.indices((400, 400)).sum(axis=0) % 2 * 255
    square = letterbox(Image.fromarray(checkerboard.astype(np.uint8)), 40)
    assert np.abs(square.astype(int) - 127).max() < 20


def test_a_crop_shows_its_box_at_full_resolution():
    image = Image.fromarray(ramp(200, 100))
    left = crop(image, (0, 0, 50, 100), 20, BILINEAR)
    right = crop(image, (150, 0, 200, 100), 20, BILINEAR)
    assert left.mean() == pytest.approx(75, abs=2)
    assert right.mean() == pytest.approx(225, abs=2)
    assert left[:, 0].mean() < left[:, -1].mean()


def test_a_box_that_leaves_the_film_is_padded_with_black():
    image = Image.fromarray(np.full((100, 100), 200, np.uint8))
    pixels = crop(image, (-50, 0, 50, 100), 20, BILINEAR)
    assert (pixels[:, :10] == 0).all() and (pixels[:, 10:] == 200).all()
    pixels = crop(image, (50, 75, 150, 125), 20, BILINEAR)
    assert (pixels[:10, :10] == 200).all() and pixels[10:].max() == pixels[:, 10:].max() == 0


def test_boxes_are_fractions_of_the_square_film(tmp_path: Path):
    path = saved(tmp_path, ramp(100, 50))
    film = prepare_film(FilmFile(path, {"left lung": (50, 0, 100, 50)}), SIZES)
    box = film.boxes[BOX_REGIONS.index("left lung")]
    assert box == pytest.approx([0.5, 0.25, 1.0, 0.75])
    left, top, right, bottom = (box * SIZES.film).astype(int)
    assert (film.film[top:bottom, left:right] > 0).all()
    outside = prepare_film(FilmFile(path, {"left lung": (-20, 0, 120, 60)}), SIZES)
    assert outside.boxes[0].min() >= 0 and outside.boxes[0].max() <= 1


@pytest.mark.parametrize("box", [None, (0, 0, 0, 0), (30, 10, 20, 40), (200, 0, 220, 50)])
def test_a_region_without_a_box_on_the_film_is_absent(box: tuple | None, tmp_path: Path):
    boxes = {"right lung": (0, 0, 50, 50)} | ({"left lung": box} if box else {})
    film = prepare_film(FilmFile(saved(tmp_path, ramp(100, 50)), boxes), SIZES)
    assert film.present.tolist() == [region == "right lung" for region in REGIONS]
    assert not film.regions[0].any() and film.regions[1].any()
    assert np.isnan(film.boxes[0]).all() and not np.isnan(film.boxes[1]).any()


def test_official_crops_take_single_pixels(tmp_path: Path):
    checkerboard = (np.indices((400, 400)).sum(axis=0) % 2 * 255).astype(np.uint8)
    film = FilmFile(saved(tmp_path, checkerboard), {"left lung": (0, 0, 400, 400)})
    assert set(np.unique(prepare_film(film, SIZES, nearest=True).regions[0])) <= {0, 255}
    assert np.abs(prepare_film(film, SIZES).regions[0].astype(int) - 127).max() < 20


def test_films_come_out_in_their_order_whatever_the_workers(tmp_path: Path):
    films = [
        FilmFile(saved(tmp_path, np.full((30, 30), 10 * i, np.uint8), f"{i}.png"), {})
        for i in range(1, 9)
    ]
    for jobs in (1, 3):
        arrays = prepare_films(films, SIZES, tmp_path, jobs)
        assert arrays["films"][:, 20, 20].tolist() == [10 * i for i in range(1, 9)]


def test_broken_files_are_named(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 255, (300, 300), dtype=np.uint8)
    whole = saved(tmp_path, noise, "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name in ("cut.jpg", "text.jpg", "empty.jpg"):
        with pytest.raises(UserError, match=name):
            open_film(tmp_path / name)
    missing = [FilmFile(tmp_path / "whole.jpg", {}), FilmFile(tmp_path / "missing.jpg", {})]
    with pytest.raises(UserError, match=r"missing.jpg is not there.*1 of 2"):
        prepare_films(missing, SIZES, tmp_path, 1)


def test_real_films_are_read_whole(real_cxr: Path):
    path = real_cxr / "00000013_004.jpg"
    assert open_film(path).size == (1024, 1024)
    film = prepare_film(FilmFile(path, {"left lung": (512, 100, 900, 800)}), Sizes(128, 64))
    reference = np.asarray(Image.open(path).convert("L"), dtype=float)
    blocks = reference.reshape(128, 8, 128, 8).mean(axis=(1, 3))
    assert np.abs(film.film - blocks).mean() < 3
    assert film.regions[0].mean() == pytest.approx(reference[100:800, 512:900].mean(), abs=2)
