"""The base class of every method: what it reads, how it is configured, what it returns.

A method is one `nn.Module` in one file. It touches no file, seed, device choice or metric; the
runner computes the task's loss from its logits, the same for all, and adds the method's own terms.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Generic

import torch
from torch import nn

from bench.contract import Ablation, ConfigT, Output, Preset, Recipe, TaskSpec
from bench.data.batch import Batch, Inputs
from bench.data.cohort import Cohort
from bench.data.vocabulary import Cxr, Task
from bench.errors import UserError
from methods.encoders import Backbone


class Method(nn.Module, Generic[ConfigT]):
    """Base class of a method.

    Class attributes a method sets:
        title: name in tables
        inputs: what it reads from a batch
        ablations: named changes of its configuration
    """

    title: ClassVar[str]
    inputs: ClassVar[Inputs]
    ablations: ClassVar[dict[str, Ablation]] = {}

    def __init__(self, config: ConfigT, spec: TaskSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec

    @classmethod
    def configure(cls, preset: Preset, task: Task) -> ConfigT:
        """The method's configuration for a preset and a task."""
        raise NotImplementedError

    @classmethod
    def recipe(cls, task: Task) -> Recipe:
        """Training fields of the method's own publication, used with `--recipe reference` only."""
        return {}

    @classmethod
    def decline(cls, task: Task, cxr: Cxr, ehr: bool) -> str | None:
        """The reason why the method cannot do this setting, or None if it can."""
        return None

    def remarks(self, cohort: Cohort) -> list[str]:
        """What a run says of its cohort, at its start and in its record."""
        return []

    def backbones(self) -> list[nn.Module]:
        """The networks over pixels, whose rate is `training.backbone_lr_share` of the others'."""
        return [module for module in self.modules() if isinstance(module, Backbone)]

    def load_weights(self, kind: str, file: Path) -> list[str]:
        """Take over trained weights; kind 'own' is a state dict that a run of this method wrote.

        Returns:
            Remarks for the run's record.

        Raises:
            UserError: the method knows no such kind, or the file does not fit.
        """
        if kind != "own":
            raise UserError(f"{self.title} knows no weights of kind '{kind}': give --weights FILE")
        try:
            self.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        except Exception as error:
            # torch.load raises many kinds for a file that is no checkpoint.
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{file} holds no weights of this {self.title}: {reason}")
        return []

    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        """Logits, own loss terms and, on request, attention maps for a batch."""
        raise NotImplementedError


def needs_two_films(title: str, cxr: Cxr) -> str | None:
    """Why a method that compares films declines a film setting, if it does."""
    if cxr is Cxr.NONE:
        return f"{title} compares films: without them use --method ehr_transformer"
    if cxr is Cxr.LAST:
        return f"{title} needs two films: use --cxr long"
    return None
