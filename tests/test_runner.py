"""The runner on a miniature cohort: records, resuming after SIGKILL, selection, failures."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import environment, runner, training
from bench.config import Request, RunConfig, resolve
from bench.data.cohort import Cohort
from bench.data.vocabulary import Cxr, Split, Task
from bench.plan import make_plan
from bench.registry import load_method
from bench.store import SCHEMA, RunBusyError, RunFiles, Status, Store
from tests.conftest import ROOT

CPU = torch.device("cpu")
TINY = (("model.d_model", "16"), ("training.max_epochs", "2"), ("training.batch_size", "8"))


def quiet(line: str) -> None:
    pass


def config_of(task: Task = Task.MORTALITY, *more: tuple[str, str]) -> RunConfig:
    return resolve(Request("ehr_transformer", task, Cxr.NONE, 23, overrides=(*TINY, *more)))


def files_of(config: RunConfig, cohort: Cohort, root: Path) -> RunFiles:
    return Store(root).run(config.run_id(cohort.content_hash, SCHEMA))


@pytest.mark.parametrize("task", Task)
def test_a_run_leaves_a_record_and_keyed_predictions(task: Task, cohort: Cohort, tmp_path: Path):
    config = config_of(task)
    files = files_of(config, cohort, tmp_path)
    runner.execute(config, cohort, files, device=CPU, say=quiet)

    record = files.read_record()
    samples = runner.Run(config, cohort, CPU, 1).samples
    test = files.read_predictions("test")
    assert record["n_test"] == len(test) == len(samples.indices(Split.TEST))
    assert list(test["sample"]) == list(samples.keys[samples.indices(Split.TEST)])
    assert np.isfinite(test.filter(like="logit_").to_numpy()).all()
    assert not files.checkpoint.exists()
    assert len(record["history"]) == record["epochs"] == 2


def test_what_a_method_remarks_of_the_cohort_is_said_and_recorded(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def remarks(self: object, cohort: Cohort) -> list[str]:
        return [f"{len(cohort.stays)} stays"]

    monkeypatch.setattr(load_method("ehr_transformer"), "remarks", remarks)
    config, said = config_of(), list[str]()
    files = files_of(config, cohort, tmp_path)
    runner.execute(config, cohort, files, device=CPU, say=said.append)
    remark = f"{len(cohort.stays)} stays"
    assert files.read_record()["notes"] == [remark]
    assert sum(remark in line for line in said) == 1


def test_the_same_run_gives_the_same_bytes(cohort: Cohort, tmp_path: Path):
    config = config_of()
    contents = []
    for name in ("a", "b"):
        files = files_of(config, cohort, tmp_path / name)
        runner.execute(config, cohort, files, device=CPU, say=quiet)
        contents.append(files.predictions.read_bytes())
    assert contents[0] == contents[1]


def command(cohort: Cohort, results: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "bench.run", "--method", "dipro", "--task", "mortality"),
        *("--cohort", str(cohort.path), "--results", str(results), "--device", "cpu"),
        *("--set", "model.d_model=16", "--set", "training.max_epochs=12"),
        *("--set", "training.max_steps=0", "--set", "training.patience=99"),
    ]


def test_killed_in_mid_training_it_resumes_to_the_same_bits(cohort: Cohort, tmp_path: Path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    subprocess.run(command(cohort, undisturbed), cwd=ROOT, check=True, capture_output=True)

    process = subprocess.Popen(command(cohort, killed), cwd=ROOT, stdout=subprocess.PIPE)
    while not (found := list(killed.glob("runs/*/checkpoint.pt"))):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    files = RunFiles(found[0].parent)
    assert files.status() is Status.INTERRUPTED
    again = subprocess.run(command(cohort, killed), cwd=ROOT, check=True, capture_output=True)
    assert b"resumed after epoch" in again.stdout

    reference = RunFiles(undisturbed / "runs" / files.folder.name)
    assert files.predictions.read_bytes() == reference.predictions.read_bytes()
    assert files.attention.read_bytes() == reference.attention.read_bytes()
    records = [f.read_record() for f in (files, reference)]
    for record in records:
        del record["seconds"]
    assert records[0] == records[1]


def test_a_finished_run_is_not_redone(cohort: Cohort, tmp_path: Path, monkeypatch):
    config = config_of()
    runner.execute(config, cohort, files_of(config, cohort, tmp_path), device=CPU, say=quiet)
    plan = make_plan("again", [config.request], cohort, Store(tmp_path))
    assert [run.status for run in plan.runs] == [Status.DONE]
    assert plan.to_do() == []


def test_older_code_makes_a_record_stale(cohort: Cohort, tmp_path: Path):
    config = config_of()
    files = files_of(config, cohort, tmp_path)
    runner.execute(config, cohort, files, device=CPU, say=quiet)
    assert files.status("another fingerprint") is Status.STALE
    plan = make_plan("again", [config.request], cohort, Store(tmp_path))
    assert plan.to_do([Status.DONE]) == list(plan.runs)


def test_two_requests_of_one_run_are_planned_once(cohort: Cohort, tmp_path: Path):
    request = config_of().request
    plan = make_plan("twice", [request, request], cohort, Store(tmp_path))
    assert len(plan.runs) == 1


def test_a_diverging_run_names_the_term_and_leaves_no_record(
    cohort: Cohort, tmp_path: Path, monkeypatch
):
    config = config_of()
    files = files_of(config, cohort, tmp_path)
    monkeypatch.setattr(
        runner, "task_loss", lambda *_: torch.tensor(float("nan"), requires_grad=True)
    )
    with pytest.raises(training.DivergedError):
        runner.execute(config, cohort, files, device=CPU, say=quiet)
    assert files.status() is Status.FAILED
    assert "'task'" in files.read_failure()["error"]
    assert not files.record.exists()

    monkeypatch.undo()
    runner.execute(config, cohort, files, device=CPU, say=quiet)
    assert files.status() is Status.DONE
    assert not files.failure.exists()


def test_a_locked_run_is_left_alone(cohort: Cohort, tmp_path: Path):
    config = config_of()
    files = files_of(config, cohort, tmp_path)
    with files.locked(), pytest.raises(RunBusyError):
        runner.execute(config, cohort, files, device=CPU, say=quiet)
    assert files.status() is Status.NEW


def test_without_both_classes_in_validation_selection_falls_back_to_its_loss(
    cohort: Cohort, tmp_path: Path
):
    validation = cohort.subjects.index[cohort.subjects["split"] == Split.VALIDATION]
    stays = cohort.stays.copy()
    stays.loc[stays["subject"].isin(validation), "mortality"] = 0
    one_class = Cohort(**{**vars(cohort), "stays": stays})
    config = config_of()
    files = files_of(config, cohort, tmp_path)
    runner.execute(config, one_class, files, device=CPU, say=quiet)
    record = files.read_record()
    assert record["selection"]["rule"] == "validation loss"
    assert "undefined" in files.log.read_text()
    losses = [epoch["validation_loss"] for epoch in record["history"]]
    assert record["selection"]["epoch"] == int(np.argmin(losses))


def test_accumulated_micro_batches_take_the_step_of_one_batch(cohort: Cohort, tmp_path: Path):
    steps = []
    for size, accumulation in ((8, 1), (4, 2)):
        config = config_of(
            Task.MORTALITY,
            ("model.dropout", "0"),
            ("training.batch_size", str(size)),
            ("training.accumulation", str(accumulation)),
        )
        run = runner.Run(config, cohort, CPU, 1)
        optimizer = torch.optim.SGD(run.model.parameters(), lr=0.1)
        positions = run.samples.indices(Split.TRAIN)
        training._train_epoch(run, optimizer, positions, n_steps=1)
        steps.append(torch.cat([p.detach().flatten() for p in run.model.parameters()]))
    torch.testing.assert_close(steps[0], steps[1], atol=1e-6, rtol=1e-5)


def test_the_budget_caps_steps_and_epochs():
    config = config_of().training
    cases = {(100, 0): (15, 7), (100, 10): (2, 7), (1000, 10): (1, 63)}
    for (n_samples, max_steps), expected in cases.items():
        capped = replace(config, batch_size=16, accumulation=1, max_epochs=15, max_steps=max_steps)
        assert training.budget(capped, n_samples) == expected


def test_the_record_names_what_made_it(cohort: Cohort, tmp_path: Path):
    config = config_of()
    files = files_of(config, cohort, tmp_path)
    runner.execute(config, cohort, files, device=CPU, say=quiet)
    record = json.loads(files.record.read_text())
    assert record["cohort"]["hash"] == cohort.content_hash
    assert torch.__version__.startswith(record["versions"]["torch"])
    as_json = json.loads(json.dumps(config.to_json()))
    assert record["config"] == as_json == json.loads(files.config.read_text())


class TestLog:
    def said(self, cohort: Cohort, root: Path, *more: tuple[str, str]) -> list[str]:
        config, said = config_of(Task.MORTALITY, *more), list[str]()
        files = files_of(config, cohort, root)
        runner.execute(config, cohort, files, device=CPU, say=said.append)
        return said

    def test_it_says_why_training_stopped_and_what_is_tested(
        self, cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        values = iter([0.1, 0.2, 0.5, 0.1, 0.3])  # the first only asks whether there is one
        monkeypatch.setattr(training, "evaluate", lambda *_: {"auprc": next(values)})
        more = (("training.max_epochs", "9"), ("training.patience", "2"))
        said = self.said(cohort, tmp_path, *more)
        assert [line.endswith("  best") for line in said[:-1]] == [True, True, False, False]
        assert said[-1] == (
            "stopped after epoch 4 of 9: no better auprc for 2 epochs; testing epoch 2"
        )

    def test_at_the_end_of_the_budget(self, cohort: Cohort, tmp_path: Path):
        said = self.said(cohort, tmp_path)
        best = 2 if said[-2].endswith("  best") else 1
        assert said[-1] == f"ended with epoch 2 of 2; testing epoch {best}"


class TestGpuSettings:
    """What is set and read for a GPU, without one."""

    def test_fp32_is_not_tf32(self):
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        environment.set_determinism(1)
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32

    def test_the_record_holds_the_peak_of_the_run(
        self, cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        config = config_of()
        files = files_of(config, cohort, tmp_path)
        runner.execute(config, cohort, files, device=CPU, say=quiet)
        assert files.read_record()["peak_gpu_mb"] is None

        peak = {"bytes": 9 * 2**30}
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak["bytes"])
        monkeypatch.setattr(
            torch.cuda, "reset_peak_memory_stats", lambda device: peak.update(bytes=3 * 2**19)
        )
        gpu = torch.device("cuda")
        environment.forget_peak(gpu)  # as a run begins
        assert environment.peak_gpu_mb(gpu) == 1.5
