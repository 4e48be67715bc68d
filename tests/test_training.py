"""The training loop: what it reads from the device, and when."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.config import Request, resolve
from bench.data.cohort import Cohort
from bench.data.vocabulary import Cxr, Split, Task
from bench.runner import Run
from bench.training import DivergedError, MicroBatch, _gradients, mean_terms

WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"}
"""Operators whose result the host has to wait for."""


class Waits(TorchDispatchMode):
    """Counts them."""

    n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.n += function._schema.name in WAITING
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("task", Task)
def test_a_step_does_not_wait_for_its_loss(task: Task, cohort: Cohort):
    config = resolve(Request("ehr_transformer", task, Cxr.NONE, 23))
    run = Run(config, cohort, torch.device("cpu"), 1)
    with Waits() as waits:
        seen = _gradients(run, run.samples.indices(Split.TRAIN)[:8], 4)
        assert waits.n == 0
        float(seen[0].terms["task"])
        assert waits.n == 1


def seen_of(*terms: dict[str, float]) -> list[MicroBatch]:
    return [
        MicroBatch(np.array([i]), {name: torch.tensor(value) for name, value in t.items()})
        for i, t in enumerate(terms)
    ]


def test_a_term_is_averaged_over_the_batches_that_have_it():
    seen = seen_of({"task": 1.0}, {"task": 2.0, "own": 5.0}, {"task": 6.0, "own": 7.0})
    assert mean_terms(seen, 1, np.array(["a", "b", "c"])) == {"task": 3.0, "own": 6.0}


def test_the_first_term_that_is_not_finite_is_named():
    bad = float("inf")
    seen = seen_of({"task": 1.0, "own": 1.0}, {"task": 1.0, "own": bad}, {"task": bad, "own": bad})
    with pytest.raises(DivergedError, match="'own' is inf in batch 2 of epoch 7") as raised:
        mean_terms(seen, 7, np.array(["a", "b", "c"]))
    assert raised.value.details["samples"] == ["b"]
