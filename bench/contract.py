"""What the runner and a method say to each other: presets, specification, configuration, output."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from bench.data.vocabulary import (
    DEMOGRAPHICS,
    DISEASES,
    EHR_VARIABLES,
    N_LENGTH_OF_STAY_CLASSES,
    N_PROGRESSION_CLASSES,
    REGIONS,
    Cxr,
    Task,
)
from bench.errors import UserError, nearest

Recipe = dict[str, float | int | str]
"""Fields of `bench.config.TrainingConfig`, with values."""


class Preset(StrEnum):
    """How large a run is (README, section presets)."""

    DEMO = "demo"
    MEDIUM = "medium"
    PAPER = "paper"


@dataclass(frozen=True)
class TaskSpec:
    """What a method is built for.

    Attributes:
        task: one of the three tasks
        cxr: which films the batches hold
        ehr: whether EHR and demographics are given (both are, or neither)
        class_weights: float32 [7, 3]; progression class weights of the training split
    """

    task: Task
    cxr: Cxr
    ehr: bool = True
    class_weights: Tensor = field(
        default_factory=lambda: torch.ones(len(DISEASES), N_PROGRESSION_CLASSES)
    )

    @property
    def n_outputs(self) -> int:
        """Outputs that share a trunk: one per disease, else one."""
        return len(DISEASES) if self.task is Task.DISEASE_PROGRESSION else 1

    @property
    def n_logits(self) -> int:
        """Logits per output: 3 (progression), 1 (mortality), 4 (length of stay)."""
        return {
            Task.DISEASE_PROGRESSION: N_PROGRESSION_CLASSES,
            Task.MORTALITY: 1,
            Task.LENGTH_OF_STAY: N_LENGTH_OF_STAY_CLASSES,
        }[self.task]

    n_variables: ClassVar[int] = len(EHR_VARIABLES)
    n_demographics: ClassVar[int] = len(DEMOGRAPHICS)
    n_regions: ClassVar[int] = len(REGIONS)


@dataclass(frozen=True)
class MethodConfig:
    """Base of every method's configuration: frozen, flat, of int, float, bool and str only.

    Class attributes that say which values are refused, besides floats that are not finite and
    dropped shares ('drop' in the name) outside 0 to below 1:
        choices: the values that a text may have
        least: the smallest value of a number
        multiples: what an integer must be a multiple of, a number or another field

    Raises:
        UserError: a value is refused.
    """

    choices: ClassVar[Mapping[str, Collection[str]]] = {}
    least: ClassVar[Mapping[str, float]] = {}
    multiples: ClassVar[Mapping[str, int | str]] = {}

    def __post_init__(self) -> None:
        for fault_of in (self._fault, self._remainder):
            for name, value in vars(self).items():
                if fault := fault_of(name, value):
                    raise UserError(f"model.{name} is {value!r}, {fault}")

    def _fault(self, name: str, value: object) -> str | None:
        """What is wrong with a field's value by itself, if anything is."""
        if name in self.choices and value not in self.choices[name]:
            return nearest(str(value), self.choices[name])
        if isinstance(value, float) and not math.isfinite(value):
            return "it must be a finite number"
        if isinstance(value, float) and "drop" in name and not 0 <= value < 1:
            return "give a share, 0 to below 1"
        if isinstance(value, int | float) and value < self.least.get(name, -math.inf):
            return f"it must be {self.least[name]} or more"
        return None

    def _remainder(self, name: str, value: object) -> str | None:
        """Whether a field's value is no multiple of what it should be."""
        divisor = self.multiples.get(name, 1)
        words = f"{divisor}"
        if isinstance(divisor, str):
            words, divisor = f"model.{divisor}, {getattr(self, divisor)}", getattr(self, divisor)
        is_one = not isinstance(value, int) or value % divisor == 0
        return None if is_one else f"it must be a multiple of {words}"

    def loss_weights(self) -> dict[str, float]:
        """Weight of every loss term by name; `task` is the runner's, the rest the method's own."""
        return {"task": 1.0}


ConfigT = TypeVar("ConfigT", bound=MethodConfig)


@dataclass(frozen=True)
class Ablation(Generic[ConfigT]):
    """A named change of configuration, with the sentence that `--help` and the tables show."""

    sentence: str
    apply: Callable[[ConfigT], ConfigT]


@dataclass(frozen=True)
class Output:
    """What a forward pass returns.

    logits: float [B, 7, 3] (progression), [B, 1] (mortality) or [B, 4] (length of stay)
    losses: named scalar terms besides the task loss; empty when the batch has no targets
    attention: named maps, filled only on request; over regions [B, C, P, 10], over hours [B, P, L];
        padding is zero
    """

    logits: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    attention: dict[str, Tensor] = field(default_factory=dict)
