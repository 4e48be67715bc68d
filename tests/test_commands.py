"""Commands as a user types them: wrong usage gives one line and status 2, and leaves nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import execution, prepare, run, sweep
from bench.backends import Outcome
from bench.data.cohort import Cohort
from bench.data.vocabulary import DISEASES, Task
from bench.errors import first_line, run_command
from bench.metrics import TASK_METRICS
from tests.conftest import ROOT

BASE = ["--method", "ehr_transformer", "--task", "mortality"]


def refused(main, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must be refused; return its one line."""
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: main(arguments))
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--method", "dipor"], "did you mean 'dipro'"),
        ([], "--method"),
        ([*BASE, "--ablate", "std"], "has no ablation 'std'"),
        ([*BASE, "--abalte", "std"], "did you mean '--ablate'"),
        ([*BASE, "--task", "mortalty"], "did you mean 'mortality'"),
        ([*BASE, "--cxr", "lost"], "did you mean 'last'"),
        (["--methd", "dipro"], "did you mean '--method'"),
        (["-method", "dipro"], "did you mean '--method'"),
        ([*BASE, "--cxr", "long"], "films do not go with ehr_transformer on mortality, use"),
        (["--method", "dipro", "--cxr", "last"], "disease_progression, use --cxr pair"),
        (["--method", "dipro", "--cxr", "long"], "disease_progression, use --cxr pair"),
        (["--method", "dipro", "--cxr", "none"], "use --method ehr_transformer"),
        ([*BASE, "--seed", "x"], "'x' is not a whole number of 0 or more"),
        ([*BASE, "--seed", "-1"], "'-1' is not a whole number of 0 or more"),
        ([*BASE, "--drop-ehr", "1"], "'1' is not a number of 0 or more and below 1"),
        ([*BASE, "--preset", "papr"], "did you mean 'paper'"),
        ([*BASE, "--preset", "paper"], "--cohort"),
        ([*BASE, "--cohort", "nowhere"], "not a cohort"),
        ([*BASE, "--device", "tpu7"], "no device 'tpu7'"),
        ([*BASE, "--device", "cuda:99"], "no device 'cuda:99'"),
        ([*BASE, "--threads", "0"], "above 0"),
        ([*BASE, "--set", "lr=1"], "training.FIELD"),
        ([*BASE, "--rerun", "stall"], "did you mean 'stale'"),
    ],
)
def test_run_refuses_wrong_usage(arguments, says, capsys, cohort: Cohort, tmp_path: Path):
    place = (
        [] if "--cohort" in arguments or "paper" in arguments else ["--cohort", str(cohort.path)]
    )
    line = refused(run.main, [*arguments, *place, "--results", str(tmp_path / "r")], capsys)
    assert says in line
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--table", "tabel2"], "did you mean 'table2'"),
        (["--table", "table2", "--jobs", "none"], "above 0"),
        (["--table", "table2", "--seeds", "a"], "'a' is not a whole number of 0 or more"),
        (["--table", "table2", "--seeds", "1", "-1"], "'-1' is not a whole number of 0 or more"),
        (["--tabel", "table2"], "unknown argument '--tabel': did you mean '--table'"),
        (["--table", "table2", "--backend", "dusk"], "did you mean 'dask'"),
        (["--table", "table2", "--jobs", "2", "--runs-per-gpu", "2"], "leave --runs-per-gpu out"),
    ],
)
def test_sweep_refuses_wrong_usage(arguments, says, capsys, cohort: Cohort, tmp_path: Path):
    place = ["--cohort", str(cohort.path), "--results", str(tmp_path / "r")]
    assert says in refused(sweep.main, [*arguments, *place], capsys)
    assert not (tmp_path / "r").exists()


def test_a_dry_run_prints_the_plan_and_trains_nothing(capsys, cohort: Cohort, tmp_path: Path):
    arguments = ["--table", "table2", "--cohort", str(cohort.path), "--results", str(tmp_path)]
    assert sweep.main([*arguments, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "runs = " in printed and "new" in printed
    for films in ("last", "long"):
        assert f"utde ({films}), mortality, seed 23  " in printed
    assert not list(tmp_path.glob("runs/*/record.json"))


def test_a_failing_run_does_not_stop_the_others(capsys, cohort: Cohort, tmp_path: Path):
    arguments = ["--table", "table2", "--cohort", str(cohort.path), "--results", str(tmp_path)]
    short = ["--seeds", "1", "--jobs", "2", "--set", "training.max_epochs=1"]
    blocked = _folder_of_one_run(arguments + short, capsys)
    # A folder where the log should be makes exactly this run fail.
    (blocked / "log.txt").mkdir(parents=True)
    assert sweep.main([*arguments, *short]) == 1
    printed = capsys.readouterr().out
    assert "1 of " in printed and f"{blocked.name}: failed" in printed
    n_done = len(list(tmp_path.glob("runs/*/record.json")))
    assert n_done == printed.count(": done")
    assert n_done > 0

    (blocked / "log.txt").rmdir()
    assert sweep.main([*arguments, *short]) == 0
    assert "1 to run" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["chek", "--out", "x"], ["chek"]])
