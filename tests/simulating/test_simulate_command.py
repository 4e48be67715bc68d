"""The command: what it prints, what it refuses, and what it leaves behind when it is stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import simulate
from bench.data.vocabulary import Task
from bench.errors import run_command
from bench.simulating import writing

TINY = ["--size", "tiny", "--film-size", "64", "--jobs", "1"]


def stopped(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: simulate.main(arguments))
    return int(ended.value.code or 0)


def test_the_first_line_says_what_is_made_and_the_last_what_was(tmp_path: Path, capsys):
    assert simulate.main([*TINY, "--seed", "3", "--out", str(tmp_path / "raw")]) == 0
    lines = capsys.readouterr().out.splitlines()
    for word in ("tiny", "seed 3", "64 px", str(tmp_path / "raw")):
        assert word in lines[0]
    for word in ("stays", "films", " s,", "films/s", "MB"):
        assert word in lines[-1]


def test_the_oracle_has_a_line_for_every_task(tiny_raw: Path, capsys):
    assert simulate.main(["oracle", str(tiny_raw)]) == 0
    printed = capsys.readouterr().out
    assert "SIMULATED" in printed and all(f"{task}:" in printed for task in Task)


def test_an_interrupted_simulation_leaves_nothing(tmp_path: Path, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "write_truth", interrupt)
    assert stopped([*TINY, "--out", str(tmp_path / "raw")]) == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("settings", ["", "{", "[]"])
def test_unreadable_settings_are_no_simulation_of_ours(settings: str, tmp_path: Path, capsys):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / writing.SETTINGS_FILE).write_text(settings)
    assert stopped([*TINY, "--out", str(tmp_path / "raw")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--force" in error


def test_other_settings_are_refused_and_replaced_by_force(tmp_path: Path):
    out = ["--out", str(tmp_path / "raw")]
    assert simulate.main([*TINY, *out]) == 0
    kept = (tmp_path / "raw" / writing.SETTINGS_FILE).read_text()
    assert stopped([*TINY, "--chronic", "2", *out]) == 2
    assert (tmp_path / "raw" / writing.SETTINGS_FILE).read_text() == kept
    assert simulate.main([*TINY, "--chronic", "2", "--force", *out]) == 0
    assert (tmp_path / "raw" / writing.SETTINGS_FILE).read_text() != kept
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--film-size", "97"], "even"),
        (["--seed", "-1"], "-1"),
        (["oracle"], "DIR"),
        (["oracle", "nowhere"], "truth"),
        (["small"], "unknown argument 'small'"),
    ],
)
def test_wrong_usage_is_refused_in_one_line(arguments: list[str], says: str, capsys):
    assert stopped(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and says in error
