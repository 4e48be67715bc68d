"""The commands and code of README and docs are run, or at least parsed by what they are for."""

from __future__ import annotations

import importlib
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bench.config import Request
from bench.data.cohort import Cohort
from bench.data.vocabulary import Cxr, Task
from bench.errors import Parser
from bench.plan import make_plan
from bench.runner import execute
from bench.store import Store
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
DOCS = [README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))]


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


COMMANDS = [
    line.split(" #")[0].strip()
    for text in DOCS
    for block in blocks("sh", text)
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip() and not line.startswith("#")
]


def test_the_readme_has_commands_and_code():
    assert len(COMMANDS) >= 10
    assert len(blocks("python")) == 1


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_make_commands_name_real_targets(command: str):
    done = subprocess.run(
        ["make", "-n", *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


class ParsedError(Exception):
    """A command has understood its words, and does no more."""


@pytest.mark.parametrize("command", [c for c in COMMANDS if " -m " in c])
def test_python_commands_parse(command: str, monkeypatch: pytest.MonkeyPatch):
    parse, depth = Parser.parse_known_args, itertools.count()

    def parse_known_args(self: Parser, *given: object) -> object:
        is_outermost = next(depth) == 0
        found = parse(self, *given)
        if is_outermost:
            assert not found[1]
            raise ParsedError
        return found

    monkeypatch.setattr(Parser, "parse_known_args", parse_known_args)
    words = shlex.split(command)
    module = importlib.import_module(words[words.index("-m") + 1])
    with pytest.raises(ParsedError):
        module.main(words[words.index("-m") + 2 :])


def test_the_method_of_the_readme_trains(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import torch

    (tmp_path / "mean_ehr.py").write_text(blocks("python")[0])
    monkeypatch.syspath_prepend(tmp_path)
    request = Request(
        "mean_ehr:MeanEhr",
        Task.MORTALITY,
        Cxr.NONE,
        seed=1,
        overrides=(("training.max_epochs", "1"),),
    )
    store = Store(tmp_path / "results")
    (run,) = make_plan("readme", [request], cohort, store).runs
    execute(run.config, cohort, run.files, device=torch.device("cpu"), say=lambda line: None)
    assert run.files.record.exists()


def test_links_point_to_files():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_named_files_exist():
    for name in re.findall(r"`((?:bench|methods|tables)/[\w/.]+\.(?:py|md|csv))`", README):
        assert (ROOT / name).exists(), name


def test_run_help_gives_a_sentence_per_ablation():
    done = subprocess.run(
        [sys.executable, "-m", "bench.run", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    for name in ("std", "pae", "mmf", "local-only", "global-only"):
        assert f"--ablate {name}:" in done.stdout
