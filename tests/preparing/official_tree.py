"""A made-up processed_data_dir of the official scripts, and what their data set returns for it."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from bench.data.vocabulary import BOX_REGIONS, DEMOGRAPHICS, DISEASES, EHR_VARIABLES, REGIONS

SPLITS = ("train", "val", "test")
WORDS = ("worsened", "improved", "no change", "not mentioned")
WIDTH, HEIGHT = 90, 110
CROP = 20

STAYS: tuple[tuple[str, int, int, tuple[float, ...]], ...] = (
    ("train", 30, 60, (3.0, 21.25, 46.5)),
    ("train", 33, 30, (0.5, 12.125)),
    ("val", 70, 49, (2.7, 17.3, 55.9)),
    ("test", 90, 21, (20.5, 47.9)),
    ("test", 101, 120, (50.1, 70.0, 101.4)),
    ("test", 130, 75, (64.3, 90.6)),
)
"""Split, length of stay in tenths of a day, EHR hours on file and hours of the films."""


@dataclass
class OfficialTree:
    """The directory's tables, changed at will before they are written.

    progression, icu: per split
    ehr: per stay
    films: grey pixels by dicom_id
    """

    progression: dict[str, pd.DataFrame]
    icu: dict[str, pd.DataFrame]
    ehr: dict[int, pd.DataFrame]
    demographics: pd.DataFrame
    boxes: pd.DataFrame
    metadata: pd.DataFrame
    films: dict[str, np.ndarray] = field(repr=False)

    def write(self, root: Path, flat: bool = False) -> tuple[Path, Path]:
        """Write it below `root`; returns the processed and the film folder."""
        processed, mimic_cxr = root / "processed", root / "mimic-cxr"
        for task in ("disease_progression", "mortality_los"):
            (processed / "split" / task).mkdir(parents=True)
        (processed / "ehr_preprocessed").mkdir()
        mimic_cxr.mkdir()
        for split in SPLITS:
            folder = processed / "split"
            self.progression[split].to_csv(folder / f"disease_progression/{split}.csv", index=False)
            self.icu[split].to_csv(folder / f"mortality_los/{split}.csv", index=False)
        for stay, table in self.ehr.items():
            name = f"ehr_preprocessed/New_episode{stay}_timeseries.csv"
            table.to_csv(processed / name, index=False)
        self.demographics.to_csv(processed / "demographic_processed.csv", index=False)
        self.boxes.to_csv(processed / "cxr_bbox.csv", index=False)
        if not flat:
            self.metadata.to_csv(mimic_cxr / "mimic-cxr-2.0.0-metadata.csv", index=False)
        for dicom_id, pixels in self.films.items():
            path = film_path(mimic_cxr, dicom_id, self.metadata, flat)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, quality=95)
        return processed, mimic_cxr


def film_path(mimic_cxr: Path, dicom_id: str, metadata: pd.DataFrame, flat: bool) -> Path:
    film = metadata[metadata["dicom_id"] == dicom_id].iloc[0]
    subject, study = f"p{film['subject_id']}", f"s{film['study_id']}"
    folder = mimic_cxr if flat else mimic_cxr / "files" / subject[:3] / subject / study
    return folder / f"{dicom_id}.jpg"


def official_tree(seed: int = 0, leaving: bool = False) -> OfficialTree:
    """Six stays of six subjects; `leaving` lets boxes leave their film.

    Some series end before 48 h or with the first film, films lie before and after 48 h, one on a
    whole hour; a stay has no ICU sample and others have no progression sample.
    """
    rng = np.random.default_rng(seed)
    progression: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    icu: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    boxes, metadata, ehr, films = [], [], {}, {}
    for number, (split, los, n_hours, hours) in enumerate(STAYS):
        subject, stay = 10000032 + number, 30000153 + 7 * number
        names = [f"{subject:x}-{film}" for film in range(len(hours))]
        who = {"subject_id": subject, "stay_id": float(stay)}
        labels = [regions(rng) for _ in names[1:]]
        for pair, (first, second) in enumerate(pairwise(names)):
            row: dict[str, Any] = {"study_id": 50000000.0, **who}
            row |= {"cxr1_dicom_id": first, "cxr2_dicom_id": second}
            row |= {"cxr1_time": hours[pair], "cxr2_time": hours[pair + 1], **diseases(rng)}
            row |= {name: str(label) for name, label in labels[pair].items()}
            progression[split].append(row)
        early = [film for film in zip(names, hours, strict=True) if film[1] < 48]
        if len(early) > 1:
            lists = {
                name: str([pair[name] for pair in labels[: len(early) - 1]]) for name in labels[0]
            }
            outcome = {"mortality_inhospital": float(number % 2), "los": los / 10}
            icu[split].append({**who, "cxr_list": str(early), **outcome, **lists})
        for film, name in enumerate(names):
            boxes.append({"cxr_id": name, **film_boxes(rng, leaving)})
            study = {"study_id": 50000000 + 10 * number + film}
            metadata.append({"dicom_id": name, "subject_id": subject, **study})
            films[name] = rng.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
        ehr[stay] = series(rng, n_hours)
    return OfficialTree(
        {split: pd.DataFrame(rows) for split, rows in progression.items()},
        {split: pd.DataFrame(rows) for split, rows in icu.items()},
        ehr,
        demographics(rng, [30000153 + 7 * number for number in range(len(STAYS))]),
        pd.DataFrame(boxes),
        pd.DataFrame(metadata),
        films,
    )


def diseases(rng: np.random.Generator) -> dict[str, str | None]:
    """A label for about half the diseases, always one for the first."""
    words = [WORDS[k] if k < 3 else None for k in rng.integers(0, 6, len(DISEASES))]
    return dict(zip(DISEASES, ["no change", *words[1:]], strict=True))


def regions(rng: np.random.Generator) -> dict[str, dict[str, str]]:
    return {
        f"{region}_progression": {name: WORDS[rng.integers(0, 4)] for name in DISEASES}
        for region in REGIONS
    }


def film_boxes(rng: np.random.Generator, leaving: bool) -> dict[str, str]:
    margin = 30 if leaving else 0
    found = {}
    for region in BOX_REGIONS:
        x1, y1 = rng.integers(-margin, 40, 2) if leaving else rng.integers(0, 40, 2)
        x2, y2 = rng.integers(45, WIDTH + margin), rng.integers(45, HEIGHT + margin)
        is_missing = rng.random() < 0.1
        found[region] = str([0, 0, 0, 0] if is_missing else [int(v) for v in (x1, y1, x2, y2)])
    return found


def series(rng: np.random.Generator, n_hours: int) -> pd.DataFrame:
    columns: dict[str, Any] = {"regular_interval": np.arange(n_hours)}
    for name in EHR_VARIABLES:
        columns[name] = rng.normal(size=n_hours)
        columns[f"{name}_mask"] = rng.integers(0, 2, n_hours)
    return pd.DataFrame(columns)


def demographics(rng: np.random.Generator, stays: list[int]) -> pd.DataFrame:
    columns: dict[str, Any] = {"subject_id": np.arange(len(stays)) + 10000032, "stay_id": stays}
    for name in DEMOGRAPHICS:
        is_number = name in ("age", "height", "weight")
        columns[name] = rng.normal(size=len(stays)) if is_number else rng.integers(0, 2, len(stays))
    return pd.DataFrame(columns)


@dataclass(frozen=True)
class OfficialSample:
    """A sample as the official data set returns it, crops as bytes of one of three channels."""

    ehr: np.ndarray
    crops: np.ndarray
    demographics: np.ndarray
    target: Any
    regions: np.ndarray
    hours: np.ndarray
    intervals: np.ndarray


def official_sample(
    processed: Path, mimic_cxr: Path, task: str, split: str, row: int, flat: bool = False
) -> OfficialSample:
    """What the official data set class does with a row of a split, by its description."""
    is_pair = task == "disease_progression"
    folder = task if is_pair else "mortality_los"
    sample = pd.read_csv(processed / "split" / folder / f"{split}.csv").iloc[row]
    stay = int(sample["stay_id"])
    ehr = pd.read_csv(processed / f"ehr_preprocessed/New_episode{stay}_timeseries.csv")
    interval = ehr["regular_interval"]
    labels = [ast.literal_eval(sample[f"{region}_progression"]) for region in REGIONS]
    if is_pair:
        first, second = sample["cxr1_time"], sample["cxr2_time"]
        ehr = ehr[(interval >= first - 1) & (interval <= second + 1)]
        hours = np.arange(len(ehr)) + int(first)
        films = [(sample["cxr1_dicom_id"], first), (sample["cxr2_dicom_id"], second)]
        by_pair = [labels]
        target: Any = [codes().get(sample[name], 3) for name in DISEASES]
    else:
        ehr, hours = ehr[interval <= 48], np.arange(49)
        films = ast.literal_eval(sample["cxr_list"])
        by_pair = [[of_region[p] for of_region in labels] for p in range(len(films) - 1)]
        bounds = (3, 4, 6)
        target = float(sample["mortality_inhospital"])
        if task == "length_of_stay":
            target = sum(sample["los"] >= bound for bound in bounds)
    static = pd.read_csv(processed / "demographic_processed.csv").set_index("stay_id")
    return OfficialSample(
        ehr=ehr[list(EHR_VARIABLES)].to_numpy(np.float32),
        crops=np.stack([crops(processed, mimic_cxr, name, flat) for name, _ in films]),
        demographics=static.loc[stay, list(DEMOGRAPHICS)].to_numpy(np.float32),
        target=target,
        regions=np.array(
            [[[codes()[of[name]] for name in DISEASES] for of in pair] for pair in by_pair]
        ),
        hours=hours.astype(np.float32),
        intervals=np.array(
            [(films[p][1], films[p + 1][1]) for p in range(len(films) - 1)], np.float32
        ),
    )


def codes() -> dict[str, int]:
    return {word: code for code, word in enumerate(WORDS)}


def crops(processed: Path, mimic_cxr: Path, dicom_id: str, flat: bool) -> np.ndarray:
    """The ten crops of a film, uint8 [10, s, s]: cut with black around it, nearest neighbour."""
    table = pd.read_csv(processed / "cxr_bbox.csv").set_index("cxr_id")
    metadata = mimic_cxr / "mimic-cxr-2.0.0-metadata.csv"
    known = pd.DataFrame({"dicom_id": [dicom_id], "subject_id": 0, "study_id": 0})
    path = film_path(mimic_cxr, dicom_id, known if flat else pd.read_csv(metadata), flat)
    found = []
    with Image.open(path) as image:
        film = image.convert("RGB")
    for region in REGIONS:
        box = ast.literal_eval(str(table.loc[dicom_id, region]))
        if box == [0, 0, 0, 0]:
            found.append(np.zeros((CROP, CROP), np.uint8))
        else:
            cut = film.crop(tuple(box)).resize((CROP, CROP), Image.Resampling.NEAREST)
            found.append(np.asarray(cut)[:, :, 0])
    return np.stack(found)
