"""Every rule is read somewhere: none is silently ignored."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import bench.preparing
from bench.preparing.rules import NOT_REPRODUCED, OFFICIAL, RULES, STRICT, Rules

SWITCHES = [field.name for field in fields(Rules) if field.name != "name"]


def test_strict_does_nothing_official_and_official_everything():
    assert not any(getattr(STRICT, name) for name in SWITCHES)
    assert all(getattr(OFFICIAL, name) for name in SWITCHES)
    assert set(RULES) == set(NOT_REPRODUCED) == {"strict", "official"}


def test_every_switch_is_read():
    folder = Path(bench.preparing.__file__).parent
    sources = "".join(path.read_text() for path in folder.glob("*.py"))
    for name in SWITCHES:
        assert f"rules.{name}" in sources, name
