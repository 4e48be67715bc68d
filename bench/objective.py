"""The task loss, computed by the runner from any method's logits: the same for all of them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.data.batch import Targets
from bench.data.vocabulary import NOT_MENTIONED, Task
from bench.errors import UserError


def progression_loss(logits: Tensor, labels: Tensor, class_weights: Tensor) -> Tensor:
    """Sum over diseases of the class-weighted mean cross-entropy over mentioned labels.

    Args:
        logits: float [..., 7, 3]
        labels: int64 [..., 7]; `NOT_MENTIONED` is ignored
        class_weights: float32 [7, 3]

    Returns:
        A scalar; a disease without a mentioned label adds 0 (paper section 2.5; ledger T8).
    """
    n_diseases, n_classes = class_weights.shape
    mentioned = labels != NOT_MENTIONED
    target = torch.where(mentioned, labels, 0).reshape(-1, n_diseases)
    log_p = F.log_softmax(logits.float(), dim=-1).reshape(-1, n_diseases, n_classes)
    weight = class_weights[torch.arange(n_diseases, device=labels.device), target]
    weight = weight * mentioned.reshape(-1, n_diseases)
    loss = -log_p.gather(-1, target[..., None]).squeeze(-1)
    total = weight.sum(0)
    return ((loss * weight).sum(0) / total.clamp_min(torch.finfo(total.dtype).tiny)).sum()


def positive_weight(kind: str, deaths: np.ndarray) -> Tensor | None:
    """Weight of deaths in the loss of mortality, a scalar.

    Args:
        kind: 'none' (the paper's loss); 'balanced', survivors per death; or 'prevalence', the share
            of deaths, as in the released code, where it weighs deaths down (ledger T7)
        deaths: 0 or 1 for every training sample
    """
    if kind == "none":
        return None
    share = float(deaths.mean())
    if not 0 < share < 1:
        raise UserError(
            f"training.positive_weight {kind}: training has one class only; leave it out"
        )
    return torch.tensor(share if kind == "prevalence" else (1 - share) / share)


def task_loss(
    task: Task,
    logits: Tensor,
    targets: Targets,
    class_weights: Tensor,
    positive_weight: Tensor | None = None,
) -> Tensor:
    """L_task of the paper's section 2.5, in float32.

    Progression: `progression_loss`. Mortality: binary cross-entropy, unweighted unless
    `positive_weight` is given. Length of stay: unweighted cross-entropy.
    """
    if task is Task.DISEASE_PROGRESSION:
        return progression_loss(logits, targets.progression, class_weights)
    if task is Task.MORTALITY:
        return F.binary_cross_entropy_with_logits(
            logits.squeeze(-1).float(), targets.mortality, pos_weight=positive_weight
        )
    return F.cross_entropy(logits.float(), targets.length_of_stay)
