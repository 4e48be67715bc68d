"""From a cohort to batches: a task's samples, and how they become padded tensors with masks.

Every method reads the same `Batch`. Ragged axes carry a boolean mask; padded entries are zero and
mean nothing. What a method did not declare, or what the setting withholds, has length zero on its
ragged axis, so that no method can read it by accident.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bench.data.cohort import Cohort
from bench.data.layout import Layout, moved
from bench.data.vocabulary import (
    DEMOGRAPHICS,
    DISEASES,
    EHR_VARIABLES,
    FINDING_UNKNOWN,
    ICU_HORIZON_HOURS,
    N_PROGRESSION_CLASSES,
    NOT_MENTIONED,
    REGIONS,
    Cxr,
    Split,
    Task,
)


@dataclass(frozen=True)
class Inputs:
    """What a method reads; the rest is not even gathered."""

    regions: bool = False
    films: bool = False
    ehr: bool = False
    demographics: bool = False


@dataclass(frozen=True)
class Targets:
    """Labels of a batch; prediction runs without them.

    progression: int64 [B, 7]; worsened 0, improved 1, no change 2, `NOT_MENTIONED` 3
    mortality: float32 [B]; 1 = died in hospital. 0 for pairs.
    length_of_stay: int64 [B]; class 0..3. 0 for pairs.
    region_progression: int64 [B, P, 10, 7]; as progression, per region; padded pairs NOT_MENTIONED
    findings: int64 [B, T, 7]; what each film's own report says is shown (1) or not (0), else
        FINDING_UNKNOWN; padded films FINDING_UNKNOWN
    """

    progression: Tensor
    mortality: Tensor
    length_of_stay: Tensor
    region_progression: Tensor
    findings: Tensor


@dataclass(frozen=True)
class Batch:
    """B samples (ICU stays or film pairs), T films, P = max(T - 1, 0) consecutive pairs, L hours.

    films: uint8 [B, T, S, S]; whole films, grey, 0..255, oldest first
    regions: uint8 [B, T, 10, s, s]; region crops, order of `REGIONS`; zero where absent
    region_present: bool [B, T, 10]; the film has a box for the region
    film_valid: bool [B, T]; a prefix of True per sample
    film_hours: float32 [B, T]; hours since ICU admission
    pair_valid: bool [B, P]; both films of the pair are valid
    pair_hours: float32 [B, P, 2]; hours of the pair's first and second film
    ehr_values: float32 [B, L, 38]; hourly, carried forward, z-scored with training statistics
    ehr_observed: bool [B, L, 38]; a value was charted in that hour
    ehr_hours: float32 [B, L]; start of the hour, in hours since ICU admission
    ehr_valid: bool [B, L]; a prefix of True per sample
    demographics: float32 [B, 17] (or [B, 0] if withheld); z-scored and one-hot
    targets: the labels, or None in prediction
    """

    films: Tensor
    regions: Tensor
    region_present: Tensor
    film_valid: Tensor
    film_hours: Tensor
    pair_valid: Tensor
    pair_hours: Tensor
    ehr_values: Tensor
    ehr_observed: Tensor
    ehr_hours: Tensor
    ehr_valid: Tensor
    demographics: Tensor
    targets: Targets | None = None

    def __len__(self) -> int:
        return len(self.film_valid)

    @cached_property
    def layout(self) -> Layout:
        """Where the masks are True; found once, and anew in a batch with other masks."""
        return Layout.of(self)

    def without_targets(self) -> Batch:
        """The same inputs without labels."""
        return replace(self, targets=None)._laid_out(self.layout)

    def to(self, device: torch.device | str) -> Batch:
        """Move every tensor; the layout is found before."""

        def move(part: Batch | Targets) -> dict[str, object]:
            values = {f.name: getattr(part, f.name) for f in fields(part)}
            return {
                name: moved(value, device) if isinstance(value, Tensor) else value
                for name, value in values.items()
            }

        inputs = move(self)
        if self.targets is not None:
            inputs["targets"] = Targets(**move(self.targets))  # type: ignore[arg-type]
        return Batch(**inputs)._laid_out(self.layout.to(device))  # type: ignore[arg-type]

    def _laid_out(self, layout: Layout) -> Batch:
        """Take over a layout that is known already."""
        vars(self)["layout"] = layout
        return self


class Samples:
    """The samples of one task in one setting, as index arrays into a cohort.

    A sample is a row of `cohort.stays` (ICU tasks: two or more films in the first 48 h) or of
    `cohort.pairs` (progression: at least one disease labelled). Rows keep the cohort's order.
    `drop_ehr` hides the hours of that share of the training samples (not their demographics), the
    same ones for every method; those of a smaller share are among those of a larger one.

    Attributes:
        rows: int64 [N]; row in `cohort.stays` or `cohort.pairs`
        split: str [N]
        subject: int64 [N]; row in `cohort.subjects`, the unit of every resampling
        keys, subject_keys: str [N]; keyed hashes, what run records store
        resident: images that lie on a device, see `bench.data.loading`; batches take them there
    """

    def __init__(
        self,
        cohort: Cohort,
        task: Task,
        cxr: Cxr,
        inputs: Inputs,
        drop_ehr: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.cohort, self.task, self.cxr, self.inputs = cohort, task, cxr, inputs
        self.resident: dict[str, Tensor] = {}
        self.rows = _sample_rows(cohort, task)
        table = (cohort.stays if task.is_icu else cohort.pairs).iloc[self.rows]
        self._stay = self.rows if task.is_icu else table["stay"].to_numpy(np.int64)
        self.subject = cohort.stays["subject"].to_numpy(np.int64)[self._stay]
        self.split = cohort.subjects["split"].to_numpy()[self.subject]
        self.keys = table["stay_key" if task.is_icu else "pair_key"].to_numpy()
        self.subject_keys = cohort.subjects["subject_key"].to_numpy()[self.subject]

        self._film = _films_of_samples(cohort, task, cxr, table)
        self._pair = _pairs_of_films(cohort.pairs, self._film)
        self._film_hours = cohort.films["hours"].to_numpy(np.float32)
        self._offset = table["ehr_offset"].to_numpy(np.int64)
        self._n_hours = table["n_hours"].to_numpy(np.int64).copy()
        training = np.random.default_rng(seed).permutation(self.indices(Split.TRAIN))
        self._n_hours[training[: round(drop_ehr * len(training))]] = 0
        if not task.is_icu:
            self._first_hour = table["first_hour"].to_numpy(np.int64)
        else:
            self._first_hour = np.zeros(len(self.rows), dtype=np.int64)
        self._labels = _labels(cohort, task, table)

        norm = cohort.normalisation
        scaled = (cohort.arrays["demographics"] - norm.demographics_mean) / norm.demographics_sd
        filled = np.where(np.isnan(scaled), norm.demographics_fill, scaled)
        self._demographics = filled.astype(np.float32)
        self._ehr_mean = norm.ehr_mean.astype(np.float32)
        self._ehr_sd = norm.ehr_sd.astype(np.float32)

    def __len__(self) -> int:
        return len(self.rows)

    def indices(self, split: Split) -> np.ndarray:
        """Positions of a split's samples, int64."""
        return np.flatnonzero(self.split == split)

    def labels(self) -> dict[str, np.ndarray]:
        """Labels of every sample: progression [N, 7], mortality [N], length_of_stay [N]."""
        return self._labels

    def batch(self, positions: np.ndarray) -> Batch:
        """Gather the samples at `positions` (int64 [B]), with their targets.

        All tensors are on the CPU, but for images that are `resident` elsewhere.
        """
        film, film_valid = _trim(self._film[positions])
        pair = self._pair[positions][:, : max(film.shape[1] - 1, 0)]
        pair_valid = film_valid[:, 1:] & film_valid[:, :-1]
        film_hours = np.where(film_valid, self._film_hours[film], 0.0).astype(np.float32)
        ehr = self._gather_ehr(positions)
        return Batch(
            films=self._gather_images("films", film, film_valid, self.inputs.films),
            regions=self._gather_images("regions", film, film_valid, self.inputs.regions),
            region_present=torch.from_numpy(
                self.cohort.arrays["region_present"][film] & film_valid[..., None]
            ),
            film_valid=torch.from_numpy(film_valid),
            film_hours=torch.from_numpy(film_hours),
            pair_valid=torch.from_numpy(pair_valid),
            pair_hours=torch.from_numpy(
                np.stack([film_hours[:, :-1], film_hours[:, 1:]], -1) * pair_valid[..., None]
            ),
            **ehr,
            demographics=self._gather_demographics(positions),
            targets=self._gather_targets(positions, film, film_valid, pair, pair_valid),
        )

    def _gather_images(
        self, name: str, film: np.ndarray, film_valid: np.ndarray, wanted: bool
    ) -> Tensor:
        images = self.cohort.arrays[name]
        if not wanted:
            return torch.zeros((*film.shape, *(0 for _ in images.shape[1:])), dtype=torch.uint8)
        if name in self.resident:
            return _gather_resident(self.resident[name], film, film_valid)
        gathered = np.zeros((*film.shape, *images.shape[1:]), dtype=np.uint8)
        gathered[film_valid] = images[film[film_valid]]
        return torch.from_numpy(gathered)

    def _gather_ehr(self, positions: np.ndarray) -> dict[str, Tensor]:
        n_hours = self._n_hours[positions] * self.inputs.ehr
        length = int(n_hours.max(initial=0))
        step = np.arange(length)
        valid = step < n_hours[:, None]
        row = self._offset[positions][:, None] + step
        values = np.zeros((*valid.shape, len(EHR_VARIABLES)), dtype=np.float32)
        observed = np.zeros(values.shape, dtype=bool)
        raw = self.cohort.arrays["ehr_values"][row[valid]]
        values[valid] = (raw - self._ehr_mean) / self._ehr_sd
        observed[valid] = self.cohort.arrays["ehr_observed"][row[valid]]
        hours = (self._first_hour[positions][:, None] + step) * valid
        return {
            "ehr_values": torch.from_numpy(values),
            "ehr_observed": torch.from_numpy(observed),
            "ehr_hours": torch.from_numpy(hours.astype(np.float32)),
            "ehr_valid": torch.from_numpy(valid),
        }

    def _gather_demographics(self, positions: np.ndarray) -> Tensor:
        width = len(DEMOGRAPHICS) if self.inputs.demographics else 0
        return torch.from_numpy(self._demographics[self._stay[positions], :width])

    def _gather_targets(
        self,
        positions: np.ndarray,
        film: np.ndarray,
        film_valid: np.ndarray,
        pair: np.ndarray,
        pair_valid: np.ndarray,
    ) -> Targets:
        region = np.full((*pair.shape, len(REGIONS), len(DISEASES)), NOT_MENTIONED, dtype=np.int64)
        labelled = pair_valid & (pair >= 0)
        region[labelled] = self.cohort.arrays["region_progression"][pair[labelled]]
        findings = np.full((*film.shape, len(DISEASES)), FINDING_UNKNOWN, dtype=np.int64)
        findings[film_valid] = self.cohort.arrays["findings"][film[film_valid]]
        labels = {
            name: torch.from_numpy(values[positions]) for name, values in self._labels.items()
        }
        return Targets(
            **labels,
            region_progression=torch.from_numpy(region),
            findings=torch.from_numpy(findings),
        )


