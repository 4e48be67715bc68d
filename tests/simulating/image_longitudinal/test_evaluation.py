"""The paper's downstream check on films that show z plainly: five sources, two ceilings."""

from __future__ import annotations

import numpy as np
import pytest

from bench.simulating.image_longitudinal.decoders import Recipe
from bench.simulating.image_longitudinal.evaluation import (
    SOURCES,
    Evaluation,
    ceiling_table,
    evaluate,
    r_squared,
    table,
)
from bench.simulating.image_longitudinal.image_model import fit_image_model, predict
from bench.simulating.image_longitudinal.nlme import PARAMETERS, Nlme
from bench.simulating.image_longitudinal.pairs import (
    DecodedShow,
    ProceduralShow,
    draw_pairs,
    important_latents,
)
from bench.simulating.image_longitudinal.training import trained_vae
from bench.simulating.sizes import Decoder
from tests.simulating.image_longitudinal.test_vae import TINY

MODEL = Nlme(omega=(0.2,) * 3)


def plain_films(z: np.ndarray, seed: int) -> np.ndarray:
    """Three grey columns, as bright as z is large."""
    rng = np.random.default_rng(seed)
    grey = np.repeat(128 + 30 * z, 11, axis=1)[:, None, :32]
    return np.clip(grey + rng.normal(0, 5, (len(z), 32, 32)), 0, 255).astype(np.uint8)


def evaluation(v: float, n: int = 250) -> Evaluation:
    train, test = (draw_pairs(n, v, seed, plain_films, MODEL) for seed in (1, 2))
    return evaluate(train, test, v, MODEL, n_epochs=25)


@pytest.fixture(scope="module")
def plain() -> Evaluation:
    return evaluation(0)


@pytest.fixture(scope="module")
def parted() -> Evaluation:
    return evaluation(49)


def test_the_truth_explains_the_series_best_and_chance_worst(plain: Evaluation):
    nll = [plain.nll[source].mean() for source in SOURCES]
    assert SOURCES == ("true", "EBE", "image", "population", "random")
    assert nll == sorted(nll)


def test_a_film_that_shows_everything_nearly_reaches_the_ceiling(plain: Evaluation):
    assert (plain.ceilings < 1).all()
    assert (plain.explained > 0.8 * plain.ceilings).all()
    assert (plain.explained < plain.ceilings + 3 * plain.explained_se).all()


def test_with_much_noise_no_image_model_explains_more_than_the_ceiling(parted: Evaluation):
    assert (parted.ceilings < 0.02).all()
    assert (parted.explained < 0.02 + 3 * parted.explained_se).all()
    # It hardly tells of anything, so it is no better than the population's values.
    assert parted.nll["image"].mean() > parted.nll["EBE"].mean()


def test_films_that_tell_nothing_give_the_mean_or_hardly_more():
    rng = np.random.default_rng(3)
    films = rng.integers(0, 256, (200, 32, 32)).astype(np.uint8)
    targets = rng.normal(5, 0.1, (200, 3))
    network = fit_image_model(films, targets, n_epochs=5)
    said = predict(network, rng.integers(0, 256, (200, 32, 32)).astype(np.uint8))
    # The mean of the 170 that teach is missed by 0.01, their spread is 0.1.
    assert np.abs(said - 5).mean() < 0.05


def test_the_tables_have_a_row_a_source_and_a_row_an_effect(plain: Evaluation):
    assert table(plain)["source of effects"].tolist() == list(SOURCES)
    ceilings = ceiling_table(plain, PARAMETERS)
    assert ceilings["effect"].tolist() == ["Ka", "Imax", "IC50"]
    assert (ceilings["ceiling 1/(1+v)"] == 1).all()


def test_r_squared_of_known_predictions():
    truth = np.random.default_rng(0).standard_normal((400, 2))
    predicted = np.stack([truth[:, 0], np.full(400, truth[:, 1].mean())], axis=1)
    values, se = r_squared(predicted, truth, np.random.default_rng(1))
    np.testing.assert_allclose(values, [1, 0], atol=1e-12)
    assert se[0] < 1e-12 < se[1] < 0.02


def test_procedural_films_of_the_same_subjects_follow_z():
    z = np.array([[-2.0, -2, -2], [2, -2, -2], [-2, -2, 2]])
    low, wet, atelectatic = ProceduralShow()(np.repeat(z[:, None], 2, axis=1).reshape(-1, 3), 5)[
        ::2
    ]
    assert low.shape == (64, 64)
    assert not np.array_equal(low, wet) and not np.array_equal(low, atelectatic)
    again = ProceduralShow()(z, 5)
    assert np.array_equal(low, again[0])


def test_a_decoder_shows_z_in_its_active_latents(tmp_path, monkeypatch):
    model = trained_vae(TINY, tmp_path)
    monkeypatch.setattr(
        "bench.simulating.image_longitudinal.pairs.ACTIVE_NATS", -1.0
    )  # seven steps leave none that is active
    chosen = important_latents(model, TINY, n_subjects=4)
    assert len(set(chosen)) == 3
    show = DecodedShow(Recipe(Decoder.VAE, TINY), tmp_path)
    films = [show(z, 3) for z in (np.zeros((2, 3)), np.zeros((2, 3)), np.ones((2, 3)))]
    assert np.array_equal(films[0], films[1]) and not np.array_equal(films[0], films[2])


@pytest.mark.slow
def test_procedural_films_at_v_49_do_not_leak():
    train, test = (draw_pairs(n, 49, seed, ProceduralShow()) for n, seed in ((1200, 1), (800, 2)))
    found = evaluate(train, test, 49)
    assert (found.explained < 0.02 + 3 * found.explained_se).all()
