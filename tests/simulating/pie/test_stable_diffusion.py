"""Loading and conditioning of a Stable Diffusion folder, with a tiny pipeline of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.errors import UserError
from bench.simulating.pie import stable_diffusion
from bench.simulating.pie.edit import Options, pie
from bench.simulating.pie.stable_diffusion import StableDiffusion

WIDTH = 16
WORDS = ["<|startoftext|>", "<|endoftext|>", "e</w>", "d", "m", "a</w>", "e", "a"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline in the layout of Stable Diffusion 1.x, saved by the libraries themselves."""
    diffusers = pytest.importorskip("diffusers", reason="needs the extra 'generators'")
    transformers = pytest.importorskip("transformers", reason="needs the extra 'generators'")
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("pipeline")
    diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=WIDTH, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(root / "unet")  # fmt: skip
    diffusers.AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).save_pretrained(root / "vae")  # fmt: skip
    diffusers.PNDMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012
    ).save_pretrained(root / "scheduler")
    transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(WORDS), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=12, bos_token_id=0, eos_token_id=1,
        )
    ).save_pretrained(root / "text_encoder")  # fmt: skip
    (root / "tokenizer").mkdir()
    (root / "tokenizer" / "vocab.json").write_text(json.dumps({w: k for k, w in enumerate(WORDS)}))
    (root / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    (root / "tokenizer" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 12})
    )
    return root


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> StableDiffusion:
    return StableDiffusion(folder)


def test_a_saved_pipeline_is_read(pipeline: StableDiffusion):
    assert pipeline.factor == 2
    assert pipeline.schedule.n_steps == 1000 and pipeline.schedule.beta_end == 0.012
    films = torch.rand(2, 1, 16, 16) * 2 - 1
    latents = pipeline.encode(films)
    assert latents.shape == (2, 4, 8, 8)
    assert pipeline.decode(latents).shape == films.shape
    raw = pipeline.vae.encode(films.expand(-1, 3, -1, -1)).latent_dist.mode()
    torch.testing.assert_close(latents, 0.18215 * raw)


def test_prompts_condition_the_noise(pipeline: StableDiffusion):
    z, (ade, empty) = torch.randn(1, 4, 8, 8), pipeline.embed(["a d e", ""])[:, None]
    assert ade.shape == (1, 12, WIDTH)
    free = pipeline.noise(z, 300, None)
    torch.testing.assert_close(free, pipeline.noise(z, 300, empty))
    assert not torch.allclose(free, pipeline.noise(z, 300, ade), atol=1e-6)


def test_pie_runs_on_it_and_keeps_what_the_mask_keeps(pipeline: StableDiffusion):
    films, mask = torch.rand(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)
    options = Options(steps=2, inference_steps=4)
    condition = pipeline.embed(["a d e"])
    free = pie(films, condition, pipeline, seeds=[1], options=options)
    kept = pie(films, condition, pipeline, seeds=[1], mask=mask, options=options)
    assert len(free) == 3 and free[0].shape == films.shape
    assert (kept[2] - kept[0]).abs().mean() < 0.1 * (free[2] - free[0]).abs().mean()


@pytest.mark.parametrize("nested", [True, False])
def test_a_finetuned_unet_replaces_the_pipelines(
    folder: Path, pipeline: StableDiffusion, tmp_path: Path, nested: bool
):
    own = tmp_path / "unet" if nested else tmp_path
    weights = {name: value + 1 for name, value in pipeline.unet.state_dict().items()}
    other = type(pipeline.unet).from_config(pipeline.unet.config)
    other.load_state_dict(weights)
    other.save_pretrained(own)
    found = StableDiffusion(folder, finetuned=tmp_path).unet.state_dict()
    assert all(torch.equal(found[name], value) for name, value in weights.items())


def test_folders_that_are_no_pipeline_are_refused(folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no folder unet"):
        StableDiffusion(tmp_path)
    with pytest.raises(UserError, match="holds no U-Net"):
        StableDiffusion(folder, finetuned=tmp_path)


def test_other_noise_schedules_are_refused(folder: Path, tmp_path: Path):
    for part in folder.iterdir():
        (tmp_path / part.name).symlink_to(part)
    (tmp_path / "scheduler").unlink()
    (tmp_path / "scheduler").mkdir()
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({"beta_schedule": "linear"}))
    with pytest.raises(UserError, match="scaled_linear"):
        StableDiffusion(tmp_path)


def test_without_the_library_the_error_says_what_to_install(monkeypatch, tmp_path: Path):
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(stable_diffusion.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"dipro-bench\[generators\]"):
        StableDiffusion(tmp_path)