def _sample_rows(cohort: Cohort, task: Task) -> np.ndarray:
    if task.is_icu:
        return np.flatnonzero(cohort.stays["icu_sample"].to_numpy())
    labels = cohort.pairs[list(DISEASES)].to_numpy()
    return np.flatnonzero((labels != NOT_MENTIONED).any(axis=1))


def _films_of_samples(cohort: Cohort, task: Task, cxr: Cxr, table: pd.DataFrame) -> np.ndarray:
    """Film rows of each sample, oldest first, int64 [N, T]; -1 pads."""
    if cxr is Cxr.NONE:
        return np.zeros((len(table), 0), dtype=np.int64)
    if not task.is_icu:
        return table[["film_1", "film_2"]].to_numpy(np.int64)
    early = cohort.films[cohort.films["hours"] < ICU_HORIZON_HOURS].sort_values(["stay", "hours"])
    by_stay = {stay: rows.to_numpy() for stay, rows in early.groupby("stay").groups.items()}
    newest = -1 if cxr is Cxr.LAST else 0
    lists = [by_stay[stay][newest:] for stay in table.index]
    films = np.full((len(lists), max(map(len, lists), default=0)), -1, dtype=np.int64)
    for i, rows in enumerate(lists):
        films[i, : len(rows)] = rows
    return films


