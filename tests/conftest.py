"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# One thread: tests run side by side, and numbers must not depend on the core count.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from bench.data.cohort import Cohort
from bench.data.miniature import miniature_cohort

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """A tiny valid cohort on disk."""
    return miniature_cohort(tmp_path_factory.mktemp("miniature") / "cohort")


@pytest.fixture(scope="session")
def mimic_iv_demo() -> Path:
    """The open MIMIC-IV demo, if it is at hand."""
    folder = Path(os.environ.get("MIMIC_IV_DEMO", ROOT / "../shared/data/mimic-iv-demo"))
    if not (folder / "icu").is_dir():
        pytest.skip("set MIMIC_IV_DEMO to the open MIMIC-IV demo (PhysioNet) to run this test")
    return folder.resolve()


@pytest.fixture(scope="session")
def real_cxr() -> Path:
    """Open real radiographs, if they are at hand."""
    folder = Path(os.environ.get("REAL_CXR", ROOT / "../shared/data/real_cxr"))
    if not folder.is_dir():
        pytest.skip("set REAL_CXR to a folder of open chest films to run this test")
    return folder.resolve()
