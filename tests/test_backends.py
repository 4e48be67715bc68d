"""How runs are spread over the devices of a machine."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch

from bench import arguments, backends
from bench.backends import Outcome, default_jobs, run_all, spread
from bench.config import Request
from bench.data.cohort import Cohort
from bench.data.vocabulary import Cxr, Task
from bench.errors import Parser
from bench.plan import make_plan
from bench.store import Store

N_GPUS = 3


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
    assert default_jobs("cpu", runs_per_gpu=2) == os.cpu_count()


def test_runs_per_gpu_is_an_option() -> None:
    parser = Parser(prog="sweep")
    arguments.add_backend(parser)
    assert parser.parse_args([]).runs_per_gpu == 1
    assert parser.parse_args(["--runs-per-gpu", "4"]).runs_per_gpu == 4


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