def _pairs_of_films(pairs: pd.DataFrame, film: np.ndarray) -> np.ndarray:
    """Row in `cohort.pairs` of each two neighbours in `film`, int64 [N, P]; -1 if none."""
    row_of = {
        (first, second): row
        for row, (first, second) in enumerate(zip(pairs["film_1"], pairs["film_2"], strict=True))
    }
    neighbours = zip(film[:, :-1].ravel(), film[:, 1:].ravel(), strict=True)
    rows = np.array([row_of.get(pair, -1) for pair in neighbours], dtype=np.int64)
    return rows.reshape(len(film), max(film.shape[1] - 1, 0))


def _labels(cohort: Cohort, task: Task, table: pd.DataFrame) -> dict[str, np.ndarray]:
    n = len(table)
    if task.is_icu:
        return {
            "progression": np.full((n, len(DISEASES)), NOT_MENTIONED, dtype=np.int64),
            "mortality": table["mortality"].to_numpy(np.float32),
            "length_of_stay": table["length_of_stay"].to_numpy(np.int64),
        }
    return {
        "progression": table[list(DISEASES)].to_numpy(np.int64),
        "mortality": np.zeros(n, dtype=np.float32),
        "length_of_stay": np.zeros(n, dtype=np.int64),
    }


def _gather_resident(images: Tensor, film: np.ndarray, film_valid: np.ndarray) -> Tensor:
    """Films' images, uint8 [B, T, ...], from where they lie; the last of them is padding's."""
    row = torch.from_numpy(np.where(film_valid, film, len(images) - 1)).flatten()
    gathered = images.index_select(0, moved(row, images.device))
    return gathered.view(*film.shape, *images.shape[1:])


def _trim(film: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut the film axis to the longest sample; return rows (0 where padded) and the mask."""
    valid = film >= 0
    longest = int(valid.sum(axis=1).max(initial=0))
    return np.where(valid, film, 0)[:, :longest], valid[:, :longest]


def progression_class_weights(cohort: Cohort) -> np.ndarray:
    """Class weights n / (3 n_c) per disease from the training pairs' labels, float32 [7, 3].

    Source: paper section 3.1, ledger T6. A class that training never shows gets weight 0.
    """
    training = cohort.split_of_stays()[cohort.pairs["stay"].to_numpy()] == Split.TRAIN
    labels = cohort.pairs.loc[training, list(DISEASES)].to_numpy()
    counts = np.stack([(labels == c).sum(axis=0) for c in range(N_PROGRESSION_CLASSES)], axis=1)
    total = counts.sum(axis=1, keepdims=True)
    weights = total / (N_PROGRESSION_CLASSES * np.maximum(counts, 1)) * (counts > 0)
    return weights.astype(np.float32)
