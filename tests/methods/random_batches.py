"""Random valid batches with ragged films, pairs and hours, and ways to rearrange them."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import torch
from torch import Tensor

from bench.data.batch import Batch, Targets
from bench.data.vocabulary import (
    DEMOGRAPHICS,
    DISEASES,
    EHR_VARIABLES,
    FINDING_UNKNOWN,
    N_LENGTH_OF_STAY_CLASSES,
    NOT_MENTIONED,
    REGIONS,
    Task,
)

FILM_AXIS = ("findings", "films", "regions", "region_present", "film_valid", "film_hours")
PAIR_AXIS = ("pair_valid", "pair_hours")
HOUR_AXIS = ("ehr_values", "ehr_observed", "ehr_hours", "ehr_valid")


def random_batch(
    task: Task, n: int = 4, seed: int = 0, size: int = 16, film_size: int = 0, ehr: bool = True
) -> Batch:
    """n samples with 2 to 4 films (pairs: 2) and 12 to 40 hours, targets included."""
    rng = np.random.default_rng(seed)
    n_films = rng.integers(2, 5, n) if task.is_icu else np.full(n, 2)
    n_films[0] = n_films.max()
    T, P = int(n_films.max()), int(n_films.max()) - 1
    film_valid = np.arange(T) < n_films[:, None]
    pair_valid = film_valid[:, 1:]
    film_hours = np.sort(rng.uniform(0, 40, (n, T)), axis=1) * film_valid
    first = np.zeros(n) if task.is_icu else np.floor(film_hours[:, 0])
    n_hours = rng.integers(12, 41, n) * ehr
    ehr_valid = np.arange(n_hours.max()) < n_hours[:, None]
    ehr_hours = (first[:, None] + np.arange(n_hours.max())) * ehr_valid
    present = (rng.random((n, T, len(REGIONS))) > 0.1) & film_valid[..., None]
    regions = _images(rng, present, size)
    films = _images(rng, film_valid, film_size)
    region_labels = rng.integers(0, NOT_MENTIONED + 1, (n, P, len(REGIONS), len(DISEASES)))
    targets = Targets(
        progression=_tensor(rng.integers(0, NOT_MENTIONED + 1, (n, len(DISEASES)))),
        mortality=_tensor((np.arange(n) % 2).astype(np.float32)),
        length_of_stay=_tensor(np.arange(n) % N_LENGTH_OF_STAY_CLASSES),
        region_progression=_tensor(
            np.where(pair_valid[..., None, None], region_labels, NOT_MENTIONED)
        ),
        findings=_tensor(
            np.where(
                film_valid[..., None],
                rng.integers(FINDING_UNKNOWN, 2, (n, T, len(DISEASES))),
                FINDING_UNKNOWN,
            )
        ),
    )
    return Batch(
        films=_tensor(films),
        regions=_tensor(regions),
        region_present=_tensor(present),
        film_valid=_tensor(film_valid),
        film_hours=_tensor(film_hours.astype(np.float32)),
        pair_valid=_tensor(pair_valid),
        pair_hours=_tensor(
            np.stack([film_hours[:, :-1], film_hours[:, 1:]], -1).astype(np.float32)
            * pair_valid[..., None]
        ),
        ehr_values=_tensor(
            rng.normal(size=(*ehr_valid.shape, len(EHR_VARIABLES))).astype(np.float32)
            * ehr_valid[..., None]
        ),
        ehr_observed=_tensor(
            (rng.random((*ehr_valid.shape, len(EHR_VARIABLES))) > 0.5) & ehr_valid[..., None]
        ),
        ehr_hours=_tensor(ehr_hours.astype(np.float32)),
        ehr_valid=_tensor(ehr_valid),
        demographics=_tensor(
            rng.normal(size=(n, len(DEMOGRAPHICS) if ehr else 0)).astype(np.float32)
        ),
        targets=targets,
    )


def _images(rng: np.random.Generator, wanted: np.ndarray, size: int) -> np.ndarray:
    """Noise of each image's own brightness; black where not wanted."""
    brightness = rng.integers(32, 224, wanted.shape) * wanted
    return rng.integers(0, brightness[..., None, None] + 1, (*wanted.shape, size, size), np.uint8)


def take(batch: Batch, rows: list[int]) -> Batch:
    """The samples at `rows`, with the films and hours cut to the longest of them."""
    T = int(batch.film_valid[rows].sum(1).max())
    L = int(batch.ehr_valid[rows].sum(1).max())

    def cut(name: str, values: Tensor) -> Tensor:
        values = values[rows]
        if name in FILM_AXIS:
            return values[:, :T]
        if name in PAIR_AXIS or name == "region_progression":
            return values[:, : T - 1]
        return values[:, :L] if name in HOUR_AXIS else values

    return _map(batch, cut)


def without_ehr_of(batch: Batch, row: int) -> Batch:
    """The batch with no hour of EHR left in sample `row`."""
    valid = batch.ehr_valid.clone()
    valid[row] = False
    return replace(batch, ehr_valid=valid)


def _map(batch: Batch, change) -> Batch:  # type: ignore[no-untyped-def]
    values = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "targets"}
    labels = {f.name: getattr(batch.targets, f.name) for f in fields(Targets)}
    return Batch(
        **{name: change(name, value) for name, value in values.items()},
        targets=Targets(**{name: change(name, value) for name, value in labels.items()}),
    )


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values)
