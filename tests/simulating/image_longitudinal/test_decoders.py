"""Decoders of z: the diffusion model is told z and severities, and keeps a subject's noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.errors import UserError
from bench.simulating.diffusion.model import DiffusionConfig
from bench.simulating.image_longitudinal.decoders import (
    FilmDecoder,
    Recipe,
    diffusion_config,
    drawn_latents,
    load_decoder,
)
from bench.simulating.image_longitudinal.painter import decoding_painter
from bench.simulating.image_longitudinal.training import N_CONDITIONS, trained_vae, training_films
from bench.simulating.painter import Sitter
from bench.simulating.sizes import Decoder
from tests.simulating.image_longitudinal.test_vae import TINY

SMALL = DiffusionConfig(
    32, TINY.config.latent + N_CONDITIONS, autoencoder_steps=20, unet_steps=60, batch_size=8,
    autoencoder_width=8, unet_width=16, drop_condition=0.0, noise_offset=0.1,
    unet_lr=3e-3, ema=0.0,
)  # fmt: skip
RECIPE = Recipe(Decoder.DIFFUSION, TINY, SMALL)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def decode(root: Path) -> FilmDecoder:
    return load_decoder(RECIPE, root)


def test_a_film_follows_its_z_its_severities_and_its_seed(decode: FilmDecoder):
    z, conditions = torch.randn(1, 4).expand(4, -1).clone(), torch.zeros(4, N_CONDITIONS)
    z[1] += 3
    conditions[2] += 3
    films = decode(z, conditions, [5, 5, 5, 6])
    assert films.shape == (4, 1, 32, 32) and films.min() >= 0 and films.max() <= 1
    for other in films[1:]:
        assert (films[0] - other).abs().max() > 1e-5
    alone = decode(z[:1], conditions[:1], [5])
    torch.testing.assert_close(alone[0], films[0], atol=1e-6, rtol=0)


def test_a_subjects_films_share_their_noise(root: Path, decode: FilmDecoder):
    painter = decoding_painter(64, 0.0, RECIPE, root, jobs=1)
    severity = np.zeros((2, 12), dtype=np.float32)
    first, again, other = (
        [f.image for f in painter.paint(Sitter(7, s, {}, severity, np.zeros(2, dtype=bool)))]
        for s in (3, 3, 4)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    grey = np.array([*first, *other], dtype=float)
    # Without a change of severity two films of a subject differ by exposure noise alone.
    assert np.abs(grey[0] - grey[1]).mean() < 0.5 * np.abs(grey[0] - grey[2]).mean()


def test_latents_are_drawn_over_films_as_z_is_later(root: Path):
    films, conditions = training_films(TINY)
    vae = trained_vae(TINY, root)
    drawn = drawn_latents(vae, films.repeat(50, 1, 1), conditions.repeat(50, 1), seed=3)
    assert drawn.shape == (600, 4)
    # Seven steps leave an encoder that says little: the prior is what is left.
    torch.testing.assert_close(drawn.std(dim=0), torch.ones(4), atol=0.25, rtol=0)


def test_a_stable_diffusion_folder_may_take_the_tiny_models_place(
    root: Path, pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    where = "bench.simulating.image_longitudinal.decoders."
    monkeypatch.setattr(where + "STABLE_DIFFUSION_SIZE", 16)
    monkeypatch.setattr(where + "SAMPLING_STEPS", 2)
    decode = load_decoder(Recipe(Decoder.DIFFUSION, TINY, checkpoint=pipeline_folder), root)
    films = decode(torch.randn(2, 4), torch.zeros(2, N_CONDITIONS), [1, 2])
    assert films.shape == (2, 1, 16, 16) and films.min() >= 0 and films.max() <= 1
    with pytest.raises(UserError, match="no folder unet"):
        load_decoder(Recipe(Decoder.DIFFUSION, TINY, checkpoint=root), root)


def test_films_do_not_depend_on_the_number_of_threads(root: Path, decode: FilmDecoder):
    painter = decoding_painter(64, 1.0, RECIPE, root, jobs=1)
    severity = np.random.default_rng(0).uniform(0, 2, (4, 12)).astype(np.float32)
    sitter, films = Sitter(7, 3, {}, severity, np.zeros(4, dtype=bool)), []
    before = torch.get_num_threads()
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        films.append([film.image.tobytes() for film in painter.paint(sitter)])
    torch.set_num_threads(before)
    assert films[0] == films[1]


def test_a_checkpoint_says_its_resolution_and_must_be_of_this_autoencoder(
    root: Path, pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("bench.simulating.image_longitudinal.decoders.SAMPLING_STEPS", 1)
    for part in ("unet", "vae", "scheduler"):
        (tmp_path / part).symlink_to(pipeline_folder / part)
    settings = {
        "condition": "vector",
        "films": TINY.settings(),
        "recipe": {"resolution": 24},
    }
    (tmp_path / "finetune.json").write_text(json.dumps(settings))
    decode = load_decoder(Recipe(Decoder.DIFFUSION, TINY, checkpoint=tmp_path), root)
    assert decode(torch.zeros(1, 4), torch.zeros(1, N_CONDITIONS), [1]).shape[-1] == 24
    for change in ({"condition": "text"}, {"films": {}}):
        (tmp_path / "finetune.json").write_text(json.dumps(settings | change))
        with pytest.raises(UserError, match="other films or conditions"):
            load_decoder(Recipe(Decoder.DIFFUSION, TINY, checkpoint=tmp_path), root)


def test_the_tiny_models_training_is_the_papers():
    config = diffusion_config(TINY)
    assert (config.min_snr, config.noise_offset, config.drop_condition) == (5.0, 0.1, 0.0)
    assert config.n_conditions == 4 + N_CONDITIONS and config.size == 32
