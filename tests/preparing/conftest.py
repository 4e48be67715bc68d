"""The open MIMIC-IV demo as a cohort: its stays, with plain films beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.data.cohort import Cohort
from bench.preparing.mimic import Options, prepare_mimic
from bench.preparing.rules import STRICT
from bench.preparing.selection import RawFolders
from tests.preparing.raw_tree import FILM_SHAPE, SIMULATED, SIZES, RawTree

FILM_HOURS = (5.25, 20.5, 40.75)
"""When the films of every stay were taken."""


@pytest.fixture(scope="session")
def open_demo_raw(mimic_iv_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> RawFolders:
    """The demo's tables, and three films for every stay above 48 h."""
    stays = pd.read_csv(mimic_iv_demo / "icu" / "icustays.csv.gz", parse_dates=["intime"])
    tree, noise = RawTree(), np.random.default_rng(0)
    for stay in stays[stays["los"] > 2].itertuples():
        films = []
        for number, hours in enumerate(FILM_HOURS):
            time = stay.intime + pd.Timedelta(hours=hours)
            when = {"StudyDate": time.strftime("%Y%m%d"), "StudyTime": time.strftime("%H%M%S")}
            name = f"film{number}of{stay.stay_id}"
            films.append(tree.add_film(0, 0, name, subject_id=stay.subject_id, **when))
            tree.images[name] = noise.integers(0, 255, FILM_SHAPE, np.uint8)
        tree.compare(films[0], films[1], "improved")
        tree.compare(films[1], films[2], "worsened")
    raw = tree.write(tmp_path_factory.mktemp("open_demo"))
    return replace(raw, mimic_iv=mimic_iv_demo)


@pytest.fixture(scope="session")
def open_demo(open_demo_raw: RawFolders, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """The demo prepared by the strict rules with the official items."""
    out = tmp_path_factory.mktemp("open_demo_cohort") / "cohort"
    return prepare_mimic(open_demo_raw, SIMULATED, out, Options(STRICT, SIZES), lambda line: None)
