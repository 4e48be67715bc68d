"""FID against its closed form, and CLIP-I of a tiny random encoder."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from bench import simulate
from bench.errors import UserError, run_command
from bench.simulating.pie import command
from bench.simulating.pie.clip import ClipImages
from bench.simulating.pie.engine import EngineConfig
from bench.simulating.pie.score import frechet_distance


def features(n: int, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + rng.standard_normal(d)


@pytest.mark.parametrize("n", [200, 8])
def test_a_set_is_at_no_distance_from_itself(n: int):
    x = features(n, 24, seed=0)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(x, x + 2) == pytest.approx(4 * 24)


def test_the_distance_of_two_sets_is_that_of_their_gaussians():
    a, b = features(300, 6, seed=1), features(250, 6, seed=2)
    covariances = [np.cov(x, rowvar=False) for x in (a, b)]
    root = sqrtm(covariances[0] @ covariances[1]).real
    wanted = np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2)
    wanted += np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(wanted)
    assert frechet_distance(b, a) == pytest.approx(wanted)


def test_many_draws_of_known_gaussians_come_near_the_closed_form():
    rng = np.random.default_rng(3)
    sd, shift = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.0, -1.0])
    a, b = rng.standard_normal((20_000, 3)), rng.standard_normal((20_000, 3)) * sd + shift
    wanted = np.sum(shift**2) + np.sum((sd - 1) ** 2)
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=0.03)


def test_few_films_of_many_features_are_far_apart_though_alike():
    rng = np.random.default_rng(4)
    few = frechet_distance(*rng.standard_normal((2, 64, 96)))
    many = frechet_distance(*rng.standard_normal((2, 6400, 96)))
    assert few > 20 * many


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers", reason="needs the extra 'generators'")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        image_size=32, patch_size=8, projection_dim=12,
    )  # fmt: skip
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def test_similarity_is_the_mean_cosine_of_embeddings(clip_folder: Path):
    clip = ClipImages(clip_folder)
    films, others = torch.rand(2, 5, 1, 64, 64) * 2 - 1
    assert clip.similarity(films, films) == pytest.approx(1, abs=1e-5)
    assert clip.embed(films).shape == (5, 12)
    each = [clip.similarity(films[k : k + 1], others[k : k + 1]) for k in range(5)]
    assert clip.similarity(films, others) == pytest.approx(float(np.mean(each)), abs=1e-5)
    assert max(each) < 1 - 1e-4


def test_films_are_shown_as_clip_saw_its_pictures(clip_folder: Path):
    """White at the encoder's own size, standardised by the mean and sd of each colour."""
    clip = ClipImages(clip_folder)
    mean, sd = torch.tensor([0.4815, 0.4578, 0.4082]), torch.tensor([0.2686, 0.2613, 0.2758])
    white = ((1 - mean) / sd)[None, :, None, None].expand(1, 3, 32, 32)
    with torch.inference_mode():
        wanted = clip.model(white).image_embeds
    found = clip.embed(torch.ones(1, 1, 64, 64))
    torch.testing.assert_close(found, wanted / wanted.norm(), atol=1e-3, rtol=0)


def test_folders_without_the_encoder_are_refused(
    pipeline_folder: Path, clip_folder: Path, tmp_path: Path
):
    from safetensors.torch import load_file, save_file  # comes with transformers

    with pytest.raises(UserError, match=r"no config\.json"):
        ClipImages(tmp_path)
    # CLIP's text encoder: every weight of the other one would be drawn at random.
    with pytest.raises(UserError, match="no weights of CLIP's image encoder"):
        ClipImages(pipeline_folder / "text_encoder")
    shutil.copytree(clip_folder, tmp_path / "headless")
    weights = load_file(clip_folder / "model.safetensors")
    weights.pop("visual_projection.weight")
    save_file(weights, tmp_path / "headless" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="no weights of CLIP's image encoder"):
        ClipImages(tmp_path / "headless")
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(UserError, match="--clip"):
        ClipImages(tmp_path)


def test_without_the_library_the_error_says_what_to_install(monkeypatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"dipro-bench\[generators\]"):
        ClipImages(tmp_path)


def test_score_prints_fid_and_clip_if_it_is_named(
    engines: Path, toy: EngineConfig, clip_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setattr(command, "EngineConfig", lambda **_: toy)
    words = ["score", "--films", "2", "--findings", "edema", "--engines", str(engines)]
    words += ["--step", "2", "--jobs", "1"]
    assert simulate.main(words) == 0
    assert "CLIP-I" not in capsys.readouterr().out
    assert simulate.main([*words, "--clip", str(clip_folder)]) == 0
    *_, head, _, row = capsys.readouterr().out.strip().splitlines()
    cells = dict(zip(*[map(str.strip, line.split("|")) for line in (head, row)], strict=True))
    assert 0 < float(cells["CLIP-I"]) <= 1
    assert float(cells["FID"]) > 0 and float(cells["FID of rendered"]) > 0


@pytest.mark.parametrize(
    ("flags", "says"), [(["--clip", "nowhere"], "nowhere"), (["--films", "1"], "2 or more")]
)
def test_wrong_usage_is_refused_in_one_line(flags: list[str], says: str, capsys):
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: simulate.main(["score", *flags]))
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and says in error
