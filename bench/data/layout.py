"""Where the valid entries of a batch lie, found once on the CPU.

Selecting by a mask, `x[mask]`, makes the host wait for a GPU: only the GPU knows how many rows come
out. A `Batch` brings the places along instead, so a training step never has to ask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
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
    """What of a batch is there, by its masks; each part is found when it is first asked for.

    B samples, T films, P pairs, R regions. On a GPU the host waits while a part is found, so `to`
    finds all of them before.
    """

    film_valid: Tensor
    pair_valid: Tensor
    region_present: Tensor
    ehr_observed: Tensor
    ehr_valid: Tensor

    @classmethod
    def of(cls, batch: Batch) -> Layout:
        """Of a batch's masks."""
        return cls(
            batch.film_valid,
            batch.pair_valid,
            batch.region_present,
            batch.ehr_observed,
            batch.ehr_valid,
        )

    @cached_property
    def films(self) -> Packing:
        """The valid films, through [B, T]."""
        return Packing.of(self.film_valid)

    @cached_property
    def images(self) -> Packing:
        """Of each valid film the regions that it shows, then itself, through [B, T, R + 1]."""
        film = self.film_valid[..., None]
        return Packing.of(torch.cat([self.region_present & film, film], dim=-1))

    @cached_property
    def pairs(self) -> Packing:
        """The valid pairs, through [B, P]."""
        return Packing.of(self.pair_valid)

    @cached_property
    def neighbours(self) -> Packing:
        """Valid pairs whose next one is valid, too, through [B, P - 1]."""
        return Packing.of(self.pair_valid[:, :-1] & self.pair_valid[:, 1:])

    @cached_property
    def n_films(self) -> tuple[int, ...]:
        """Valid films of each sample."""
        return tuple(self.film_valid.sum(dim=1).tolist())

    @cached_property
    def n_observed(self) -> tuple[int, ...]:
        """Charted EHR values of each sample."""
        observed = self.ehr_observed & self.ehr_valid[..., None]
        return tuple(observed.sum(dim=(1, 2)).tolist())

    def to(self, device: torch.device | str) -> Layout:
        """Move the indices; masks and numbers stay where they are."""
        there = replace(self)
        for name in ("films", "images", "pairs", "neighbours"):
            vars(there)[name] = getattr(self, name).to(device)
        for name in ("n_films", "n_observed"):
            vars(there)[name] = getattr(self, name)
        return there


def moved(values: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on `device`; on its way to a GPU from pinned memory, so that nobody waits."""
    if torch.device(device).type == "cuda" and values.device.type == "cpu":
        values = values.contiguous().pin_memory()
    return values.to(device, non_blocking=True)
