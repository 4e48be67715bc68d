"""The simulated films as MIMIC-CXR-JPG: JPEG files and the tables that describe them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import joblib
import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from bench.simulating.boxes import Box
from bench.simulating.identifiers import Identifiers
from bench.simulating.images import Kind
from bench.simulating.mimic_iv import write_csv
from bench.simulating.painter import Painter, Sitter
from bench.simulating.parallel import in_parallel
from bench.simulating.population import FILM_SEVERITIES, Population
from bench.simulating.procedural import ProceduralPainter, packed_masks
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
    truth: list[dict[str, float]]


def film_file(root: Path, subject_id: int, study_id: int, dicom_id: str) -> Path:
    """Where MIMIC-CXR-JPG keeps a film."""
    folder = f"p{str(subject_id)[:2]}/p{subject_id}/s{study_id}"
    return root / "files" / folder / f"{dicom_id}.jpg"


def write_films(
    root: Path, population: Population, ids: Identifiers, painter: Painter, jobs: int
) -> tuple[list[dict[str, Box]], dict[str, np.ndarray], pd.DataFrame]:
    """Draw and write every film.

    Returns:
        Boxes by film, masks of some subjects' films (only the procedural painter knows exactly
        where a finding is: others leave none), and what else the painter knows of each film.
    """
    subject = population.stays["subject"].to_numpy()[population.films["stay"]]
    people = population.subjects.to_dict("records")
    order = np.argsort(subject, kind="stable")
    films_of = np.split(order, np.flatnonzero(np.diff(subject[order])) + 1)
    tasks = [
        joblib.delayed(_draw_subject)(
            painter,
            Sitter(population.seed, int(subject[films[0]]), people[subject[films[0]]],
                   population.film_severity[films], population.film_ventilated[films]),
            films.tolist(),
            [film_file(root, ids.subject_id[subject[f]], ids.study_id[f], ids.dicom_id[f])
             for f in films],
            keep_masks=rank < N_MASKED_SUBJECTS,
        )
        for rank, films in enumerate(films_of)
    ]  # fmt: skip
    boxes: list[dict[str, Box]] = [{} for _ in subject]
    masks: dict[str, np.ndarray] = {}
    truth: list[dict[str, float]] = [{} for _ in subject]
    with tqdm(total=len(subject), unit="film", desc="films", disable=None) as bar:
        for drawn in in_parallel(tasks, jobs):
            for film, found, known in zip(drawn.films, drawn.boxes, drawn.truth, strict=True):
                boxes[film], truth[film] = found, known
            masks |= drawn.masks
            bar.update(len(drawn.films))
    return boxes, masks, pd.DataFrame(truth, index=range(len(truth)))


def _draw_subject(
    painter: Painter, sitter: Sitter, films: list[int], files: list[Path], keep_masks: bool
) -> Drawn:
    """Draw and write one subject's films."""
    drawn = painter.paint(sitter)
    masks: dict[str, np.ndarray] = {}
    for film, file in zip(drawn, files, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(film.image).save(file, quality=JPEG_QUALITY)
    if keep_masks and isinstance(painter, ProceduralPainter):
        for row, found in zip(films, packed_masks(painter, sitter, drawn), strict=True):
            masks |= {f"{row}/{name}": mask for name, mask in found.items()}
    return Drawn(films, [film.boxes for film in drawn], masks, [film.truth for film in drawn])


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
