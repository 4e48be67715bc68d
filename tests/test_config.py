from __future__ import annotations

import dataclasses

import pytest

from bench.config import Request, RunConfig, TrainingConfig, default_cxr, resolve
from bench.contract import Preset
from bench.data.vocabulary import Cxr, Task
from bench.errors import UserError
from bench.registry import METHODS, load_method
from bench.store import SCHEMA

REQUEST = Request("dipro", Task.MORTALITY, Cxr.LONG, seed=23)


def run_id(config: RunConfig, cohort: str = "abc", schema: int = SCHEMA) -> str:
    return config.run_id(cohort, schema)


OTHER_CHOICE = {
    "fp32": "bf16",
    "cosine": "linear",
    "none": "balanced",
    "small": "resnet50",
    "swap": "interleave",
}


def test_run_id_changes_with_everything_that_moves_a_number():
    base = resolve(REQUEST)
    ids = {run_id(base), run_id(base, cohort="abd"), run_id(base, schema=SCHEMA + 1)}
    changed = [
        dataclasses.replace(REQUEST, seed=29),
        dataclasses.replace(REQUEST, task=Task.LENGTH_OF_STAY),
        dataclasses.replace(REQUEST, ehr=False),
        dataclasses.replace(REQUEST, ablate=("pae",)),
        dataclasses.replace(REQUEST, preset=Preset.PAPER),
        dataclasses.replace(REQUEST, method="medfuse"),
        dataclasses.replace(REQUEST, method="medfuse", cxr=Cxr.LAST),
    ]
    ids |= {run_id(resolve(request)) for request in changed}
    n = 3 + len(changed)
    for section, config in (("training", base.training), ("model", base.model)):
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if isinstance(value, bool):
                other: object = not value
            elif isinstance(value, str):
                other = OTHER_CHOICE.get(value, value + "x")
            else:
                # No rate may rise above another, no share above 1, and heads divide widths.
                other = (2 * value or 1) if isinstance(value, int) else value * 0.5 + 1e-9
            edited = dataclasses.replace(
                base, **{section: dataclasses.replace(config, **{field.name: other})}
            )
            ids.add(run_id(edited))
            n += 1
    assert len(ids) == n


@pytest.mark.parametrize("method", METHODS)
def test_numbers_that_are_none_and_shares_of_everything_are_refused(method: str) -> None:
    cls = load_method(method)
    config = cls.configure(Preset.DEMO, Task.MORTALITY)
    for field in dataclasses.fields(config):
        if isinstance(getattr(config, field.name), float):
            with pytest.raises(UserError, match=rf"model\.{field.name} is nan, .* finite"):
                dataclasses.replace(config, **{field.name: float("nan")})
    with pytest.raises(UserError, match=r"model\.dropout is 2\.0, give a share, 0 to below 1"):
        dataclasses.replace(config, dropout=2.0)  # type: ignore[call-arg]


def test_run_id_does_not_depend_on_how_a_field_was_set():
    lr = str(resolve(REQUEST).training.lr)
    same = dataclasses.replace(REQUEST, overrides=(("training.lr", lr),))
    assert run_id(resolve(same)) == run_id(resolve(REQUEST))


def test_paper_preset_holds_the_rates_that_the_optimizer_got():
    rates = {
        task: resolve(
            Request("ehr_transformer", task, Cxr.NONE, 23, preset=Preset.PAPER)
        ).training.lr
        for task in Task
    }
    assert rates == {
        Task.DISEASE_PROGRESSION: 1.6e-4,
        Task.MORTALITY: 1.6e-4,
        Task.LENGTH_OF_STAY: 1.28e-4,
    }


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (dataclasses.replace(REQUEST, method="dipor"), "did you mean 'dipro'"),
        (dataclasses.replace(REQUEST, method="no_such_module:X"), "no module 'no_such_module'"),
        (dataclasses.replace(REQUEST, method="methods.base:Methd"), "did you mean 'Method'"),
        (dataclasses.replace(REQUEST, ablate=("pea",)), "did you mean 'pae'"),
        (dataclasses.replace(REQUEST, cxr=Cxr.PAIR), "disease_progression"),
        (dataclasses.replace(REQUEST, task=Task.DISEASE_PROGRESSION), "pair"),
        (dataclasses.replace(REQUEST, method="ehr_transformer"), "film"),
        (dataclasses.replace(REQUEST, overrides=(("training.lrr", "1"),)), "did you mean 'lr'"),
        (dataclasses.replace(REQUEST, overrides=(("training.lr", "fast"),)), "expected float"),
        (dataclasses.replace(REQUEST, overrides=(("training.lr", "-1"),)), "above 0"),
        (dataclasses.replace(REQUEST, overrides=(("trainig.lr", "1"),)), "training.FIELD"),
        (dataclasses.replace(REQUEST, overrides=(("model.nope", "1"),)), "no such field"),
        (dataclasses.replace(REQUEST, overrides=(("training.precision", "fp8"),)), "bf16"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(request_: Request, says: str):
    with pytest.raises(UserError) as caught:
        resolve(request_)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_default_films_are_the_fullest_that_a_method_takes():
    assert default_cxr("dipro", Task.DISEASE_PROGRESSION) is Cxr.PAIR
    assert default_cxr("dipro", Task.MORTALITY) is Cxr.LONG
    assert default_cxr("ehr_transformer", Task.MORTALITY) is Cxr.NONE


def test_ablating_changes_the_model_not_the_training():
    full, ablated = resolve(REQUEST), resolve(dataclasses.replace(REQUEST, ablate=("pae",)))
    assert full.training == ablated.training
    assert full.model != ablated.model


def test_a_switch_that_is_off_leaves_ids_as_they_were():
    off = resolve(REQUEST)
    assert not {"fused", "compile"} & off.to_json()["training"].keys()
    for switch in ("fused", "compile"):
        override = ((f"training.{switch}", "true"),)
        on = resolve(dataclasses.replace(REQUEST, overrides=override))
        assert on.to_json()["training"] == {**off.to_json()["training"], switch: True}


def test_the_paper_preset_fuses_on_every_device():
    paper = resolve(dataclasses.replace(REQUEST, preset=Preset.PAPER)).training
    assert paper.fused
    assert not paper.compile


def test_precision_is_a_field_not_a_device():
    assert TrainingConfig().precision == "fp32"
    assert resolve(dataclasses.replace(REQUEST, preset=Preset.PAPER)).training.precision == "bf16"
