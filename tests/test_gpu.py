"""What only a GPU can show: `pytest -m gpu`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import runner
from bench.config import Request, RunConfig, default_cxr, resolve
from bench.data import loading
from bench.data.batch import Batch, Samples
from bench.data.cohort import Cohort
from bench.data.vocabulary import Split, Task
from bench.optimization import adamw
from bench.prediction import predict
from bench.registry import METHODS
from bench.runner import Run
from bench.store import SCHEMA, Store
from bench.training import _train_epoch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
CUDA = torch.device("cuda")
STEP = (
    ("training.batch_size", "3"),
    ("training.accumulation", "2"),
    ("training.fused", "true"),
)


def config_of(method: str, task: Task, *more: tuple[str, str]) -> RunConfig:
    return resolve(Request(method, task, default_cxr(method, task), 23, overrides=(*STEP, *more)))


@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("resident", [True, False])
def test_a_step_never_waits(
    method: str, task: Task, resident: bool, cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "RESIDENT_SHARE", loading.RESIDENT_SHARE * resident)
    monkeypatch.setattr(loading, "_kept", {})
    run = Run(config_of(method, task), cohort, CUDA, 1)
    optimizer = adamw(run.model, run.training)
    positions = run.samples.indices(Split.TRAIN)[:6]
    _train_epoch(run, optimizer, positions, 1)  # sets up libraries, which may wait
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        _train_epoch(run, optimizer, positions, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", METHODS)
def test_logits_are_those_of_the_cpu(method: str, cohort: Cohort) -> None:
    config = config_of(method, Task.MORTALITY)
    on_cpu, on_gpu = (Run(config, cohort, device, 1) for device in (torch.device("cpu"), CUDA))
    positions = on_cpu.samples.indices(Split.TEST)
    expected, _ = predict(on_cpu, positions)
    found, _ = predict(on_gpu, positions)
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-3)


def test_images_stay_on_the_gpu_and_are_the_same(cohort: Cohort) -> None:
    request = Request("chexrelnet", Task.MORTALITY, default_cxr("chexrelnet", Task.MORTALITY), 23)
    run = Run(resolve(request), cohort, CUDA, 1)
    assert run.samples.resident.keys() == {"films", "regions"}
    ordinary = Samples(cohort, run.task, request.cxr, run.samples.inputs)
    positions = np.arange(6)
    batch: Batch = run.samples.batch(positions)
    assert batch.films.is_cuda
    expected = ordinary.batch(positions)
    assert torch.equal(batch.films.cpu(), expected.films)
    assert torch.equal(batch.regions.cpu(), expected.regions)


@pytest.mark.parametrize("switch", ["fused", "compile"])
def test_a_whole_run(switch: str, cohort: Cohort, tmp_path: Path) -> None:
    config = config_of("dipro", Task.MORTALITY, ("training.max_epochs", "2"))
    config = replace(config, training=replace(config.training, **{switch: True}))
    files = Store(tmp_path).run(config.run_id(cohort.content_hash, SCHEMA))
    runner.execute(config, cohort, files, device=CUDA, say=lambda line: None)
    assert np.isfinite(files.read_predictions("test").filter(like="logit_").to_numpy()).all()
