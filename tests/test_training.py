"""The training loop: what it reads from the device, and when."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes

from bench.config import RunConfig
from bench.contract_checks import settings
from bench.data import loading
from bench.data.batch import Batch, Samples
from bench.data.cohort import Cohort
from bench.data.vocabulary import Split
from bench.epoch import DivergedError, Epoch, MicroBatch, mean_terms
from bench.optimization import adamw
from bench.registry import METHODS
from bench.runner import Run
from bench.training import _train_epoch
from tests.waits import NoWaiting, WaitsError

CPU = torch.device("cpu")
STEP = (
    ("training.batch_size", "3"),
    ("training.accumulation", "2"),
    ("training.clip_norm", "1.0"),
    ("training.fused", "true"),
)
"""Both micro-batches of a step have few samples; a fused step keeps its count with the weights."""

OTHER_READINGS = [
    ("umse", ("model.readout", "mean")),
    ("umse", ("model.film_tokens", "pooled")),
    ("drfuse", ("model.max_films", "2")),
    ("sdpl", ("model.film_size", "128")),
]
"""Configurations with operators that no default has."""

SETTINGS = [
    *(config for method in METHODS for config in settings(method, STEP)),
    *(c for method, change in OTHER_READINGS for c in settings(method, (*STEP, change))),
]


def prepared(samples: Samples) -> Callable[[np.ndarray], Batch]:
    """Gathers batches out of sight: what happens on the CPU keeps no GPU waiting."""
    gather = samples.batch

    def batch(positions: np.ndarray) -> Batch:
        with _disable_current_modes():
            return gather(positions).to(CPU)

    return batch


@pytest.mark.parametrize(
    "config",
    SETTINGS,
    ids=[f"{c.request.label}-{c.request.task}-{i}" for i, c in enumerate(SETTINGS)],
)
def test_a_step_never_waits_for_the_device(
    config: RunConfig, cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(config, cohort, CPU, 1)
    optimizer = adamw(run.model, run.training)
    monkeypatch.setattr(run.samples, "batch", prepared(run.samples))
    with NoWaiting():
        seen = _train_epoch(run, optimizer, run.samples.indices(Split.TRAIN)[:6], 1)
    assert [len(micro_batch.positions) for micro_batch in seen] == [3, 3]
    assert all(math.isfinite(term) for micro_batch in seen for term in micro_batch.terms.values())


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: float(x.sum()),
        lambda x: x[x > 0],
        lambda x: x.index_put((x > 0,), torch.zeros(())),
        lambda x: x.nonzero(),
        lambda x: bool((x > 0).any()),
        lambda x: x + torch.tensor([1.0, 2.0]),
        lambda x: x.repeat_interleave((x > 0).long()),
    ],
)
def test_what_waits_is_found(waits: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(WaitsError), NoWaiting():
        waits(torch.randn(2))


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


def test_an_epoch_under_way_comes_back_from_its_numbers():
    terms = {"task": torch.tensor(1 / 3), "own": torch.tensor(0.7, dtype=torch.bfloat16)}
    seen = [MicroBatch(np.array([4, 2]), terms), *seen_of({"task": 0.1})]
    epoch = Epoch.from_numbers(Epoch(2, seen).to_numbers(), CPU)
    keys = np.array(list("abcde"))
    assert epoch.n_steps == 2
    assert mean_terms(epoch.seen, 1, keys) == mean_terms(seen, 1, keys)
    assert [b.positions.tolist() for b in epoch.seen] == [[4, 2], [0]]


def test_an_epoch_is_fed_from_one_stream(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, real = list[int](), loading.batches

    def batches(samples: Samples, chunks: list[np.ndarray], **how: Any) -> Generator[Batch]:
        opened.append(len(chunks))
        return real(samples, chunks, **how)

    monkeypatch.setattr(loading, "batches", batches)
    (config,) = settings("ehr_transformer", STEP)[:1]
    run = Run(config, cohort, CPU, 1)
    positions = np.resize(run.samples.indices(Split.TRAIN), 15)
    assert len(_train_epoch(run, adamw(run.model, run.training), positions, 3)) == 5
    assert opened == [5]
