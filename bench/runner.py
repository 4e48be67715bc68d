"""One loop for every method: train, select on validation, predict the test set once, record.

A run killed at any moment goes on from its last finished epoch and ends with the same bits on the
same machine (CPU): the order of samples depends on seed and epoch alone, and a checkpoint holds
weights, optimizer, random state and selection together.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from bench import environment
from bench.config import RunConfig, TrainingConfig, Weights
from bench.contract import Output, TaskSpec
from bench.data.batch import Batch, Samples, Targets, progression_class_weights
from bench.data.cohort import Cohort
from bench.data.vocabulary import SELECTION_METRIC, Cxr, Split, Task
from bench.errors import UserError
from bench.metrics import evaluate
from bench.objective import task_loss
from bench.registry import load_method
from bench.store import SCHEMA, RunFiles, write_json

Say = Callable[[str], None]


class DivergedError(Exception):
    """The loss became NaN or infinite."""


@dataclass
class Progress:
    """Where training stands, besides tensors. `best_value` is higher-is-better."""

    epoch: int = 0
    step: int = 0
    best_epoch: int = -1
    best_value: float = -math.inf
    history: list[dict[str, float]] = field(default_factory=list)

    def stale_epochs(self) -> int:
        """Epochs since the last improvement."""
        return self.epoch - 1 - self.best_epoch


class Run:
    """One run in memory: the samples, the model and how it is trained."""

    def __init__(
        self,
        config: RunConfig,
        cohort: Cohort,
        device: torch.device,
        threads: int,
        weights: Weights | None = None,
    ) -> None:
        request = config.request
        self.config, self.cohort, self.device, self.threads = config, cohort, device, threads
        self.task, self.training = request.task, config.training
        method = load_method(request.method)
        self.samples = Samples(
            cohort,
            request.task,
            request.cxr,
            request.visible(method.inputs),
            request.drop_ehr,
            request.seed,
        )
        for split in (Split.TRAIN, Split.TEST):
            if len(self.samples.indices(split)) == 0:
                raise UserError(f"{cohort.title} has no {split} sample for {request.task}")
        class_weights = torch.from_numpy(progression_class_weights(cohort))
        self.class_weights = class_weights.to(device)
        environment.set_determinism(threads)
        torch.manual_seed(request.seed)
        spec = TaskSpec(request.task, request.cxr, request.ehr, class_weights)
        model = method(config.model, spec)
        self.notes: list[str] = model.load_weights(weights.kind, weights.file) if weights else []
        self.model: nn.Module = model.to(device)
        self.loss_weights = config.model.loss_weights()
        self.selection = selection_rule(self.task, self.samples)
        if self.selection != SELECTION_METRIC[self.task]:
            self.notes.append(
                f"validation {SELECTION_METRIC[self.task]} is undefined (too few validation "
                f"samples): selected by {self.selection}"
            )

    def autocast(self) -> contextlib.AbstractContextManager:
        """Autocast in the configured precision."""
        enabled = self.training.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def loss_terms(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """The task loss and the method's own terms, unweighted."""
        task = task_loss(self.task, output.logits, targets, self.class_weights)
        return {"task": task, **output.losses}

    def predict(
        self, positions: np.ndarray, with_attention: bool = False
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Logits (float32, one row a sample, flattened) and attention maps; labels are withheld."""
        self.model.eval()
        logits, maps = [], []
        size = self.training.evaluation_batch_size
        with torch.inference_mode(), self.autocast():
            for start in range(0, len(positions), size):
                batch = self.samples.batch(positions[start : start + size])
                batch = batch.without_targets().to(self.device)
                output = self.model(batch, with_attention=with_attention)
                logits.append(output.logits.float().flatten(1).cpu().numpy())
                if output.attention:
                    maps.append(_attention_arrays(batch, output))
        stacked = {name: _stack_padded([m[name] for m in maps]) for name in (maps or [{}])[0]}
        return np.concatenate(logits), stacked


def selection_rule(task: Task, samples: Samples) -> str:
    """How the best epoch is chosen: the task's metric on validation, or what is left of it."""
    positions = samples.indices(Split.VALIDATION)
    if len(positions) == 0:
        return "last epoch"
    labels = samples.labels()[task_label(task)][positions]
    blank = np.zeros((len(positions), _n_logits(task)))
    defined = np.isfinite(evaluate(task, blank, labels)[SELECTION_METRIC[task]])
    return SELECTION_METRIC[task] if defined else "validation loss"


def task_label(task: Task) -> str:
    """Name of a task's label among `Samples.labels()`."""
    return "progression" if task is Task.DISEASE_PROGRESSION else str(task)


def execute(
    config: RunConfig,
    cohort: Cohort,
    files: RunFiles,
    *,
    device: torch.device,
    threads: int = 1,
    weights: Weights | None = None,
    say: Say = print,
) -> None:
    """Make one run to its record, resuming what is there; a failure is written down and raised.

    `weights` are those that the request names, as a file.

    Raises:
        RunBusyError: another process works on this run.
        Exception: whatever stopped it; `failure.json` holds it.
    """
    with files.locked(), files.log.open("a") as log:

        def log_and_say(line: str) -> None:
            print(line, file=log, flush=True)
            say(line)

        files.failure.unlink(missing_ok=True)
        try:
            write_json(files.config, config.to_json())
            started = time.monotonic()
            run = Run(config, cohort, device, threads, weights)
            for note in run.notes:
                log_and_say(note)
            if config.request.test_only:
                progress = as_given(run, files)
            else:
                progress = train(run, files, log_and_say)
            finish(run, files, progress, time.monotonic() - started)
        except Exception as error:
            log_and_say(f"failed: {error}")
            write_json(
                files.failure,
                {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()},
            )
            raise


def as_given(run: Run, files: RunFiles) -> Progress:
    """Select the weights that the run started from, untrained."""
    run.selection = "weights as given"
    _save(files.best, run.model.state_dict())
    return Progress()


def train(run: Run, files: RunFiles, say: Say) -> Progress:
    """Train to the end of the budget or of patience, from the last checkpoint if there is one."""
    training = run.training
    optimizer = torch.optim.AdamW(
        run.model.parameters(), lr=training.lr, weight_decay=training.weight_decay
    )
    progress = _resume(run, files, optimizer, say)
    positions = run.samples.indices(Split.TRAIN)
    n_epochs, steps_per_epoch = budget(training, len(positions))
    while progress.epoch < n_epochs and progress.stale_epochs() < training.patience:
        for group in optimizer.param_groups:
            group["lr"] = cosine(training, progress.epoch, n_epochs)
        n_steps = steps_per_epoch
        if training.max_steps:
            n_steps = min(n_steps, training.max_steps - progress.step)
        order = np.random.default_rng([run.config.request.seed, progress.epoch])
        terms = _train_epoch(run, optimizer, order.permutation(positions), n_steps)
        progress.step += n_steps
        _select(run, files, progress, terms)
        say(_epoch_line(progress, n_epochs, run.selection))
        _save_checkpoint(run, files, optimizer, progress)
    return progress


def budget(training: TrainingConfig, n_samples: int) -> tuple[int, int]:
    """Epochs and optimizer steps per epoch that a configuration allows."""
    steps = math.ceil(n_samples / (training.batch_size * training.accumulation))
    if not training.max_steps:
        return training.max_epochs, steps
    return min(training.max_epochs, math.ceil(training.max_steps / max(steps, 1))), steps


def cosine(training: TrainingConfig, epoch: int, n_epochs: int) -> float:
    """Learning rate of an epoch: cosine from lr to lr_min (ledger T2)."""
    share = 0.5 * (1 + math.cos(math.pi * epoch / n_epochs))
    return training.lr_min + (training.lr - training.lr_min) * share


def _train_epoch(
    run: Run, optimizer: torch.optim.Optimizer, order: np.ndarray, n_steps: int
) -> dict[str, float]:
    """Take `n_steps` optimizer steps; return the mean of every loss term."""
    run.model.train()
    size, accumulation = run.training.batch_size, run.training.accumulation
    seen: dict[str, list[Tensor]] = {}
    for step in range(n_steps):
        group = order[step * size * accumulation : (step + 1) * size * accumulation]
        chunks = [group[i : i + size] for i in range(0, len(group), size)]
        optimizer.zero_grad(set_to_none=True)
        for chunk in chunks:
            batch = run.samples.batch(chunk).to(run.device)
            assert batch.targets is not None
            with run.autocast():
                terms = run.loss_terms(run.model(batch), batch.targets)
            total = sum(run.loss_weights[name] * term for name, term in terms.items())
            assert isinstance(total, Tensor)
            (total * (len(chunk) / len(group))).backward()
            for name, term in terms.items():
                seen.setdefault(name, []).append(term.detach())
        if run.training.clip_norm:
            nn.utils.clip_grad_norm_(run.model.parameters(), run.training.clip_norm)
        optimizer.step()
    return _mean_terms(seen)


def _mean_terms(seen: dict[str, list[Tensor]]) -> dict[str, float]:
    """Mean of each term over an epoch; read from the device once, here.

    Raises:
        DivergedError: a term is not finite; names the term and its first batch.
    """
    means = {}
    for name, values in seen.items():
        series = torch.stack(values).float().cpu()
        if not bool(torch.isfinite(series).all()):
            first = int((~torch.isfinite(series)).nonzero()[0, 0])
            raise DivergedError(f"loss term '{name}' is {series[first]} in batch {first}")
        means[name] = float(series.mean())
    return means


def _select(run: Run, files: RunFiles, progress: Progress, terms: dict[str, float]) -> None:
    """Score the epoch on validation; keep its weights if it is the best so far."""
    positions = run.samples.indices(Split.VALIDATION)
    value = float(progress.epoch)
    entry = {f"train_{name}": mean for name, mean in terms.items()}
    if len(positions):
        logits, _ = run.predict(positions)
        labels = run.samples.labels()[task_label(run.task)][positions]
        entry["validation_loss"] = _loss_of_logits(run, logits, positions)
        if run.selection == "validation loss":
            value = -entry["validation_loss"]
        else:
            value = evaluate(run.task, logits, labels)[run.selection]
            entry[run.selection] = value
    progress.history.append(entry)
    if not math.isfinite(value):
        raise DivergedError(f"{run.selection} on validation is {value}")
    if value > progress.best_value:
        progress.best_value, progress.best_epoch = value, progress.epoch
        _save(files.best, run.model.state_dict())
    progress.epoch += 1


def _loss_of_logits(run: Run, logits: np.ndarray, positions: np.ndarray) -> float:
    labels = {k: torch.from_numpy(v[positions]) for k, v in run.samples.labels().items()}
    targets = Targets(**labels, region_progression=torch.empty(0), findings=torch.empty(0))
    shaped = torch.from_numpy(logits)
    if run.task is Task.DISEASE_PROGRESSION:
        shaped = shaped.unflatten(1, tuple(run.class_weights.shape))
    return float(task_loss(run.task, shaped, targets, run.class_weights.cpu()))


def _epoch_line(progress: Progress, n_epochs: int, selection: str) -> str:
    entry = progress.history[-1]
    scores = "  ".join(f"{name} {value:.4f}" for name, value in entry.items())
    mark = "  *" if progress.best_epoch == progress.epoch - 1 else ""
    return f"epoch {progress.epoch}/{n_epochs}  {scores}{mark}"


def _save_checkpoint(
    run: Run, files: RunFiles, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    content = {
        "model": run.model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "progress": asdict(progress),
    }
    if run.device.type == "cuda":
        content["random_cuda"] = torch.cuda.get_rng_state(run.device)
    _save(files.checkpoint, content)


def _resume(run: Run, files: RunFiles, optimizer: torch.optim.Optimizer, say: Say) -> Progress:
    if not files.checkpoint.exists():
        return Progress()
    content = torch.load(files.checkpoint, map_location="cpu", weights_only=True)
    run.model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    torch.set_rng_state(content["random"])
    if run.device.type == "cuda" and "random_cuda" in content:
        torch.cuda.set_rng_state(content["random_cuda"], run.device)
    progress = Progress(**content["progress"])
    say(f"resumed after epoch {progress.epoch}")
    return progress


def _save(path: Path, content: Any) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(content, partial)
    partial.replace(path)


def finish(run: Run, files: RunFiles, progress: Progress, seconds: float) -> None:
    """Predict validation and test with the selected weights and write the record."""
    run.model.load_state_dict(torch.load(files.best, map_location="cpu", weights_only=True))
    tables = []
    leave_test = run.config.request.validation_only
    for split in (Split.VALIDATION,) if leave_test else (Split.VALIDATION, Split.TEST):
        positions = run.samples.indices(split)
        if len(positions) == 0:
            continue
        logits, attention = run.predict(positions, with_attention=split is Split.TEST)
        tables.append(prediction_table(run, split, positions, logits))
        if attention:
            _save_arrays(files.attention, attention)
    if tables:
        pd.concat(tables).to_parquet(files.predictions, index=False)
    write_json(files.record, record(run, files, progress, seconds))
    files.checkpoint.unlink(missing_ok=True)


def prediction_table(
    run: Run, split: Split, positions: np.ndarray, logits: np.ndarray
) -> pd.DataFrame:
    """Keyed sample and subject, labels and logits of a split's samples."""
    samples = run.samples
    labels = samples.labels()[task_label(run.task)][positions].reshape(len(positions), -1)
    gold = np.zeros(len(positions), dtype=bool)
    if run.task is Task.DISEASE_PROGRESSION:
        gold = run.cohort.pairs["from_gold"].to_numpy()[samples.rows[positions]]
    columns: dict[str, Any] = {
        "split": str(split),
        "sample": samples.keys[positions],
        "subject": samples.subject_keys[positions],
        "from_gold": gold,
    }
    columns |= {f"label_{k}": labels[:, k].astype(np.int64) for k in range(labels.shape[1])}
    columns |= {f"logit_{k}": logits[:, k].astype(np.float32) for k in range(logits.shape[1])}
    return pd.DataFrame(columns)


def record(run: Run, files: RunFiles, progress: Progress, seconds: float) -> dict[str, Any]:
    """What a finished run says about itself."""
    test = run.samples.indices(Split.TEST)
    cohort = run.cohort
    return {
        "schema": SCHEMA,
        "run_id": files.folder.name,
        "config": run.config.to_json(),
        "preset": run.config.request.preset,
        "cohort": {
            "hash": cohort.content_hash,
            "title": cohort.title,
            "simulated": cohort.is_simulated,
            "credentialed": cohort.is_credentialed,
        },
        "fingerprint": environment.code_fingerprint(run.config.request.method),
        "commit": environment.commit(),
        "device": environment.device_name(run.device),
        "threads": run.threads,
        "versions": environment.versions(),
        "selection": {
            "metric": SELECTION_METRIC[run.task],
            "rule": run.selection,
            "value": progress.best_value if progress.epoch else None,
            "epoch": progress.best_epoch,
        },
        "epochs": progress.epoch,
        "steps": progress.step,
        "history": progress.history,
        "n_parameters": sum(p.numel() for p in run.model.parameters()),
        "n_test": len(test),
        "n_test_subjects": len(np.unique(run.samples.subject[test])),
        "seconds": round(seconds, 1),
        "notes": run.notes,
    }


def _n_logits(task: Task) -> int:
    spec = TaskSpec(task, Cxr.NONE)
    return spec.n_outputs * spec.n_logits


def _attention_arrays(batch: Batch, output: Output) -> dict[str, np.ndarray]:
    maps = {name: values.float().cpu().numpy() for name, values in output.attention.items()}
    return {"pair_valid": batch.pair_valid.cpu().numpy(), **maps}


def _stack_padded(parts: list[np.ndarray]) -> np.ndarray:
    """Concatenate on the first axis, padding the others with zeros to the largest."""
    shape = np.max([part.shape[1:] for part in parts], axis=0)
    stacked = np.zeros((sum(map(len, parts)), *shape), dtype=parts[0].dtype)
    row = 0
    for part in parts:
        stacked[(slice(row, row + len(part)), *map(slice, part.shape[1:]))] = part
        row += len(part)
    return stacked


def _save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as handle:
        np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]
    partial.replace(path)
