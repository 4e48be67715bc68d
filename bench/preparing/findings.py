"""What the report of each film says is shown: labels that only training may see."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from bench.data.vocabulary import DISEASE_IN_CHEXPERT, DISEASES, FINDING_UNKNOWN
from bench.preparing.tables import CHEXPERT, find_table, read_table, refuse_first

NO_FINDING = "No Finding"
POSITIVE, NEGATIVE, UNCERTAIN = 1.0, 0.0, -1.0


def read_findings(
    mimic_cxr: Path, films: pd.DataFrame, oddities: Counter[str] | None = None
) -> np.ndarray:
    """CheXpert labels of films (rows with study_id), int8 [films, 7].

    1 shown or uncertain, 0 not shown or "no finding", FINDING_UNKNOWN not mentioned, or the study
    has no row (SDPL, its released labelling).

    Raises:
        UserError: the file is missing, or holds another value than 1, 0, -1 or nothing.
    """
    table = read_table(mimic_cxr, CHEXPERT, oddities)
    for column in (*DISEASE_IN_CHEXPERT, NO_FINDING):
        wrong = ~(table[column].isin([POSITIVE, NEGATIVE, UNCERTAIN]) | table[column].isna())
        path = find_table(mimic_cxr, CHEXPERT)
        refuse_first(path, table, column, wrong, "1, 0, -1 or empty")
    of_study = table.set_index("study_id")
    of_film = of_study.reindex(films["study_id"])
    labels = of_film[list(DISEASE_IN_CHEXPERT)].abs().to_numpy(copy=True)
    labels[(of_film[NO_FINDING] == POSITIVE).to_numpy()] = NEGATIVE
    return np.where(np.isnan(labels), FINDING_UNKNOWN, labels).astype(np.int8)


def unknown_findings(n_films: int) -> np.ndarray:
    """Films of which no report speaks, int8 [films, 7]."""
    return np.full((n_films, len(DISEASES)), FINDING_UNKNOWN, dtype=np.int8)
