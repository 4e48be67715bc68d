"""Every method with every ablation in every setting keeps the contract, and the checks can fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from bench import check
from bench import contract_checks as checks
from bench.config import RunConfig
from bench.contract_checks import CHECKS, REMARKS, Case, settings
from bench.data.cohort import Cohort
from bench.data.miniature import miniature_cohort
from bench.errors import run_command
from bench.registry import METHODS
from tests.methods import faulty_methods

TINY = {
    "dipro": (("model.d_model", "16"),),
    "ehr_transformer": (("model.d_model", "16"),),
    "medfuse": (("model.hidden", "16"), ("model.fusion_width", "32")),
}
"""Overrides that make a method small; its demo configuration otherwise."""

FILM_SIZE = 64
"""Of films, pixels a side. At 32 the last map but one of a ConvNet for whole films is one pixel:
PyTorch's bf16 convolution on a CPU then leaves garbage in the gradient of its weights."""

SETTINGS = [config for method in METHODS for config in settings(method, TINY.get(method, ()))]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """A tiny valid cohort on disk."""
    return miniature_cohort(tmp_path_factory.mktemp("contract") / "cohort", film_size=FILM_SIZE)


def faults(config: RunConfig, cohort: Cohort) -> dict[str, str]:
    case = Case(config, cohort)
    found = {c.sentence: c.fault_of(case) for c in CHECKS if c.applies(case)}
    return {sentence: fault for sentence, fault in found.items() if fault}


@pytest.mark.parametrize(
    "config", SETTINGS, ids=[f"{c.request.label}-{c.request.task}" for c in SETTINGS]
)
def test_every_method_keeps_the_contract(config: RunConfig, cohort: Cohort) -> None:
    assert faults(config, cohort) == {}


def test_every_ablation_is_checked_with_and_without_ehr() -> None:
    labels = {f"{c.request.label}-{c.request.task}" for c in SETTINGS}
    assert len(labels) == len(SETTINGS)
    assert "dipro -std+pae+mmf (pair)-disease_progression" in labels
    assert "dipro -global-only (long, no EHR)-length_of_stay" in labels
    assert "medfuse (last)-mortality" in labels
    assert not any("ehr_transformer" in label and "none" not in label for label in labels)


def place(name: str) -> str:
    return f"{faulty_methods.__name__}:{name}"


def test_a_sound_method_of_somebody_else_passes(cohort: Cohort) -> None:
    for config in settings(place("Sound")):
        assert faults(config, cohort) == {}


@pytest.mark.parametrize(
    ("name", "check_function", "says"),
    [
        ("Nested", checks.check_configuration, "widths is a tuple"),
        ("WrongShape", checks.check_output, "instead of"),
        ("TermWithoutWeight", checks.check_output, "extra"),
        ("TermPerSample", checks.check_output, "scalar"),
        ("InfiniteGradient", checks.check_finite, "films.bias is not finite in fp32"),
        ("DeadPart", checks.check_gradients, "forgotten.weight"),
        ("DetachedPart", checks.check_gradients, "ehr.weight"),
        ("ReadsPaddedHours", checks.check_padding, "logits move"),
        ("ReadsPaddedFilms", checks.check_padding, "logits move"),
        ("PaddingInStatistics", checks.check_padding, "in training"),
        ("ReadsBatchMates", checks.check_batch_mates, "alone"),
        ("ReadsLabels", checks.check_labels, "logits move"),
        ("ReadsLabelsInTraining", checks.check_labels, "in training the logits move by"),
        ("LossWithoutLabels", checks.check_labels, "without labels"),
        ("UnaskedAttention", checks.check_attention, "without a request"),
        ("AttentionOfNoShape", checks.check_attention, "has shape"),
        ("AttentionToPadding", checks.check_attention, "padded pairs"),
        ("BlindToOrder", checks.check_film_order, "stay the same"),
        ("BlindToOrderInTheIcu", checks.check_film_order, "stay the same"),
        ("SetsTheSeedAsItIsBuilt", checks.check_random_state, "__init__ sets the random seed"),
        ("SetsTheSeedInTraining", checks.check_random_state, "forward sets the random seed"),
        ("DrawsInPrediction", checks.check_random_state, "in evaluation mode"),
        ("DrawsFromNumpy", checks.check_random_state, "NumPy's or Python's"),
        ("DrawsItsOwnSeed", checks.check_seed, "of one seed"),
        ("IgnoresTheSeed", checks.check_seed, "another seed"),
        ("UnsavedState", checks.check_seed, "logits move"),
        ("IdleAblation", checks.check_ablation, "no configuration"),
        ("AblationOfAnUnusedField", checks.check_ablation, "neither"),
        ("CannotLearn", checks.check_learning, "task loss falls"),
    ],
)
def test_each_fault_is_found(
    name: str, check_function: Callable[[Case], str | None], says: str, cohort: Cohort
) -> None:
    (asked,) = (c for c in CHECKS if c.check is check_function)
    cases = [Case(config, cohort) for config in settings(place(name))]
    found = [fault for c in cases if asked.applies(c) and (fault := asked.fault_of(c))]
    assert found and all(says in fault for fault in found)


