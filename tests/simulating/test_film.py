"""Simulated films: exact regions, directions, sides, boxes and determinism."""

from __future__ import annotations

import numpy as np
import pytest

from bench.data.vocabulary import BOX_REGIONS
from bench.errors import UserError
from bench.simulating.anatomy import Anatomy, draw_anatomy
from bench.simulating.boxes import canonical_boxes, region_boxes
from bench.simulating.film import Film, attenuation, finding_masks, render_film
from bench.simulating.findings import heart_silhouette
from bench.simulating.population import ACUTE_PROCESSES, FILM_SEVERITIES

SIZE = 128
LEVELS = (0.3, 1.0, 2.0)


def severities(**levels: float) -> np.ndarray:
    severity = np.zeros(len(FILM_SEVERITIES), dtype=np.float32)
    for name, level in levels.items():
        severity[FILM_SEVERITIES.index(name)] = level
    return severity


def patient(seed: int, size: int = SIZE) -> Anatomy:
    rng = np.random.default_rng(seed)
    return draw_anatomy(rng, sex="FM"[seed % 2], age=62.0, bmi=27.0, size=size)


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return patient(11)


def film(anatomy: Anatomy, severity: np.ndarray, seed: int = 5, nuisance: float = 1.0) -> Film:
    return render_film(anatomy, severity, False, np.random.default_rng(seed), nuisance=nuisance)


def test_same_seed_same_bytes():
    severity = severities(edema=0.8, pneumonia_left=1.1, heart=0.4)
    first, second = film(patient(3), severity), film(patient(3), severity)
    assert first.image.dtype == np.uint8 and first.image.shape == (SIZE, SIZE)
    assert first.image.tobytes() == second.image.tobytes()
    assert first.boxes == second.boxes
    assert film(patient(3), severity, seed=6).image.tobytes() != first.image.tobytes()
    assert film(patient(4), severity).image.tobytes() != first.image.tobytes()


@pytest.mark.parametrize("name", ACUTE_PROCESSES)
def test_attenuation_changes_exactly_inside_the_mask(anatomy: Anatomy, name: str):
    others = {"effusion_left": 0.5, "opacity_right": 0.7, "heart": 0.5}
    before, after = severities(**others), severities(**(others | {name: 1.2}))
    change = attenuation(anatomy, after, True) - attenuation(anatomy, before, True)
    mask = finding_masks(anatomy, before)[name] | finding_masks(anatomy, after)[name]
    assert 0.01 < mask.mean() < 0.5
    assert np.all(change[~mask] == 0)
    assert change[mask].max() > 0.1


def test_heart_changes_attenuation_only_at_the_heart(anatomy: Anatomy):
    before, after = severities(heart=0.1), severities(heart=1.0)
    change = attenuation(anatomy, after, False) != attenuation(anatomy, before, False)
    silhouettes = heart_silhouette(anatomy, after) + heart_silhouette(anatomy, before)
    assert change.any()
    assert not (change & (silhouettes == 0)).any()
    assert (silhouettes > 0).mean() < 0.2


@pytest.mark.parametrize("name", ACUTE_PROCESSES)
def test_attenuation_grows_with_severity(anatomy: Anatomy, name: str):
    region = finding_masks(anatomy, severities(**{name: LEVELS[0]}))[name]
    means = [
        attenuation(anatomy, severities(**{name: level}), False)[region].mean()
        for level in (0.0, *LEVELS)
    ]
    assert np.all(np.diff(means) > 0.005)


@pytest.mark.parametrize("seed", range(4))
def test_an_opacity_never_exceeds_the_air_it_replaces(seed: int):
    anatomy = patient(seed)
    everything = np.full(len(FILM_SEVERITIES), 20.0, dtype=np.float32)
    everything[-1] = 0.0
    change = attenuation(anatomy, everything, False) - attenuation(anatomy, severities(), False)
    assert np.all(change <= 0.97 * anatomy.air + 0.22 + 1e-4)


