"""Loading and conditioning of a Stable Diffusion folder, with a tiny pipeline of random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from bench.errors import UserError
from bench.simulating.diffusion import stable_diffusion
from bench.simulating.diffusion.generator import sample
from bench.simulating.diffusion.schedule import Schedule
from bench.simulating.diffusion.stable_diffusion import (
    StableDiffusion,
    TextStableDiffusion,
    vector_tokens,
)
from bench.simulating.pie.edit import Options, pie
from tests.simulating.conftest import TOKEN_WIDTH


@pytest.fixture(scope="module")
def pipeline(pipeline_folder: Path) -> TextStableDiffusion:
    return TextStableDiffusion(pipeline_folder)


def test_a_saved_pipeline_is_read(pipeline: TextStableDiffusion):
    assert pipeline.factor == 2
    assert pipeline.schedule.n_steps == 1000 and pipeline.schedule.beta_end == 0.012
    films = torch.rand(2, 1, 16, 16) * 2 - 1
    latents = pipeline.encode(films)
    assert latents.shape == (2, 4, 8, 8)
    assert pipeline.decode(latents).shape == films.shape
    raw = pipeline.vae.encode(films.expand(-1, 3, -1, -1)).latent_dist.mode()
    torch.testing.assert_close(latents, 0.18215 * raw)


def test_prompts_condition_the_noise(pipeline: TextStableDiffusion):
    z, (ade, empty) = torch.randn(1, 4, 8, 8), pipeline.embed(["a d e", ""])[:, None]
    assert ade.shape == (1, 12, TOKEN_WIDTH)
    free = pipeline.noise(z, 300, None)
    torch.testing.assert_close(free, pipeline.noise(z, 300, empty))
    assert not torch.allclose(free, pipeline.noise(z, 300, ade), atol=1e-6)


def test_vectors_take_the_place_of_text(pipeline_folder: Path, tmp_path: Path):
    for part in ("unet", "vae", "scheduler"):  # text is not needed
        (tmp_path / part).symlink_to(pipeline_folder / part)
    generator = StableDiffusion(tmp_path)
    vectors = torch.tensor([[1.0, 2.0], [1.0, 2.0], [-1.0, 2.0]])
    tokens = vector_tokens(vectors, generator.width)
    assert tokens.shape == (3, 77, TOKEN_WIDTH)
    assert torch.equal(tokens[0, 76, :3], torch.tensor([1.0, 2.0, 0.0]))
    drawn = sample(generator, tokens, latent_shape=(4, 8, 8), seeds=[5, 5, 5], steps=2)
    assert drawn.shape == (3, 1, 16, 16)
    torch.testing.assert_close(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], drawn[2], atol=1e-4)
    with pytest.raises(UserError, match="25 numbers"):
        vector_tokens(torch.zeros(1, 25), TOKEN_WIDTH)


def test_pie_runs_on_it_and_keeps_what_the_mask_keeps(pipeline: TextStableDiffusion):
    films, mask = torch.rand(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)
    options = Options(steps=2, inference_steps=4)
    condition = pipeline.embed(["a d e"])
    free = pie(films, condition, pipeline, seeds=[1], options=options)
    kept = pie(films, condition, pipeline, seeds=[1], mask=mask, options=options)
    assert len(free) == 3 and free[0].shape == films.shape
    assert (kept[2] - kept[0]).abs().mean() < 0.1 * (free[2] - free[0]).abs().mean()


@pytest.mark.parametrize("nested", [True, False])
def test_a_finetuned_unet_replaces_the_pipelines(
    pipeline_folder: Path, pipeline: TextStableDiffusion, tmp_path: Path, nested: bool
):
    own = tmp_path / "unet" if nested else tmp_path
    weights = {name: value + 1 for name, value in pipeline.unet.state_dict().items()}
    other = type(pipeline.unet).from_config(pipeline.unet.config)
    other.load_state_dict(weights)
    other.save_pretrained(own)
    found = TextStableDiffusion(pipeline_folder, finetuned=tmp_path).unet.state_dict()
    assert all(torch.equal(found[name], value) for name, value in weights.items())


def test_folders_that_are_no_pipeline_are_refused(pipeline_folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no folder unet"):
        TextStableDiffusion(tmp_path)
    with pytest.raises(UserError, match="holds no U-Net"):
        TextStableDiffusion(pipeline_folder, finetuned=tmp_path)


def test_a_pipeline_that_lacks_weights_is_refused(pipeline_folder: Path, tmp_path: Path):
    safetensors = pytest.importorskip("safetensors.torch")
    shutil.copytree(pipeline_folder, tmp_path / "sd")
    file = tmp_path / "sd" / "unet" / "diffusion_pytorch_model.safetensors"
    weights = safetensors.load_file(file)
    del weights["conv_in.weight"]
    safetensors.save_file(weights, file)
    with pytest.raises(UserError, match=r"lacks weights: conv_in\.weight"):
        StableDiffusion(tmp_path / "sd")


def test_other_noise_schedules_are_refused(pipeline_folder: Path, tmp_path: Path):
    for part in pipeline_folder.iterdir():
        (tmp_path / part.name).symlink_to(part)
    (tmp_path / "scheduler").unlink()
    (tmp_path / "scheduler").mkdir()
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({"beta_schedule": "linear"}))
    with pytest.raises(UserError, match="scaled_linear"):
        TextStableDiffusion(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("scheduler/scheduler_config.json", "[]", "scheduler_config.json"),
        ("scheduler/scheduler_config.json", '{"beta_start": "x"}', "beta_start"),
        ("scheduler/scheduler_config.json", '{"num_train_timesteps": 0}', "num_train_timesteps"),
        ("tokenizer/vocab.json", "{broken", "tokenizer"),
        ("tokenizer/vocab.json", "[]", "tokenizer"),
        ("unet/config.json", "[]", "unet"),
    ],
)
def test_broken_files_of_a_pipeline_are_one_line(
    file: str, content: str, says: str, pipeline_folder: Path, tmp_path: Path
):
    shutil.copytree(pipeline_folder, tmp_path / "sd")
    (tmp_path / "sd" / file).write_text(content)
    with pytest.raises(UserError, match=says) as refused:
        TextStableDiffusion(tmp_path / "sd")
    assert "\n" not in str(refused.value)


def test_more_inference_steps_than_training_steps_are_refused():
    with pytest.raises(UserError, match="50 inference steps"):
        Schedule(n_steps=10).timesteps(50)


def test_loading_prints_no_advice(pipeline_folder: Path, caplog: pytest.LogCaptureFixture, capfd):
    TextStableDiffusion(pipeline_folder)
    assert "accelerate" not in caplog.text + capfd.readouterr().err


def test_without_the_library_the_error_says_what_to_install(monkeypatch, tmp_path: Path):
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(stable_diffusion.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"dipro-bench\[generators\]"):
        TextStableDiffusion(tmp_path)
