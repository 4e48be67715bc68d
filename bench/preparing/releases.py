"""Which releases of the raw data sets a cohort is made from, told by their files.

MIMIC-IV names its release nowhere inside: the number of ICU stays tells it (as published with each
release), and of a part or a copy of the layout the columns tell the oldest that it can be.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pandas as pd

from bench.preparing.scene_graphs import SceneGraphs
from bench.preparing.selection import RawFolders
from bench.preparing.tables import ADMISSIONS, find_table

ICU_STAYS_OF_RELEASE: Final = {76_943: "2.0", 73_141: "2.1", 73_181: "2.2", 94_458: "3.0 or 3.1"}
"""Rows of icu/icustays -> release of MIMIC-IV."""

SINCE_2_2: Final = "admit_provider_id"
"""A column of hosp/admissions that release 2.2 brought."""

SINCE_CXR_2_1_0: Final = (
    "mimic-cxr-2.1.0-test-set-labeled.csv",
    "mimic-cxr-2.1.0-test-set-labeled.csv.gz",
)
"""What release 2.1.0 of MIMIC-CXR-JPG added; its other tables keep 2.0.0 in their names."""


def releases(raw: RawFolders, graphs: SceneGraphs, n_icu_stays: int) -> dict[str, str]:
    """Release of each data set, or what is known of it; for the manifest.

    `n_icu_stays` is the number of rows of icu/icustays.
    """
    return {
        "mimic_iv": ICU_STAYS_OF_RELEASE.get(n_icu_stays) or _by_columns(raw.mimic_iv),
        "mimic_cxr_jpg": _of_films(raw.mimic_cxr),
        "chest_imagenome": f"1.0.0, graphs in {_packing(graphs.root)}",
    }


def _by_columns(mimic_iv: Path) -> str:
    header = pd.read_csv(find_table(mimic_iv, ADMISSIONS), nrows=0)
    age = "2.2 or later" if SINCE_2_2 in header else "2.0 or 2.1"
    return f"{age} by its columns, not the whole release"


def _of_films(mimic_cxr: Path) -> str:
    is_new = any((mimic_cxr / name).is_file() for name in SINCE_CXR_2_1_0)
    return "2.1.0" if is_new else "2.0.0"


def _packing(root: Path) -> str:
    if root.is_file():
        return "their zip file"
    return "a folder in a folder" if root.parent.name == root.name else "a folder"
