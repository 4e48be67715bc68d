"""How many stays, films and subjects are left after each rule, and what else was noticed."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field

import pandas as pd
from tabulate import tabulate

from bench.errors import UserError


@dataclass(frozen=True)
class Step:
    """What was left after a rule; None where a count has no meaning yet."""

    rule: str
    n_stays: int | None
    n_films: int | None
    n_subjects: int


@dataclass
class Attrition:
    """The rules applied so far, in order, and counts of oddities met on the way."""

    steps: list[Step] = field(default_factory=list)
    oddities: Counter[str] = field(default_factory=Counter)

    def stays(self, rule: str, stays: pd.DataFrame) -> None:
        """Record the stays left after a rule.

        Raises:
            UserError: none is left.
        """
        self._record(Step(rule, len(stays), None, stays["subject_id"].nunique()))

    def all_films(self, rule: str, films: pd.DataFrame) -> None:
        """Record the films left after a rule, before they are matched to stays."""
        self._record(Step(rule, None, len(films), films["subject_id"].nunique()))

    def films(self, rule: str, films: pd.DataFrame) -> None:
        """Record the films left after a rule, and their stays."""
        n_stays, n_subjects = films["stay"].nunique(), films["subject_id"].nunique()
        self._record(Step(rule, n_stays, len(films), n_subjects))

    def _record(self, step: Step) -> None:
        self.steps.append(step)
        if not step.n_subjects:
            before = self.steps[-2].rule if len(self.steps) > 1 else "nothing"
            raise UserError(
                f"nothing is left after the rule '{step.rule}' (the one before: '{before}'): "
                "check that the raw folders belong together and cover the same subjects"
            )

    def to_json(self) -> list[dict[str, object]]:
        """Plain rows for the manifest."""
        return [asdict(step) for step in self.steps]

    def table(self) -> str:
        """A plain-text table."""
        rows = [[s.rule, s.n_stays, s.n_films, s.n_subjects] for s in self.steps]
        headers = ["left after", "stays", "films", "subjects"]
        return tabulate(rows, headers=headers, missingval="", intfmt=" ")
