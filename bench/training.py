"""The training loop, the same for every method, and the selection of the best epoch.

The loop itself never waits for the device: loss terms stay there and are read once an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
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
from bench.data.loading import StepBatches, release_images
from bench.data.vocabulary import SELECTION_METRIC, Cxr, Split, Task
from bench.epoch import DivergedError, Epoch, MicroBatch, mean_terms
from bench.memory import buffers_kept, step_within_memory, within_memory
from bench.metrics import evaluate
from bench.objective import task_loss
from bench.optimization import adamw, learning_rate, set_rate
from bench.prediction import predict, task_label
from bench.store import RunFiles

if TYPE_CHECKING:
    from bench.runner import Run


def train(run: Run, files: RunFiles, say: Callable[[str], None]) -> Progress:
    """Train to the end of the budget or of patience, from the last checkpoint if there is one.

    Raises:
        DivergedError: a loss term or the selection metric is not finite.
        StoppedError: SIGTERM came; every finished step is saved.
    """
    training = run.training
    optimizer = adamw(run.model, training)
    progress, epoch = resume(run, files, optimizer, say)
    positions = run.samples.indices(Split.TRAIN)
    n_epochs, steps_per_epoch = budget(training, len(positions))
    while progress.epoch < n_epochs and progress.stale_epochs() < training.patience:
        set_rate(optimizer, learning_rate(training, progress.epoch, n_epochs))
        n_steps = steps_per_epoch
        if training.max_steps:
            n_steps = min(n_steps, training.max_steps - progress.step)
        order = np.random.default_rng([run.config.request.seed, progress.epoch])
        try:
            seen = _train_epoch(run, optimizer, order.permutation(positions), n_steps, epoch)
        except stopping.StoppedError:
            if epoch.n_steps:
                save_checkpoint(run, files, optimizer, progress, epoch)
            raise
        progress.step += n_steps
        _select(run, files, progress, mean_terms(seen, progress.epoch + 1, run.samples.keys))
        say(_epoch_line(progress, n_epochs))
        epoch = Epoch()
        save_checkpoint(run, files, optimizer, progress, epoch)
    say(_last_line(run, progress, n_epochs))
    return progress


def budget(training: TrainingConfig, n_samples: int) -> tuple[int, int]:
    """Epochs and optimizer steps per epoch that a configuration allows."""
    steps = math.ceil(n_samples / (training.batch_size * training.accumulation))
    if not training.max_steps:
        return training.max_epochs, steps
    return min(training.max_epochs, math.ceil(training.max_steps / max(steps, 1))), steps


def _train_epoch(
    run: Run,
    optimizer: torch.optim.Optimizer,
    order: np.ndarray,
    n_steps: int,
    epoch: Epoch | None = None,
) -> list[MicroBatch]:
    """Take the optimizer steps that `epoch` lacks of `n_steps`; return what was seen in all.

    Raises:
        StoppedError: SIGTERM came; `epoch` holds what was done.
    """
    epoch = epoch or Epoch()
    run.model.train()
    size = run.training.batch_size * run.training.accumulation
    steps = [order[step * size : (step + 1) * size] for step in range(n_steps)]
    with closing(StepBatches(run.samples, steps, run.device)) as fed:
        while epoch.n_steps < n_steps:
            stopping.leave_if_asked()
            epoch.seen += take_step(run, optimizer, fed, epoch.n_steps)
            epoch.n_steps += 1
    return epoch.seen


def take_step(
    run: Run, optimizer: torch.optim.Optimizer, fed: StepBatches, step: int
) -> list[MicroBatch]:
    """Take one optimizer step, in as small parts as GPU memory asks for."""
    make_room = partial(release_images, run.samples, run.device)
    gradients = partial(_gradients, run, fed, step)
    seen, run.micro_batch = within_memory(gradients, run.micro_batch, make_room)
    if run.training.clip_norm:
        nn.utils.clip_grad_norm_(run.model.parameters(), run.training.clip_norm)
    if not step_within_memory(optimizer, make_room):
        run.micro_batch = max(run.micro_batch // 2, 1)
    return seen


def _gradients(run: Run, fed: StepBatches, step: int, size: int) -> list[MicroBatch]:
    """Set the gradients of one step, from `size` samples at a time."""
    run.model.zero_grad(set_to_none=True)
    seen = []
    with buffers_kept(run.model):
        for chunk, batch in fed.of_step(step, size):
            assert batch.targets is not None
            with run.autocast():
                terms = run.loss_terms(run.model(batch), batch.targets)
            total = sum(run.loss_weights[name] * term for name, term in terms.items())
            assert isinstance(total, Tensor)
            (total * (len(chunk) / len(fed.steps[step]))).backward()
            seen.append(MicroBatch(chunk, {name: term.detach() for name, term in terms.items()}))
    return seen


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
    mark = "  best" if progress.best_epoch == progress.epoch - 1 else ""
    return f"epoch {progress.epoch}/{n_epochs}  {scores}{mark}"


def _last_line(run: Run, progress: Progress, n_epochs: int) -> str:
    """Why training ended, and which epoch's weights go on."""
    of_all = f"epoch {progress.epoch} of {n_epochs}"
    if progress.epoch < n_epochs:
        stale = f"no better {run.selection} for {progress.stale_epochs()} epochs"
        ended = f"stopped after {of_all}: {stale}"
    else:
        ended = f"ended with {of_all}"
    used = "keeping" if run.config.request.validation_only else "testing"
    return f"{ended}; {used} epoch {progress.best_epoch + 1}"
