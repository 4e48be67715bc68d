"""What may go wrong around a run: nothing is lost, nothing half-written, a clear line each."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench import checkpoints, memory, prediction, run, runner, stopping, sweep, training
from bench.backends import Outcome, run_all
from bench.config import Request
from bench.contract import Output
from bench.data import loading
from bench.data.batch import Batch
from bench.data.cohort import Cohort
from bench.data.vocabulary import Cxr, Split, Task
from bench.errors import UserError, run_command
from bench.memory import step_within_memory, within_memory
from bench.optimization import adamw
from bench.plan import PlannedRun, make_plan
from bench.store import RunFiles, Status, Store
from methods.baselines.ehr_transformer import EhrTransformer
from tests.conftest import ROOT

CPU = torch.device("cpu")
TINY = (
    ("model.d_model", "16"),
    ("model.dropout", "0"),
    ("training.max_epochs", "2"),
    ("training.batch_size", "8"),
)
BAD_SEED = 29
"""Of three seeds, the one whose run goes wrong."""


class Diverging(EhrTransformer):
    """Its own loss term is NaN from the second batch on."""

    n_batches = 0

    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        output = super().forward(batch, with_attention)
        if not self.training or torch.initial_seed() != BAD_SEED:
            return output
        self.n_batches += 1
        value = float("nan") if self.n_batches > 1 else 0.0
        return replace(output, logits=output.logits + value)


class Deadly(EhrTransformer):
    """Its process is killed in mid-step."""

    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        if torch.initial_seed() == BAD_SEED:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(batch, with_attention)


class Hungry(EhrTransformer):
    """Does not fit into memory with more samples than `limit` at a time."""

    limit = 3

    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        if len(batch.demographics) > self.limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate a lot.")
        return super().forward(batch, with_attention)


class Normalising(Hungry):
    """Keeps running statistics of what it reads before it finds that it does not fit."""

    def __init__(self, config, spec) -> None:
        super().__init__(config, spec)
        self.norm = nn.BatchNorm1d(spec.n_demographics, affine=False)

    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        self.norm(batch.demographics)
        return super().forward(batch, with_attention)


class Displaced(EhrTransformer):
    """Fits only where no images are kept."""

    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        if loading._kept:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
        return super().forward(batch, with_attention)


class Interrupted(EhrTransformer):
    """Its process gets SIGTERM in every so many training batches."""

    every = 0
    n_batches = 0

    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        if self.training and self.every:
            Interrupted.n_batches += 1
            if self.n_batches % self.every == 0:
                os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(batch, with_attention)


def planned(
    method: str, cohort: Cohort, results: Path, seeds=(23, BAD_SEED, 66), more=()
) -> tuple[PlannedRun, ...]:
    requests = [
        Request(method, Task.MORTALITY, Cxr.NONE, seed, overrides=(*TINY, *more)) for seed in seeds
    ]
    return make_plan("faults", requests, cohort, Store(results)).runs


def mine(method: type) -> str:
    return f"{__name__}:{method.__name__}"


def outcomes(runs: tuple[PlannedRun, ...], cohort: Cohort, jobs: int) -> dict[str, Outcome]:
    found = list(run_all(runs, cohort.path, device="cpu", threads=1, jobs=jobs))
    assert sorted(o.run_id for o in found) == sorted(r.run_id for r in runs)
    return {outcome.run_id: outcome for outcome in found}


def command(cohort: Cohort, results: Path, *more: str) -> list[str]:
    return [
        *("--method", "ehr_transformer", "--task", "mortality", "--device", "cpu"),
        *("--cohort", str(cohort.path), "--results", str(results)),
        *(f"--set={name}={text}" for name, text in TINY),
        *more,
    ]


def only_run(results: Path) -> RunFiles:
    (folder,) = (results / "runs").iterdir()
    return RunFiles(folder)


def unfinished_files(results: Path) -> list[Path]:
    return list(results.rglob(".*"))


def refused(main: Callable[[], int], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must end with status 2; return its one line."""
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    return line


def started(words: list[str], results: Path) -> subprocess.Popen[str]:
    """A command in a process of its own, which has finished at least one epoch."""
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while not list(results.glob("runs/*/checkpoint.pt")):
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.005)
    return process


