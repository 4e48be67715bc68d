"""A sweep killed at random moments and typed again gives the table of an undisturbed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bench.data.cohort import Cohort
from bench.store import RunFiles
from tables import render
from tests.conftest import ROOT

N_KILLS = 5
LATEST_SECONDS = 4.0


def place(cohort: Cohort, results: Path) -> list[str]:
    place = ["--cohort", str(cohort.path), "--results", str(results), "--seeds", "1"]
    return [*place, *(f"--set=training.{text}" for text in ("max_epochs=6", "patience=99"))]


def sweep(cohort: Cohort, results: Path) -> subprocess.Popen[bytes]:
    words = ["--table", "table2", "--jobs", "2", "--device", "cpu", *place(cohort, results)]
    return subprocess.Popen(
        [sys.executable, "-m", "bench.sweep", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def table(cohort: Cohort, results: Path) -> bytes:
    assert render.main(["table2", "--resamples", "50", *place(cohort, results)]) == 0
    return (results / "tables" / "table2.csv").read_bytes()


def written(results: Path) -> dict[str, int]:
    """When each run's record was written."""
    return {
        path.parent.name: path.stat().st_mtime_ns for path in results.glob("runs/*/record.json")
    }


def kill_at_work(process: subprocess.Popen[bytes], results: Path, seconds: float, group: bool):
    """Kill a sweep some time after a worker of it took up a run; alone, or with its workers."""
    begin = time.time()
    while not any(path.stat().st_mtime > begin for path in results.glob("runs/*/lock")):
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.01)
    time.sleep(seconds)
    assert process.poll() is None, "the sweep ended before it could be killed"
    if group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    # The pipes close when its workers have left, too.
    process.communicate(timeout=300)


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_table(cohort: Cohort, tmp_path: Path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    reference = sweep(cohort, undisturbed)
    reference.communicate()
    assert reference.returncode == 0

    random = np.random.default_rng(0)
    for kill in range(N_KILLS):
        before = written(killed)
        seconds = random.uniform(0, LATEST_SECONDS)
        kill_at_work(sweep(cohort, killed), killed, seconds, group=kill % 2 == 0)
        after = written(killed)
        assert before.items() <= after.items(), "a record was lost or written twice"
    last = sweep(cohort, killed)
    printed = last.communicate()[0].decode()
    assert last.returncode == 0
    assert after.items() <= written(killed).items()
    assert printed.count(": done") == len(written(killed)) - len(after) > 0

    names = sorted(written(undisturbed))
    assert sorted(written(killed)) == sorted(p.name for p in (killed / "runs").iterdir()) == names
    logs = [(killed / "runs" / name / "log.txt").read_text() for name in names]
    assert any("resumed after epoch" in log for log in logs)
    for name in names:
        files, other = (RunFiles(results / "runs" / name) for results in (killed, undisturbed))
        assert files.predictions.read_bytes() == other.predictions.read_bytes()
        assert files.read_record()["history"] == other.read_record()["history"]
    assert not list(killed.rglob("runs/*/.*"))
    assert table(cohort, killed) == table(cohort, undisturbed)