@pytest.mark.parametrize(
    ("name", "is_noted"),
    [
        (place("ReadsRegions"), True),
        (place("ReadsPresentRegions"), False),
        ("dipro", True),  # As published: methods/dipro/README.md, M13.
        ("chexrelnet", False),
    ],
)
def test_reading_the_crops_of_absent_regions_is_noted(
    name: str, is_noted: bool, cohort: Cohort, capsys: pytest.CaptureFixture[str]
) -> None:
    (remark,) = REMARKS
    cases = [Case(config, cohort) for config in settings(name) if not config.request.ablate]
    check.report_remark(remark, cases)
    printed = capsys.readouterr().out
    assert printed.startswith("note  crops of absent regions are read: ") == is_noted
    assert ("mask by batch.region_present" in printed) == is_noted


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ReturnsATensor", "forward returned a Tensor, expected Output(logits"),
        ("WrongShape", "logits have shape"),
        ("IntegerLogits", "logits have dtype torch.int64, expected torch.float32"),
        ("LossesInAList", "losses are a list, expected a dict"),
    ],
)
def test_the_command_names_a_wrong_output_once(
    name: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main([place(name)]) == 1
    _, fault, advice = capsys.readouterr().out.splitlines()
    assert fault.startswith("FAIL") and says in fault and place(name) in fault
    assert "mend this first" in advice


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("the logits", "the logits move by 1"),
        ("loss term 'size'", "loss term 'size' moves by 1"),
    ],
)
def test_a_difference_reads_as_a_sentence(name: str, says: str) -> None:
    assert checks.difference(name, torch.ones(2), torch.zeros(2)) == says
    shape = checks.difference(name, torch.ones(2), torch.zeros(3))
    verb = "have" if name.endswith("s") else "has"
    assert shape == f"{name} {verb} shape (2,) instead of (3,)"


def test_the_command_prints_a_line_per_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([place("Sound")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Sound: 6 settings")
    assert [line[6:].partition(" (")[0] for line in lines[1:]] == [c.sentence for c in CHECKS]
    assert all(line.startswith("ok") for line in lines[1:])


def test_the_command_names_the_fault_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([place("Crashes")]) == 1
    printed = capsys.readouterr().out
    assert "FAIL  padding changes nothing: 6 of 6;" in printed
    assert "RuntimeError at faulty_methods.py:" in printed
    assert "no such thing" in printed


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (place("DeclinesAll"), "accepts no setting"),
        (place("Sond"), "did you mean 'Sound'"),
        ("bench.contract:Output", "is no method: derive it from methods.base.Method"),
        (place("LacksConfigure"), "lacks configure: see"),
        ("diprow", "did you mean 'dipro'"),
    ],
)
def test_the_command_refuses_in_one_line(
    name: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: check.main([name]))
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
