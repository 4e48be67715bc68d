"""The counts of a cohort from real MIMIC beside the paper's Tables 4 to 7, and where they part.

The paper prints what is left at the end, not what each rule leaves. So a deviation is traced to the
raw data, if they have not the rows of the releases that the paper's code was run on, and to the
first rule that leaves another count here than the official rules leave of the same raw data.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, zip_longest
from typing import Final

import pandas as pd
from tabulate import tabulate

from bench.data.cohort import Cohort
from bench.preparing import describing
from bench.preparing.attrition import Step
from bench.preparing.describing import ALL, LENGTHS_OF_STAY, MORTALITY
from bench.preparing.rules import Rules

TITLES: Final = {
    4: "samples of each split",
    5: "progression labels",
    6: "labels of ICU samples",
    7: "ICU samples by films before the prediction time",
}
"""Number and content of the paper's tables about its cohort."""

PAPER_STAYS: Final = 73_181
"""Rows of icu/icustays in MIMIC-IV 2.2, whose row totals the official code names."""

PAPER_FILMS: Final = 377_110
"""Rows of the metadata of MIMIC-CXR-JPG 2.0.0 and 2.1.0."""

PAIR_RULES: Final = ("pair_of_first_relation", "negated_findings", "gold_row_for_all_diseases")

LABEL_RULES: Final = {4: PAIR_RULES, 5: PAIR_RULES, 6: ("death_by_dates",)}
"""Rules that move a table's counts though the same stays and films are left."""


def beside_paper(cohort: Cohort, number: int) -> pd.DataFrame:
    """A table's cells, one a row: columns row, column, paper, ours, difference."""
    ours, paper = _counted(cohort, number), describing.paper_counts(number)
    ours = ours.loc[[row for row in ours.index if row in paper.index]]
    # What the paper does not print, such as stays of six films, it does not have.
    paper = paper.reindex(index=ours.index, columns=ours.columns, fill_value=0)
    cells = pd.DataFrame(
        [(row, column, int(paper.loc[row, column]), int(ours.loc[row, column]))
         for row in ours.index for column in ours.columns],
        columns=["row", "column", "paper", "ours"],
    )  # fmt: skip
    return cells.assign(difference=cells["ours"] - cells["paper"])


def _counted(cohort: Cohort, number: int) -> pd.DataFrame:
    """Our counts of a table, rows and columns named as `describing.paper_counts` does."""
    if number == 4:
        return describing.sizes(cohort)[["labelled pairs", "ICU samples"]]
    if number == 5:
        return describing.progression_in_all(cohort)
    if number == 7:
        return describing.films_per_stay(cohort)
    outcomes = {"mortality": MORTALITY, "length_of_stay": LENGTHS_OF_STAY}
    parts = [describing.outcome(cohort, column, names, 0) for column, names in outcomes.items()]
    return pd.concat(parts, axis=1).loc[[ALL]]


def parting(steps: Sequence[Step], official: Sequence[Step]) -> list[str]:
    """Where the counts part from the paper's: in the raw data, and at the first rule.

    Args:
        steps: what was left after each rule
        official: the same of the official rules on the same raw data
    """
    found = []
    n_stays, n_films = (
        next((count for count in counts if count is not None), 0)
        for counts in ([s.n_stays for s in steps], [s.n_films for s in steps])
    )
    if n_stays != PAPER_STAYS:
        found.append(f"in the raw data: {n_stays} ICU stays, MIMIC-IV 2.2 has {PAPER_STAYS}")
    if n_films != PAPER_FILMS:
        found.append(f"in the raw data: {n_films} films, MIMIC-CXR-JPG has {PAPER_FILMS}")
    for ours, theirs in zip_longest(_that_drop(steps), _that_drop(official)):
        if ours is None or theirs is None or _left(ours) != _left(theirs):
            return [*found, f"at {_told(ours)}; by the official rules {_told(theirs)}"]
    return found


def _left(step: Step) -> tuple[int | None, int | None, int]:
    return step.n_stays, step.n_films, step.n_subjects


def _that_drop(steps: Sequence[Step]) -> list[Step]:
    """The first step, and those that leave another count than the one before."""
    changed = (now for before, now in pairwise(steps) if _left(now) != _left(before))
    return [*steps[:1], *changed]


def _told(step: Step | None) -> str:
    if step is None:
        return "no further rule"
    counts = {"stays": step.n_stays, "films": step.n_films, "subjects": step.n_subjects}
    left = ", ".join(f"{n} {what}" for what, n in counts.items() if n is not None)
    return f"'{step.rule}' ({left})"


def compare_with_paper(
    cohort: Cohort, steps: Sequence[Step], official: Sequence[Step], rules: Rules
) -> list[str]:
    """Tables 4 to 7 with our counts beside the paper's, and why they deviate, as lines of text."""
    parts_at = parting(steps, official)
    lines = []
    for number, title in TITLES.items():
        cells = beside_paper(cohort, number)
        lines += [
            f"paper's Table {number}, {title}",
            tabulate(cells.to_numpy().tolist(), headers=cells.columns.tolist(), intfmt=" "),
            *(f"  {reason}" for reason in _reasons(number, cells, parts_at, rules)),
        ]
    return lines


def _reasons(number: int, cells: pd.DataFrame, parts_at: list[str], rules: Rules) -> list[str]:
    """Why a table deviates, as far as it can be told."""
    if not cells["difference"].any():
        return ["as in the paper"]
    if number in (4, 7) and not cells.groupby("column")["difference"].sum().any():
        why = "had other subjects or another seed" if rules.published_draw else "is ours"
        return [f"same totals as in the paper: the draw of the split {why}"]
    other = [rule for rule in LABEL_RULES.get(number, ()) if not getattr(rules, rule)]
    reasons = [f"deviates {where}" for where in parts_at]
    reasons += [f"deviates by the strict rule {rule}" for rule in other]
    return reasons or ["deviates, and by no rule: see what is not done"]
