"""What a run is: the request as typed, and the configuration it resolves to.

A request names a method, its ablations, the task, the setting, a seed and a preset. Resolving it
fills every training and model field; what was resolved decides the numbers and is hashed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bench.contract import MethodConfig, Preset
from bench.data.batch import Inputs
from bench.data.vocabulary import Cxr, Task
from bench.errors import UserError, nearest
from bench.registry import load_method

PAPER_SEEDS = (23, 29, 66)
"""The three seeds of the paper's tables."""


@dataclass(frozen=True)
class TrainingConfig:
    """How every method is trained; the same for all in one table.

    lr is what the optimizer gets (the paper's base rate x accumulation x batch size, ledger T1).
    One step is one optimizer step; `max_steps` 0 means no limit besides `max_epochs`.
    schedule, warmup_epochs: how the rate falls to lr_min, and how long it rises before
    backbone_lr_share: rate of the image backbones as a share of the others'
    positive_weight: weight of deaths in the loss, see `bench.objective.positive_weight`
    fused: AdamW in one kernel; compile: the model through `torch.compile`. Both change last bits.
    """

    lr: float = 1.6e-4
    lr_min: float = 1e-7
    schedule: str = "cosine"
    warmup_epochs: int = 0
    backbone_lr_share: float = 1.0
    beta_1: float = 0.9
    beta_2: float = 0.999
    weight_decay: float = 0.01
    positive_weight: str = "none"
    batch_size: int = 8
    accumulation: int = 4
    max_epochs: int = 100
    max_steps: int = 0
    patience: int = 10
    evaluation_batch_size: int = 64
    precision: str = "fp32"
    clip_norm: float = 0.0
    fused: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                given = getattr(self, name)
                raise UserError(f"training.{name} is '{given}': {nearest(given, choices)}")
        above_0 = ("lr", "batch_size", "accumulation", "max_epochs", "patience")
        for name in (*above_0, "evaluation_batch_size"):
            if getattr(self, name) <= 0:
                raise UserError(f"training.{name} is {getattr(self, name)}, it must be above 0")
        for name in ("beta_1", "beta_2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"training.{name} is {getattr(self, name)}, it must be in [0, 1)")
        for name in ("lr_min", "warmup_epochs", "backbone_lr_share"):
            if getattr(self, name) < 0:
                raise UserError(f"training.{name} is {getattr(self, name)}, it must be 0 or more")
        if self.lr_min > self.lr:
            raise UserError(f"training.lr_min is {self.lr_min:g}, above training.lr, {self.lr:g}")


_CHOICES = {
    "schedule": ("cosine", "linear", "constant"),
    "positive_weight": ("none", "balanced", "prevalence"),
    "precision": ("fp32", "bf16"),
}
"""Training fields with a closed set of values, the paper's first."""


def training_config(preset: Preset, task: Task) -> TrainingConfig:
    """The shared training configuration of a preset (paper: Table 8, Table 16, ledger T1-T3)."""
    if preset is Preset.PAPER:
        paper = {
            Task.DISEASE_PROGRESSION: {"lr": 1.6e-4, "batch_size": 8},
            Task.MORTALITY: {"lr": 1.6e-4, "batch_size": 4},
            Task.LENGTH_OF_STAY: {"lr": 1.28e-4, "batch_size": 4},
        }[task]
        return TrainingConfig(**paper, precision="bf16", fused=True)  # type: ignore[arg-type]
    common = TrainingConfig(lr=1e-3, batch_size=16, accumulation=1, clip_norm=1.0)
    if preset is Preset.MEDIUM:
        return dataclasses.replace(common, max_epochs=25, max_steps=1200, patience=6)
    return dataclasses.replace(common, max_epochs=15, max_steps=150, patience=5)


@dataclass(frozen=True)
class Request:
    """One run as a user asks for it.

    `drop_ehr` is the share of training samples whose hours are hidden (paper, Tables 18 and 19).
    `weights` is the name of the `Weights` it starts from; `test_only` trains nothing further.
    `validation_only` leaves the test set alone (searches).
    `overrides` are (field, text) pairs of `--set`, e.g. ("training.lr", "1e-4").
    """

    method: str
    task: Task
    cxr: Cxr
    seed: int
    ehr: bool = True
    drop_ehr: float = 0.0
    ablate: tuple[str, ...] = ()
    preset: Preset = Preset.DEMO
    recipe: str = "shared"
    weights: str = ""
    test_only: bool = False
    validation_only: bool = False
    overrides: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """The row this run belongs to, e.g. 'dipro -pae (long)'."""
        ablated = "".join(f" -{name}" for name in self.ablate)
        films = self.cxr if self.ehr else f"{self.cxr}, no EHR"
        films += f", EHR dropped from {self.drop_ehr:.0%}" if self.drop_ehr else ""
        weights = f", {self.weights}" if self.weights else ""
        return f"{self.method}{ablated} ({films}{weights})"

    def visible(self, inputs: Inputs) -> Inputs:
        """What of a method's declared inputs this request lets it see."""
        return Inputs(
            regions=inputs.regions,
            films=inputs.films,
            ehr=inputs.ehr and self.ehr,
            demographics=inputs.demographics and self.ehr,
        )

    def command(self, cohort: str) -> str:
        """The command that makes this run."""
        words = [f"python -m bench.run --method {self.method}"]
        words += [f"--ablate {name}" for name in self.ablate]
        words += [f"--task {self.task} --cxr {self.cxr} --seed {self.seed}"]
        words += [] if self.ehr else ["--no-ehr"]
        words += [f"--drop-ehr {self.drop_ehr:g}"] if self.drop_ehr else []
        words += [f"--preset {self.preset} --cohort {cohort}"]
        words += ["--recipe reference"] if self.recipe == "reference" else []
        words += [f"--set {name}={text}" for name, text in self.overrides]
        words += [f"--weights {self.weights.partition(':')[0]}:FILE"] if self.weights else []
        words += ["--test-only"] if self.test_only else []
        return " ".join(words)


@dataclass(frozen=True)
class Weights:
    """Trained weights that a run starts from: a file, and whose state dict is in it.

    kind: 'own' for a file that this project wrote, or 'official' for one that a method's authors
        published
    """

    OWN: ClassVar[str] = "own"
    PUBLISHED: ClassVar[str] = "official"

    kind: str
    file: Path

    @classmethod
    def parse(cls, text: str) -> Weights:
        """Read KIND:FILE, or FILE alone for 'own'.

        Raises:
            UserError: there is no such file.
        """
        kind, colon, name = text.partition(":")
        weights = cls(kind, Path(name)) if colon else cls(cls.OWN, Path(text))
        if not weights.file.is_file():
            raise UserError(f"--weights {text}: there is no file {weights.file}")
        return weights

    @property
    def name(self) -> str:
        """Kind and content, wherever the file lies, e.g. 'official:3f0a12bc45de6789'."""
        with self.file.open("rb") as opened:
            return f"{self.kind}:{hashlib.file_digest(opened, 'sha256').hexdigest()[:16]}"


@dataclass(frozen=True)
class RunConfig:
    """A resolved request: everything that decides a run's numbers, the cohort aside."""

    request: Request
    training: TrainingConfig
    model: MethodConfig

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `config.json` and the run id hold them."""
        request = dataclasses.asdict(self.request)
        # Overrides are already in the resolved fields: two spellings of one run are one run.
        del request["overrides"], request["preset"], request["recipe"]
        return {
            "request": request,
            # A switch that is off leaves run ids as they were before it existed.
            "training": {
                k: v for k, v in dataclasses.asdict(self.training).items() if v is not False
            },
            "model": dataclasses.asdict(self.model),
        }

    def run_id(self, cohort_hash: str, schema: int) -> str:
        """Readable prefix and a hash of everything that moves a number: config, cohort, schema."""
        text = json.dumps([self.to_json(), cohort_hash, schema], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        method = self.request.method.rpartition(":")[2]
        parts = [method, *self.request.ablate, self.request.task, f"seed{self.request.seed}"]
        return "-".join([*parts, digest]).replace("+", "_")


def resolve(request: Request) -> RunConfig:
    """Fill in every field of a request.

    Raises:
        UserError: unknown method, ablation, field or value, or a setting the method declines.
    """
    method = load_method(request.method)
    reason = method.decline(request.task, request.cxr, request.ehr) or _misfit(request)
    if reason:
        raise UserError(f"{request.label} on {request.task}: {reason}")
    is_published = request.weights.startswith(f"{Weights.PUBLISHED}:")
    # Published weights have the paper's sizes, whatever else is small.
    model = method.configure(Preset.PAPER if is_published else request.preset, request.task)
    if request.weights and "weights" in vars(model):
        # A checkpoint holds the backbone too.
        model = dataclasses.replace(model, **{"weights": "none"})
    training = training_config(request.preset, request.task)
    if request.recipe == "reference":
        training = dataclasses.replace(training, **method.recipe(request.task))  # type: ignore[arg-type]
    for name, text in request.overrides:
        section, _, field_name = name.partition(".")
        if section == "training":
            training = _override(training, section, field_name, text)
        elif section == "model":
            model = _override(model, section, field_name, text)
        else:
            raise UserError(f"--set {name}: name a field as training.FIELD or model.FIELD")
    # Last, so that no override (one that a search chose, say) brings back what is ablated.
    for name in request.ablate:
        if name not in method.ablations:
            valid = nearest(name, method.ablations) if method.ablations else "it has none"
            raise UserError(f"{request.method} has no ablation '{name}': {valid}")
        model = method.ablations[name].apply(model)
    return RunConfig(request, training, model)


def _misfit(request: Request) -> str | None:
    """Why a film setting does not go with a task, if it does not."""
    if request.cxr is Cxr.PAIR and request.task.is_icu:
        return "cxr 'pair' is for disease_progression; choose none, last or long"
    if request.cxr in (Cxr.LAST, Cxr.LONG) and not request.task.is_icu:
        return "its sample is a pair of films; choose cxr pair or none"
    if request.cxr is Cxr.NONE and not request.ehr:
        return "neither films nor EHR are left"
    if not 0 <= request.drop_ehr < 1:
        return f"--drop-ehr {request.drop_ehr:g}: give a share of training samples, 0 to below 1"
    if request.test_only and not request.weights:
        return "--test-only evaluates trained weights: name them with --weights"
    if request.drop_ehr and not request.ehr:
        return "there is no EHR to drop: leave --no-ehr or --drop-ehr out"
    return None


def default_cxr(method: str, task: Task) -> Cxr:
    """The fullest film setting that a method accepts for a task."""
    choices = (Cxr.LONG, Cxr.LAST, Cxr.NONE) if task.is_icu else (Cxr.PAIR, Cxr.NONE)
    cls = load_method(method)
    for cxr in choices:
        if cls.decline(task, cxr, ehr=True) is None:
            return cxr
    raise UserError(f"{method} declines {task}: {cls.decline(task, choices[0], ehr=True)}")


def _override(config: Any, section: str, name: str, text: str) -> Any:
    """Replace one field of a frozen dataclass by a text parsed as the type it has."""
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    if name not in fields:
        raise UserError(f"--set {section}.{name}: no such field, {nearest(name, fields)}")
    kind = type(fields[name])
    try:
        value = _BOOLEANS[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        raise UserError(f"--set {section}.{name}={text}: expected {kind.__name__}")
    return dataclasses.replace(config, **{name: value})


_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
