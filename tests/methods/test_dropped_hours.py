"""Samples whose hours of EHR are hidden, as in the study that drops EHR from training stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench.config import Request, default_cxr, resolve
from bench.contract_checks import Case, difference, with_films_exchanged, without_dropout
from bench.data.cohort import Cohort
from bench.data.vocabulary import Cxr, Task
from bench.registry import METHODS
from tests.methods.random_batches import without_ehr_of
from tests.methods.test_contract import TINY

EVERY_METHOD = pytest.mark.parametrize("method", list(METHODS))
HIDDEN = 2
"""The sample whose hours are hidden."""


def case(method: str, task: Task, cohort: Cohort) -> Case:
    cxr = default_cxr(method, task)
    overrides = tuple(TINY.get(method, ()))
    return Case(resolve(Request(method, task, cxr, seed=0, overrides=overrides)), cohort)


@EVERY_METHOD
@pytest.mark.parametrize("task", [Task.DISEASE_PROGRESSION, Task.LENGTH_OF_STAY])
def test_hidden_hours_concern_their_sample_only(method: str, task: Task, cohort: Cohort) -> None:
    of = case(method, task, cohort)
    model, batch = of.settled(), of.batch()
    expected, hidden = model(batch).logits, without_ehr_of(batch, HIDDEN)
    logits = model(hidden).logits
    others = [i for i in range(len(batch)) if i != HIDDEN]
    assert difference("a logit", logits[others], expected[others]) is None
    assert difference("a logit", logits[HIDDEN], expected[HIDDEN])
    garbage = replace(
        hidden,
        ehr_values=torch.where(hidden.ehr_valid[..., None], hidden.ehr_values, 9.0),
        ehr_observed=hidden.ehr_observed | ~hidden.ehr_valid[..., None],
    )
    assert difference("a logit", model(garbage).logits, logits) is None


@EVERY_METHOD
@pytest.mark.parametrize("rows", [[HIDDEN], [0, 1, 2, 3, 4, 5]], ids=["one", "all"])
def test_training_goes_on_without_hours(method: str, rows: list[int], cohort: Cohort) -> None:
    of = case(method, Task.LENGTH_OF_STAY, cohort)
    model, batch = without_dropout(of.model()), of.batch()
    for row in rows:
        batch = without_ehr_of(batch, row)
    total = of.total(model(batch), batch)
    total.backward()
    assert torch.isfinite(total)
    reached = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in reached)
    assert any(gradient.any() for gradient in reached)


@pytest.mark.parametrize("method", ["medfuse", "drfuse", "umse", "utde"])
def test_the_order_of_a_stays_films_matters(method: str, cohort: Cohort) -> None:
    of = case(method, Task.LENGTH_OF_STAY, cohort)
    assert of.config.request.cxr is Cxr.LONG
    model, batch = of.settled(), of.batch()
    exchanged = model(with_films_exchanged(batch)).logits
    assert difference("the logits", exchanged, model(batch).logits)
