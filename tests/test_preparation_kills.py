"""A preparation killed at any moment and typed again gives the cohort of an undisturbed one."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bench import prepare as command
from bench.data.cohort import Cohort
from bench.errors import UserError
from bench.preparing.workplace import PARTIAL, folder_beside
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


def started(words: list[str], out: Path, stage: str) -> subprocess.Popen[bytes]:
    """A process that has come to a stage: its file is there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.prepare", *words, "--out", str(out)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not found(out, stage) and not out.exists():
        assert process.poll() is None
        time.sleep(0.001)
    return process


def wait_and_kill(words: list[str], out: Path, stage: str, seconds: float = 0) -> bool:
    """Kill a process some time after it came to a stage; was it still at work?"""
    process = started(words, out, stage)
    time.sleep(seconds)
    process.kill()
    process.wait()
    return not out.exists()


def found(out: Path, stage: str) -> list[Path]:
    """The files of a stage, if it is finished."""
    files = folder_beside(out).glob(f"{stage}*")
    return [file for file in files if file.suffix != PARTIAL]


def test_killed_in_two_stages_it_gives_the_same_cohort(words: list[str], tmp_path: Path):
    reference = prepared(words, tmp_path / "undisturbed")
    out = tmp_path / "killed" / "cohort"
    for stage in ("chartevents-", "films/journal"):
        for _ in range(5):
            if wait_and_kill(words, out, stage):
                break
            shutil.rmtree(out)
        assert found(out, "chartevents-"), "the preparation ended each time before it was killed"
    assert prepared(words, out) == reference
    assert [path.name for path in out.parent.iterdir()] == ["cohort"]


@pytest.mark.slow
def test_killed_at_random_moments_it_gives_the_same_cohort(words: list[str], tmp_path: Path):
    undisturbed = started(words, tmp_path / "undisturbed", "lock")
    begin = time.perf_counter()
    assert undisturbed.wait() == 0
    seconds = time.perf_counter() - begin
    reference = Cohort.open(tmp_path / "undisturbed").content_hash
    draw = np.random.default_rng(0)
    n_cut = n_taken_over = n_tried = 0
    while n_cut < N_KILLS:
        out = tmp_path / f"killed-{n_tried}" / "cohort"
        n_tried += 1
        moment = draw.uniform(0, seconds)
        if wait_and_kill(words, out, "lock", moment):
            n_cut += 1
            n_taken_over += bool(found(out, "chartevents-"))
            assert prepared(words, out) == reference
            # Other programs come and go, and so does the time that it takes.
            seconds *= 1.2
        else:
            # It was done; typed again, the command refuses and tidies up.
            with pytest.raises(UserError, match="exists"):
                prepared(words, out)
            assert Cohort.open(out).content_hash == reference
            seconds = moment
        assert [path.name for path in out.parent.iterdir()] == ["cohort"]
    print(f"{n_tried} processes, {N_KILLS} killed at work, {n_taken_over} with a finished stage")
    assert n_taken_over
