"""Sweeps on a Dask cluster: two workers of this machine, one of which is killed at work."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench import cluster, sweep
from bench.backends import Outcome, run_all
from bench.config import Request
from bench.data.batch import Batch
from bench.data.cohort import Cohort
from bench.data.vocabulary import Cxr, Task
from bench.errors import UserError
from bench.plan import PlannedRun, make_plan
from bench.store import RunBusyError, RunFiles, Store
from methods.baselines.ehr_transformer import EhrTransformer

TINY = (("model.d_model", "16"), ("training.max_epochs", "12"), ("training.patience", "99"))
BAD_SEED = 29


class Deadly(EhrTransformer):
    """Kills every process that works on it."""

    def forward(self, batch: Batch, with_attention: bool = False):
        os.kill(os.getpid(), signal.SIGKILL)


class Spoiling(EhrTransformer):
    """The run with `BAD_SEED` spoils its process: that one and all after it fail there."""

    is_process_spoilt = False

    def forward(self, batch: Batch, with_attention: bool = False):
        if torch.initial_seed() == BAD_SEED:
            Spoiling.is_process_spoilt = True
        if Spoiling.is_process_spoilt:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return super().forward(batch, with_attention)


@pytest.fixture(scope="module")
def local_cluster() -> Iterator:
    distributed = pytest.importorskip("distributed", reason="needs pip install -e '.[dask]'")
    import dask

    with (
        # On a busy machine a new worker process takes longer than a cluster waits for it (15 s).
        dask.config.set(
            {
                "distributed.scheduler.allowed-failures": 1,
                "distributed.deploy.lost-worker-timeout": "1 hour",
            }
        ),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs="ERROR"
        ) as running,
    ):
        yield running


@pytest.fixture
def client(local_cluster) -> Iterator:
    with cluster.connect(local_cluster.scheduler_address) as connected:
        connected.wait_for_workers(2)
        yield connected


def planned(cohort: Cohort, results: Path, seeds: list[int], method="ehr_transformer") -> list:
    requests = [Request(method, Task.MORTALITY, Cxr.NONE, seed, overrides=TINY) for seed in seeds]
    return list(make_plan("cluster", requests, cohort, Store(results)).runs)


def outcomes(client, runs: list[PlannedRun], cohort: Cohort) -> dict[str, Outcome]:
    found = list(cluster.run_on_cluster(client, runs, cohort.path, device="cpu", threads=1))
    assert sorted(o.run_id for o in found) == sorted(run.run_id for run in runs)
    return {outcome.run_id: outcome for outcome in found}


def kill_a_worker_at_work(client, results: Path, pids: list[int]) -> None:
    """Kill the process that holds a run with a finished epoch and others to come."""
    workers = set(client.run(os.getpid).values())
    while True:
        time.sleep(0.005)
        for checkpoint in results.glob("runs/*/checkpoint.pt"):
            run = RunFiles(checkpoint.parent)
            pid = int(owner.split()[1]) if (owner := read(checkpoint.parent / "lock")) else 0
            if pid not in workers:
                continue
            # Stopped, it cannot finish the run between the look and the kill.
            os.kill(pid, signal.SIGSTOP)
            if checkpoint.exists() and not run.record.exists():
                os.kill(pid, signal.SIGKILL)
                pids.append(pid)
                return
            os.kill(pid, signal.SIGCONT)


def read(file: Path) -> str:
    """Its text, empty where it has just been removed."""
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""


def test_a_killed_worker_loses_no_run_and_changes_no_number(client, cohort: Cohort, tmp_path: Path):
    here, there = tmp_path / "here", tmp_path / "there"
    assert not any(
        o.error
        for o in run_all(
            planned(cohort, here, [1, 2, 3, 4]), cohort.path, device="cpu", threads=1, jobs=1
        )
    )
    killed: list[int] = []
    killer = threading.Thread(
        target=kill_a_worker_at_work, args=(client, there, killed), daemon=True
    )
    killer.start()
    runs = planned(cohort, there, [1, 2, 3, 4])
    assert not any(o.error for o in outcomes(client, runs, cohort).values())
    killer.join(timeout=10)
    assert killed
    assert any("resumed after epoch" in run.files.log.read_text() for run in runs)
    for run in runs:
        reference = RunFiles(here / "runs" / run.run_id)
        assert run.files.predictions.read_bytes() == reference.predictions.read_bytes()
        assert run.files.read_record()["history"] == reference.read_record()["history"]
    assert not list(there.rglob("runs/*/.*"))


@pytest.mark.slow
def test_a_run_that_kills_its_workers_fails_and_the_others_go_on(
    client, cohort: Cohort, tmp_path: Path
):
    (bad,) = planned(cohort, tmp_path, [1], f"{__name__}:Deadly")
    good = planned(cohort, tmp_path, [2, 3])
    found = outcomes(client, [bad, *good], cohort)
    assert "lost by the cluster: KilledWorker" in (found[bad.run_id].error or "")
    assert [found[run.run_id].error for run in good] == [None, None]
    assert not bad.files.record.exists()


def test_a_cuda_error_costs_one_run_only(client, cohort: Cohort, tmp_path: Path):
    before = set(client.run(os.getpid).values())
    seeds = [BAD_SEED, 1, 2, 3, 4, 5]
    bad, *good = planned(cohort, tmp_path, seeds, f"{__name__}:Spoiling")
    found = outcomes(client, [bad, *good], cohort)
    assert found[bad.run_id].error == "RuntimeError: CUDA error: device-side assert triggered"
    assert bad.files.log.read_text().count("failed: ") == 1
    assert {found[run.run_id].error for run in good} == {None}
    assert all(run.files.record.exists() for run in good)
    client.wait_for_workers(2)
    assert len(before - set(client.run(os.getpid).values())) == 1


def test_a_locked_run_is_waited_for(client, cohort: Cohort, tmp_path: Path):
    (run,) = planned(cohort, tmp_path, [5])

    def hold() -> None:
        with run.files.locked():
            held.set()
            time.sleep(1.5)

    held = threading.Event()
    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    assert not outcomes(client, [run], cohort)[run.run_id].error
    holder.join()


def test_workers_with_other_code_or_without_the_folder_say_so(cohort: Cohort, tmp_path: Path):
    (run,) = planned(cohort, tmp_path, [6])
    place = (cohort.path, "cpu", 1)
    elsewhere = tmp_path / "elsewhere" / "runs" / run.run_id
    outcome = cluster._run_there(run.config, elsewhere, place, "")
    assert outcome.error and "share the results folder" in outcome.error
    run.files.folder.mkdir(parents=True)
    outcome = cluster._run_there(run.config, run.files.folder, place, "other")
    assert outcome.error and "other code" in outcome.error
    assert not list(run.files.folder.iterdir())


@pytest.mark.slow
def test_the_command_runs_a_table_on_the_cluster(
    local_cluster, cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["--table", "table2", "--seeds", "1", "--device", "cpu"]
    words += ["--cohort", str(cohort.path), "--results", str(tmp_path)]
    words += ["--set", "training.max_steps=1", "--set", "training.max_epochs=1"]
    words += ["--backend", "dask", "--scheduler", local_cluster.scheduler_address]
    assert sweep.main(words) == 0
    printed = capsys.readouterr().out
    n_runs = len(list(tmp_path.glob("runs/*/record.json")))
    assert printed.count(": done") == n_runs > 0
    assert "on 2 jobs" in printed.splitlines()[1]


def test_nobody_at_the_address(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("distributed", reason="needs pip install -e '.[dask]'")
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    with pytest.raises(UserError, match="no Dask scheduler answers there"):
        cluster.connect("tcp://127.0.0.1:1")


def test_without_dask_the_way_to_get_it_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"pip install 'dipro-bench\[dask\]'"):
        cluster.connect("tcp://127.0.0.1:1")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--backend", "dask"], "go together"),
        (["--scheduler", "tcp://node:1"], "go together"),
        (["--backend", "dask", "--scheduler", "tcp://node:1", "--jobs", "2"], "--jobs is for"),
    ],
)
def test_arguments_that_do_not_go_together(words: list[str], says: str, tmp_path: Path):
    with pytest.raises(UserError, match=says):
        sweep.main(["--table", "table2", "--results", str(tmp_path / "r"), *words])
    assert not (tmp_path / "r").exists()


class TestLocks:
    def test_who_finds_it_held_is_told_by_whom(self, tmp_path: Path):
        files = RunFiles(tmp_path / "run")
        with files.locked(), pytest.raises(RunBusyError, match=f"process {os.getpid()} on "):
            files.locked().__enter__()

    def test_a_file_that_a_dead_owner_left_locks_nothing(self, tmp_path: Path):
        files = RunFiles(tmp_path)
        (tmp_path / "lock").write_text("process 1 on another-machine\n")
        with files.locked():
            assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")

    def test_a_file_system_without_locks_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        def refuse(*_: object) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr("fcntl.flock", refuse)
        with pytest.raises(UserError, match="locks no files"), RunFiles(tmp_path).locked():
            pass
