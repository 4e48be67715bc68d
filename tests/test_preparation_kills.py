"""A preparation killed at any moment and typed again gives the cohort of an undisturbed one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bench import prepare as command
from bench.data.cohort import Cohort
from bench.errors import UserError
from bench.preparing.workplace import folder_beside
from tests.conftest import ROOT
from tests.preparing.raw_tree import METADATA, RawTree, plain_tree

N_KILLS = 20
FILM_SIDE = 600
SMALL = ["--film-size", "64", "--region-size", "32", "--simulated", "--jobs", "2"]


def tree() -> RawTree:
    """Films of some size, so that there is time to be killed."""
    made = plain_tree(12)
    noise = np.random.default_rng(0)
    for row in made.rows[METADATA]:
        row["Rows"] = row["Columns"] = FILM_SIDE
        pixels = noise.integers(0, 255, (FILM_SIDE, FILM_SIDE), dtype=np.uint8)
        made.images[row["dicom_id"]] = pixels
    return made


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    raw = tree().write(tmp_path_factory.mktemp("raw"))
    roots = {"mimic-iv": raw.mimic_iv, "mimic-cxr": raw.mimic_cxr, "imagenome": raw.imagenome}
    return ["mimic", *(f"--{name}={folder}" for name, folder in roots.items()), *SMALL]


def prepared(words: list[str], out: Path) -> str:
    """The hash of the cohort, made in this process."""
    assert command.main([*words, "--out", str(out)]) == 0
    return Cohort.open(out).content_hash


def wait_and_kill(words: list[str], out: Path, stage: str, seconds: float = 0) -> bool:
    """Start a process, kill it some time after a stage's file is there; was it still at work?"""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.prepare", *words, "--out", str(out)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not any(found(out, stage)) and not out.exists():
        assert process.poll() is None
        time.sleep(0.001)
    time.sleep(seconds)
    process.kill()
    process.wait()
    return not out.exists()


def found(out: Path, stage: str) -> Iterator[Path]:
    # A finished stage ends with its key, not with .partial.
    return folder_beside(out).glob(f"{stage}*[!l]")


def test_killed_in_two_stages_it_gives_the_same_cohort(words: list[str], tmp_path: Path):
    reference = prepared(words, tmp_path / "undisturbed")
    out = tmp_path / "killed" / "cohort"
    for stage in ("chartevents-", "films/journal"):
        assert wait_and_kill(words, out, stage), "the preparation ended before it was killed"
        assert any(found(out, "chartevents-"))
    assert prepared(words, out) == reference
    assert [path.name for path in out.parent.iterdir()] == ["cohort"]


@pytest.mark.slow
def test_killed_at_random_moments_it_gives_the_same_cohort(words: list[str], tmp_path: Path):
    begin = time.perf_counter()
    reference = prepared(words, tmp_path / "undisturbed")
    seconds = time.perf_counter() - begin
    n_cut = n_taken_over = 0
    for kill, moment in enumerate(np.random.default_rng(0).uniform(0, seconds, N_KILLS)):
        out = tmp_path / f"killed-{kill}" / "cohort"
        if wait_and_kill(words, out, "lock", moment):
            n_cut += 1
            n_taken_over += any(found(out, "chartevents-"))
            assert prepared(words, out) == reference
        else:
            # It was done; typed again, the command refuses and tidies up.
            with pytest.raises(UserError, match="exists"):
                prepared(words, out)
            assert Cohort.open(out).content_hash == reference
        assert [path.name for path in out.parent.iterdir()] == ["cohort"]
    print(f"{n_cut} of {N_KILLS} killed at work, {n_taken_over} with a finished stage")
    assert n_cut and n_taken_over
