"""The folder truth/: what was planted. No method and no preparation may read it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from bench.simulating.identifiers import Identifiers
from bench.simulating.population import FILM_SEVERITIES, Population


def write_truth(
    folder: Path,
    population: Population,
    ids: Identifiers,
    masks: dict[str, np.ndarray],
    film_truth: pd.DataFrame,
) -> None:
    """Write latents, films, pairs, outcomes, parameters and masks.

    stays.csv: stay_id, subject_id, kind, icu_sample, los_days, died, p_death, p_los_0..3
    films.csv: stay_id, dicom_id, hours, the severity of everything the film shows, and what else
        its painter knows
    pairs.csv: dicom ids, labels, region words, contradictions, gold labels, and per disease u, dq
        (true change), m0
    latents.npz: acute, chronic, heart, organs, dose_pulses (float16, order of stays.csv)
    masks.npz: packed bits, 'film row/process', of some subjects
    engine.npz: what parted films from series, if an engine did (order of stays.csv)
    """
    folder.mkdir(parents=True, exist_ok=True)
    course = {name: value.astype(np.float16) for name, value in vars(population.course).items()}
    np.savez_compressed(folder / "latents.npz", **course)  # type: ignore[arg-type]
    np.savez_compressed(folder / "masks.npz", **masks)  # type: ignore[arg-type]
    if population.engine_truth:
        np.savez_compressed(folder / "engine.npz", **population.engine_truth)  # type: ignore[arg-type]
    stays = population.stays
    _write(
        folder / "stays.csv",
        stays.assign(stay_id=ids.stay_id, subject_id=ids.subject_id[stays["subject"]]).drop(
            columns="subject"
        ),
    )
    severity = pd.DataFrame(population.film_severity, columns=list(FILM_SEVERITIES)).round(4)
    stay_of_film = population.films["stay"].to_numpy()
    films = population.films.drop(columns="stay").assign(
        stay_id=ids.stay_id[stay_of_film],
        dicom_id=ids.dicom_id,
        ventilated=population.film_ventilated,
    )
    _write(folder / "films.csv", pd.concat([films, severity, film_truth], axis=1))
    dicom = np.array(ids.dicom_id, dtype=object)
    pairs = population.pairs
    _write(
        folder / "pairs.csv",
        pairs.assign(
            stay_id=ids.stay_id[pairs["stay"]],
            previous=dicom[pairs["film_1"]],
            current=dicom[pairs["film_2"]],
            region_words=[json.dumps(words) for words in population.region_words],
            contradictions=[json.dumps(words) for words in population.contradictions],
            gold=[json.dumps(row.tolist()) for row in population.gold_labels],
        ).drop(columns=["stay", "film_1", "film_2"]),
    )
    (folder / "params.json").write_text(json.dumps(population.parameters, indent=1))


def _write(path: Path, table: pd.DataFrame) -> None:
    table.to_csv(path, index=False, lineterminator="\n")
