"""MedFuse's first stage of training: each encoder learns by itself before the two are fused.

Hayat, Geras, Shamout, "MedFuse", MLHC 2022: the films' ConvNet learns to tell the findings of a
film, the EHR's LSTM the task, each with a linear classifier that is then thrown away. The
benchmark's MedFuse does without; for the two stages of the publication:

    python -m bench.run --method methods.baselines.medfuse_stage_one:MedFuseStageOne ...
    python -m bench.run --method medfuse --weights stage-one:results/runs/.../best.pt ...

Differences from the released code:

- seven findings instead of 14, and those that a report is not sure of count as shown, there as
  absent; what a report does not mention counts as absent in both;
- the films of the task's training samples, there all that are not of validation or test patients;
- one run trains both encoders, with one rate and one budget, there two runs do. They share no
  weight; the epoch is chosen by how well the EHR predicts the task.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from bench.contract import Output, Preset, Recipe, TaskSpec
from bench.data.batch import Batch, Inputs
from bench.data.cohort import Cohort
from bench.data.vocabulary import DISEASES, FINDING_UNKNOWN, Cxr, Task
from methods.base import Method
from methods.baselines.medfuse import SMALLER, EhrLstm, MedFuse, MedFuseConfig, hours_of
from methods.encoders import Encoder, ImageEncoder, encode_valid, shrink
from methods.findings import has_findings


@dataclass(frozen=True)
class MedFuseStageOneConfig(MedFuseConfig):
    """Sizes, those of MedFuse; it has no part that `fusion_width` would be about.

    findings_weight: of the films' loss beside the task's
    """

    findings_weight: float = 1.0

    def loss_weights(self) -> dict[str, float]:
        """The task's, of the EHR, and the findings', of the films."""
        return {"task": 1.0, "findings": self.findings_weight}


class FilmClassifier(Encoder):
    """MedFuse's ConvNet over a whole film and a linear classifier of findings."""

    def __init__(self, config: MedFuseConfig) -> None:
        super().__init__()
        self.width = len(DISEASES)
        self.max_film_size = config.max_film_size
        self.images = ImageEncoder(config.backbone, config.weights)
        self.head = nn.Linear(self.images.width, self.width)

    def forward(self, films: Tensor) -> Tensor:
        """Logits of the findings, float [N, 7], of films, uint8 [N, S, S]."""
        return self.head(self.images(shrink(films, self.max_film_size)))


class MedFuseStageOne(Method[MedFuseStageOneConfig]):
    """Two classifiers side by side; logits are those of the EHR."""

    title = "MedFuse, first stage"
    inputs = Inputs(films=True, ehr=True, demographics=True)

    def __init__(self, config: MedFuseStageOneConfig, spec: TaskSpec) -> None:
        super().__init__(config, spec)
        n_inputs = spec.n_variables + (spec.n_demographics if config.use_demographics else 0)
        self.ehr = EhrLstm(n_inputs, config.hidden, config.dropout)
        self.films = FilmClassifier(config)
        self.classifier = nn.Linear(config.hidden, spec.n_outputs * spec.n_logits)
        nn.init.xavier_uniform_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    @classmethod
    def configure(cls, preset: Preset, task: Task) -> MedFuseStageOneConfig:
        """MedFuse's sizes at the preset."""
        return replace(MedFuseStageOneConfig(), **SMALLER[preset])

    @classmethod
    def recipe(cls, task: Task) -> Recipe:
        """MedFuse's, at the rate of the released code's first stage."""
        return MedFuse.recipe(task) | {"lr": 5.3985e-4}

    @classmethod
    def decline(cls, task: Task, cxr: Cxr, ehr: bool) -> str | None:
        """It prepares both encoders."""
        if cxr is Cxr.NONE or not ehr:
            return "the first stage prepares encoders of films and of EHR: it needs both"
        return None

    def remarks(self, cohort: Cohort) -> list[str]:
        """What a run should say of its cohort: without labels of findings films teach nothing."""
        if has_findings(cohort):
            return []
        return [f"{self.title}: no training film has labels of its findings, so only EHR is learnt"]

    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        """Logits of the task and, with targets, the loss of the films' findings."""
        logits = self.classifier(
            self.ehr(hours_of(batch, self.config.use_demographics), batch.ehr_valid)
        )
        n_outputs = self.spec.n_outputs
        logits = logits.unflatten(-1, (n_outputs, -1)) if n_outputs > 1 else logits
        return Output(logits, self._finding_loss(batch))

    def _finding_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Binary cross-entropy, a mean over the findings of films whose report has any label."""
        if batch.targets is None:
            return {}
        films = batch.layout.films
        logits = films.pack(encode_valid(self.films, batch.films, films)).float()
        findings = films.pack(batch.targets.findings)
        labelled = (findings != FINDING_UNKNOWN).any(dim=-1, keepdim=True)
        shown = (findings == 1).float()
        terms = F.binary_cross_entropy_with_logits(logits, shown, labelled.float(), reduction="sum")
        return {"findings": terms / (labelled.sum() * len(DISEASES)).clamp_min(1)}