def test_a_mistyped_subcommand_gets_the_nearest(words, capsys):
    assert "did you mean 'check'" in refused(prepare.main, words, capsys)


@pytest.mark.parametrize("resumes", [True, False])
def test_only_a_command_that_resumes_says_so(resumes: bool, capsys):
    def interrupted() -> int:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_command(interrupted, resumes=resumes)
    assert ended.value.code == 130
    hint = ": type the same command again to go on" if resumes else ""
    assert capsys.readouterr().err == f"interrupted{hint}\n"


def test_a_long_message_is_cut_to_its_first_line():
    assert first_line(ValueError("short")) == "ValueError: short"
    many = "\n".join(["\nbroken", *["at some line"] * 1000])
    assert first_line(RuntimeError(many)) == "RuntimeError: broken [...]"
    assert len(first_line(RuntimeError("x" * 1000))) < 320


TINY = [f"--set={field}" for field in ("model.d_model=16", "training.max_epochs=1")]


def test_a_finished_run_says_that_it_is_an_old_record(capsys, cohort: Cohort, tmp_path: Path):
    words = [*BASE, *TINY, "--cohort", str(cohort.path), "--results", str(tmp_path)]
    assert run.main(words) == 0
    fresh = capsys.readouterr().out
    assert "already done" not in fresh
    assert run.main(words) == 0
    again = capsys.readouterr().out
    (record,) = tmp_path.glob("runs/*/record.json")
    commit = json.loads(record.read_text())["commit"]
    old = f"already done (record of commit {commit}); --rerun done trains it again"
    assert old in again.splitlines()
    headline = next(line for line in fresh.splitlines() if line.startswith("test ("))
    assert headline in again.splitlines()
    assert [word for word in headline.split() if word.isidentifier()][-2:] == ["auprc", "auroc"]
    assert run.main([*words, "--dry-run"]) == 0
    assert capsys.readouterr().out.endswith("status: done\n")
    assert run.main([*words, "--rerun", "done", "--dry-run"]) == 0
    assert capsys.readouterr().out.endswith("status: done, would be made again\n")


def test_results_of_diseases_stand_under_the_others():
    values = dict.fromkeys(TASK_METRICS[Task.DISEASE_PROGRESSION], 0.5)
    lines = run._scores(Task.DISEASE_PROGRESSION, values).splitlines()
    assert lines[0] == "macro_f1 0.500  auprc 0.500  auroc 0.500"
    diseases = [line for line in lines if "[" in line]
    assert len(diseases) == len(DISEASES)
    assert len({line.index("0.500") for line in diseases}) == 1
    assert sum(line.count("0.500") for line in lines) == len(values)


def test_a_sweep_that_leaves_busy_runs_does_not_end_as_done(
    capsys, cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def all_busy(runs, *_, **__):
        return (Outcome(r.run_id, "process 7 on node1 works on it", busy=True) for r in runs)

    monkeypatch.setattr(execution, "run_all", all_busy)
    words = ["--table", "table2", "--seeds", "1", "--device", "cpu"]
    assert sweep.main([*words, "--cohort", str(cohort.path), "--results", str(tmp_path)]) == 1
    *_, line, last = capsys.readouterr().out.splitlines()
    assert line.endswith(": busy (process 7 on node1 works on it)")
    assert "seed 1, " in line
    assert "runs are busy" in last


def _folder_of_one_run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Path:
    sweep.main([*arguments, "--dry-run"])
    listed = capsys.readouterr().out
    run_id = next(line.split()[-1] for line in listed.splitlines() if line.startswith("  new"))
    return Path(arguments[arguments.index("--results") + 1]) / "runs" / run_id


def test_the_first_line_says_the_defaults(cohort: Cohort, tmp_path: Path):
    words = ["-m", "bench.run", "--method", "dipro", "--ablate", "pae", "--dry-run"]
    place = ["--cohort", str(cohort.path), "--results", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *words, *place], cwd=ROOT, check=True, capture_output=True, text=True
    )
    first = done.stdout.splitlines()[0]
    for word in ("dipro -pae", "disease_progression", "seed 23", "preset demo", str(cohort.path)):
        assert word in first


def test_training_needs_neither_duckdb_nor_the_simulator():
    program = (
        "import sys; sys.modules['duckdb'] = None; import bench.runner, bench.plan, bench.backends;"
        "from bench.registry import METHODS, load_method; [load_method(n) for n in METHODS];"
        "assert not [m for m in sys.modules if m.startswith('bench.simulating')]"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_no_method_or_runner_reads_the_truth():
    trees = [
        ROOT / "methods",
        ROOT / "tables",
        ROOT / "bench" / "data",
        ROOT / "bench" / "preparing",
    ]
    sources = [path for tree in trees for path in tree.rglob("*.py")]
    running = ("runner", "training", "checkpoints", "prediction", "memory", "prepare")
    sources += [ROOT / "bench" / f"{name}.py" for name in running]
    assert len(sources) > 20
    for path in sources:
        assert "truth/" not in path.read_text(), path
        assert '"truth"' not in path.read_text(), path
