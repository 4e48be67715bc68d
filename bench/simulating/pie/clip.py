"""CLIP-I: how alike two films are to the image encoder of CLIP, from the user's folder."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.errors import UserError

MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
SD: Final = (0.26862954, 0.26130258, 0.27577711)
"""Of the colours that OpenAI's CLIP was trained on."""


class ClipImages:
    """The image encoder of a folder that transformers saved (CLIP, or its vision part alone)."""

    def __init__(self, folder: Path) -> None:
        """Load it; nothing is downloaded.

        Raises:
            UserError: transformers is not installed, or the folder holds no such encoder.
        """
        try:
            transformers = importlib.import_module("transformers")
        except ImportError:
            raise UserError("--clip needs transformers: pip install 'dipro-bench[generators]'")
        if not (folder / "config.json").is_file():
            raise UserError(f"--clip {folder}: no config.json, name a folder of CLIP")
        kind = transformers.CLIPVisionModelWithProjection
        # A wrong folder is told here in one line, not also in a table of weights.
        transformers.logging.set_verbosity_error()
        try:
            model, loading = kind.from_pretrained(
                folder, local_files_only=True, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            raise UserError(f"--clip {folder}: {str(error).strip().splitlines()[0]}")
        except RuntimeError:
            raise _no_weights(folder)
        # Weights that a folder lacks would be drawn at random.
        if loading["missing_keys"]:
            raise _no_weights(folder)
        self.model = model.eval().requires_grad_(False)

    @torch.inference_mode()
    def embed(self, films: Tensor) -> Tensor:
        """Embeddings of length 1, [B, d], of grey films [B, 1, S, S] in [-1, 1]."""
        side = self.model.config.image_size
        grey = F.interpolate((films + 1) / 2, (side, side), mode="bicubic", antialias=True)
        mean, sd = (torch.tensor(x)[:, None, None] for x in (MEAN, SD))
        return F.normalize(self.model((grey.clamp(0, 1) - mean) / sd).image_embeds, dim=1)

    def similarity(self, first: Tensor, second: Tensor) -> float:
        """Mean cosine similarity of films and those of the same rows in `second`."""
        return float((self.embed(first) * self.embed(second)).sum(dim=1).mean())


def _no_weights(folder: Path) -> UserError:
    return UserError(f"--clip {folder}: no weights of CLIP's image encoder with its projection")
