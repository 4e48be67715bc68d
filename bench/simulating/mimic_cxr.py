"""The simulated films as MIMIC-CXR-JPG: JPEG files and the tables that describe them."""

from __future__ import annotations

import shutil
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import joblib
import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from bench.simulating.anatomy import draw_anatomy
from bench.simulating.boxes import Box
from bench.simulating.film import finding_masks, render_film
from bench.simulating.identifiers import Identifiers
from bench.simulating.images import Kind
from bench.simulating.mimic_iv import write_csv
from bench.simulating.population import FILM_SEVERITIES, Population
from bench.simulating.streams import Tag, stream

JPEG_QUALITY: Final = 90
N_MASKED_SUBJECTS: Final = 20
"""Subjects whose exact finding masks are kept in the truth."""

CHEXPERT: Final = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum",
    "Fracture", "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other",
    "Pneumonia", "Pneumothorax", "Support Devices",
)  # fmt: skip
CHEXPERT_PROCESS: Final = {
    "Atelectasis": "atelectasis",
    "Cardiomegaly": "heart",
    "Consolidation": "consolidation",
    "Edema": "edema",
    "Lung Opacity": "opacity",
    "Pleural Effusion": "effusion",
    "Pneumonia": "pneumonia",
}


@dataclass(frozen=True)
class Drawn:
    """What rendering a subject's films leaves besides the files."""

    films: list[int]
    boxes: list[dict[str, Box]]
    masks: dict[str, np.ndarray]


def film_file(root: Path, subject_id: int, study_id: int, dicom_id: str) -> Path:
    """Where MIMIC-CXR-JPG keeps a film."""
    folder = f"p{str(subject_id)[:2]}/p{subject_id}/s{study_id}"
    return root / "files" / folder / f"{dicom_id}.jpg"


def write_films(
    root: Path, population: Population, ids: Identifiers, size: int, nuisance: float, jobs: int
) -> tuple[list[dict[str, Box]], dict[str, np.ndarray]]:
    """Render and write every film; return the boxes by film and masks of some subjects' films."""
    subject = population.stays["subject"].to_numpy()[population.films["stay"]]
    people = population.subjects.to_dict("records")
    order = np.argsort(subject, kind="stable")
    films_of = np.split(order, np.flatnonzero(np.diff(subject[order])) + 1)
    tasks = [
        joblib.delayed(_draw_subject)(
            population.seed, int(subject[films[0]]), people[subject[films[0]]], films.tolist(),
            population.film_severity[films], population.film_ventilated[films],
            [film_file(root, ids.subject_id[subject[f]], ids.study_id[f], ids.dicom_id[f])
             for f in films],
            size, nuisance, keep_masks=rank < N_MASKED_SUBJECTS,
        )
        for rank, films in enumerate(films_of)
    ]  # fmt: skip
    boxes: list[dict[str, Box]] = [{} for _ in subject]
    masks: dict[str, np.ndarray] = {}
    with tqdm(total=len(subject), unit="film", desc="films", disable=None) as bar:
        for drawn in joblib.Parallel(n_jobs=jobs, return_as="generator")(tasks):
            for film, found in zip(drawn.films, drawn.boxes, strict=True):
                boxes[film] = found
            masks |= drawn.masks
            bar.update(len(drawn.films))
    return boxes, masks


def _draw_subject(
    seed: int,
    subject: int,
    person: dict[Hashable, Any],
    films: list[int],
    severity: np.ndarray,
    ventilated: np.ndarray,
    files: list[Path],
    size: int,
    nuisance: float,
    keep_masks: bool,
) -> Drawn:
    """Draw one subject's anatomy once and all its films."""
    anatomy = draw_anatomy(
        stream(seed, Tag.ANATOMY, subject),
        sex=person["sex"], age=person["age"], bmi=person["bmi"], size=size,
    )  # fmt: skip
    boxes: list[dict[str, Box]] = []
    masks: dict[str, np.ndarray] = {}
    for k, film in enumerate(films):
        rng = stream(seed, Tag.FILM, subject, k)
        drawn = render_film(anatomy, severity[k], bool(ventilated[k]), rng, nuisance=nuisance)
        files[k].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.image).save(files[k], quality=JPEG_QUALITY)
        boxes.append(drawn.boxes)
        if keep_masks:
            found = finding_masks(anatomy, severity[k])
            for name, mask in found.items():
                on_film = drawn.view.resample(mask.astype(np.float32)) > 0.5
                masks[f"{film}/{name}"] = np.packbits(on_film)
    return Drawn(films, boxes, masks)


