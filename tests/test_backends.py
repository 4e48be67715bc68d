"""How runs are spread over the devices of a machine."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path

import joblib
import pytest
import torch

from bench import arguments, backends, execution
from bench.backends import Outcome, default_jobs, run_all, spread
from bench.config import Request
from bench.contract import Output
from bench.data.batch import Batch
from bench.data.cohort import Cohort
from bench.data.vocabulary import Cxr, Task
from bench.errors import Parser, UserError
from bench.execution import backend
from bench.plan import make_plan
from bench.store import Store
from methods.baselines.ehr_transformer import EhrTransformer

N_GPUS = 3
TINY = (("model.d_model", "16"), ("training.max_epochs", "1"))
BAD_SEED = 29


class Spoiling(EhrTransformer):
    """The run with `BAD_SEED` spoils its process: that one and all after it fail there."""

    is_process_spoilt = False

    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        if torch.initial_seed() == BAD_SEED:
            Spoiling.is_process_spoilt = True
        if Spoiling.is_process_spoilt:
            raise RuntimeError("CUDA error: device-side assert triggered\nCompile with ...")
        return super().forward(batch, with_attention)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with three made-up GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: N_GPUS)
    monkeypatch.setattr(backends, "choose_device", lambda name: torch.device(
        "cuda" if name == "auto" else name
    ))  # fmt: skip


def test_every_gpu_is_used_unless_one_is_named(gpus: None) -> None:
    assert spread("auto") == spread("cuda") == ["cuda:0", "cuda:1", "cuda:2"]
    assert spread("cuda:1") == ["cuda:1"]
    assert spread("cpu") == ["cpu"]


def test_jobs_follow_the_devices(gpus: None) -> None:
    assert default_jobs("cuda") == 3
    assert default_jobs("auto", runs_per_gpu=2) == 6
    assert default_jobs("cuda:2", runs_per_gpu=2) == 2
    assert default_jobs("cpu", runs_per_gpu=2) == joblib.cpu_count()


def test_jobs_share_the_cores_that_we_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: 6)
    assert [default_jobs("cpu", threads=threads) for threads in (1, 2, 4, 8)] == [6, 3, 1, 1]


def test_runs_per_gpu_is_an_option() -> None:
    parser = Parser(prog="sweep")
    arguments.add_backend(parser)
    assert parser.parse_args([]).runs_per_gpu is None
    assert parser.parse_args(["--runs-per-gpu", "4"]).runs_per_gpu == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--jobs", "2"], "leave --runs-per-gpu out"),
        (["--backend", "dask", "--scheduler", "tcp://node:1"], "as many workers on each GPU"),
        (["--device", "cpu"], "use --jobs N"),
    ],
)
def test_runs_per_gpu_is_refused_where_it_does_nothing(words: list[str], says: str) -> None:
    parser = Parser(prog="sweep")
    arguments.add_backend(parser)
    arguments.add_machine(parser)
    with (
        pytest.raises(UserError, match=says),
        backend(parser.parse_args(["--runs-per-gpu", "2", *words])),
    ):
        pass


def test_runs_per_gpu_counts_without_jobs(gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "choose_device", backends.choose_device)
    parser = Parser(prog="sweep")
    arguments.add_backend(parser)
    arguments.add_machine(parser)
    for words, n_jobs in (([], 3), (["--runs-per-gpu", "2"], 6), (["--jobs", "4"], 4)):
        with backend(parser.parse_args(words)) as (jobs, _):
            assert jobs == n_jobs


class HerePool:
    """Takes the place of a worker process: notes where a run is sent, and has it done."""

    sent: list[str]

    def __init__(self, **_: object) -> None:
        pass

    def submit(self, function, config, folder, cohort, device, threads) -> Future[Outcome]:
        self.sent.append(device)
        future: Future[Outcome] = Future()
        future.set_result(Outcome(folder.name, None))
        return future

    def shutdown(self, **_: object) -> None:
        pass


def test_runs_are_spread_over_the_gpus(
    gpus: None, cohort: Cohort, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "ProcessPoolExecutor", HerePool)
    monkeypatch.setattr(HerePool, "sent", [], raising=False)
    requests = [Request("ehr_transformer", Task.MORTALITY, Cxr.NONE, seed) for seed in range(6)]
    runs = make_plan("six", requests, cohort, Store(tmp_path)).runs
    found = list(run_all(runs, cohort.path, device="cuda", threads=1, jobs=6))
    assert sorted(o.run_id for o in found) == sorted(run.run_id for run in runs)
    assert Counter(HerePool.sent) == {f"cuda:{i}": 2 for i in range(N_GPUS)}


def _grow(megabytes: int) -> int:
    """Keep memory as a run does, for longer than loky waits between two looks at it."""
    sys.modules[__name__].__dict__["kept"] = b"x" * (megabytes * 10**6)
    time.sleep(1.1)
    return os.getpid()


def test_a_worker_that_grows_is_kept():
    worker = backends._Worker.at((Path(), "cpu", 1))
    found = {worker.pool.submit(_grow, megabytes).result() for megabytes in (1, 500, 900)}
    worker.pool.shutdown(kill_workers=True)
    assert len(found) == 1


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_cuda_error_costs_one_run_only(
    jobs: int, cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # One run at a time takes place in this process on a CPU, but not on a GPU.
    monkeypatch.setattr(backends, "choose_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(backends, "spread", lambda _: ["cpu"])
    requests = [
        Request(f"{__name__}:Spoiling", Task.MORTALITY, Cxr.NONE, seed, overrides=TINY)
        for seed in (BAD_SEED, 1, 2, 3, 4)
    ]
    runs = make_plan("five", requests, cohort, Store(tmp_path)).runs
    found = list(run_all(runs, cohort.path, device="auto", threads=1, jobs=jobs))
    assert sorted(o.run_id for o in found) == sorted(run.run_id for run in runs)
    assert [o.run_id for o in found if o.error] == [runs[0].run_id]
    assert [run.files.record.exists() for run in runs] == [False, True, True, True, True]
    (error,) = (o.error for o in found if o.error)
    assert error == "RuntimeError: CUDA error: device-side assert triggered [...]"
    assert "Compile with" in runs[0].files.read_failure()["error"]


def test_memory_that_runs_out_spoils_no_process():
    assert not backends._spoils(torch.cuda.OutOfMemoryError("CUDA out of memory."))
    assert not backends._spoils(ValueError("CUDA error"))
    assert backends._spoils(RuntimeError("CUDA error: an illegal memory access was encountered"))
