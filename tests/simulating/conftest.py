"""Populations and raw files that several tests of the simulator share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest
import torch

from bench import prepare, simulate
from bench.data.cohort import Cohort
from bench.simulating.populate import simulate_population
from bench.simulating.population import Population

TOKEN_WIDTH: Final = 24
TOKENS: Final = ["<|startoftext|>", "<|endoftext|>", "e</w>", "d", "m", "a</w>", "e", "a"]


@pytest.fixture(scope="session")
def small() -> Population:
    return simulate_population("small", seed=7)


@pytest.fixture(scope="session")
def tiny_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("raw") / "tiny"
    assert simulate.main(["--size", "tiny", "--out", str(out), "--film-size", "96"]) == 0
    return out


@pytest.fixture(scope="session")
def prepared(tiny_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    out = tmp_path_factory.mktemp("prepared") / "cohort"
    arguments = ["simulated", "--raw", str(tiny_raw), "--out", str(out), "--preset", "demo"]
    assert prepare.main(arguments) == 0
    return Cohort.open(out)


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline in the layout of Stable Diffusion 1.x, saved by the libraries themselves."""
    diffusers = pytest.importorskip("diffusers", reason="needs the extra 'generators'")
    transformers = pytest.importorskip("transformers", reason="needs the extra 'generators'")
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("pipeline")
    diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=TOKEN_WIDTH, attention_head_dim=4,
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
            vocab_size=len(TOKENS), hidden_size=TOKEN_WIDTH, intermediate_size=32,
            num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=12,
            bos_token_id=0, eos_token_id=1,
        )
    ).save_pretrained(root / "text_encoder")  # fmt: skip
    (root / "tokenizer").mkdir()
    (root / "tokenizer" / "vocab.json").write_text(json.dumps({w: k for k, w in enumerate(TOKENS)}))
    (root / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    (root / "tokenizer" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 12})
    )
    return root