def write_tables(
    root: Path, population: Population, images: pd.DataFrame, size: int, gzip: bool
) -> None:
    """Write metadata, chexpert and split of all `images` (`draw_images`), films or not.

    Images that are no films of the population get a copy of their film's file.
    """
    files = [
        film_file(root, *ids)
        for ids in zip(images["subject_id"], images["study_id"], images["dicom_id"], strict=True)
    ]
    # The films come first, in their order.
    for row in np.flatnonzero(images["kind"] != Kind.FILM):
        files[row].parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(files[images["film"].iloc[row]], files[row])
    images = images.sort_values(["subject_id", "study_id", "dicom_id"], ignore_index=True)
    names = {
        "metadata": _metadata(images, size),
        "chexpert": _chexpert(population, images),
        "split": _split(population.seed, images),
    }
    for name, table in names.items():
        write_csv(root / f"mimic-cxr-2.0.0-{name}.csv", table, gzip)


PROCEDURE: Final = {"AP": "CHEST (PORTABLE AP)"}
VIEW: Final = {"AP": "antero-posterior", "PA": "postero-anterior", "LATERAL": "lateral"}


def _metadata(images: pd.DataFrame, size: int) -> pd.DataFrame:
    date = images["taken"].dt
    procedure = images["view"].map(PROCEDURE).fillna("CHEST (PA AND LAT)")
    # Portable films are mostly taken of patients in bed; one in ten says nothing.
    posture = np.array(["Recumbent"] * 4 + ["Erect"] * 5 + [None])[images["study_id"] % 10]
    return pd.DataFrame(
        {
            "dicom_id": images["dicom_id"],
            "subject_id": images["subject_id"],
            "study_id": images["study_id"],
            "PerformedProcedureStepDescription": procedure,
            "ViewPosition": images["view"],
            "Rows": size,
            "Columns": size,
            "StudyDate": date.year * 10_000 + date.month * 100 + date.day,
            "StudyTime": _clock(images),
            "ProcedureCodeSequence_CodeMeaning": procedure,
            "ViewCodeSequence_CodeMeaning": images["view"].map(VIEW),
            "PatientOrientationCodeSequence_CodeMeaning": np.where(
                images["view"] == "AP", posture, "Erect"
            ),
        }
    )


def _clock(images: pd.DataFrame) -> np.ndarray:
    """HHMMSS.fff as a number, float64 [images]: leading zeros are lost, as in the real table.

    The images of a study share it, so the fraction comes from the study's id.
    """
    date, study = images["taken"].dt, images["study_id"].to_numpy()
    whole = date.hour * 10_000 + date.minute * 100 + date.second
    clock = whole.to_numpy() + study % 1000 / 1000
    # Some real times carry the noise of floats: 213014.53100000002.
    return np.where(study % 7 == 0, np.nextafter(clock, np.inf), clock)


POSITIVE, UNCERTAIN, NEGATIVE = 0.6, 0.35, 0.02
"""Severities from which a finding is positive or uncertain, and below which it is negative."""


def _chexpert(population: Population, images: pd.DataFrame) -> pd.DataFrame:
    """Labels per study from what its film shows; blank where the report says nothing."""
    studies = images.drop_duplicates("study_id")
    severity = population.film_severity[studies["film"]]
    labels = pd.DataFrame(np.nan, index=studies.index, columns=list(CHEXPERT))
    for label, process in CHEXPERT_PROCESS.items():
        shown = severity[:, [name.startswith(process) for name in FILM_SEVERITIES]].sum(axis=1)
        labels[label] = np.select(
            [shown > POSITIVE, shown > UNCERTAIN, shown < NEGATIVE], [1.0, -1.0, 0.0], np.nan
        )
    found = labels.isin([1.0, -1.0]).any(axis=1)
    ventilated = population.film_ventilated[studies["film"]]
    labels["No Finding"] = np.where(found, np.nan, 1.0)
    labels["Support Devices"] = np.where(ventilated, 1.0, np.nan)
    return pd.concat([studies[["subject_id", "study_id"]], labels], axis=1)


SPLIT_SHARES: Final = {"train": 0.978, "validate": 0.008, "test": 0.014}
"""Of the real table."""


def _split(seed: int, images: pd.DataFrame) -> pd.DataFrame:
    subjects, subject = np.unique(images["subject_id"], return_inverse=True)
    rng = stream(seed, Tag.WRITING, 5)
    drawn = rng.choice(list(SPLIT_SHARES), size=len(subjects), p=list(SPLIT_SHARES.values()))
    return images[["dicom_id", "study_id", "subject_id"]].assign(split=drawn[subject])
