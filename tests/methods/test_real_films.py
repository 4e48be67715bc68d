"""Real radiographs pass through every method that reads films."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import prepare
from bench.contract import Preset, TaskSpec
from bench.data.batch import Batch, Samples
from bench.data.cohort import Cohort
from bench.data.vocabulary import Cxr, Task
from bench.registry import METHODS, load_method


@pytest.fixture(scope="module")
def films(real_cxr: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    out = tmp_path_factory.mktemp("real") / "films"
    images = [str(p) for p in sorted(real_cxr.iterdir()) if p.suffix in (".jpg", ".png")]
    assert len(images) >= 4
    arguments = ["films", *images, "--out", str(out), "--film-size", "128", "--region-size", "32"]
    assert prepare.main(arguments) == 0
    return Cohort.open(out)


def real_batch(films: Cohort, task: Task, cxr: Cxr, name: str) -> Batch:
    samples = Samples(films, task, cxr, load_method(name).inputs)
    assert len(samples) > 0
    return samples.batch(np.arange(len(samples))).without_targets()


@pytest.mark.parametrize("cxr", [Cxr.LAST, Cxr.LONG])
@pytest.mark.parametrize("name", METHODS)
def test_icu_logits_depend_on_the_real_films(name: str, cxr: Cxr, films: Cohort):
    method = load_method(name)
    if method.decline(Task.MORTALITY, cxr, ehr=True):
        pytest.skip("declined")
    torch.manual_seed(0)
    config = method.configure(Preset.DEMO, Task.MORTALITY)
    model = method(config, TaskSpec(Task.MORTALITY, cxr)).eval()
    batch = real_batch(films, Task.MORTALITY, cxr, name)
    logits = model(batch).logits
    assert logits.shape == (1, 1) and torch.isfinite(logits).all()
    blank = replace(
        batch, films=torch.zeros_like(batch.films), regions=torch.zeros_like(batch.regions)
    )
    assert not torch.equal(model(blank).logits, logits)
