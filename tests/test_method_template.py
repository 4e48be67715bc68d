"""The page and the template for authors: the template passes every check, as the page says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from bench import check
from bench.contract import MethodConfig
from methods.base import Method
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "adding_a_method.md").read_text()


def test_the_template_passes_every_check(tmp_path: Path, monkeypatch, capsys):
    shutil.copy(ROOT / "docs" / "method_template.py", tmp_path / "my_method.py")
    monkeypatch.syspath_prepend(tmp_path)
    assert check.main(["my_method:LateFusion"]) == 0
    assert "four samples can be learnt" in capsys.readouterr().out


@pytest.mark.parametrize("name", re.findall(r"^\| `(\w+)", PAGE, flags=re.M))
def test_the_page_names_what_a_method_has(name: str):
    assert hasattr(Method, name) or name in Method.__annotations__
    assert hasattr(MethodConfig, "loss_weights")
