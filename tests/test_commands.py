"""Commands as a user types them: wrong usage gives one line and status 2, and leaves nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench import run, sweep
from bench.data.cohort import Cohort
from bench.errors import run_command
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
        ([*BASE, "--cxr", "long"], "film"),
        ([*BASE, "--seed", "x"], "invalid int value"),
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
        (["--table", "table2", "--seeds", "a"], "invalid int value"),
        (["--tabel", "table2"], "--table"),
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


def _folder_of_one_run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Path:
    sweep.main([*arguments, "--dry-run"])
    listed = capsys.readouterr().out
    run_id = next(line.split()[1] for line in listed.splitlines() if line.startswith("  new"))
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
