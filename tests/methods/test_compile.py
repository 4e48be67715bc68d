"""What `torch.compile` traces is the model: the same losses as without it."""

from __future__ import annotations

import pytest
import torch

from bench.config import Request, default_cxr, resolve
from bench.data.cohort import Cohort
from bench.data.vocabulary import Split, Task
from bench.registry import METHODS
from bench.runner import Run

NO_DROPOUT = (("model.dropout", "0"),)


@pytest.mark.parametrize(
    "method",
    [name if name == "dipro" else pytest.param(name, marks=pytest.mark.slow) for name in METHODS],
)
def test_a_traced_model_has_the_same_losses(method: str, cohort: Cohort) -> None:
    task = Task.DISEASE_PROGRESSION
    request = Request(method, task, default_cxr(method, task), 23, overrides=NO_DROPOUT)
    run = Run(resolve(request), cohort, torch.device("cpu"), 1)
    batch = run.samples.batch(run.samples.indices(Split.TRAIN)[:4])
    assert batch.targets is not None
    state = {name: value.clone() for name, value in run.model.state_dict().items()}
    torch.manual_seed(0)
    expected = run.loss_terms(run.model(batch), batch.targets)
    run.model.load_state_dict(state)
    torch._dynamo.reset()
    # Tracing alone: the compiler behind it needs a minute or more, and a toolchain.
    run.model.compile(backend="eager")
    torch.manual_seed(0)
    found = run.loss_terms(run.model(batch), batch.targets)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    sum(found.values()).backward()
