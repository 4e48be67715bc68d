"""Which files decide a method's numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.registry import METHODS, source_files

ROOT = Path(__file__).parent.parent


def sources(name: str) -> set[str]:
    return {str(file.relative_to(ROOT / "methods")) for file in source_files(name)}


def test_a_methods_sources_are_what_it_imports_of_methods():
    assert {"dipro/model.py", "dipro/std.py", "encoders.py", "base.py"} <= sources("dipro")
    assert {"baselines/sdpl.py", "fusion.py", "pyramid.py", "findings.py"} <= sources("sdpl")
    stage_one = "methods.baselines.medfuse_stage_one:MedFuseStageOne"
    assert {"baselines/medfuse.py", "baselines/medfuse_stage_one.py"} <= sources(stage_one)
    for name in METHODS:
        others = {f"baselines/{other}.py" for other in METHODS} - {f"baselines/{name}.py"}
        assert not sources(name) & others, name


@pytest.mark.parametrize(
    "within", ["from .parts import N", "from mine import parts", "import mine.parts"]
)
def test_a_package_of_somebody_elses_is_followed_too(
    within: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "parts.py").write_text("import json\nfrom methods.fusion import EhrFusion\nN = 1\n")
    (package / "unread.py").touch()
    (package / "model.py").write_text(f"{within}\n\n\nclass Mine:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        found = source_files("mine.model:Mine")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
            del sys.modules[name]
    names = {file.name for file in found}
    assert {"model.py", "parts.py", "fusion.py"} <= names
    assert not names & {"unread.py", "json.py"}
