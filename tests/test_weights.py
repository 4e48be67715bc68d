"""Runs that start from trained weights, ours or the authors', and runs that only test them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bench import run
from bench.data.cohort import Cohort
from bench.data.vocabulary import Task
from bench.errors import UserError, run_command
from bench.store import RunFiles, Store
from methods.dipro import official
from tables import render
from tests.methods.test_official import made_up_state

BASE = ["--method", "ehr_transformer", "--task", "mortality", "--set", "training.max_epochs=2"]


def place(cohort: Cohort, results: Path) -> list[str]:
    return ["--cohort", str(cohort.path), "--results", str(results)]


def only_run(results: Path) -> RunFiles:
    (folder,) = (results / "runs").iterdir()
    return RunFiles(folder)


@pytest.fixture(scope="module")
def trained(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> RunFiles:
    results = tmp_path_factory.mktemp("trained")
    assert run.main([*BASE, *place(cohort, results)]) == 0
    return only_run(results)


def test_testing_own_weights_gives_the_run_s_own_predictions(
    trained: RunFiles, cohort: Cohort, tmp_path: Path
):
    arguments = [*BASE, *place(cohort, tmp_path), "--weights", str(trained.best), "--test-only"]
    assert run.main(arguments) == 0
    tested = only_run(tmp_path)
    assert tested.folder.name != trained.folder.name
    record = tested.read_record()
    assert record["steps"] == 0 and record["selection"]["rule"] == "weights as given"
    logits = [files.read_predictions()["logit_0"].to_numpy() for files in (tested, trained)]
    assert np.array_equal(*logits)


def test_training_may_start_from_weights(trained: RunFiles, cohort: Cohort, tmp_path: Path):
    assert run.main([*BASE, *place(cohort, tmp_path), "--weights", str(trained.best)]) == 0
    first = [files.read_record()["history"][0] for files in (only_run(tmp_path), trained)]
    assert first[0]["train_task"] < first[1]["train_task"]


def test_the_run_id_knows_the_weights_by_content(trained: RunFiles, tmp_path: Path, capsys, cohort):
    copied = tmp_path / "elsewhere.pt"
    copied.write_bytes(trained.best.read_bytes())
    other = tmp_path / "other.pt"
    torch.save({}, other)
    names = []
    for file in (trained.best, copied, other):
        arguments = [*BASE, *place(cohort, tmp_path), "--weights", str(file), "--dry-run"]
        assert run.main(arguments) == 0
        names.append(capsys.readouterr().out.splitlines()[0].rpartition("-")[2])
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--test-only"], "name them with --weights"),
        (["--weights", "nowhere.pt"], "there is no file nowhere.pt"),
        (["--weights", "official:nowhere.ckpt", "--test-only"], "there is no file nowhere.ckpt"),
    ],
)
def test_wrong_usage(arguments, says, capsys, cohort: Cohort, tmp_path: Path):
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: run.main([*BASE, *place(cohort, tmp_path / "r"), *arguments]))
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_weights_that_do_not_fit(trained: RunFiles, cohort: Cohort, tmp_path: Path):
    weights = ["--weights", str(trained.best), "--test-only"]
    with pytest.raises(UserError, match="holds no weights of this MedFuse"):
        run.main(["--method", "medfuse", "--task", "mortality", *place(cohort, tmp_path), *weights])
    weights[1] = f"official:{trained.best}"
    with pytest.raises(UserError, match="EHR Transformer knows no weights of kind 'official'"):
        run.main([*BASE, *place(cohort, tmp_path), *weights])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("published") / "mortality.ckpt"
    torch.save({"epoch": 1, "state_dict": made_up_state(Task.MORTALITY)}, file)
    return file


class TestOfficial:
    def arguments(self, checkpoint: Path, cohort: Cohort, results: Path) -> list[str]:
        weights = ["--weights", f"official:{checkpoint}", "--test-only"]
        return ["--method", "dipro", "--task", "mortality", *place(cohort, results), *weights]

    def test_goes_through_runner_and_table(
        self, checkpoint: Path, cohort: Cohort, tmp_path: Path, capsys
    ):
        precise = ["--preset", "paper", "--set", "training.precision=fp32"]
        assert run.main([*self.arguments(checkpoint, cohort, tmp_path), *precise]) == 0
        files = only_run(tmp_path)
        assert official.PADDING in files.read_record()["notes"][0]
        assert set(files.read_attention()) >= {"dynamic", "static"}
        assert {r["run_id"] for r in Store(tmp_path).records()} == {files.folder.name}
        capsys.readouterr()
        assert render.main(["table2", *place(cohort, tmp_path), *precise, "--resamples", "10"]) == 0
        table = capsys.readouterr().out
        row = next(line for line in table.splitlines() if "published weights" in line)
        assert "(1 of 3)" in row

    def test_decides_the_sizes_whatever_the_preset(
        self, checkpoint: Path, cohort: Cohort, tmp_path: Path
    ):
        assert run.main(self.arguments(checkpoint, cohort, tmp_path)) == 0
        record = only_run(tmp_path).read_record()
        assert record["n_parameters"] > 29e6 and record["preset"] == "demo"

    def test_of_another_size_is_refused(self, checkpoint: Path, cohort: Cohort, tmp_path: Path):
        narrow = ["--set", "model.d_model=64"]
        with pytest.raises(UserError, match="without --ablate, --no-ehr and changed sizes"):
            run.main([*self.arguments(checkpoint, cohort, tmp_path), *narrow])
