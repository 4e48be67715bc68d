"""Where the valid entries of a batch lie, found once on the CPU.

Selecting by a mask, `x[mask]`, makes the host wait for a GPU: only the GPU knows how many rows come
out. A `Batch` brings the places along instead, so a training step never has to ask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from bench.data.batch import Batch


@dataclass(frozen=True)
class Packing:
    """The places where a mask is True, in order: N of them.

    index: int64 [N]; counted through all axes of the mask
    shape: of the mask
    """

    index: Tensor
    shape: tuple[int, ...]

    @classmethod
    def of(cls, mask: Tensor, n: int | None = None) -> Packing:
        """Find them. Where the host knows that there are `n`, it need not wait for the device."""
        if n is None:
            index = mask.flatten().nonzero().squeeze(1)
        else:
            index = mask.flatten().byte().argsort(descending=True, stable=True)[:n]
        return cls(index, tuple(mask.shape))

    def __len__(self) -> int:
        return len(self.index)

    def pack(self, padded: Tensor) -> Tensor:
        """`padded[mask]`: [*shape, ...] -> [N, ...]."""
        return padded.flatten(0, len(self.shape) - 1).index_select(0, self.index)

    def unpack(self, rows: Tensor) -> Tensor:
        """Put rows back, zeros elsewhere: [N, ...] -> [*shape, ...]."""
        padded = rows.new_zeros(math.prod(self.shape), *rows.shape[1:])
        return padded.index_copy(0, self.index, rows).view(*self.shape, *rows.shape[1:])

    def to(self, device: torch.device | str) -> Packing:
        """Move the index."""
        return Packing(moved(self.index, device), self.shape)


@dataclass(frozen=True)
class Layout:
    """What of a batch is there; B samples, T films, P pairs, R regions.

    films: the valid films, through [B, T]
    images: of each valid film the regions that it shows, then itself, through [B, T, R + 1]
    pairs: the valid pairs, through [B, P]
    neighbours: valid pairs whose next one is valid, too, through [B, P - 1]
    n_films: valid films of each sample
    n_observed: charted EHR values of each sample
    """

    films: Packing
    images: Packing
    pairs: Packing
    neighbours: Packing
    n_films: tuple[int, ...]
    n_observed: tuple[int, ...]

    @classmethod
    def of(cls, batch: Batch) -> Layout:
        """Read a batch's masks; on a GPU the host waits for them."""
        film = batch.film_valid[..., None]
        pair = batch.pair_valid
        observed = batch.ehr_observed & batch.ehr_valid[..., None]
        return cls(
            films=Packing.of(batch.film_valid),
            images=Packing.of(torch.cat([batch.region_present & film, film], dim=-1)),
            pairs=Packing.of(pair),
            neighbours=Packing.of(pair[:, :-1] & pair[:, 1:]),
            n_films=tuple(batch.film_valid.sum(dim=1).tolist()),
            n_observed=tuple(observed.sum(dim=(1, 2)).tolist()),
        )

    def to(self, device: torch.device | str) -> Layout:
        """Move the indices; numbers stay with the host."""
        return Layout(
            films=self.films.to(device),
            images=self.images.to(device),
            pairs=self.pairs.to(device),
            neighbours=self.neighbours.to(device),
            n_films=self.n_films,
            n_observed=self.n_observed,
        )


def moved(values: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on `device`; on its way to a GPU from pinned memory, so that nobody waits."""
    if torch.device(device).type == "cuda" and values.device.type == "cpu":
        values = values.contiguous().pin_memory()
    return values.to(device, non_blocking=True)