@pytest.mark.parametrize("name", [name for name in ACUTE_PROCESSES if "_" in name])
def test_sides_are_the_patients(anatomy: Anatomy, name: str):
    mask = finding_masks(anatomy, severities(**{name: 1.5}))[name]
    image_left, image_right = mask[:, : SIZE // 2].sum(), mask[:, SIZE // 2 :].sum()
    if name.endswith("_left"):
        assert image_left == 0 and image_right > 0
    else:
        assert image_right == 0 and image_left > 0


def test_a_left_effusion_brightens_the_left_costophrenic_angle(anatomy: Anatomy):
    empty = film(anatomy, severities(), nuisance=0.0)
    full = film(anatomy, severities(effusion_left=0.6), nuisance=0.0)
    x1, y1, x2, y2 = (round(v) for v in empty.boxes["left costophrenic angle"])
    assert x1 > SIZE / 2
    rise = full.image.astype(float) - empty.image
    mirrored = rise[:, ::-1]
    assert rise[y1:y2, x1:x2].mean() > 10 + mirrored[y1:y2, x1:x2].mean()


def test_boxes_lie_in_the_film_and_sides_are_right():
    boxes = [film(patient(seed), severities(heart=0.3)).boxes for seed in range(6)]
    for found in boxes:
        assert set(found) <= set(BOX_REGIONS)
        for name, (x1, y1, x2, y2) in found.items():
            assert 0 <= x1 < x2 <= SIZE and 0 <= y1 < y2 <= SIZE
            if name.startswith("left "):
                assert x1 + x2 > SIZE
            if name.startswith("right "):
                assert x1 + x2 < SIZE


def bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


@pytest.mark.parametrize("seed", range(5))
def test_boxes_contain_what_they_name(seed: int):
    anatomy, severity = patient(seed), severities(heart=0.6, effusion_left=0.2)
    drawn = render_film(anatomy, severity, False, np.random.default_rng([1, seed]), nuisance=1.0)
    masks = {
        "cardiac silhouette": finding_masks(anatomy, severity)["heart"],
        "left lung": finding_masks(anatomy, severities(opacity_left=0.5))["opacity_left"],
    }
    slack = 0.06 * SIZE  # four sd of the jitter
    for name, mask in masks.items():
        if name in drawn.boxes:
            seen = drawn.view.resample(mask.astype(np.float32)) > 0.5
            x1, y1, x2, y2 = bounds(seen)
            left, top, right, bottom = drawn.boxes[name]
            assert left - slack <= x1 and top - slack <= y1
            assert right + slack >= x2 and bottom + slack >= y2


def test_unmoved_heart_box_is_the_heart(anatomy: Anatomy):
    heart = finding_masks(anatomy, severities(heart=0.5))["heart"]
    x1, y1, x2, y2 = region_boxes(anatomy.geometry, heart)["cardiac silhouette"]
    pixels = ((x1 + 1) / 2 * SIZE, y1 * SIZE, (x2 + 1) / 2 * SIZE, y2 * SIZE)
    assert pixels == pytest.approx(bounds(heart))


def test_heart_severity_widens_the_heart_box(anatomy: Anatomy):
    widths = []
    for level in (0.0, 0.4, 0.8, 1.2):
        box = film(anatomy, severities(heart=level), nuisance=0.0).boxes["cardiac silhouette"]
        widths.append(box[2] - box[0])
    assert np.all(np.diff(widths) > 1)


def test_view_moves_boxes_as_it_moves_pixels(anatomy: Anatomy):
    drawn = film(anatomy, severities(), seed=9)
    spot = np.zeros((SIZE, SIZE), np.float32)
    row, column = 96, 40
    spot[row - 1 : row + 2, column - 1 : column + 2] = 1
    moved = drawn.view.resample(spot)
    found = np.array([(moved.sum(0) @ np.arange(SIZE)), (moved.sum(1) @ np.arange(SIZE))])
    centre = np.array([[2 * (column + 0.5) / SIZE - 1, (row + 0.5) / SIZE]])
    expected = drawn.view.to_film(centre)[0] * SIZE - 0.5
    assert found / moved.sum() == pytest.approx(expected, abs=0.3)
    assert abs(expected - (column, row)).max() > 1


def test_about_two_percent_of_boxes_are_missing(anatomy: Anatomy):
    severity = severities()
    n_films = 150
    n_found = sum(len(film(anatomy, severity, seed=seed).boxes) for seed in range(n_films))
    share = 1 - n_found / (n_films * len(BOX_REGIONS))
    assert 0.010 < share < 0.032


@pytest.mark.parametrize(("width", "height"), [(2544, 3056), (1023, 511), (37, 61)])
def test_canonical_boxes_at_any_size(width: int, height: int):
    boxes = canonical_boxes(width, height)
    assert tuple(boxes) == BOX_REGIONS
    for name, (x1, y1, x2, y2) in boxes.items():
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height, name
    assert boxes["left lung"][0] > width / 2 > boxes["right lung"][2]
    zone, lung = boxes["left lower lung zone"], boxes["left lung"]
    assert zone[1] > lung[1] and zone[3] == lung[3]


def test_ventilated_adds_a_tube_above_the_carina(anatomy: Anatomy):
    severity = severities()
    tube = attenuation(anatomy, severity, True) - attenuation(anatomy, severity, False)
    rows, columns = np.nonzero(tube > 0.01)
    assert rows.max() < 0.36 * SIZE
    assert columns.min() > 0.4 * SIZE and columns.max() < 0.6 * SIZE
    with_tube = render_film(anatomy, severity, True, np.random.default_rng(5))
    assert with_tube.image.tobytes() != film(anatomy, severity).image.tobytes()


def test_nuisance_scales_how_much_exposures_differ(anatomy: Anatomy):
    def spread(nuisance: float) -> float:
        images = [film(anatomy, severities(), seed, nuisance).image for seed in range(12)]
        return float(np.std(np.stack(images).astype(float), axis=0).mean())

    assert spread(0.0) < spread(0.5) < spread(1.0)


@pytest.mark.parametrize("size", [31, 129])
def test_odd_or_tiny_sizes_are_refused(size: int):
    with pytest.raises(UserError, match="even number"):
        patient(1, size=size)
