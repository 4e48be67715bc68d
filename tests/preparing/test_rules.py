"""Every rule is read somewhere: none is silently ignored."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

import bench.preparing
from bench import prepare as command
from bench.preparing.rules import (
    NOT_REPRODUCED,
    OFFICIAL,
    OPTION_NAMES,
    RULES,
    STRICT,
    Rules,
    switched,
)

SWITCHES = [f.name for f in fields(Rules) if f.name != "name" and f.name not in OPTION_NAMES]


def test_strict_does_nothing_official_and_official_everything():
    assert not any(getattr(STRICT, name) for name in SWITCHES)
    assert all(getattr(OFFICIAL, name) for name in SWITCHES)
    assert set(RULES) == set(NOT_REPRODUCED) == {"strict", "official"}


def test_every_switch_is_read():
    folder = Path(bench.preparing.__file__).parent
    sources = "".join(path.read_text() for path in folder.glob("*.py"))
    for name in [*SWITCHES, *OPTION_NAMES]:
        assert f"rules.{name}" in sources, name


def test_an_option_is_on_only_where_asked_for(capsys: pytest.CaptureFixture[str]):
    assert "as_known" in OPTION_NAMES
    assert STRICT.options == OFFICIAL.options == []
    for rules in RULES.values():
        known = switched(rules, {}, ["as_known"])
        assert known.as_known and known.title == f"{rules.name}, as_known"
        assert known.official_behaviour == rules.official_behaviour
    words = ["simulated", "--raw", "raw", "--out", "cohort", "--option"]
    parser, _ = command.parser()
    assert parser.parse_args([*words, "as_known"]).option == ["as_known"]
    with pytest.raises(SystemExit):
        parser.parse_args([*words, "as_knwon"])
    assert "did you mean 'as_known'?" in capsys.readouterr().err
