"""What is done of an epoch: its optimizer steps and the loss terms that training saw in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


class DivergedError(Exception):
    """A loss term or the selection metric became NaN or infinite; `details` go into the record.

    Epochs and batches count from 1; `samples` are the keys of the batch's samples.
    """

    def __init__(
        self, term: str, value: float, epoch: int, batch: int | None = None,
        samples: Sequence[str] = (),
    ) -> None:  # fmt: skip
        place = "on validation" if batch is None else f"in batch {batch}"
        super().__init__(f"'{term}' is {value} {place} of epoch {epoch}")
        self.details = {"term": term, "epoch": epoch, "batch": batch, "samples": list(samples)}


@dataclass(frozen=True)
class MicroBatch:
    """What training saw in one forward pass: positions of its samples, loss terms (scalars)."""

    positions: np.ndarray
    terms: dict[str, Tensor]


@dataclass
class Epoch:
    """An epoch under way: `n_steps` optimizer steps are done; `seen` is still on the device."""

    n_steps: int = 0
    seen: list[MicroBatch] = field(default_factory=list)

    def to_numbers(self) -> dict[str, Any]:
        """All of it without tensors, as a checkpoint holds it."""
        positions = [batch.positions.tolist() for batch in self.seen]
        return {"n_steps": self.n_steps, "positions": positions, "terms": _read_terms(self.seen)}

    @classmethod
    def from_numbers(cls, saved: dict[str, Any], device: torch.device) -> Epoch:
        """The epoch that `to_numbers` was asked of."""
        seen = [
            MicroBatch(
                np.array(positions),
                {name: torch.tensor(value, device=device) for name, value in terms.items()},
            )
            for positions, terms in zip(saved["positions"], saved["terms"], strict=True)
        ]
        return cls(saved["n_steps"], seen)


def mean_terms(seen: Sequence[MicroBatch], epoch: int, keys: np.ndarray) -> dict[str, float]:
    """Mean of each loss term over an epoch.

    Raises:
        DivergedError: a term is not finite; names the first and its batch.
    """
    values = _read_terms(seen)
    for number, (batch, terms) in enumerate(zip(seen, values, strict=True), 1):
        for name, value in terms.items():
            if not math.isfinite(value):
                raise DivergedError(name, value, epoch, number, keys[batch.positions])
    names = dict.fromkeys(name for terms in values for name in terms)
    return {name: float(np.mean([t[name] for t in values if name in t])) for name in names}


def _read_terms(seen: Sequence[MicroBatch]) -> list[dict[str, float]]:
    """Loss terms of every batch, fetched from the device at once."""
    scalars = [term.float() for batch in seen for term in batch.terms.values()]
    fetched = iter(torch.stack(scalars).tolist() if scalars else ())
    return [{name: next(fetched) for name in batch.terms} for batch in seen]
