"""A processed_data_dir of the DiPro authors' scripts to a cohort, without processing it again.

A sample of the cohort is what the authors' data set class returns for it: the same hours (an ICU
sample has hours 0 to 48, a pair those within an hour of its films, numbered from the hour of the
first), nearest-neighbour crops, targets and region labels. Inputs are already normalised there,
with statistics of all stays (ledger D5). A stay of 11 days or more, which their class refuses, is
in the last class of length of stay (D19), an ICU sample has the hours it has rows for (M12), and a
variable that no stay has is 0, its mean, where the scripts write NaN.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bench.data.cohort import Cohort
from bench.data.vocabulary import NOT_MENTIONED
from bench.errors import UserError
from bench.preparing.findings import unknown_findings
from bench.preparing.images import Sizes, inspect_films
from bench.preparing.official_ehr import read_ehr
from bench.preparing.official_films import find_films
from bench.preparing.official_rows import read_gold_pairs, read_pair, read_pairs_of_stay
from bench.preparing.official_selection import build_selection, build_stays, stays_at_odds
from bench.preparing.official_tables import ICU, PROGRESSION, read_splits
from bench.preparing.provenance import provenance
from bench.preparing.writing import write_selection

BY: Final = "official scripts"

NOT_KNOWN: Final = (
    "films' findings",
    "outcomes of stays that are no ICU sample: mortality and length of stay are 0, los_days is NaN",
    "values in physical units: EHR and demographics are normalised already",
)
"""What such a directory does not tell; stored in the manifest."""


def prepare_official(
    processed: Path,
    mimic_cxr: Path,
    out: Path,
    sizes: Sizes,
    jobs: int = 1,
    simulated: bool = False,
    is_open: bool = False,
) -> Cohort:
    """Turn a directory of the official scripts into a cohort and write it to `out`.

    Args:
        processed: their processed_data_dir
        mimic_cxr: holds files/ and the metadata as downloaded, or else the films themselves
        out: the cohort
        sizes: sides of films and crops
        jobs: cores that decode films
        simulated: the user says that (part of) the data is simulated
        is_open: the user says that it is under no use agreement

    Raises:
        UserError: a file is missing, wrong or at odds with another one.
    """
    for folder in (processed, mimic_cxr):
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder: name --processed and --mimic-cxr")
    oddities: Counter[str] = Counter()
    progression = read_splits(processed, PROGRESSION, oddities)
    icu = read_splits(processed, ICU, oddities)
    of_pairs = [read_pair(row) for row in progression.to_dict("records")]
    of_stays = [pair for row in icu.to_dict("records") for pair in read_pairs_of_stay(row)]
    at_odds = stays_at_odds(of_pairs, of_stays)
    stays, split = build_stays(progression, icu, at_odds)
    gold = read_gold_pairs(processed)
    selection = build_selection(stays, of_pairs, of_stays, gold or set())
    oddities["stays in two rows: the tasks' files tell different things of them"] += len(at_odds)
    oddities["pairs left out of disease progression: no disease has a label"] += sum(
        bool((pair.diseases == NOT_MENTIONED).all()) for pair in of_pairs
    )

    ehr = read_ehr(processed, selection, oddities)
    films = find_films(processed, mimic_cxr, selection.films, oddities)
    inspect_films(films, oddities)
    origin = provenance(
        processed, mimic_cxr, processed, marked_simulated=simulated, marked_open=is_open
    )
    return write_selection(
        out,
        selection,
        split,
        ehr,
        films,
        unknown_findings(len(films)),
        sizes,
        replace(origin, title=f"{origin.title}, {BY}"),
        _manifest(oddities, gold_pairs_known=gold is not None),
        jobs=jobs,
        nearest=True,
    )


def _manifest(oddities: Counter[str], gold_pairs_known: bool) -> dict[str, Any]:
    return {
        "labels": "reports",
        "region_boxes": "scene graphs",
        "rules": BY,
        "normalised_by": BY,
        "gold_pairs_known": gold_pairs_known,
        "not_known": list(NOT_KNOWN),
        "oddities": {what: count for what, count in sorted(oddities.items()) if count},
    }
