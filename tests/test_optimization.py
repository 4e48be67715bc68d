"""The optimizer's groups, the learning rate of each epoch, and the weight of deaths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from bench.config import Request, TrainingConfig, resolve
from bench.contract import TaskSpec
from bench.data.batch import Targets
from bench.data.cohort import Cohort
from bench.data.vocabulary import Cxr, Split, Task
from bench.errors import UserError
from bench.objective import positive_weight, task_loss
from bench.optimization import adamw, learning_rate, set_rate
from bench.registry import METHODS, load_method
from bench.runner import Run

CPU = torch.device("cpu")


def rates(n_epochs: int = 8, **fields: object) -> list[float]:
    config = TrainingConfig(lr=1.0, lr_min=0.1, **fields)  # type: ignore[arg-type]
    return [learning_rate(config, epoch, n_epochs) for epoch in range(n_epochs)]


class TestLearningRate:
    def test_a_cosine_falls_from_lr_to_its_floor(self) -> None:
        found = rates()
        assert found[0] == 1
        assert found[4] == pytest.approx(0.55)
        assert all(a > b for a, b in itertools.pairwise(found))
        assert learning_rate(TrainingConfig(lr=1.0, lr_min=0.1), 8, 8) == pytest.approx(0.1)

    def test_it_falls_evenly_or_stays(self) -> None:
        assert np.diff(rates(schedule="linear")) == pytest.approx(-0.9 / 8)
        assert rates(schedule="constant") == [1.0] * 8

    def test_it_rises_over_the_warm_up_first(self) -> None:
        found = rates(warmup_epochs=3)
        assert found[:4] == pytest.approx([0.325, 0.55, 0.775, 1.0])
        assert found[3:] == pytest.approx(rates(5))

    def test_fields_that_make_no_sense_are_refused(self) -> None:
        wrong: list[tuple[str, object]] = [
            ("lr_min", 2), ("schedule", "cosin"), ("beta_1", 1.0), ("warmup_epochs", -1),
            ("backbone_lr_share", -0.5), ("positive_weight", "fair"), ("precision", "fp16"),
        ]  # fmt: skip
        for name, value in wrong:
            with pytest.raises(UserError, match=rf"training\.{name} is '?{value}"):
                TrainingConfig(lr=1.0, **{name: value})  # type: ignore[arg-type]


class TestGroups:
    @pytest.mark.parametrize("name", METHODS)
    def test_a_method_that_reads_pixels_says_which_networks_may_learn_more_slowly(
        self, name: str
    ) -> None:
        cls = load_method(name)
        cxr = Cxr.PAIR if cls.inputs.films or cls.inputs.regions else Cxr.NONE
        config = resolve(Request(name, Task.DISEASE_PROGRESSION, cxr, 23)).model
        model = cls(config, TaskSpec(Task.DISEASE_PROGRESSION, cxr))
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        in_backbones = {id(m) for backbone in model.backbones() for m in backbone.modules()}
        assert bool(in_backbones) == (cxr is Cxr.PAIR)
        assert convolutions[:1] == [m for m in convolutions if id(m) in in_backbones][:1]

    def test_a_backbone_that_learns_at_rate_0_stays_and_the_rest_moves(
        self, cohort: Cohort
    ) -> None:
        request = Request(
            "medfuse", Task.MORTALITY, Cxr.LAST, 23,
            overrides=(("training.backbone_lr_share", "0"),),
        )  # fmt: skip
        run = Run(resolve(request), cohort, CPU, 1)
        optimizer = adamw(run.model, run.training)
        set_rate(optimizer, 1e-2)
        assert sorted(group["lr"] for group in optimizer.param_groups) == [0, 1e-2]
        before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
        batch = run.samples.batch(run.samples.indices(Split.TRAIN)[:4])
        assert batch.targets is not None
        run.loss_terms(run.model(batch), batch.targets)["task"].backward()
        optimizer.step()
        of_backbone = {id(p) for b in run.model.backbones() for p in b.parameters()}
        for name, parameter in run.model.named_parameters():
            stayed = torch.equal(parameter, before[name])
            assert stayed == (id(parameter) in of_backbone), name

    def test_all_parameters_are_one_group_by_default(self) -> None:
        cls = load_method("medfuse")
        model = cls(cls.configure(*preset()), TaskSpec(Task.MORTALITY, Cxr.LAST))
        (group,) = adamw(model, TrainingConfig(beta_2=0.9)).param_groups
        assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]
        assert group["betas"] == (0.9, 0.9)


def preset() -> tuple:
    config = Request("medfuse", Task.MORTALITY, Cxr.LAST, 23)
    return config.preset, config.task


class TestWeightOfDeaths:
    def test_it_comes_from_the_training_labels(self) -> None:
        deaths = np.array([0, 1, 0, 0, 0])
        assert positive_weight("none", deaths) is None
        assert positive_weight("balanced", deaths) == pytest.approx(4.0)
        assert positive_weight("prevalence", deaths) == pytest.approx(0.2)
        with pytest.raises(UserError, match="one class"):
            positive_weight("balanced", np.zeros(3))

    def test_the_loss_counts_a_death_that_often(self) -> None:
        logits, deaths = torch.tensor([0.3, -1.0, 2.0])[:, None], torch.tensor([1.0, 0.0, 1.0])
        empty = torch.empty(0)
        targets = Targets(empty, deaths, empty, region_progression=empty, findings=empty)
        found = task_loss(Task.MORTALITY, logits, targets, empty, torch.tensor(4.0))
        p = logits.squeeze(-1).sigmoid()
        expected = -(4 * deaths * p.log() + (1 - deaths) * (1 - p).log()).mean()
        torch.testing.assert_close(found, expected)

    def test_a_run_takes_it_from_training_only(self, cohort: Cohort) -> None:
        request = Request(
            "ehr_transformer", Task.MORTALITY, Cxr.NONE, 23,
            overrides=(("training.positive_weight", "prevalence"),),
        )  # fmt: skip
        run = Run(resolve(request), cohort, CPU, 1)
        deaths = run.samples.labels()["mortality"]
        share = deaths[run.samples.indices(Split.TRAIN)].mean()
        assert run.positive_weight is not None
        assert float(run.positive_weight) == pytest.approx(share)
        assert share != deaths.mean()
