"""MedFuse's first stage: what its encoders learn from, and how MedFuse takes them over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import run
from bench.config import Request, RunConfig, resolve
from bench.contract import Preset, TaskSpec
from bench.contract_checks import CHECKS, Case, check_film_order, settings
from bench.data.batch import Batch
from bench.data.cohort import Cohort
from bench.data.miniature import miniature_cohort
from bench.data.vocabulary import DISEASES, FINDING_UNKNOWN, Cxr, Task
from bench.errors import UserError
from bench.store import RunFiles
from methods.baselines.medfuse import MedFuse, MedFuseConfig
from methods.baselines.medfuse_stage_one import MedFuseStageOne, MedFuseStageOneConfig
from tests.methods.random_batches import random_batch
from tests.methods.test_contract import FILM_SIZE

NAME = "methods.baselines.medfuse_stage_one:MedFuseStageOne"
SIZES = (("model.hidden", "16"), ("model.fusion_width", "32"))
TINY = MedFuseStageOneConfig("small", "none", hidden=16)
SPEC = TaskSpec(Task.MORTALITY, Cxr.LONG)


def build(config: MedFuseStageOneConfig = TINY, spec: TaskSpec = SPEC) -> MedFuseStageOne:
    torch.manual_seed(0)
    return MedFuseStageOne(config, spec).eval()


def second_stage(**changes: object) -> MedFuse:
    torch.manual_seed(1)
    config = MedFuseConfig("small", "none", hidden=16, fusion_width=24)
    return MedFuse(replace(config, **changes), SPEC).eval()  # type: ignore[arg-type]


def batch_of(task: Task = Task.MORTALITY) -> Batch:
    return random_batch(task, size=0, film_size=32)


def with_findings(batch: Batch, findings: Tensor) -> Batch:
    assert batch.targets is not None
    return replace(batch, targets=replace(batch.targets, findings=findings))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    file = tmp_path / "best.pt"
    torch.save(build().state_dict(), file)
    return file


@pytest.fixture(scope="module")
def larger_films(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    # See FILM_SIZE in test_contract.
    return miniature_cohort(tmp_path_factory.mktemp("larger") / "cohort", film_size=FILM_SIZE)


@pytest.mark.parametrize("config", settings(NAME, SIZES), ids=lambda c: c.request.label)
def test_keeps_the_contract(config: RunConfig, larger_films: Cohort) -> None:
    # But for the order of films: its logits are those of the EHR.
    checks = [c for c in CHECKS if c.check is not check_film_order]
    of = Case(config, larger_films)
    assert [fault for c in checks if c.applies(of) and (fault := c.fault_of(of))] == []


def test_needs_both_modalities() -> None:
    decline = MedFuseStageOne.decline
    for cxr, ehr in ((Cxr.NONE, True), (Cxr.LONG, False)):
        assert "needs both" in (decline(Task.MORTALITY, cxr, ehr) or "")
    assert decline(Task.DISEASE_PROGRESSION, Cxr.PAIR, True) is None


def test_has_the_sizes_and_the_first_stage_rate_of_medfuse() -> None:
    for preset in Preset:
        one, two = (m.configure(preset, Task.MORTALITY) for m in (MedFuseStageOne, MedFuse))
        assert all(getattr(one, name) == value for name, value in vars(two).items())
    request = Request(NAME, Task.MORTALITY, Cxr.LONG, 1, recipe="reference")
    assert resolve(request).training.lr == 5.3985e-4


def test_the_classifier_of_the_ehr_starts_as_published() -> None:
    weight, bias = build().classifier.weight, build().classifier.bias
    assert 0.5 < weight.abs().max() / np.sqrt(6 / sum(weight.shape)) <= 1
    assert not bias.any()


@pytest.mark.parametrize("task", list(Task))
def test_logits_are_of_the_ehr_alone(task: Task) -> None:
    spec = TaskSpec(task, Cxr.LONG if task.is_icu else Cxr.PAIR)
    method, batch = build(spec=spec), batch_of(task)
    expected = method.classifier(method.ehr(batch.ehr_values, batch.ehr_valid))
    torch.testing.assert_close(method(batch).logits.flatten(1), expected)


def test_each_encoder_has_its_own_loss() -> None:
    method, batch = build(), batch_of()
    method(batch).logits.sum().backward()
    assert all(p.grad is None for p in method.films.parameters())
    method.zero_grad()
    method(batch).losses["findings"].backward()
    assert all(p.grad is None for p in (*method.ehr.parameters(), *method.classifier.parameters()))
    assert all(p.grad is not None and p.grad.any() for p in method.films.parameters())


def test_findings_that_a_labelled_film_does_not_mention_count_as_absent() -> None:
    method, batch = build(), batch_of()
    assert batch.targets is not None
    findings = torch.full_like(batch.targets.findings, FINDING_UNKNOWN)
    assert method(with_findings(batch, findings)).losses["findings"] == 0
    findings[0, 1, 4] = 1
    findings[2, 0, 2] = 0
    logits = method.films(torch.stack([batch.films[0, 1], batch.films[2, 0]]))
    shown = torch.zeros(2, len(DISEASES))
    shown[0, 4] = 1
    expected = nn.functional.binary_cross_entropy_with_logits(logits, shown)
    found = method(with_findings(batch, findings)).losses["findings"]
    torch.testing.assert_close(found, expected)


def test_a_cohort_without_labels_is_remarked(cohort: Cohort) -> None:
    unknown = np.full_like(cohort.arrays["findings"], FINDING_UNKNOWN)
    bare = replace(cohort, arrays={**cohort.arrays, "findings": unknown})
    (remark,) = build().remarks(bare)
    assert "only EHR is learnt" in remark
    assert build().remarks(cohort) == []


class TestSecondStage:
    def test_takes_over_both_encoders_and_nothing_else(self, saved: Path) -> None:
        method, fresh, first = second_stage(), second_stage(), build()
        (remark,) = method.load_weights("stage-one", saved)
        assert "best.pt" in remark and "scratch" in remark
        taken = {n for n, p in method.state_dict().items() if n.startswith(("ehr.", "films.im"))}
        for name, value in method.state_dict().items():
            source = first if name in taken else fresh
            assert torch.equal(value, source.state_dict()[name]), name
        batch = batch_of()
        assert method.ehr is not None
        v_ehr, v_cxr = method.ehr(batch.ehr_values, batch.ehr_valid), batch.films[:, 0]
        assert torch.equal(v_ehr, first.ehr(batch.ehr_values, batch.ehr_valid))
        assert torch.equal(method.films.images(v_cxr), first.films.images(v_cxr))
        assert all(p.requires_grad for p in method.parameters())

    @pytest.mark.parametrize(
        "changes", [{"hidden": 8}, {"use_demographics": True}, {"backbone": "small_film"}]
    )
    def test_refuses_encoders_of_other_sizes(self, changes: dict[str, object], saved: Path) -> None:
        with pytest.raises(UserError, match=r"best\.pt holds no encoders of this MedFuse"):
            second_stage(**changes).load_weights("stage-one", saved)

    def test_refuses_what_is_no_checkpoint(self, tmp_path: Path) -> None:
        file = tmp_path / "notes.pt"
        file.write_text("no weights")
        with pytest.raises(UserError, match="holds no encoders") as error:
            second_stage().load_weights("stage-one", file)
        assert "\n" not in str(error.value)

    def test_other_kinds_are_as_of_every_method(self, tmp_path: Path) -> None:
        file = tmp_path / "own.pt"
        torch.save(second_stage().state_dict(), file)
        assert second_stage().load_weights("own", file) == []
        with pytest.raises(UserError, match="no weights of kind 'official'"):
            second_stage().load_weights("official", file)

    def test_both_stages_go_through_the_runner(self, cohort: Cohort, tmp_path: Path) -> None:
        sizes = [f"--set={name}={value}" for name, value in SIZES]
        shared = ["--task", "mortality", "--cohort", str(cohort.path), *sizes]
        shared += ["--set", "training.max_epochs=2"]
        one, two = tmp_path / "one", tmp_path / "two"
        assert run.main(["--method", NAME, "--results", str(one), *shared]) == 0
        first = only_run(one)
        history = first.read_record()["history"]
        assert history[1]["train_findings"] < history[0]["train_findings"]
        weights = ["--weights", f"stage-one:{first.best}"]
        assert run.main(["--method", "medfuse", "--results", str(two), *shared, *weights]) == 0
        record = only_run(two).read_record()
        assert "encoders are those of a first stage" in record["notes"][0]
        assert record["config"]["request"]["weights"].startswith("stage-one:")
        assert record["steps"] > 0


def only_run(results: Path) -> RunFiles:
    (folder,) = (results / "runs").iterdir()
    return RunFiles(folder)
