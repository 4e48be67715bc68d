"""Stay rules one by one, and the published counts on the open demo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.errors import UserError
from bench.preparing.attrition import Attrition
from bench.preparing.rules import OFFICIAL, STRICT, Rules
from bench.preparing.stays import length_of_stay_class, read_stays, select_stays
from tests.preparing.raw_tree import ADMISSIONS, ICU_STAYS, INTIME, RawTree, stay_id

HOUR = pd.Timedelta(hours=1)
DEATH_BY_DATES = Rules("by dates", death_by_dates=True)


def selected(tree: RawTree, root: Path, rules: Rules = STRICT) -> pd.DataFrame:
    return select_stays(read_stays(tree.write(root).mimic_iv), rules, Attrition())


def test_stays_that_break_a_rule_are_dropped(tmp_path: Path):
    tree = RawTree()
    tree.add_stay(0)
    tree.add_stay(1, last_careunit="SICU")
    tree.add_stay(2)
    tree.add_stay(2, n=1, hadm_id=tree.rows[ICU_STAYS][-1]["hadm_id"])
    tree.add_stay(3, anchor_age=16)
    tree.add_stay(4, los_hours=48)
    tree.add_stay(5, outtime=None)
    tree.add_stay(6)
    tree.rows[ADMISSIONS].pop()
    tree.add_stay(7, los_hours=48.1)
    assert selected(tree, tmp_path)["stay_id"].tolist() == [stay_id(0), stay_id(7)]


def test_a_transferred_stay_does_not_hide_the_plain_one_of_its_admission(tmp_path: Path):
    tree = RawTree()
    tree.add_stay(0)
    tree.add_stay(0, n=1, hadm_id=tree.rows[ICU_STAYS][-1]["hadm_id"], last_careunit="SICU")
    assert selected(tree, tmp_path)["stay_id"].tolist() == [stay_id(0)]


def test_two_admissions_of_a_subject_give_two_stays(tmp_path: Path):
    tree = RawTree()
    tree.add_stay(0)
    tree.add_stay(0, n=1)
    assert len(selected(tree, tmp_path)) == 2


def test_age_is_that_at_admission_unless_official(tmp_path: Path):
    tree = RawTree()
    tree.add_stay(0, anchor_age=17, anchor_year=2150)  # admitted in 2155
    tree.add_stay(1, anchor_age=20, anchor_year=2158)
    assert selected(tree, tmp_path / "a")["age"].tolist() == [22]
    official = Rules("anchor", anchor_age=True)
    assert selected(tree, tmp_path / "b", official)["age"].tolist() == [20]


@pytest.mark.parametrize(
    ("flag", "changes", "by_flag", "by_dates"),
    [
        (0, {}, 0, 0),
        (1, {}, 1, 0),
        (1, {"dod": "2155-01-14"}, 1, 1),
        (1, {"deathtime": INTIME + 100 * HOUR}, 1, 1),
        (1, {"deathtime": INTIME + 150 * HOUR}, 1, 0),  # after discharge, as it happens
        (0, {"dod": "2155-03-01"}, 0, 0),
    ],
)
def test_mortality(flag: int, changes: dict, by_flag: int, by_dates: int, tmp_path: Path):
    tree = RawTree()
    tree.add_stay(0, hospital_expire_flag=flag, dischtime=INTIME + 121 * HOUR, **changes)
    assert selected(tree, tmp_path / "a")["mortality"].tolist() == [by_flag]
    assert selected(tree, tmp_path / "b", DEATH_BY_DATES)["mortality"].tolist() == [by_dates]


def test_length_of_stay_classes_are_closed_below_and_open_above():
    days = np.array([2.01, 2.99, 3, 3.99, 4, 5.99, 6, 11, 40])
    assert length_of_stay_class(days).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3]


def test_the_official_fence_drops_extreme_stays(tmp_path: Path):
    tree = RawTree()
    for k in range(20):
        tree.add_stay(k, los_hours=72 + k)
    tree.add_stay(20, los_hours=1000)
    assert len(selected(tree, tmp_path / "a")) == 21
    assert len(selected(tree, tmp_path / "b", Rules("fence", los_fence=True))) == 20


def test_nothing_left_names_the_rule(tmp_path: Path):
    tree = RawTree()
    tree.add_stay(0, los_hours=40)
    with pytest.raises(UserError, match="nothing is left after the rule 'length of stay above 48"):
        selected(tree, tmp_path)


@pytest.mark.parametrize(
    ("rules", "counts"),
    [(STRICT, [140, 129, 112, 112, 54]), (OFFICIAL, [140, 129, 112, 112, 54, 51])],
)
def test_counts_on_the_open_demo(rules: Rules, counts: list[int], mimic_iv_demo: Path):
    attrition = Attrition()
    stays = select_stays(read_stays(mimic_iv_demo), rules, attrition)
    assert [step.n_stays for step in attrition.steps] == counts
    subjects = [step.n_subjects for step in attrition.steps]
    assert subjects[2] == 91
    assert stays["length_of_stay"].between(0, 3).all()
    if rules is OFFICIAL:
        assert subjects[-1] == 44
        assert attrition.steps[-1].rule == "length of stay inside -4.17 to 14.60 days"


def test_deaths_on_the_open_demo(mimic_iv_demo: Path):
    stays = read_stays(mimic_iv_demo)
    assert stays["hospital_expire_flag"].sum() == 20
    kept = stays[stays["first_careunit"] == stays["last_careunit"]]
    kept = kept[~kept.duplicated("hadm_id", keep=False)]
    assert kept["hospital_expire_flag"].sum() == 10
