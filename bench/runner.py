"""One run from its configuration to its record: train, predict the test set once, record.

A run killed at any moment goes on from its last finished epoch and ends with the same bits on the
same machine (CPU): the order of samples depends on seed and epoch alone, and a checkpoint holds
weights, optimizer, random state and selection together. One that gets SIGTERM finishes its step,
saves it and goes on from there.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import environment, stopping
from bench.checkpoints import Progress, save
from bench.config import RunConfig, Weights
from bench.contract import Output, TaskSpec
from bench.data.batch import Samples, Targets, progression_class_weights
from bench.data.cohort import Cohort
from bench.data.loading import resident_images
from bench.data.vocabulary import SELECTION_METRIC, Split, Task
from bench.epoch import DivergedError
from bench.errors import UserError
from bench.objective import positive_weight, task_loss
from bench.prediction import write_predictions
from bench.registry import load_method
from bench.store import SCHEMA, RunFiles, write_json
from bench.training import selection_rule, train
from methods.base import Method

Say = Callable[[str], None]


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
        self.samples.resident = resident_images(cohort, self.samples.inputs, device)
        for split in (Split.TRAIN, Split.TEST):
            if len(self.samples.indices(split)) == 0:
                raise UserError(f"{cohort.title} has no {split} sample for {request.task}")
        class_weights = torch.from_numpy(progression_class_weights(cohort))
        self.class_weights = class_weights.to(device)
        self.positive_weight = self._positive_weight()
        environment.set_determinism(threads)
        torch.manual_seed(request.seed)
        spec = TaskSpec(request.task, request.cxr, request.ehr, class_weights)
        model = method(config.model, spec)
        self.notes: list[str] = model.load_weights(weights.kind, weights.file) if weights else []
        self.notes += model.remarks(cohort)
        self.model: Method = model.to(device)
        if config.training.compile:
            self.model.compile()
        self.loss_weights = config.model.loss_weights()
        self.micro_batch = config.training.batch_size
        self.evaluation_batch = config.training.evaluation_batch_size
        self.selection = selection_rule(self.task, self.samples)
        if self.selection != SELECTION_METRIC[self.task]:
            self.notes.append(
                f"validation {SELECTION_METRIC[self.task]} is undefined (too few validation "
                f"samples): selected by {self.selection}"
            )

    def _positive_weight(self) -> Tensor | None:
        if self.task is not Task.MORTALITY:
            return None
        deaths = self.samples.labels()["mortality"][self.samples.indices(Split.TRAIN)]
        weight = positive_weight(self.training.positive_weight, deaths)
        return None if weight is None else weight.to(self.device)

    def autocast(self) -> contextlib.AbstractContextManager:
        """Autocast in the configured precision."""
        enabled = self.training.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def loss_terms(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """The task loss and the method's own terms, unweighted."""
        task = task_loss(
            self.task, output.logits, targets, self.class_weights, self.positive_weight
        )
        return {"task": task, **output.losses}

    def memory_notes(self) -> list[str]:
        """What was computed in smaller parts than configured, because GPU memory ran out."""
        training, notes = self.training, []
        if self.micro_batch < training.batch_size:
            notes.append(
                f"GPU memory ran out: gradients of {self.micro_batch} samples at a time instead of "
                f"{training.batch_size}, {training.batch_size * training.accumulation} a step still"
            )
        if self.evaluation_batch < training.evaluation_batch_size:
            notes.append(
                f"GPU memory ran out: {self.evaluation_batch} samples predicted at a time "
                f"instead of {training.evaluation_batch_size}"
            )
        return notes


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

    `weights` are those that the request names, as a file. A run that has a record is left alone:
    another process may have finished it since it was planned.

    Raises:
        RunBusyError: another process works on this run.
        StoppedError: SIGTERM came; the same call goes on.
        Exception: whatever stopped it; `failure.json` holds it.
    """
    with files.locked(), stopping.listening():
        if files.record.exists():
            return

        def log_and_say(line: str) -> None:
            files.append_log(line)
            say(line)

        files.clear_remains()
        try:
            write_json(files.config, config.to_json())
            started = time.monotonic()
            environment.forget_peak(device)
            run = Run(config, cohort, device, threads, weights)
            for note in run.notes:
                log_and_say(note)
            if config.request.test_only:
                progress = as_given(run, files)
            else:
                progress = train(run, files, log_and_say)
            finish(run, files, progress, time.monotonic() - started)
        except stopping.StoppedError as stopped:
            log_and_say(str(stopped))
            raise
        except Exception as error:
            _write_failure(files, error)
            raise


def _write_failure(files: RunFiles, error: Exception) -> None:
    """Keep what stopped the run, as far as there is room for it."""
    failure: dict[str, Any] = {
        "error": f"{type(error).__name__}: {error}",
        "trace": traceback.format_exc(),
    }
    if isinstance(error, DivergedError):
        failure["diverged"] = error.details
    with contextlib.suppress(UserError):
        write_json(files.failure, failure)
    with contextlib.suppress(UserError):
        files.append_log(f"failed: {error}")


def as_given(run: Run, files: RunFiles) -> Progress:
    """Select the weights that the run started from, untrained."""
    run.selection = "weights as given"
    save(files.best, run.model.state_dict())
    return Progress()


def finish(run: Run, files: RunFiles, progress: Progress, seconds: float) -> None:
    """Predict validation and test with the selected weights and write the record."""
    stopping.leave_if_asked()
    run.model.load_state_dict(torch.load(files.best, map_location="cpu", weights_only=True))
    write_predictions(run, files)
    write_json(files.record, record(run, files, progress, seconds))
    files.checkpoint.unlink(missing_ok=True)


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
        "peak_gpu_mb": environment.peak_gpu_mb(run.device),
        "notes": [*run.notes, *run.memory_notes()],
    }
