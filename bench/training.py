"""The training loop, the same for every method, and the selection of the best epoch.

The loop itself never waits for the device: loss terms stay there and are read once an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from bench import stopping
from bench.checkpoints import Progress, resume, save, save_checkpoint
from bench.config import TrainingConfig
from bench.contract import TaskSpec
from bench.data.batch import Samples, Targets
from bench.data.loading import batches
from bench.data.vocabulary import SELECTION_METRIC, Cxr, Split, Task
from bench.memory import within_memory
from bench.metrics import evaluate
from bench.objective import task_loss
from bench.optimization import adamw, learning_rate, set_rate
from bench.prediction import predict, task_label
from bench.store import RunFiles

if TYPE_CHECKING:
    from bench.runner import Run


class DivergedError(Exception):
    """A loss term or the selection metric became NaN or infinite; `details` go into the record.

    Epochs and batches count from 1; `samples` are the keys of the batch's samples.
    """

    def __init__(
        self, term: str, value: float, epoch: int, batch: int | None = None,
        samples: Sequence[str] = (),
    ) -> None:  # fmt: skip
        place = "on validation" if batch is None else f"in batch {batch}"
        super().__init__(f"'{term}' is {value} {place} of epoch {epoch}")
        self.details = {"term": term, "epoch": epoch, "batch": batch, "samples": list(samples)}


@dataclass(frozen=True)
class MicroBatch:
    """What training saw in one forward pass: positions of its samples, loss terms (scalars)."""

    positions: np.ndarray
    terms: dict[str, Tensor]


def train(run: Run, files: RunFiles, say: Callable[[str], None]) -> Progress:
    """Train to the end of the budget or of patience, from the last checkpoint if there is one.

    Raises:
        DivergedError: a loss term or the selection metric is not finite.
        StoppedError: SIGTERM came; the last finished epoch is saved.
    """
    training = run.training
    optimizer = adamw(run.model, training)
    progress = resume(run, files, optimizer, say)
    positions = run.samples.indices(Split.TRAIN)
    n_epochs, steps_per_epoch = budget(training, len(positions))
    while progress.epoch < n_epochs and progress.stale_epochs() < training.patience:
        set_rate(optimizer, learning_rate(training, progress.epoch, n_epochs))
        n_steps = steps_per_epoch
        if training.max_steps:
            n_steps = min(n_steps, training.max_steps - progress.step)
        order = np.random.default_rng([run.config.request.seed, progress.epoch])
        seen = _train_epoch(run, optimizer, order.permutation(positions), n_steps)
        progress.step += n_steps
        _select(run, files, progress, mean_terms(seen, progress.epoch + 1, run.samples.keys))
        say(_epoch_line(progress, n_epochs))
        save_checkpoint(run, files, optimizer, progress)
    return progress


def budget(training: TrainingConfig, n_samples: int) -> tuple[int, int]:
    """Epochs and optimizer steps per epoch that a configuration allows."""
    steps = math.ceil(n_samples / (training.batch_size * training.accumulation))
    if not training.max_steps:
        return training.max_epochs, steps
    return min(training.max_epochs, math.ceil(training.max_steps / max(steps, 1))), steps


def _train_epoch(
    run: Run, optimizer: torch.optim.Optimizer, order: np.ndarray, n_steps: int
) -> list[MicroBatch]:
    """Take `n_steps` optimizer steps; return what was seen, still on the device."""
    run.model.train()
    step_size = run.training.batch_size * run.training.accumulation
    seen: list[MicroBatch] = []
    for step in range(n_steps):
        stopping.leave_if_asked()
        group = order[step * step_size : (step + 1) * step_size]
        of_step, run.micro_batch = within_memory(partial(_gradients, run, group), run.micro_batch)
        seen += of_step
        if run.training.clip_norm:
            nn.utils.clip_grad_norm_(run.model.parameters(), run.training.clip_norm)
        optimizer.step()
    return seen


def _gradients(run: Run, group: np.ndarray, size: int) -> list[MicroBatch]:
    """Set the gradients of one step: the samples of `group`, `size` at a time."""
    run.model.zero_grad(set_to_none=True)
    seen = []
    chunks = [group[start : start + size] for start in range(0, len(group), size)]
    for chunk, batch in zip(chunks, batches(run.samples, chunks, run.device), strict=True):
        assert batch.targets is not None
        with run.autocast():
            terms = run.loss_terms(run.model(batch), batch.targets)
        total = sum(run.loss_weights[name] * term for name, term in terms.items())
        assert isinstance(total, Tensor)
        (total * (len(chunk) / len(group))).backward()
        seen.append(MicroBatch(chunk, {name: term.detach() for name, term in terms.items()}))
    return seen


def mean_terms(seen: Sequence[MicroBatch], epoch: int, keys: np.ndarray) -> dict[str, float]:
    """Mean of each loss term over an epoch.

    Raises:
        DivergedError: a term is not finite; names the first and its batch.
    """
    values = _read_terms(seen)
    for number, (batch, terms) in enumerate(zip(seen, values, strict=True), 1):
        for name, value in terms.items():
            if not math.isfinite(value):
                raise DivergedError(name, value, epoch, number, keys[batch.positions])
    names = dict.fromkeys(name for terms in values for name in terms)
    return {name: float(np.mean([t[name] for t in values if name in t])) for name in names}


def _read_terms(seen: Sequence[MicroBatch]) -> list[dict[str, float]]:
    """Loss terms of every batch, fetched from the device at once."""
    scalars = [term.float() for batch in seen for term in batch.terms.values()]
    fetched = iter(torch.stack(scalars).tolist())
    return [{name: next(fetched) for name in batch.terms} for batch in seen]


def selection_rule(task: Task, samples: Samples) -> str:
    """How the best epoch is chosen: the task's metric on validation, or what is left of it."""
    positions = samples.indices(Split.VALIDATION)
    if len(positions) == 0:
        return "last epoch"
    labels = samples.labels()[task_label(task)][positions]
    spec = TaskSpec(task, Cxr.NONE)
    blank = np.zeros((len(positions), spec.n_outputs * spec.n_logits))
    defined = np.isfinite(evaluate(task, blank, labels)[SELECTION_METRIC[task]])
    return SELECTION_METRIC[task] if defined else "validation loss"


