"""What a table's test set could have shown: the smallest differences that it would have detected.

python -m tables.power --table table2

For each row: the difference to the reference that, if it were true, would have been significant
(Holm-adjusted p below 0.05, at Holm's first and hardest step) in 80 % of test sets of this size, by
the normal approximation. The standard error is that of the paired cluster bootstrap of the runs
that are there, so it is conditional on the trained models, as the table's stars are.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import pandas as pd
from scipy.stats import norm
from tabulate import tabulate

from bench import arguments, significance
from bench.errors import Parser, UserError, run_command
from tables import command
from tables.build import FAMILY, Built, build
from tables.differences import differences, labels, named_table
from tables.footer import code_and_machine, provenance
from tables.runs import seeds_in_words

LEVEL = 0.05
POWER = 0.8

HEADINGS = {
    "n_comparisons": "rows",
    "n_computed": "computed",
    "smallest": "smallest",
    "median": "median",
    "largest": "largest",
    "largest_observed": "observed",
    "n_significant": "starred",
}
"""Columns of the summary as printed: how many rows, their detectable differences, the largest
observed difference, and how many rows have a star."""


def detectable(standard_error: float, n_comparisons: int) -> float:
    """Smallest difference found with 80 % power: (z(1 - level / 2m) + z(power)) standard errors.

    NaN without a standard error, or where it is 0 (two rows predict alike).

    Args:
        standard_error: of the paired difference
        n_comparisons: m of the family; Holm compares its smallest p with level / m
    """
    if not standard_error > 0:
        return math.nan
    return float(standard_error * (norm.isf(LEVEL / (2 * n_comparisons)) + norm.ppf(POWER)))


def with_detectable(differences: pd.DataFrame) -> pd.DataFrame:
    """Add the column `detectable` to the frame of `tables.differences.differences`."""
    found = [
        detectable(error, m)
        for error, m in differences[["standard_error", "n_comparisons"]].to_numpy()
    ]
    place = list(differences.columns).index("standard_error") + 1
    table = differences.copy()
    table.insert(place, "detectable", found)
    return table


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """One line a column of the table: detectable differences of its rows, observed ones, stars."""
    of_column = table.groupby(FAMILY, sort=False)
    return of_column.agg(
        n_comparisons=("row", "size"),
        n_computed=("detectable", "count"),
        smallest=("detectable", "min"),
        median=("detectable", "median"),
        largest=("detectable", "max"),
        largest_observed=("difference", lambda values: values.abs().max()),
        n_significant=("p_adjusted", lambda p: int((p < LEVEL).sum())),
    ).reset_index()


def meaning(summary: pd.DataFrame, reference: str) -> str:
    """What the numbers say, in words, with the first column that has any as the example."""
    computed = summary[summary["n_computed"] > 0]
    if computed.empty:
        return "No row has a standard error of its difference, so nothing can be said."
    column = computed.iloc[0]
    return (
        f"For example {column['task']}, {column['metric']}: if a row truly differed from "
        f"{reference} by {column['largest']:.3f}, this test set and these seeds would have shown "
        f"it with {POWER:.0%} power or more, whichever row it is ({column['smallest']:.3f} is "
        "enough for the row that is easiest to tell apart). A smaller difference is easily "
        "missed: no star then does not mean that there is no difference."
    )


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m tables.power", description=__doc__)
    p.add_argument("--table", required=True, metavar="NAME", help="e.g. table2")
    command.add_selection(p)
    p.add_argument("--reference", metavar="ROW", help="row that the others are tested against")
    p.add_argument(
        "--resamples", type=arguments.positive, metavar="B", help="bootstrap resamples (preset's)"
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arg = parser().parse_args(argv)
    selection = command.selection(arg, arg.table)
    table = named_table(arg.table, selection)
    built = build(table, selection, arg.resamples, arg.reference)
    require_comparison(built)
    found = with_detectable(differences(built))
    print(as_text(found, built))
    csv = found.to_csv(index=False, float_format="%.6f", lineterminator="\n").encode()
    files = {f"{arg.table}_power.csv": csv}
    for path in command.write_files(selection.store.tables, files):
        print(f"wrote {path}")
    return 0


def require_comparison(built: Built) -> None:
    """Raise `UserError` with the command to type if no row has a seed in common with the reference.

    Then no difference has a standard error, and nothing can be said.
    """
    for runs in built.task_runs:
        of_reference = {seed for row, seed in runs.scorers if row == built.reference}
        if any(row != built.reference and seed in of_reference for row, seed in runs.scorers):
            return
    name = built.table.name
    raise UserError(
        f"power of {name} needs finished runs of {built.reference.name} and of another row with "
        f"the same seed: make them with {built.selection.sweep_command(name)}"
    )


def as_text(table: pd.DataFrame, built: Built) -> str:
    """The summary as printed, with what it means and what it was computed from."""
    selection, summary = built.selection, summarise(table)
    done = [run for run in built.runs if run.is_done]
    reference = labels(built.table)[built.reference.name]
    rows = summary[[*FAMILY, *HEADINGS]].to_numpy().tolist()
    headings = ["task", "EHR hidden", "metric", *HEADINGS.values()]
    simulated = " (SIMULATED DATA)" if selection.cohort.is_simulated else ""
    sizes = ", ".join(f"{r.task} {r.n_subjects} subjects" for r in built.task_runs if r.scorers)
    notes = [
        meaning(summary, reference),
        f"{POWER:.0%} power, two-sided, Holm-adjusted p < {LEVEL} at Holm's first step; normal "
        f"approximation. Test set: {sizes}; {seeds_in_words(done)}; "
        f"B = {built.n_resamples}. Conditional on the trained models: what other seeds would "
        "change is not in it.",
        *_too_few_resamples(built),
        *provenance(selection.cohort, selection.preset),
        code_and_machine(done),
    ]
    title = f"{built.table.name}: smallest differences to {reference} that would have "
    return "\n".join(
        [
            f"{title}been detected{simulated}",
            "",
            tabulate(rows, headings, floatfmt=("", ".0%", "", "d", "d", *4 * [".3f"], "d")),
            "",
            *(textwrap.fill(note, 100) for note in notes),
        ]
    )


def _too_few_resamples(built: Built) -> list[str]:
    """A warning where no p of so few resamples can be significant, whatever the difference."""
    floor = significance.smallest_adjusted_p(built.n_resamples, built.family_size)
    if floor < LEVEL:
        return []
    return [
        f"Warning: with B = {built.n_resamples} the smallest adjusted p is {floor:.2g}: no "
        "difference can be significant; raise --resamples."
    ]


if __name__ == "__main__":
    run_command(main)
