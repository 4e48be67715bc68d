"""Counts beside the paper's, the rule at which they part, and single rules that are switched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench import prepare as command
from bench.data.cohort import Cohort
from bench.preparing.attrition import Step
from bench.preparing.mimic import Options, prepare_mimic
from bench.preparing.paper_cohort import (
    PAPER_FILMS,
    PAPER_STAYS,
    TITLES,
    beside_paper,
    compare_with_paper,
    parting,
)
from bench.preparing.provenance import Provenance
from bench.preparing.rules import OFFICIAL, RULE_NAMES, STRICT, Rules, switched
from tests.preparing.raw_tree import SIMULATED, SIZES, RawTree, plain_tree, prepare

CREDENTIALED = Provenance("mimic-iv, mimic-cxr", simulated=False, credentialed=True)


def told(tree: RawTree, root: Path, origin: Provenance, rules: Rules) -> str:
    """What preparing says."""
    lines: list[str] = []
    prepare_mimic(
        tree.write(root / "raw"), origin, root / "out", Options(rules, SIZES), lines.append
    )
    return "\n".join(lines)


def test_real_cohorts_are_told_beside_the_paper_and_simulated_ones_are_not(tmp_path: Path):
    real = told(plain_tree(), tmp_path / "a", CREDENTIALED, STRICT)
    assert all(f"paper's Table {number}, " in real for number in TITLES)
    assert "deviates in the raw data: 10 ICU stays, MIMIC-IV 2.2 has 73181" in real
    simulated = told(plain_tree(), tmp_path / "b", SIMULATED, STRICT)
    assert "paper" not in simulated
    partly = replace(CREDENTIALED, simulated=True)
    assert "paper" not in told(plain_tree(), tmp_path / "c", partly, STRICT)


def test_our_counts_stand_beside_the_papers(tmp_path: Path):
    cohort = prepare(plain_tree(), tmp_path)
    cells = {n: beside_paper(cohort, n).set_index(["row", "column"]) for n in TITLES}
    assert cells[4].loc[("train", "labelled pairs")].tolist() == [3982, 14, 14 - 3982]
    assert cells[4].loc[("validation", "ICU samples")].tolist() == [285, 1, -284]
    assert cells[5].loc[("pleural effusion", "improved")].tolist() == [317, 10, -307]
    assert cells[6].loc[("all", "survived")].tolist() == [2255, 10, -2245]
    assert cells[6].loc[("all", "4 to 6 d")].tolist() == [687, 10, -677]
    assert cells[7].loc[("test", 2)].tolist() == [409, 2, -407]
    paper = {n: table["paper"].sum() for n, table in cells.items()}
    assert paper == {4: 5679 + 2720, 5: 13889, 6: 2 * 2720, 7: 2720}


def test_stays_of_more_films_than_the_paper_has_are_not_lost(tmp_path: Path):
    tree = plain_tree(3)
    tree.add_stay(9)
    for film in range(6):
        tree.add_film(9, 0.5 + 8 * film, f"x{film}")
    cells = beside_paper(prepare(tree, tmp_path), 7)
    of_six = cells[cells["column"] == 6]
    assert (of_six["ours"].sum(), of_six["paper"].sum()) == (1, 0)
    assert (cells["ours"].sum(), cells["paper"].sum()) == (4, 2720)


def steps(*counts: tuple[str, int | None, int | None]) -> list[Step]:
    return [Step(rule, n_stays, n_films, 1) for rule, n_stays, n_films in counts]


def test_the_first_rule_that_leaves_another_count_is_named():
    raw = [("ICU stays", PAPER_STAYS, None), ("long", 9, None), ("films", None, PAPER_FILMS)]
    official = steps(*raw[:2], ("inside", 8, None), raw[2], ("kept", 5, 12))
    assert parting(official, official) == []
    (where,) = parting(steps(*raw, ("kept", 6, 13)), official)
    assert where == (
        "at 'films' (377110 films, 1 subjects); by the official rules 'inside' (8 stays, "
        "1 subjects)"
    )
    (where,) = parting(official[:-1], official)
    assert where.startswith("at no further rule; by the official rules 'kept' (5 stays, 12 films")


def test_a_rule_that_drops_nothing_is_not_named():
    raw = steps(("ICU stays", PAPER_STAYS, None), ("films", None, PAPER_FILMS), ("kept", 5, 12))
    idle = steps(("inside", PAPER_STAYS, None))
    assert parting(raw, raw[:1] + idle + raw[1:]) == []


def test_another_release_is_named_before_any_rule():
    other = steps(("ICU stays", 94_458, None), ("films", None, PAPER_FILMS))
    assert parting(other, other) == ["in the raw data: 94458 ICU stays, MIMIC-IV 2.2 has 73181"]


def test_rules_of_labels_are_named_where_stays_and_films_agree(tmp_path: Path):
    cohort = prepare(plain_tree(), tmp_path)
    same = steps(("ICU stays", PAPER_STAYS, None), ("films", None, PAPER_FILMS))

    def reasons(rules: Rules) -> Iterator[str]:
        lines = compare_with_paper(cohort, same, same, rules)
        return (line.strip() for line in lines if line.startswith("  "))

    rules = switched(OFFICIAL, {"negated_findings": "strict", "death_by_dates": "strict"})
    assert list(reasons(rules)) == [
        "deviates by the strict rule negated_findings",
        "deviates by the strict rule negated_findings",
        "deviates by the strict rule death_by_dates",
        "deviates, and by no rule: see what is not done",
    ]


def test_a_rule_switched_alone_is_the_only_one(tmp_path: Path):
    tree = plain_tree()
    tree.add_stay(50, los_hours=2000)
    for hours, name in ((5, "x1"), (20, "x2")):
        tree.add_film(50, hours, name)
    strict = prepare(tree, tmp_path / "a")
    fenced = prepare(tree, tmp_path / "b", rules=switched(STRICT, {"los_fence": "official"}))
    assert (len(strict.stays), len(fenced.stays)) == (11, 10)
    assert fenced.manifest["rules"] == "strict, los_fence=official"
    assert fenced.manifest["official_behaviour"] == ["los_fence"]
    assert any("inside" in step["rule"] for step in fenced.manifest["attrition"])


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_every_rule_can_be_switched_both_ways(rule: str):
    official = switched(STRICT, {rule: "official"})
    assert official.official_behaviour == [rule]
    assert official.title == f"strict, {rule}=official"
    assert switched(official, {rule: "strict"}) == STRICT
    assert switched(OFFICIAL, {rule: "strict"}).title == f"official, {rule}=strict"


def words(root: Path, *rules: str) -> list[str]:
    raw = plain_tree(3).write(root / "raw")
    folders = ("--mimic-iv", str(raw.mimic_iv), "--mimic-cxr", str(raw.mimic_cxr))
    sizes = ("--film-size", "32", "--region-size", "16", "--jobs", "1", "--simulated")
    out = ("--imagenome", str(raw.imagenome), "--out", str(root / "out"))
    return ["mimic", *folders, *out, *sizes, *rules]


def test_rules_are_switched_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rules = (
        "--rules",
        "official",
        "--rule",
        "los_fence=strict",
        "--rule",
        "normalise_on_all=strict",
    )
    assert command.main(words(tmp_path, *rules)) == 0
    title = "official, los_fence=strict, normalise_on_all=strict"
    assert f"rules: {title}" in capsys.readouterr().out
    manifest = Cohort.open(tmp_path / "out").manifest
    assert manifest["rules"] == title
    assert set(manifest["official_behaviour"]) == set(RULE_NAMES) - {
        "los_fence",
        "normalise_on_all",
    }


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("los_fenc=official", "no rule 'los_fenc', did you mean 'los_fence'?"),
        ("los_fence=offical", "no rules 'offical', did you mean 'official'?"),
        ("los_fence", "'los_fence' is not NAME=SET, e.g. los_fence=official"),
        ("=official", "no rule '', choose from anchor_age"),
    ],
)
def test_an_unknown_rule_is_one_line(
    rule: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as caught:
        command.main(words(tmp_path, "--rule", rule))
    error = capsys.readouterr().err
    assert caught.value.code == 2 and expected in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["mimic", "simulated"])
def test_help_lists_every_rule(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        command.main([name, "--help"])
    listed = capsys.readouterr().out.splitlines()
    assert all(f"  {rule}" in listed for rule in RULE_NAMES)