class TestTermination:
    LONG = ("--set", "training.max_epochs=60", "--set", "training.patience=99")

    def test_a_run_finishes_its_step_and_the_same_command_goes_on(
        self, cohort: Cohort, tmp_path: Path
    ):
        undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
        assert run.main(command(cohort, undisturbed, *self.LONG)) == 0

        process = started(["bench.run", *command(cohort, stopped, *self.LONG)], stopped)
        process.send_signal(signal.SIGTERM)
        printed, errors = process.communicate(timeout=300)
        assert process.returncode == 143
        assert printed.splitlines()[-1].startswith("stopped by SIGTERM: type the same command")
        assert not errors
        files = only_run(stopped)
        assert files.status() is Status.INTERRUPTED
        assert not unfinished_files(stopped)

        assert run.main(command(cohort, stopped, *self.LONG)) == 0
        reference = only_run(undisturbed)
        assert "resumed after epoch" in files.log.read_text()
        assert files.predictions.read_bytes() == reference.predictions.read_bytes()
        assert files.read_record()["history"] == reference.read_record()["history"]

    @pytest.mark.parametrize("every", [1, 3])
    def test_it_goes_on_in_mid_epoch_with_the_same_bits(
        self, every: int, cohort: Cohort, tmp_path: Path, monkeypatch
    ):
        more = [
            ("model.dropout", "0.3"),
            ("training.batch_size", "2"),
            ("training.accumulation", "2"),
        ]
        (reference,) = planned(mine(Interrupted), cohort, tmp_path / "undisturbed", [23], more)
        (stopped,) = planned(mine(Interrupted), cohort, tmp_path / "stopped", [23], more)
        assert not outcomes((reference,), cohort, jobs=1)[reference.run_id].error

        monkeypatch.setattr(Interrupted, "every", every)
        monkeypatch.setattr(Interrupted, "n_batches", 0)
        n_stops, files = 0, stopped.files
        while not files.record.exists():
            try:
                runner.execute(stopped.config, cohort, files, device=CPU, say=lambda _: None)
            except stopping.StoppedError:
                n_stops += 1
        record, expected = files.read_record(), reference.files.read_record()
        n_batches = len(runner.Run(stopped.config, cohort, CPU, 1).samples.indices(Split.TRAIN)) / 2
        assert Interrupted.n_batches == 2 * n_batches, "a batch was trained on twice"
        assert n_stops >= {1: record["steps"], 3: 3}[every]
        assert "resumed after 1 steps of epoch 1\n" in files.log.read_text() or every == 3
        assert (record["steps"], record["history"]) == (expected["steps"], expected["history"])
        assert files.predictions.read_bytes() == reference.files.predictions.read_bytes()

    def test_a_sweep_lets_its_workers_finish_their_step(self, cohort: Cohort, tmp_path: Path):
        place = ["--cohort", str(cohort.path), "--results", str(tmp_path), "--device", "cpu"]
        words = ["bench.sweep", "--table", "table2", "--jobs", "2", *place, *self.LONG]
        process = started([*words, "--set", "training.max_steps=0"], tmp_path)
        process.send_signal(signal.SIGTERM)
        printed, errors = process.communicate(timeout=300)
        assert process.returncode == 143
        assert errors == "stopped by SIGTERM: type the same command again to go on\n"
        assert "failed" not in printed
        for folder in (tmp_path / "runs").iterdir():
            with RunFiles(folder).locked():  # nobody works on it any more
                assert not (folder / "failure.json").exists()
        assert not unfinished_files(tmp_path)


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """Let the system refuse to write more than this to any file, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestFullDisk:
    def test_a_checkpoint_that_does_not_fit(self, cohort: Cohort, tmp_path: Path, capsys):
        with largest_file(10_000):
            line = refused(lambda: run.main(command(cohort, tmp_path)), capsys)
        files = only_run(tmp_path)
        assert str(files.best) in line and "type the same command again" in line
        assert files.status() is Status.FAILED
        assert not unfinished_files(tmp_path)
        assert not files.best.exists() and not files.checkpoint.exists()
        assert run.main(command(cohort, tmp_path)) == 0

    @pytest.mark.parametrize("n_bytes", [1, 1_000, 70_000, 250_000, 390_000])
    def test_wherever_the_disk_is_full_it_says_so(self, n_bytes: int, tmp_path: Path):
        numbers = np.random.default_rng(0).normal(size=(10, 5_000))
        writers = {
            "state.pt": lambda path: checkpoints.save(path, list(torch.from_numpy(numbers))),
            "maps.npz": lambda path: prediction._save_arrays(path, {"a": numbers, "b": numbers}),
        }
        for name, write in writers.items():
            with largest_file(n_bytes), pytest.raises(UserError) as refusal:
                write(tmp_path / name)
            assert f"cannot write {tmp_path / name}: File too large" in str(refusal.value)
        assert not list(tmp_path.iterdir())

    def test_a_record_that_does_not_fit(self, cohort: Cohort, tmp_path: Path, capsys, monkeypatch):
        real = Path.write_text

        def full(path: Path, text: str) -> int:
            if "record.json" not in path.name:
                return real(path, text)
            real(path, text[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Path, "write_text", full)
        line = refused(lambda: run.main(command(cohort, tmp_path)), capsys)
        files = only_run(tmp_path)
        assert f"cannot write {files.record}: No space left on device" in line
        assert not files.record.exists() and files.checkpoint.exists()
        assert not unfinished_files(tmp_path)
        monkeypatch.undo()
        assert run.main(command(cohort, tmp_path)) == 0
        assert "resumed after epoch 2" in files.log.read_text()

    def test_without_room_for_anything_it_is_still_one_line(
        self, cohort: Cohort, tmp_path: Path, capsys
    ):
        with largest_file(0):
            line = refused(lambda: run.main(command(cohort, tmp_path)), capsys)
        assert "config.json" in line
        assert not unfinished_files(tmp_path)

    def test_what_a_killed_process_was_writing_is_removed(self, cohort: Cohort, tmp_path: Path):
        (planned_run,) = planned("ehr_transformer", cohort, tmp_path, [23])
        planned_run.files.folder.mkdir(parents=True)
        (planned_run.files.folder / ".checkpoint.pt.123").write_bytes(b"half")
        assert not outcomes((planned_run,), cohort, jobs=1)[planned_run.run_id].error
        assert not unfinished_files(tmp_path)


class TestUnwritableResults:
    @pytest.mark.parametrize("main", ["run", "sweep"])
    def test_a_file_in_the_way(self, main: str, cohort: Cohort, tmp_path: Path, capsys):
        blocked = tmp_path / "file"
        blocked.touch()
        place = ["--cohort", str(cohort.path), "--results", str(blocked / "results")]
        words = {
            "run": lambda: run.main(command(cohort, blocked / "results")),
            "sweep": lambda: sweep.main(["--table", "table2", *place]),
        }[main]
        assert f"{blocked} is a file" in refused(words, capsys)

    @pytest.mark.parametrize("is_there", [True, False])
    def test_read_only(self, is_there: bool, cohort: Cohort, tmp_path: Path, capsys, monkeypatch):
        results = tmp_path if is_there else tmp_path / "deep" / "results"
        # Permissions do not bind a superuser, who may run the tests: only the answer is set.
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
        line = refused(lambda: run.main(command(cohort, results)), capsys)
        assert f"{tmp_path} is read-only" in line
        assert not list(tmp_path.iterdir())

    def test_that_turns_out_only_on_writing(self, tmp_path: Path):
        (tmp_path / "runs").touch()
        with pytest.raises(UserError, match="cannot write"), Store(tmp_path).run("a").locked():
            pass


def test_a_diverging_run_records_where_and_the_others_go_on(cohort: Cohort, tmp_path: Path):
    runs = planned(mine(Diverging), cohort, tmp_path)
    found = outcomes(runs, cohort, jobs=1)
    bad = runs[1]
    assert [o.run_id for o in found.values() if o.error] == [bad.run_id]
    failure = bad.files.read_failure()
    assert "'task' is nan in batch 2 of epoch 1" in failure["error"]
    where = failure["diverged"]
    assert (where["term"], where["epoch"], where["batch"]) == ("task", 1, 2)
    samples = runner.Run(bad.config, cohort, CPU, 1).samples
    order = np.random.default_rng([BAD_SEED, 0]).permutation(samples.indices("train"))
    assert where["samples"] == list(samples.keys[order[8:16]])
    assert not bad.files.record.exists()


class TestMemory:
    def test_the_size_is_halved_until_it_fits(self):
        tried = []

        def compute(size: int) -> str:
            tried.append(size)
            if size > 2:
                raise torch.cuda.OutOfMemoryError
            return "done"

        assert within_memory(compute, 10) == ("done", 2)
        assert tried == [10, 5, 2]

    def test_what_does_not_fit_at_all_is_raised(self):
        def compute(size: int) -> None:
            raise torch.cuda.OutOfMemoryError

        with pytest.raises(torch.cuda.OutOfMemoryError):
            within_memory(compute, 4)

    @pytest.mark.parametrize(
        "words",
        [
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
            "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        ],
    )
    @pytest.mark.parametrize("kind", [RuntimeError, torch.AcceleratorError])
    def test_libraries_say_it_in_other_words(self, words: str, kind: type[RuntimeError]):
        def compute(size: int) -> str:
            if size > 2:
                raise kind(words)
            return "done"

        assert within_memory(compute, 4) == ("done", 2)

    def test_another_error_is_not_taken_for_it(self):
        tried = []

        def compute(size: int) -> None:
            tried.append(size)
            raise RuntimeError("CUDA error: device-side assert triggered")

        with pytest.raises(RuntimeError, match="device-side assert"):
            within_memory(compute, 4)
        assert tried == [4]

    def test_a_step_finds_its_room_before_it_changes_anything(self, monkeypatch):
        def weights_after(n_failures: int) -> tuple[list[torch.Tensor], list[str]]:
            torch.manual_seed(0)
            model, made = nn.Linear(3, 2), list[str]()
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
            model(torch.ones(1, 3)).sum().backward()
            failures = iter([True] * n_failures)

            def empty_like(weight: torch.Tensor) -> torch.Tensor:
                if next(failures, False):
                    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate")
                return torch.zeros_like(weight)

            monkeypatch.setattr(torch, "empty_like", empty_like)
            try:
                fitted = step_within_memory(optimizer, lambda: made.append("room") or True)
                made.append(f"fitted {fitted}")
            except torch.cuda.OutOfMemoryError as error:
                made.append(str(error))
            return list(model.parameters()), made

        torch.manual_seed(0)
        untouched = nn.Linear(3, 2).weight
        plain, said = weights_after(0)
        assert said == ["fitted True"]
        assert not torch.equal(plain[0], untouched)
        again, said = weights_after(1)
        assert said == ["room", "fitted False"]
        assert all(map(torch.equal, again, plain))
        failed, said = weights_after(2)
        assert said[0] == "room"
        assert "ran out in the optimizer's step: put fewer runs on a GPU" in said[1]
        assert torch.equal(failed[0], untouched)

    def test_after_a_step_that_did_not_fit_micro_batches_are_smaller(
        self, cohort: Cohort, tmp_path: Path, monkeypatch
    ):
        (squeezed,) = planned("ehr_transformer", cohort, tmp_path, [23])
        answers = iter([False])
        monkeypatch.setattr(memory, "_fits", lambda optimizer: next(answers, True))
        assert not outcomes((squeezed,), cohort, jobs=1)[squeezed.run_id].error
        (note,) = squeezed.files.read_record()["notes"]
        assert "gradients of 4 samples at a time instead of 8" in note

    def test_an_attempt_that_failed_leaves_no_trace_in_running_statistics(
        self, cohort: Cohort, tmp_path: Path
    ):
        found = []
        for size in (8, 2):
            (plan,) = planned(mine(Normalising), cohort, tmp_path, [23])
            run = runner.Run(plan.config, cohort, CPU, 1)
            run.micro_batch = size  # 2 fits at once
            positions = run.samples.indices(Split.TRAIN)[:8]
            training._train_epoch(run, adamw(run.model, run.training), positions, 1)
            found.append(dict(run.model.named_buffers()))
        assert found[0]["norm.num_batches_tracked"] == 4
        for name, value in found[1].items():
            assert torch.equal(found[0][name], value), name

    def test_at_last_kept_images_leave(self, cohort: Cohort, tmp_path: Path, monkeypatch):
        monkeypatch.setattr(loading, "_kept", {("hash", "films", "cpu"): torch.zeros(1)})
        (displaced,) = planned(mine(Displaced), cohort, tmp_path, [23])
        assert not outcomes((displaced,), cohort, jobs=1)[displaced.run_id].error
        assert not loading._kept
        (note,) = displaced.files.read_record()["notes"]
        assert "gradients of 1 samples at a time" in note

    def test_smaller_micro_batches_take_the_same_steps_and_the_record_says_so(
        self, cohort: Cohort, tmp_path: Path
    ):
        (plain,) = planned("ehr_transformer", cohort, tmp_path, [23])
        (hungry,) = planned(mine(Hungry), cohort, tmp_path, [23])
        outcome = [outcomes((r,), cohort, jobs=1)[r.run_id].error for r in (plain, hungry)]
        assert outcome == [None, None]
        logits = [r.files.read_predictions()["logit_0"].to_numpy() for r in (plain, hungry)]
        np.testing.assert_allclose(logits[1], logits[0], atol=1e-4)
        record, reference = hungry.files.read_record(), plain.files.read_record()
        assert record["steps"] == reference["steps"]
        assert reference["notes"] == []
        trained, predicted = record["notes"]
        assert "gradients of 2 samples at a time instead of 8, 8 a step still" in trained
        assert re.search(r"2 samples predicted at a time instead of \d+", predicted)

    def test_a_resumed_run_keeps_its_micro_batches(
        self, cohort: Cohort, tmp_path: Path, monkeypatch
    ):
        (hungry,) = planned(mine(Hungry), cohort, tmp_path, [23])
        monkeypatch.setattr(runner, "finish", lambda *_: pytest.fail("stopped here"))
        with pytest.raises(BaseException, match="stopped here"):
            runner.execute(hungry.config, cohort, hungry.files, device=CPU, say=lambda _: None)
        monkeypatch.undo()
        # There is room now, but the size decides the last bits.
        monkeypatch.setattr(Hungry, "limit", 10**6)
        assert not outcomes((hungry,), cohort, jobs=1)[hungry.run_id].error
        assert "gradients of 2 samples" in hungry.files.read_record()["notes"][0]


def test_a_worker_that_dies_takes_no_other_run_with_it(cohort: Cohort, tmp_path: Path):
    runs = planned(mine(Deadly), cohort, tmp_path)
    found = outcomes(runs, cohort, jobs=2)
    errors = {r.config.request.seed: found[r.run_id].error for r in runs}
    assert "its worker process died" in (errors.pop(BAD_SEED) or "")
    assert set(errors.values()) == {None}
    assert [r.files.record.exists() for r in runs] == [True, False, True]


class TestTwoProcesses:
    def test_the_second_says_so_and_leaves_the_run_alone(
        self, cohort: Cohort, tmp_path: Path, capsys
    ):
        runs = planned("ehr_transformer", cohort, tmp_path, [23])
        with runs[0].files.locked():
            line = refused(lambda: run.main(command(cohort, tmp_path)), capsys)
            owner = f"process {os.getpid()} on {socket.gethostname()}"
            busy = f"another process works on {runs[0].run_id}: wait for {owner}"
            assert line == f"error: {busy}\n"
            (outcome,) = outcomes(runs, cohort, jobs=1).values()
            assert outcome.busy
        assert not runs[0].files.log.exists()

    def test_a_run_that_another_process_finished_is_not_redone(
        self, cohort: Cohort, tmp_path: Path
    ):
        runs = planned("ehr_transformer", cohort, tmp_path, [23])
        written = []
        for _ in range(2):
            assert not outcomes(runs, cohort, jobs=1)[runs[0].run_id].error
            written.append(runs[0].files.record.stat().st_mtime_ns)
        assert written[0] == written[1]

    def test_a_redo_of_a_run_at_work_is_refused(self, cohort: Cohort, tmp_path: Path, capsys):
        assert run.main(command(cohort, tmp_path)) == 0
        capsys.readouterr()
        files = only_run(tmp_path)
        with files.locked():
            again = command(cohort, tmp_path, "--rerun", "done")
            assert "another process works on" in refused(lambda: run.main(again), capsys)
        assert files.record.exists()
