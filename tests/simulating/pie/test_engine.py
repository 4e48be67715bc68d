"""The tiny engine around PIE: masks, calibration, composition, painter. Mechanics, not looks."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from bench.errors import UserError
from bench.simulating.boxes import canonical_boxes
from bench.simulating.painter import Sitter
from bench.simulating.pie import engine, films, painter
from bench.simulating.pie.calibration import DOWN, UP, Calibration
from bench.simulating.pie.compose import SIZE, at_stage, shrunk, with_change
from bench.simulating.pie.engine import EngineConfig
from bench.simulating.pie.findings import level, named, regions_of, severity_of
from bench.simulating.pie.masks import finding_mask
from bench.simulating.pie.painter import PiePainter, plan_edits
from bench.simulating.pie.score import kernel_distance, recognised, structural_similarity
from bench.simulating.population import FILM_SEVERITIES
from bench.simulating.procedural import ProceduralPainter

N = len(FILM_SEVERITIES)
BOXES = canonical_boxes(128, 128)
EFFUSION = FILM_SEVERITIES.index("effusion_left")
EDEMA = FILM_SEVERITIES.index("edema")


def linear(n: int = 4) -> Calibration:
    return Calibration(np.broadcast_to(np.linspace(0, 0.8, n + 1), (2, N, n + 1)))


def sitter(**changes: list[float]) -> Sitter:
    """Three films; findings change as told."""
    severity = np.zeros((3, N), dtype=np.float32)
    for name, values in changes.items():
        severity[:, FILM_SEVERITIES.index(name)] = values
    person = {"sex": "F", "age": 60.0, "bmi": 26.0}
    return Sitter(7, 5, person, severity, np.zeros(3, dtype=bool))


def test_levels_and_severities_are_inverse():
    severity = np.array([0.0, 0.3, 1.0, 2.5])
    np.testing.assert_allclose(severity_of(level(severity)), severity, rtol=1e-6)
    assert severity_of(np.array(-0.5)) == 0


def test_a_finding_without_a_side_stands_for_both():
    assert named({"effusion": 1.2}) == {"effusion_right": 1.2, "effusion_left": 1.2}
    assert named({"edema": 0.5, "heart": 1.0}) == {"edema": 0.5, "heart": 1.0}


@pytest.mark.parametrize("wrong", [{"edma": 1.0}, {"edema": 9.0}, {"heart": -1.0}])
def test_unknown_findings_and_impossible_severities_are_refused(wrong: dict[str, float]):
    with pytest.raises(UserError, match="--condition"):
        named(wrong)


@pytest.mark.parametrize("finding", FILM_SEVERITIES)
def test_masks_cover_the_findings_regions_and_little_else(finding: str):
    mask = finding_mask(finding, BOXES, 128, SIZE)
    assert mask.min() >= 0 and mask.max() <= 1 and mask.max() > 0.9
    for region in regions_of(finding):
        x1, y1, x2, y2 = (round(c / 2) for c in BOXES[region])
        assert mask[(y1 + y2) // 2, (x1 + x2) // 2] > 0.9
    assert mask[0].max() < 0.1 and mask[-1].max() < 0.1 and 0.03 < mask.mean() < 0.6


def test_sides_of_masks_are_the_patients():
    right = finding_mask("effusion_right", BOXES, 128, SIZE)
    assert right[:, : SIZE // 2].sum() > 10 * right[:, SIZE // 2 :].sum()


def test_a_missing_box_is_a_typical_patients():
    np.testing.assert_allclose(
        finding_mask("effusion_left", {}, 128, SIZE),
        finding_mask("effusion_left", BOXES, 128, SIZE),
    )


def test_the_stage_of_a_share_is_between_those_around_it():
    calibration = linear()
    assert calibration.stage(EDEMA, UP, 0.0) == 0
    assert calibration.stage(EDEMA, DOWN, 0.3) == pytest.approx(1.5)
    assert calibration.stage(EDEMA, UP, 0.95) == 4


def test_on_a_plateau_the_first_stage_is_enough():
    share = np.zeros((2, N, 5))
    share[UP, EDEMA] = [0, 0.5, 0.5, 0.5, 0.5]
    assert Calibration(share).stage(EDEMA, UP, 0.9) == 1
    assert Calibration(share).stage(EDEMA, DOWN, 0.9) == 0


def test_calibrations_survive_json():
    calibration = linear()
    again = Calibration.from_json(calibration.to_json())
    np.testing.assert_allclose(again.share, calibration.share)


def test_latents_between_stages_are_linear():
    stages = torch.arange(4.0).reshape(4, 1, 1, 1, 1).expand(4, 2, 3, 2, 2)
    stage = torch.tensor([[0.0, 0.5], [2.25, 3.0]]).expand(2, 1, 2, 2)
    torch.testing.assert_close(at_stage(stages, stage), stage.expand(2, 3, 2, 2))


def test_a_change_stays_inside_the_mask_and_keeps_detail():
    start = 0.5 * torch.rand(1, 1, 256, 256)
    before = torch.zeros(1, 1, SIZE, SIZE)
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., SIZE // 2 :] = 1
    edited = with_change(start, before, before + 0.25, mask)
    assert torch.equal(edited[..., :120], start[..., :120])
    torch.testing.assert_close(edited[..., 136:], start[..., 136:] + 0.25)
    assert torch.equal(with_change(start, before, before, None), start)
    assert shrunk(start).shape == (1, 1, SIZE, SIZE)


def test_plans_ask_for_the_worst_or_for_nothing():
    severity = sitter(edema=[1.0, 2.0, 0.2], effusion_left=[0.0, 0.0, 1.0]).severity
    plan = plan_edits(level(severity), BOXES, 128, linear())
    assert plan.asked.sum() == 3
    assert plan.goal[0, EDEMA] == level(np.array(2.5)) and plan.goal[1, EDEMA] == 0
    assert plan.goal[0, EFFUSION] == 0 and plan.goal[1, EFFUSION] == level(np.array(2.5))
    assert plan.stage.min() >= 0 and plan.stage.max() <= 4
    assert np.all(plan.mask[0] <= plan.mask[1] + 1e-6)


def test_the_painters_first_film_is_the_procedural_one(engines: Path, toy: EngineConfig):
    someone = sitter(edema=[0.0, 2.0, 0.0])
    films = PiePainter(toy, engines, 64).paint(someone)
    expected = ProceduralPainter(64).paint(someone)[0]
    assert np.array_equal(films[0].image, expected.image) and films[0].boxes == expected.boxes
    assert len(films) == 3 and all(f.image.dtype == np.uint8 for f in films)
    for film in films[1:]:
        assert set(film.truth) == {f"achieved_{name}" for name in FILM_SEVERITIES} | {"n_rejected"}
    assert not films[0].truth


def test_a_painter_travels_light_and_paints_the_same_bytes(engines: Path, toy: EngineConfig):
    light = PiePainter(toy, engines, 128)
    packed = pickle.dumps(light)
    assert len(packed) < 10_000
    someone = sitter(edema=[0.0, 2.0, 0.5], effusion_left=[1.0, 0.0, 0.0])
    first, again = light.paint(someone), pickle.loads(packed).paint(someone)
    assert [f.image.tobytes() for f in first] == [f.image.tobytes() for f in again]


def test_without_a_change_only_the_exposure_differs(engines: Path, toy: EngineConfig):
    still = PiePainter(toy, engines, 64, nuisance=0.0).paint(sitter())
    assert np.array_equal(still[0].image, still[1].image)
    exposed = PiePainter(toy, engines, 64).paint(sitter())
    assert not np.array_equal(exposed[0].image, exposed[1].image)


@pytest.mark.parametrize("severities", [(2.6, 3.2), (2.5, 3.0), (9.8, 0.0)])
def test_findings_beyond_what_the_generator_has_seen_stay_within_its_stages(
    severities: tuple[float, float],
):
    levels = np.zeros((2, N), dtype=np.float32)
    levels[:, EDEMA] = level(np.array(severities))
    with np.errstate(all="raise"):
        plan = plan_edits(levels, BOXES, 128, linear())
    assert plan.stage.min() >= 0 and plan.stage.max() <= linear().n_stages
    assert np.sign(plan.change[0, EDEMA]) in (0, np.sign(severities[1] - severities[0]))
    # As bad as can be already: nothing is asked for.
    assert plan.asked.any() == (severities[1] == 0)


@pytest.mark.parametrize(("first_right", "n_rejected"), [(0, 0), (1, 1), (2, 2), (9, 3)])
def test_an_edit_that_goes_the_wrong_way_is_drawn_again(
    first_right: int, n_rejected: int, engines: Path, toy: EngineConfig,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    draws = []

    def edit(engine, start, plan, seeds):
        draws.append(seeds)
        brighter = 0.2 if len(draws) > first_right else -0.2
        return start + brighter

    def brightness(net, films):
        return films.mean(dim=(1, 2, 3)).numpy()[:, None].repeat(N, axis=1)

    monkeypatch.setattr(painter, "_edit", edit)
    monkeypatch.setattr(painter, "levels_of", brightness)
    someone = sitter(edema=[0.0, 0.0, 2.0], heart=[0.5, 0.5, 0.3])
    films = PiePainter(toy, engines, 64).paint(someone)
    assert [film.truth["n_rejected"] for film in films[1:]] == [0, n_rejected]
    assert len(draws) == min(first_right + 1, painter.N_DRAWS)
    assert len({seed for seeds in draws for seed in seeds}) == len(draws)


def test_the_rate_of_films_that_keep_a_wrong_change_is_told():
    films = pd.DataFrame({"n_rejected": [np.nan, 0, 3, 1, 0]})
    line = painter.rejection_line(films)
    assert "4 edited films: 4 edits" in line and "1 films (25.0%)" in line


def test_another_renderer_is_another_engine(toy: EngineConfig, monkeypatch: pytest.MonkeyPatch):
    before = toy.data()
    monkeypatch.setattr(engine, "renderer_fingerprint", lambda: "another")
    assert toy.data() != before


def test_the_renderers_code_and_the_drawn_severities_are_fingerprinted(
    monkeypatch: pytest.MonkeyPatch,
):
    read: list[str] = []
    films.renderer_fingerprint.cache_clear()
    monkeypatch.setattr(films, "fingerprint", lambda files: read.extend(map(str, files)))
    films.renderer_fingerprint()
    films.renderer_fingerprint.cache_clear()
    for file in ("simulating/vessels.py", "simulating/film.py", "pie/films.py", "pie/findings.py"):
        assert any(name.endswith(file) for name in read)
    assert not any(name.endswith("errors.py") for name in read)


def test_a_subject_with_one_film_needs_no_edit(engines: Path, toy: EngineConfig):
    someone = sitter(edema=[1.0, 2.0, 0.0])
    alone = replace(someone, severity=someone.severity[:1], ventilated=someone.ventilated[:1])
    (film,) = PiePainter(toy, engines, 64).paint(alone)
    assert np.array_equal(film.image, ProceduralPainter(64).paint(alone)[0].image)


def test_scores_of_known_films():
    rng = np.random.default_rng(0)
    films = torch.from_numpy(rng.uniform(-1, 1, (6, 1, 32, 32)).astype(np.float32))
    everywhere = np.ones((6, 32, 32), dtype=bool)
    assert structural_similarity(films, films, everywhere) == pytest.approx(1)
    assert structural_similarity(films, -films, everywhere) < 0.5
    assert recognised(films, films) == 1 and recognised(films, films.roll(1, 0)) == 0
    first, second = rng.standard_normal((2, 200, 8))
    assert abs(kernel_distance(first, second)) < 0.1 < kernel_distance(first, second + 1)
