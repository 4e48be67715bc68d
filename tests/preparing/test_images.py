"""Whole films and crops from images whose pixels tell where they come from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from bench.data.vocabulary import BOX_REGIONS, REGIONS
from bench.errors import UserError
from bench.preparing import images
from bench.preparing.images import (
    LARGE_FILM,
    FilmArrays,
    FilmFile,
    Sizes,
    crop,
    inspect_films,
    letterbox,
    open_film,
    prepare_film,
    prepare_films,
)

BILINEAR = Image.Resampling.BILINEAR
SIZES = Sizes(film=40, region=20)
BOX = (0, 0, 20, 20)


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
        arrays = prepare_films(films, SIZES, tmp_path / f"{jobs} jobs", jobs)
        assert arrays["films"][:, 20, 20].tolist() == [10 * i for i in range(1, 9)]


def test_films_decoded_before_are_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    films = [
        FilmFile(
            saved(tmp_path, np.full((30, 30), 10 * i, np.uint8), f"{i}.png"), {"left lung": BOX}
        )
        for i in range(1, 7)
    ]
    decoded: list[str] = []
    broken = {"4"}

    def counting(film: FilmFile, *of: Any) -> FilmArrays:
        decoded.append(film.path.stem)
        if film.path.stem in broken:
            raise KeyboardInterrupt
        return prepare_film(film, *of)

    def newly_decoded(nearest: bool = False) -> list[str]:
        decoded.clear()
        arrays = prepare_films(films, SIZES, tmp_path / "scratch", 1, nearest)
        grey = [int(np.asarray(Image.open(film.path))[0, 0]) for film in films]
        assert arrays["films"][:, 20, 20].tolist() == arrays["regions"][:, 0, 9, 9].tolist() == grey
        assert arrays["region_present"][:, 0].all() and not np.isnan(arrays["boxes"][:, 0]).any()
        return decoded

    monkeypatch.setattr(images, "prepare_film", counting)
    with pytest.raises(KeyboardInterrupt):
        newly_decoded()
    broken.clear()
    assert newly_decoded() == ["4", "5", "6"]
    assert newly_decoded() == []
    saved(tmp_path, np.full((30, 30), 99, np.uint8), "2.png")
    films[4] = FilmFile(films[4].path, {"left lung": (0, 0, 25, 25)})
    assert newly_decoded() == ["2", "5"]
    assert newly_decoded(nearest=True) == ["1", "2", "3", "4", "5", "6"]


def large_film(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Soft shapes, one hard edge and noise: uint8 [height, width]."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(40, 200, (24, 24), dtype=np.uint8))
    film = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC), float)
    film[height // 3 : height // 2, width // 3 : width // 2] = 250
    return np.clip(film + rng.normal(0, 3, film.shape), 0, 255).astype(np.uint8)


LARGE_BOXES = {"left lung": (100, 200, 800, 1500), "cardiac silhouette": (-60, 700, 640, 1300)}


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize(("width", "height"), [(1536, 1792), (1791, 1535)])
@pytest.mark.parametrize("sizes", [Sizes(224, 224), Sizes(128, 48), Sizes(128, 32)])
def test_a_large_film_shrunk_in_two_steps_is_nearly_that_of_one(
    sizes: Sizes, width: int, height: int, suffix: str, tmp_path: Path
):
    path = saved(tmp_path, large_film(width, height), f"film.{suffix}")
    film, image = prepare_film(FilmFile(path, LARGE_BOXES), sizes), open_film(path)
    assert film.film.shape == (sizes.film, sizes.film)
    pairs = [(film.film, letterbox(image, sizes.film))]
    for name, box in LARGE_BOXES.items():
        of_one_step = crop(image, box, sizes.region, BILINEAR)
        pairs.append((film.regions[REGIONS.index(name)], of_one_step))
    for of_two, of_one in pairs:
        off = np.abs(of_two.astype(int) - of_one)
        assert off.mean() < 1 and off.max() < 32
    assert film.boxes[0] == pytest.approx(prepare_film(FilmFile(path, LARGE_BOXES), SIZES).boxes[0])


def test_a_jpeg_is_decoded_no_larger_than_its_targets_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = saved(tmp_path, large_film(1536, 1792), "film.jpg")
    widths: list[int] = []
    load = JpegImageFile.load

    def watched(image: JpegImageFile) -> Any:
        widths.append(image.width)
        return load(image)

    monkeypatch.setattr(JpegImageFile, "load", watched)
    for region, factor in ((224, 1), (140, 2), (70, 4), (32, 8)):
        prepare_film(FilmFile(path, LARGE_BOXES), Sizes(64, region))
        assert widths.pop() == 1536 // factor
    prepare_film(FilmFile(path, {**LARGE_BOXES, "mediastinum": (0, 0, 50, 300)}), Sizes(64, 32))
    assert widths.pop() == 1536
    prepare_film(FilmFile(path, LARGE_BOXES), Sizes(64, 32), nearest=True)
    assert widths.pop() == 1536


def test_nearest_crops_and_small_films_are_shrunk_in_one_step(tmp_path: Path):
    large = saved(tmp_path, large_film(1536, 1792), "large.jpg")
    film = prepare_film(FilmFile(large, LARGE_BOXES), Sizes(64, 16), nearest=True)
    nearest = crop(open_film(large), LARGE_BOXES["left lung"], 16, Image.Resampling.NEAREST)
    assert (film.regions[0] == nearest).all()
    small = saved(tmp_path, large_film(LARGE_FILM, LARGE_FILM), "small.jpg")
    film = prepare_film(FilmFile(small, {"left lung": (100, 100, 900, 900)}), Sizes(64, 16))
    assert (film.film == letterbox(open_film(small), 64)).all()
    assert (film.regions[0] == crop(open_film(small), (100, 100, 900, 900), 16, BILINEAR)).all()


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


@pytest.mark.parametrize("kind", ["EPS", "TIFF", "GIF"])
def test_other_formats_are_not_opened_whatever_their_name(kind: str, tmp_path: Path):
    path = tmp_path / "film.jpg"
    Image.fromarray(ramp(40, 30)).save(path, format=kind)
    with pytest.raises(UserError, match="is not an image: expected a JPEG or PNG file"):
        open_film(path)


@pytest.mark.parametrize("bits", images.DEPTHS)
def test_a_film_of_16_bits_is_as_bright_as_the_bits_in_use(bits: int, tmp_path: Path):
    pixels = ramp(40, 30).astype(np.uint16) << (bits - 8)
    path = saved(tmp_path, pixels)
    assert (np.asarray(open_film(path)) == ramp(40, 30)).all()
    oddities: Counter[str] = Counter()
    inspect_films([FilmFile(path, {})], oddities)
    in_use = "" if bits == 16 else f", {bits} bits in use"
    assert oddities == {f"films turned into 8-bit grey: I;16{in_use}": 1}


def test_all_broken_films_are_told_at_once_and_the_others_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    noise = np.random.default_rng(0).integers(0, 255, (300, 300), dtype=np.uint8)
    films = [FilmFile(saved(tmp_path, noise, f"{i}.jpg"), {}) for i in range(12)]
    whole = films[0].path.read_bytes()
    broken = [3, 5, 6, 7, 8, 9, 10]
    for i in broken:
        films[i].path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError) as caught:
        prepare_films(films, SIZES, tmp_path / "scratch", 2)
    told = str(caught.value)
    assert told.startswith(f"{films[3].path} cannot be decoded") and "\n" not in told
    assert "7 of 12 films are broken" in told and told.endswith(f"{films[9].path} and 1 more)")
    assert all(str(films[i].path) in told for i in broken[:6])
    for i in broken:
        films[i].path.write_bytes(whole)
    decoded: list[Path] = []

    def counting(film: FilmFile, *of: Any) -> FilmArrays:
        decoded.append(film.path)
        return prepare_film(film, *of)

    monkeypatch.setattr(images, "prepare_film", counting)
    prepare_films(films, SIZES, tmp_path / "scratch", 1)
    assert decoded == [films[i].path for i in broken]


def test_headers_are_looked_at_to_the_last(tmp_path: Path):
    films = [FilmFile(saved(tmp_path, ramp(40, 30), f"{i}.png"), {}, (40, 30)) for i in range(4)]
    films[1].path.write_text("no image")
    films[3] = FilmFile(films[3].path, {}, (41, 30))
    with pytest.raises(UserError) as caught:
        inspect_films(films, Counter())
    assert str(caught.value) == (
        f"{films[1].path} is not an image: expected a JPEG or PNG file "
        f"(2 of 4 films are broken; the others: {films[3].path})"
    )
    with pytest.raises(UserError, match=r"3\.png is 40 x 30 pixels.*full resolution$"):
        inspect_films(films[2:], Counter())


def test_real_films_are_read_whole(real_cxr: Path):
    path = real_cxr / "00000013_004.jpg"
    assert open_film(path).size == (1024, 1024)
    film = prepare_film(FilmFile(path, {"left lung": (512, 100, 900, 800)}), Sizes(128, 64))
    reference = np.asarray(Image.open(path).convert("L"), dtype=float)
    blocks = reference.reshape(128, 8, 128, 8).mean(axis=(1, 3))
    assert np.abs(film.film - blocks).mean() < 3
    assert film.regions[0].mean() == pytest.approx(reference[100:800, 512:900].mean(), abs=2)
