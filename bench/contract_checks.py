"""What every method must keep to, as checks of one method in one setting.

A check takes a `Case` and returns None, or what is wrong in one line. Batches come from a miniature
cohort through the same `Samples` that runs use, so a method sees what it declared and no more.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from bench.config import Request, RunConfig, resolve
from bench.contract import Output, TaskSpec
from bench.data.batch import Batch, Samples, progression_class_weights
from bench.data.cohort import Cohort
from bench.data.vocabulary import DISEASES, FINDING_UNKNOWN, NOT_MENTIONED, REGIONS, Cxr, Task
from bench.declaration import blamed, kind_of
from bench.errors import UserError
from bench.objective import task_loss
from bench.registry import load_method

N_SAMPLES = 6
"""Samples of a check's batch."""

N_EXTRA_FILMS, N_EXTRA_HOURS = 2, 5
"""Padding that a check adds."""

RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""How far float32 sums in another order may lie apart."""

LOGITS = "the logits"
"""What they are called in a fault: the one name of several numbers."""

SEEDS = 20_011, 20_012
"""Of the random state before a method is built; none that an author would set."""

N_LEARNING_STEPS, LEARNING_RATE, LEARNT = 200, 3e-3, 0.1
"""Steps, rate and the share of the first task loss at which four samples count as learnt."""


@dataclass(frozen=True)
class Case:
    """One method, with at most one ablation, on one task with given films, with or without EHR."""

    config: RunConfig
    cohort: Cohort

    @property
    def task(self) -> Task:
        """The task."""
        return self.config.request.task

    @property
    def label(self) -> str:
        """The setting in words, e.g. 'dipro -pae (long), mortality'."""
        return f"{self.config.request.label}, {self.task}"

    @cached_property
    def samples(self) -> Samples:
        """The task's samples as this method may see them."""
        request = self.config.request
        visible = request.visible(load_method(request.method).inputs)
        return Samples(self.cohort, request.task, request.cxr, visible)

    @cached_property
    def class_weights(self) -> Tensor:
        """Progression class weights, float32 [7, 3]."""
        return torch.from_numpy(progression_class_weights(self.cohort))

    def batch(self, positions: Sequence[int] = range(N_SAMPLES)) -> Batch:
        """The samples at `positions`."""
        return self.samples.batch(np.asarray(positions, dtype=np.int64))

    def model(self, seed: int = 0) -> nn.Module:
        """The method with the weights that a seed gives."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            return self.build()

    def build(self) -> nn.Module:
        """The method with weights from PyTorch's generator as it stands."""
        request = self.config.request
        spec = TaskSpec(request.task, request.cxr, request.ehr, self.class_weights)
        return load_method(request.method)(self.config.model, spec)

    def settled(self) -> nn.Module:
        """The method in evaluation mode, its batch statistics those of the check's batch."""
        model = without_dropout(self.model())
        for norm in _batch_norms(model):
            norm.momentum = 1.0
        with torch.no_grad():
            model(self.batch())
        return model.eval()

    def terms(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """The task loss and the method's own terms, unweighted."""
        assert batch.targets is not None
        task = task_loss(self.task, output.logits, batch.targets, self.class_weights)
        return {"task": task, **output.losses}

    def total(self, output: Output, batch: Batch) -> Tensor:
        """The weighted sum that a run minimises."""
        weights = self.config.model.loss_weights()
        terms = self.terms(output, batch)
        return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


def settings(method: str, overrides: Sequence[tuple[str, str]] = ()) -> list[RunConfig]:
    """Every setting that a method accepts, in full and with each ablation.

    Raises:
        UserError: the method accepts no setting at all.
    """
    accepted, reason = [], ""
    for task, cxr, ehr in itertools.product(Task, Cxr, (True, False)):
        request = Request(method, task, cxr, seed=0, ehr=ehr, overrides=tuple(overrides))
        try:
            accepted.append(resolve(request))
        except UserError as error:
            reason = str(error)
    if not accepted:
        raise UserError(f"{method} accepts no setting; the last was {reason}")
    ablations = [(), *((name,) for name in load_method(method).ablations)]
    return [resolve(replace(c.request, ablate=a)) for c in accepted for a in ablations]


def without_dropout(model: nn.Module) -> nn.Module:
    """Training mode as far as it is deterministic: batch statistics, but no dropout."""
    model.eval()
    for norm in _batch_norms(model):
        norm.train()
    return model


def training_without_dropout(model: nn.Module) -> nn.Module:
    """Training mode in every module but those of dropout: a method sees that it is trained."""
    model.train()
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.eval()
    return model


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def padded(batch: Batch, n_films: int = N_EXTRA_FILMS, n_hours: int = N_EXTRA_HOURS) -> Batch:
    """The same samples with more padding, and garbage wherever there is padding.

    Masks are False and labels not mentioned there, as ever. What is withheld is not padded.
    """
    generator = torch.Generator().manual_seed(1)
    n_films = n_films if batch.film_valid.shape[1] else 0
    n_hours = n_hours if batch.ehr_valid.shape[1] else 0
    n_pairs = max(batch.film_valid.shape[1] + n_films - 1, 0) - batch.pair_valid.shape[1]
    film_valid = _longer(batch.film_valid, n_films)
    pair_valid = _longer(batch.pair_valid, n_pairs)
    ehr_valid = _longer(batch.ehr_valid, n_hours)

    def pad(values: Tensor, valid: Tensor) -> Tensor:
        longer = _longer(values, valid.shape[1] - values.shape[1])
        shape = (*valid.shape, *(1 for _ in values.shape[2:]))
        garbage = (torch.rand(longer.shape, generator=generator) * 30).to(values.dtype)
        return torch.where(valid.reshape(shape), longer, garbage)

    changes: dict[str, Any] = {
        "film_valid": film_valid,
        "pair_valid": pair_valid,
        "ehr_valid": ehr_valid,
        "region_present": _longer(batch.region_present, n_films),
        **{name: pad(getattr(batch, name), film_valid) for name in _FILM_VALUES},
        **{name: pad(getattr(batch, name), ehr_valid) for name in _HOUR_VALUES},
        "pair_hours": pad(batch.pair_hours, pair_valid),
    }
    if batch.targets is not None:
        changes["targets"] = replace(
            batch.targets,
            region_progression=_longer(batch.targets.region_progression, n_pairs, NOT_MENTIONED),
            findings=_longer(batch.targets.findings, n_films, FINDING_UNKNOWN),
        )
    return replace(batch, **changes)


_FILM_VALUES = ("films", "regions", "film_hours")
_HOUR_VALUES = ("ehr_values", "ehr_observed", "ehr_hours")


def _longer(values: Tensor, n: int, fill: int = 0) -> Tensor:
    extra = values.new_full((len(values), n, *values.shape[2:]), fill)
    return torch.cat([values, extra], dim=1)


def with_films_exchanged(batch: Batch) -> Batch:
    """The first two films of each sample trade pictures; hours and labels stay."""
    order = [1, 0, *range(2, batch.film_valid.shape[1])]
    return replace(
        batch,
        films=batch.films[:, order],
        regions=batch.regions[:, order],
        region_present=batch.region_present[:, order],
    )


def difference(name: str, value: Tensor, expected: Tensor) -> str | None:
    """What is wrong if `value` is not `expected` up to rounding."""
    have, move = ("have", "move") if name == LOGITS else ("has", "moves")
    if value.shape != expected.shape:
        return f"{name} {have} shape {tuple(value.shape)} instead of {tuple(expected.shape)}"
    if torch.allclose(value, expected, rtol=RELATIVE, atol=ABSOLUTE):
        return None
    return f"{name} {move} by {(value - expected).detach().abs().max().item():.2g}"


def _output_difference(output: Output, expected: Output) -> str | None:
    pairs = {LOGITS: (output.logits, expected.logits)}
    pairs |= {f"loss term '{k}'": (output.losses[k], v) for k, v in expected.losses.items()}
    return next((d for name, pair in pairs.items() if (d := difference(name, *pair))), None)


def check_configuration(case: Case) -> str | None:
    """The configuration is frozen and flat, so that it can be hashed and overridden."""
    config = case.config.model
    if not config.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return f"{type(config).__name__} is not a frozen dataclass"
    for field in fields(config):
        value = getattr(config, field.name)
        if not isinstance(value, int | float | str):
            return f"field {field.name} is a {type(value).__name__}: use int, float, bool or str"
    return None


def check_output(case: Case) -> str | None:
    """Logits have the task's shape; every loss term is a scalar with a weight; all is finite."""
    output = case.model()(case.batch())
    if wrong := _wrong_type(output) or _wrong_shape(output.logits, case.task):
        return wrong
    terms, weights = {"task", *output.losses}, set(case.config.model.loss_weights())
    if terms != weights:
        return f"loss terms are {sorted(terms)}, loss_weights() names {sorted(weights)}"
    for name, term in output.losses.items():
        if term.shape != ():
            return f"loss term '{name}' has shape {tuple(term.shape)}: it must be a scalar"
    return None


def malformed(case: Case) -> str | None:
    """What `forward` returns instead of an `Output` with logits, in words that name the setting.

    Where it raises, nothing: each check says so for itself.
    """
    try:
        output = case.model()(case.batch())
    except Exception:
        return None
    wrong = _wrong_type(output) or _wrong_shape(output.logits, case.task)
    return f"{wrong} ({case.label})" if wrong else None


def _wrong_type(output: object) -> str | None:
    if not isinstance(output, Output):
        return f"forward returned {kind_of(output)}, expected Output(logits, losses, attention)"
    if not isinstance(output.logits, Tensor):
        return f"the Output's logits are {kind_of(output.logits)}, expected a float Tensor"
    if not output.logits.is_floating_point():
        return f"logits have dtype {output.logits.dtype}, expected torch.float32"
    for name in ("losses", "attention"):
        held = getattr(output, name)
        if not isinstance(held, dict):
            return f"the Output's {name} are {kind_of(held)}, expected a dict of names to Tensors"
        for key, value in held.items():
            if not isinstance(value, Tensor):
                return f"the Output's {name}['{key}'] is {kind_of(value)}, expected a Tensor"
    return None


def _wrong_shape(logits: Tensor, task: Task) -> str | None:
    n_classes = {Task.MORTALITY: (1,), Task.LENGTH_OF_STAY: (4,)}
    shape = (N_SAMPLES, *n_classes.get(task, (len(DISEASES), 3)))
    return (
        None
        if logits.shape == shape
        else (f"logits have shape {tuple(logits.shape)} instead of {shape}")
    )


def check_finite(case: Case) -> str | None:
    """Loss and gradients are finite in training, in float32 and in bf16."""
    batch = case.batch()
    for enabled, precision in ((False, "fp32"), (True, "bf16")):
        model = case.model().train()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = model(batch)
            total = case.total(output, batch)
        if not (torch.isfinite(output.logits).all() and torch.isfinite(total)):
            return f"logits or loss are not finite in {precision}"
        total.backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                return f"the gradient of {name} is not finite in {precision}"
    return None


def check_gradients(case: Case) -> str | None:
    """Every trained parameter gets a gradient from some loss term, whatever the term's weight."""
    model = without_dropout(case.model())
    for start in (0, N_SAMPLES):
        batch = case.batch(range(start, start + N_SAMPLES))
        terms = case.terms(model(batch), batch)
        torch.stack(list(terms.values())).sum().backward()
    silent = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    return f"no gradient reaches {', '.join(silent[:3])} ({len(silent)} in all)" if silent else None


def check_padding(case: Case) -> str | None:
    """Garbage in padded films, regions, pairs and hours changes nothing, nor batch statistics."""
    batch = case.batch()
    model = case.settled()
    if wrong := _output_difference(model(padded(batch)), model(batch)):
        return wrong
    one, other = (without_dropout(case.model()) for _ in range(2))
    if wrong := _output_difference(one(padded(batch)), other(batch)):
        return f"in training {wrong}"
    pairs = zip(one.named_buffers(), other.buffers(), strict=True)
    return next((d for (name, seen), value in pairs if (d := difference(name, seen, value))), None)


def check_batch_mates(case: Case) -> str | None:
    """A prediction depends neither on the other samples of its batch nor on their number."""
    model = case.settled()
    together = model(case.batch()).logits
    for i in range(N_SAMPLES):
        if wrong := difference("a logit", model(case.batch([i])).logits[0], together[i]):
            return f"{wrong} when its sample is alone"
    return None


def check_labels(case: Case) -> str | None:
    """Without labels the logits are the same, in training too, and there are no loss terms."""
    model, batch = case.settled(), case.batch()
    expected, output = model(batch), model(batch.without_targets())
    if output.losses:
        return f"there are loss terms without labels: {', '.join(output.losses)}"
    if wrong := _inequality(output.logits, expected.logits):
        return wrong
    # Two methods: one pass may leave something behind that the next one reads.
    one, other = (training_without_dropout(case.model()) for _ in range(2))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        expected = one(batch)
        torch.manual_seed(0)
        output = other(batch.without_targets())
    wrong = _inequality(output.logits, expected.logits)
    return f"in training {wrong}" if wrong else None


def _inequality(logits: Tensor, expected: Tensor) -> str | None:
    """What is wrong if logits are not the same to the last bit."""
    if torch.equal(logits, expected):
        return None
    return difference(LOGITS, logits, expected) or f"{LOGITS} change"


def check_attention(case: Case) -> str | None:
    """Maps come on request only, in a shape of `Output`, with zeros where there is padding."""
    model, batch = case.settled(), case.batch()
    plain, output = model(batch), model(batch, with_attention=True)
    if plain.attention:
        return "there are attention maps without a request"
    if wrong := difference(LOGITS, output.logits, plain.logits):
        return f"{wrong} when maps are requested"
    n, n_pairs = batch.pair_valid.shape
    for name, values in output.attention.items():
        over_hours = values.shape == (n, n_pairs, batch.ehr_valid.shape[1])
        over_regions = values.ndim == 4 and values.shape[2:] == (n_pairs, len(REGIONS))
        if not (over_hours or over_regions):
            return f"map '{name}' has shape {tuple(values.shape)}"
        by_pair = values if over_hours else values.swapaxes(1, 2)
        if by_pair[~batch.pair_valid].any():
            return f"map '{name}' is not zero at padded pairs"
    return None


def check_film_order(case: Case) -> str | None:
    """Exchanging the first two films of each sample changes the logits."""
    model, batch = case.settled(), case.batch()
    exchanged = model(with_films_exchanged(batch)).logits
    unchanged = difference(LOGITS, exchanged, model(batch).logits) is None
    return "the logits stay the same" if unchanged else None


def check_random_state(case: Case) -> str | None:
    """Seeds are the runner's: a method sets none, and its predictions draw no random number."""
    others, states = _state_of_other_generators(), []
    with torch.random.fork_rng(devices=()):
        for seed in SEEDS:
            torch.manual_seed(seed)
            model = case.build().train()
            built = torch.get_rng_state()
            model(case.batch())
            states.append((built, torch.get_rng_state()))
        before = torch.get_rng_state()
        model.eval()(case.batch().without_targets())
        after = torch.get_rng_state()
    for place, *ends in zip(("__init__", "forward"), *states, strict=True):
        if torch.equal(*ends):
            return f"{place} sets the random seed: leave it to the runner"
    if not torch.equal(before, after):
        return "forward changes the random state in evaluation mode: predictions draw nothing"
    if _state_of_other_generators() != others:
        return "it draws from NumPy's or Python's global generator: use torch's, which runs seed"
    return None


def _state_of_other_generators() -> str:
    numpy_state = np.random.get_state()  # noqa: NPY002 - the one that a method might use
    return repr((random.getstate(), [np.asarray(part).tolist() for part in numpy_state]))


def remark_on_absent_regions(case: Case) -> str | None:
    """Whether the black crops that stand for absent regions are read; a published model may."""
    model, batch = case.settled(), case.batch()
    absent = ~batch.region_present & batch.film_valid[..., None]
    garbage = torch.arange(batch.regions.numel()).reshape(batch.regions.shape) % 251
    crops = torch.where(absent[..., None, None], garbage.to(batch.regions.dtype), batch.regions)
    wrong = difference(LOGITS, model(replace(batch, regions=crops)).logits, model(batch).logits)
    advice = "unless black crops are meant to be read, mask by batch.region_present"
    return f"{wrong} with garbage there; {advice}" if wrong else None


def check_seed(case: Case) -> str | None:
    """The seed decides the weights, and saved weights bring the method back."""
    model, again, other = case.model(), case.model(), case.model(seed=1)
    pairs = zip(model.state_dict().items(), again.state_dict().values(), strict=True)
    for (name, value), same in pairs:
        if not torch.equal(value, same):
            return f"{name} differs between two methods of one seed"
    batch = case.batch()
    expected = model.eval()(batch).logits
    other.eval()
    if torch.equal(other(batch).logits, expected):
        return "another seed gives the same logits"
    other.load_state_dict(model.state_dict())
    return difference(LOGITS, other(batch).logits, expected)


def check_ablation(case: Case) -> str | None:
    """An ablation changes the parameters or the loss, on every task whose configuration it changes.

    It may leave the configuration of some tasks as it is, but not of all.
    """
    request = case.config.request
    full = Case(resolve(replace(request, ablate=())), case.cohort)
    if case.config.model == full.config.model:
        method, (name,) = load_method(request.method), request.ablate
        configs = [method.configure(request.preset, task) for task in Task]
        changes_some = any(method.ablations[name].apply(c) != c for c in configs)
        return None if changes_some else "it changes no configuration"
    models = [without_dropout(c.model()) for c in (full, case)]
    shapes = [{name: p.shape for name, p in model.named_parameters()} for model in models]
    if shapes[0] != shapes[1]:
        return None
    batch = case.batch()
    totals = [c.total(m(batch), batch) for c, m in zip((full, case), models, strict=True)]
    return "neither parameters nor loss change" if totals[0] == totals[1] else None


def check_learning(case: Case) -> str | None:
    """Four samples can be learnt by heart."""
    batch = case.batch(np.linspace(0, len(case.samples) - 1, 4).astype(int).tolist())
    model = without_dropout(case.model())
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    first = last = float("inf")
    for step in range(N_LEARNING_STEPS):
        optimizer.zero_grad()
        output = model(batch)
        last = case.terms(output, batch)["task"].item()
        first = last if step == 0 else first
        if last < LEARNT * first:
            return None
        case.total(output, batch).backward()
        optimizer.step()
    return f"the task loss falls from {first:.3g} to {last:.3g} only in {N_LEARNING_STEPS} steps"


def _always(case: Case) -> bool:
    return True


def _reads_several_films(case: Case) -> bool:
    inputs = load_method(case.config.request.method).inputs
    several = case.config.request.cxr in (Cxr.PAIR, Cxr.LONG)
    return several and (inputs.films or inputs.regions)


def _reads_regions(case: Case) -> bool:
    request = case.config.request
    return request.cxr is not Cxr.NONE and load_method(request.method).inputs.regions


def _is_ablation(case: Case) -> bool:
    # Without EHR an ablation may have nothing left to remove.
    return bool(case.config.request.ablate) and case.config.request.ehr


def _has_every_part(case: Case) -> bool:
    return not case.config.request.ablate


@dataclass(frozen=True)
class Check:
    """A check with the sentence that it stands for and the cases it is about."""

    sentence: str
    check: Callable[[Case], str | None]
    applies: Callable[[Case], bool] = _always

    def fault_of(self, case: Case) -> str | None:
        """What is wrong with a case, an exception included; None if all is well."""
        try:
            return self.check(case)
        except Exception as error:
            return blamed(error)


CHECKS = (
    Check("the configuration is frozen, flat and of plain types", check_configuration),
    Check("logits have the task's shape, loss terms their weights", check_output),
    Check("loss and gradients are finite, in bf16 too", check_finite),
    Check("every trained parameter gets a gradient", check_gradients),
    Check("padding changes nothing", check_padding),
    Check("batch mates change nothing", check_batch_mates),
    Check("labels never reach the logits", check_labels),
    Check("attention maps have a known shape and change nothing", check_attention),
    Check("the order of films matters", check_film_order, _reads_several_films),
    Check("no seed is set, predictions draw nothing", check_random_state, _has_every_part),
    Check("same seed, same weights; saved and loaded, same logits", check_seed),
    Check("an ablation changes the model", check_ablation, _is_ablation),
    Check("four samples can be learnt", check_learning, _has_every_part),
)

REMARKS = (Check("crops of absent regions are read", remark_on_absent_regions, _reads_regions),)
"""What a method may do if it means it."""
