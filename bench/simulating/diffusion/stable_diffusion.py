"""Stable Diffusion 1.x from the user's folder, told by text or by vectors; downloads nothing."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.errors import UserError, first_line
from bench.simulating.diffusion.schedule import Schedule

N_TOKENS: Final = 77


class StableDiffusion:
    """A pipeline's autoencoder and U-Net; films are grey, conditions float [B, tokens, width].

    width: of a condition's tokens; channels: of a latent
    """

    def __init__(
        self, folder: Path, finetuned: Path | None = None, device: str | torch.device = "cpu"
    ) -> None:
        """Load a pipeline folder; `finetuned` replaces the U-Net (it or its subfolder `unet`).

        Raises:
            UserError: diffusers is not installed, or a folder is not what it should be.
        """
        diffusers = _library("diffusers")
        _check_parts(folder, ("unet", "vae", "scheduler"))
        self.device = torch.device(device)
        self.schedule = _schedule(folder / "scheduler" / "scheduler_config.json")
        # Said, so that diffusers does not print advice to install accelerate.
        whole = {"low_cpu_mem_usage": False}
        unet = _unet_folder(folder, finetuned)
        self.unet = self._load(diffusers.UNet2DConditionModel, unet, **whole)
        self.vae = self._load(diffusers.AutoencoderKL, folder / "vae", **whole)
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.width: int = self.unet.config.cross_attention_dim
        self.channels: int = self.unet.config.in_channels

    def _load(self, kind: Any, folder: Path, **how: Any) -> Any:
        with _readable(folder):
            model, loading = kind.from_pretrained(
                folder, local_files_only=True, output_loading_info=True, **how
            )
        # Weights that a folder lacks would be drawn at random.
        if loading["missing_keys"]:
            raise UserError(
                f"{folder} lacks weights: {min(loading['missing_keys'])} and maybe more"
            )
        return model.to(self.device).eval().requires_grad_(False)

    def encode(self, films: Tensor) -> Tensor:
        """Mean latents of grey films [B, 1, H, W]."""
        colour = films.to(self.device).expand(-1, 3, -1, -1)
        return self.vae.encode(colour).latent_dist.mode() * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Grey films: the mean of the colours."""
        colour = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return colour.mean(dim=1, keepdim=True)

    def noise(self, z: Tensor, t: int, condition: Tensor | None) -> Tensor:
        """As `Generator.noise`; without text there is no unconditional branch."""
        assert condition is not None
        return self.unet(z, t, encoder_hidden_states=condition).sample


class TextStableDiffusion(StableDiffusion):
    """With the pipeline's own text encoder; the empty prompt is the unconditional branch."""

    def __init__(
        self, folder: Path, finetuned: Path | None = None, device: str | torch.device = "cpu"
    ) -> None:
        super().__init__(folder, finetuned, device)
        transformers = _library("transformers")
        _check_parts(folder, ("text_encoder", "tokenizer"))
        self.text_encoder = self._load(transformers.CLIPTextModel, folder / "text_encoder")
        with _readable(folder / "tokenizer"):
            self.tokenizer = transformers.CLIPTokenizer.from_pretrained(
                folder / "tokenizer", local_files_only=True
            )
        self._empty = self.embed([""])

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """The condition that prompts stand for."""
        length = self.tokenizer.model_max_length
        tokens = self.tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True,
            return_tensors="pt",
        )  # fmt: skip
        with torch.inference_mode():
            return self.text_encoder(tokens.input_ids.to(self.device))[0]

    def noise(self, z: Tensor, t: int, condition: Tensor | None) -> Tensor:
        """As `Generator.noise`."""
        text = self._empty.expand(len(z), -1, -1) if condition is None else condition
        return super().noise(z, t, text)


def vector_tokens(vectors: Tensor, width: int) -> Tensor:
    """A condition of vectors [B, C] in place of text, [B, 77, width] (arXiv 2410.16177).

    Each is filled up with zeros and repeated as every token.

    Raises:
        UserError: the vectors are wider than a token.
    """
    if vectors.shape[1] > width:
        raise UserError(f"a vector of {vectors.shape[1]} numbers does not fit tokens of {width}")
    filled = F.pad(vectors, (0, width - vectors.shape[1]))
    return filled[:, None].expand(-1, N_TOKENS, -1)


def _check_parts(folder: Path, parts: Sequence[str]) -> None:
    for part in parts:
        if not (folder / part).is_dir():
            raise UserError(f"{folder} has no folder {part}: name a saved diffusers pipeline")


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Turn what the libraries raise of a broken folder into one line."""
    try:
        yield
    except Exception as error:  # Of a broken file the libraries raise almost anything.
        raise UserError(f"cannot read the model in {folder}: {first_line(error)}")


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"Stable Diffusion needs {name}: pip install 'dipro-bench[generators]', or leave "
            "--pretrained-model-name-or-path out for the tiny engine"
        )


def _unet_folder(folder: Path, finetuned: Path | None) -> Path:
    """The U-Net's folder; a fine-tuned one may be given as a pipeline or by itself."""
    root = finetuned or folder
    found = root / "unet" if (root / "unet").is_dir() else root
    if not (found / "config.json").is_file():
        raise UserError(f"{root} holds no U-Net: no unet/config.json and no config.json")
    return found


def _schedule(file: Path) -> Schedule:
    """Noise levels as the pipeline's own scheduler has them; PIE's steps are DDIM's."""
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}")
    if not isinstance(config, dict):
        raise UserError(f"{file} is no scheduler's: expected an object of settings")
    wanted = {"beta_schedule": "scaled_linear", "prediction_type": "epsilon"}
    for name, value in wanted.items():
        if config.get(name, value) != value:
            raise UserError(f"{file}: {name} is {config[name]}, only {value} is supported")
    default = Schedule()
    n_steps = config.get("num_train_timesteps", default.n_steps)
    betas = config.get("beta_start", default.beta_start), config.get("beta_end", default.beta_end)
    if not isinstance(n_steps, int) or n_steps < 1:
        raise UserError(f"{file}: num_train_timesteps is {n_steps}, not a whole number above 0")
    if not all(isinstance(beta, float) and 0 < beta < 1 for beta in betas):
        raise UserError(f"{file}: beta_start and beta_end are {betas}, not numbers between 0 and 1")
    return Schedule(n_steps, *betas)
