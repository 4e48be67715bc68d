"""The films' autoencoder: shapes, loss, ranking, and a training that can be stopped."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.vgg import cfgs, make_layers

from bench.errors import UserError
from bench.simulating.image_longitudinal import training as vae_training
from bench.simulating.image_longitudinal.decoders import Recipe
from bench.simulating.image_longitudinal.likeness import FEATURE_WEIGHTS, Gradients, Perceptual
from bench.simulating.image_longitudinal.painter import DecodingPainter
from bench.simulating.image_longitudinal.training import (
    N_CONDITIONS,
    Training,
    as_grey,
    conditions_of,
    trained_vae,
    training_films,
)
from bench.simulating.image_longitudinal.vae import (
    ImageVAE,
    VaeConfig,
    kl_by_latent,
    rank_latents,
    vae_loss,
)
from bench.simulating.painter import Sitter
from bench.simulating.sizes import Decoder

TINY = Training(
    VaeConfig(size=32, latent=4, n_conditions=N_CONDITIONS, widths=(16, 8, 8)),
    n_subjects=6, films_each=2, n_steps=7, batch_size=4, checkpoint_every=2,
)  # fmt: skip


def model_of(config: VaeConfig) -> ImageVAE:
    torch.manual_seed(0)
    return ImageVAE(config).eval()


@pytest.mark.parametrize("n_conditions", [0, 5])
def test_shapes_and_range(n_conditions: int):
    model = model_of(VaeConfig(n_conditions=n_conditions))
    films, conditions = torch.rand(3, 1, 64, 64), torch.rand(3, n_conditions)
    mu, logvar = model.encode(films, conditions)
    assert mu.shape == logvar.shape == (3, 32)
    decoded = model.decode(mu, conditions)
    assert decoded.shape == films.shape
    assert decoded.min() > 0 and decoded.max() < 1


def test_the_papers_model_has_its_shapes():
    config = dataclasses.replace(VaeConfig.paper(), widths=(32, 16, 8, 8, 8, 8))
    model = model_of(config)
    mu, _ = model.encode(torch.rand(1, 1, 224, 224), torch.empty(1, 0))
    assert mu.shape == (1, 128) and model.side == 7
    assert model.decode(mu, torch.empty(1, 0)).shape == (1, 1, 224, 224)


def test_the_divergence_is_zero_only_at_the_prior():
    mu, logvar = torch.randn(50, 6), torch.randn(50, 6)
    assert (kl_by_latent(mu, logvar) > 0).all()
    assert kl_by_latent(torch.zeros(5, 6), torch.zeros(5, 6)).abs().max() == 0
    # KL(N(1, e) || N(0, 1)) = (e + 1 - 1 - 1) / 2
    found = kl_by_latent(torch.ones(1, 1), torch.ones(1, 1))
    assert found.item() == pytest.approx((np.e - 1) / 2)


@pytest.mark.parametrize(("epoch", "share"), [(0, 0.0), (2.5, 0.5), (5, 1.0), (50, 1.0)])
def test_the_weight_of_the_divergence_warms_up(epoch: float, share: float):
    assert VaeConfig().beta_at(epoch) == pytest.approx(0.03756 * share)


def test_gradients_see_edges_that_grey_levels_do_not():
    films = torch.rand(2, 1, 16, 16)
    likeness = Gradients()
    assert likeness(films, films) == 0
    assert likeness(films, films + 0.1).item() == pytest.approx(0, abs=1e-6)
    assert likeness(films, films.flip(-1)) > 0.1


def test_a_latent_that_does_nothing_is_ranked_last():
    model = model_of(VaeConfig(size=32, latent=4, widths=(16, 8, 8)))
    with torch.no_grad():
        model.from_latent.weight[:, 2] = 0
        model.from_latent.weight[:, 1] *= 20
    order, scores = rank_latents(model, "effect", torch.empty(16, 0), n_batches=4)
    assert scores[2] == 0 and order[-1] == 2 and order[0] == 1


def test_a_latent_that_is_found_again_is_ranked_first():
    model = model_of(VaeConfig(size=32, latent=3, widths=(16, 8, 8)))
    model.decode = lambda z, _: z  # type: ignore[method-assign,assignment]
    model.encode = lambda x, _: (x * torch.tensor([0.0, 1.0, 0.5]), x)  # type: ignore[method-assign,assignment]
    order, scores = rank_latents(model, "recovery", torch.empty(64, 0), n_batches=8)
    assert order.tolist() == [1, 2, 0]
    assert scores[1] == 0 and scores[0] == pytest.approx(1, abs=0.2)


def test_a_stopped_training_ends_with_the_same_bits(tmp_path: Path, monkeypatch):
    straight = trained_vae(TINY, tmp_path / "straight")
    real, calls = vae_training.vae_loss, []

    def stop_at_fifth(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(vae_training, "vae_loss", stop_at_fifth)
    with pytest.raises(KeyboardInterrupt):
        trained_vae(TINY, tmp_path / "stopped")
    assert [f.name for f in TINY.folder(tmp_path / "stopped").iterdir()] == ["vae.checkpoint.pt"]
    resumed = trained_vae(TINY, tmp_path / "stopped")
    # Steps 5 to 7 only: the checkpoint holds the first four.
    assert len(calls) == 5 + 3
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_trained_model_is_found_by_what_decides_it(tmp_path: Path, monkeypatch):
    trained_vae(TINY, tmp_path)
    monkeypatch.setattr(vae_training, "_fit", lambda *_: pytest.fail("trained again"))
    trained_vae(dataclasses.replace(TINY, checkpoint_every=1), tmp_path)
    for change in ({"seed": 1}, {"n_steps": 8}, {"n_subjects": 7}):
        assert dataclasses.replace(TINY, **change).folder(tmp_path) != TINY.folder(tmp_path)


def test_training_films_are_reproducible_and_their_findings_vary():
    (films, conditions), again = training_films(TINY), training_films(TINY)
    assert films.shape == (12, 32, 32) and conditions.shape == (12, N_CONDITIONS)
    assert torch.equal(films, again[0]) and torch.equal(conditions, again[1])
    assert (conditions.std(dim=0)[:12] > 0).all()


def test_the_painter_draws_a_sitters_films_alike_and_tells_other_subjects_apart(tmp_path: Path):
    painter = DecodingPainter(64, 1.0, Recipe(Decoder.VAE, TINY), tmp_path)
    trained_vae(TINY, tmp_path)
    severity = np.zeros((2, 12), dtype=np.float32)
    films, again, others = (
        painter.paint(Sitter(7, subject, {}, severity, np.zeros(2, dtype=bool)))
        for subject in (3, 3, 4)
    )
    assert [film.image.shape for film in films] == [(64, 64)] * 2
    assert films[0].image.dtype == np.uint8 and len(films[0].boxes) > 14
    for film, same, other in zip(films, again, others, strict=True):
        assert np.array_equal(film.image, same.image) and film.boxes == same.boxes
        assert not np.array_equal(film.image, other.image)


def test_perceptual_features_come_from_the_users_weights(tmp_path: Path):
    network = make_layers(cfgs["D"])[: max(FEATURE_WEIGHTS)]
    stored = {f"features.{name}": value for name, value in network.state_dict().items()}
    torch.save(stored | {"classifier.0.bias": torch.zeros(3)}, tmp_path / "vgg.pt")
    likeness = Perceptual(tmp_path / "vgg.pt")
    films = torch.rand(1, 1, 32, 32)
    assert likeness(films, films) == 0 and likeness(films, films.flip(-1)) > 0
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="VGG-16"):
        Perceptual(tmp_path / "other.pt")


@pytest.mark.slow
def test_the_loss_falls_by_half_in_two_hundred_steps():
    training = Training(n_subjects=64, films_each=4)
    films, conditions = training_films(training)
    torch.manual_seed(0)
    model = ImageVAE(training.config)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-3), []
    for step in range(200):
        rows = torch.randint(len(films), (16,))
        beta = training.config.beta_at(step * 16 / len(films))
        noise = torch.randn(16, training.config.latent)
        told = conditions[rows]
        loss = vae_loss(model, as_grey(films[rows]), told, noise, beta, Gradients())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


def test_conditions_rise_with_severity_and_tell_of_the_tube():
    severity = np.zeros((2, 12), dtype=np.float32)
    severity[1] = 1
    told = conditions_of(severity, np.array([False, True]))
    assert (told[1] > told[0]).all() and told[0].abs().max() == 0