def _select(run: Run, files: RunFiles, progress: Progress, terms: dict[str, float]) -> None:
    """Score the epoch on validation; keep its weights if it is the best so far."""
    positions = run.samples.indices(Split.VALIDATION)
    value = float(progress.epoch)
    entry = {f"train_{name}": mean for name, mean in terms.items()}
    if len(positions):
        logits, _ = predict(run, positions)
        labels = run.samples.labels()[task_label(run.task)][positions]
        entry["validation_loss"] = _loss_of_logits(run, logits, positions)
        if run.selection == "validation loss":
            value = -entry["validation_loss"]
        else:
            value = evaluate(run.task, logits, labels)[run.selection]
            entry[run.selection] = value
    progress.history.append(entry)
    progress.epoch += 1
    if not math.isfinite(value):
        raise DivergedError(run.selection, value, progress.epoch)
    if value > progress.best_value:
        progress.best_value, progress.best_epoch = value, progress.epoch - 1
        save(files.best, run.model.state_dict())


def _loss_of_logits(run: Run, logits: np.ndarray, positions: np.ndarray) -> float:
    labels = {k: torch.from_numpy(v[positions]) for k, v in run.samples.labels().items()}
    targets = Targets(**labels, region_progression=torch.empty(0), findings=torch.empty(0))
    shaped = torch.from_numpy(logits)
    if run.task is Task.DISEASE_PROGRESSION:
        shaped = shaped.unflatten(1, tuple(run.class_weights.shape))
    positive = None if run.positive_weight is None else run.positive_weight.cpu()
    return float(task_loss(run.task, shaped, targets, run.class_weights.cpu(), positive))


def _epoch_line(progress: Progress, n_epochs: int) -> str:
    entry = progress.history[-1]
    scores = "  ".join(f"{name} {value:.4f}" for name, value in entry.items())
    mark = "  *" if progress.best_epoch == progress.epoch - 1 else ""
    return f"epoch {progress.epoch}/{n_epochs}  {scores}{mark}"
