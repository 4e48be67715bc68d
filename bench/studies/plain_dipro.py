"""DiPro computed plainly, as the released code does: what the fast path is measured against.

- every film of the padded batch goes through the ConvNet; where there is none, a learnable image
  per region does (ledger M13), so that even pixels get gradients;
- pairs of padding are projected like any other;
- float32 in PyTorch's default memory layout, all crops in one piece;
- a film is decoded and cut again each time it is needed (`decode_regions`).

Only the masks are ours, not the released code's (ledger M5 to M8), so that logits can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from bench.contract import Output
from bench.data.batch import Batch
from bench.data.layout import Packing
from methods.dipro.model import DiPro
from methods.dipro.std import film_pairs


class PlainDiPro(DiPro):
    """A model with the weights of `model`, for crops of `crop_size` pixels a side."""

    title = "DiPro, plain"

    def __init__(self, model: DiPro, crop_size: int) -> None:
        super().__init__(replace(model.config, weights="none"), model.spec)
        self.load_state_dict(model.state_dict())
        self.to(memory_format=torch.contiguous_format)
        channels = self.regions.images.n_channels
        shape = (self.spec.n_regions, channels, crop_size, crop_size)
        self.pad_images = nn.Parameter(torch.rand(shape))

    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        """As `DiPro.forward`, without attention maps."""
        everywhere = Packing.of(torch.ones_like(batch.pair_valid))
        pair = film_pairs(self._features(batch), everywhere)
        S, D = self.std(pair)
        real = batch.pair_valid.flatten()
        assert S is not None and self.static_fusion is not None
        cls, _ = self.fusion(D[real], batch)
        cls, _ = self.static_fusion(cls, S[real], batch)
        return Output(self.heads(cls), self._losses(pair[real], S[real], D[real], batch))

    def _features(self, batch: Batch) -> Tensor:
        """F of every film, padding too: float [B, T, R, d]."""
        grey = batch.regions[:, :, :, None].float() / 255
        real = batch.film_valid[:, :, None, None, None, None]
        crops = torch.where(real, grey, self.pad_images).flatten(0, 2)
        places = self.regions.images.network(crops)
        pooled = F.adaptive_avg_pool2d(places, 1).flatten(1)
        return self.regions.adapter(pooled).unflatten(0, batch.regions.shape[:3])


def decode_regions(path: Path, boxes: np.ndarray, crop_size: int) -> Tensor:
    """Decode a film and cut its regions, as the released loader does at every access.

    Args:
        path: the JPEG, a square film
        boxes: float [R, 4]; x1 y1 x2 y2 as fractions of the film, NaN where absent
        crop_size: pixels a side

    Returns:
        float32 [R, 3, crop_size, crop_size] in 0..1; zero where absent
    """
    with Image.open(path) as image:
        film = image.convert("RGB")
    crops = torch.zeros(len(boxes), 3, crop_size, crop_size)
    for crop, box in zip(crops, boxes * film.width, strict=True):
        if not np.isnan(box).any():
            region = film.crop(tuple(box.round().astype(int)))
            region = region.resize((crop_size, crop_size), Image.Resampling.NEAREST)
            crop.copy_(torch.from_numpy(np.asarray(region).copy()).permute(2, 0, 1) / 255)
    return crops


def decode_batch(paths: Sequence[Path], boxes: np.ndarray, crop_size: int) -> Tensor:
    """Regions of several films, float32 [films, R, 3, crop_size, crop_size]."""
    films = zip(paths, boxes, strict=True)
    return torch.stack([decode_regions(path, own, crop_size) for path, own in films])
