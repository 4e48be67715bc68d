"""What a class declares wrongly, or a module that cannot be imported, is one line: status 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench import check, run
from bench.errors import run_command
from bench.registry import load_method
from tests.methods import faulty_methods

COMMANDS: dict[str, Callable[[str], int]] = {
    "check": lambda name: check.main([name]),
    "run": lambda name: run.main(["--method", name]),
}


def refusal(command: str, name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that ends with status 2."""
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: COMMANDS[command](name))
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("WithoutTitle", "lacks title"),
        ("ConfigureOfTheInstance", "configure must be a @classmethod"),
        ("ForwardOfTheClass", "forward must not be a @classmethod"),
        ("ForwardWithoutAttention", "forward is called with (batch, with_attention): got an"),
        ("AblationsInAList", "ablations is a list, expected a dict of names to Ablation"),
        ("AblationIsASentence", "ablations['size'] is a str, expected an Ablation"),
        ("InputsInASet", "inputs is a set, expected e.g. Inputs("),
        ("InputsNotMade", "inputs is the class Inputs, expected e.g. Inputs("),
        ("ConfiguredByADict", "configure(demo, disease_progression) returned a dict, expected"),
        ("ConfiguredByNothing", "returned None, expected a MethodConfig"),
        ("ConfigureRaises", "KeyError at faulty_methods.py:"),
        ("UndecoratedConfiguration", "UndecoratedConfig has fields but no @dataclass"),
        ("DeclinesByABool", "ehr=True) returned True, expected the reason in a sentence, or None"),
    ],
)
def test_a_wrong_declaration_is_named(
    command: str, name: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(command, f"{faulty_methods.__name__}:{name}", capsys)
    assert f"{faulty_methods.__name__}:{name}" in line
    assert says in line


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("x = 1\ndef f(:\n", "SyntaxError at broken.py:2: "),
        ("if x:\nx = 1\n", "IndentationError at broken.py:2: "),
        ("x = 1\nimport torhc\n", "at broken.py:2: No module named 'torhc'"),
        # Its name begins like the module's own.
        ("import brok\n", "at broken.py:1: No module named 'brok'"),
        ("\nfrom torch import nm\n", "ImportError at broken.py:2: cannot import name 'nm'"),
        ("import torch\n\ntorch.ones(2) @ torch.ones(3)\n", "RuntimeError at broken.py:3: "),
        ("import json\njson.loads('{')\n", "JSONDecodeError at broken.py:2: "),
        ("import sys\nsys.exit(1)\n", "SystemExit at broken.py:2: 1"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_the_line(
    command: str,
    source: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "broken.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    line = refusal(command, "broken:Mine", capsys)
    assert "method 'broken:Mine' cannot be imported: " in line
    assert says in line


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("name", "says"),
    [
        (":Sound", "e.g. my_method:Sound"),
        ("my_method:", "e.g. my_method:MyMethod"),
        ("./docs/method_template.py:LateFusion", "e.g. docs.method_template:LateFusion"),
        ("my_method.py:Sound", "e.g. my_method:Sound"),
        ("..tests:Sound", "give module:Class as Python imports it"),
        ("no_such:Sound", "there is no module 'no_such' in"),
        ("tests.no_such:Sound", "there is no module 'tests.no_such' in"),
        ("bench.errors:Sound", "no class 'Sound' in bench.errors, choose from HelpFormatter"),
    ],
)
def test_a_place_that_is_none_is_named(
    command: str, name: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(command, name, capsys)
    assert says in line and f"'{name}'" in line


def test_a_method_that_is_right_is_loaded() -> None:
    assert load_method(f"{faulty_methods.__name__}:Sound") is faulty_methods.Sound
