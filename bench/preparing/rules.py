"""The rules by which raw files become a cohort: `strict` (the default) and `official`.

The released preprocessing of DiPro has defects and looks into the future in places. `strict` mends
both; `official` repeats them so that the paper's counts can be compared. Every field names one
thing that the official code does, and `strict` does none of them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

MIN_AGE_YEARS: Final = 18
MIN_LOS_DAYS: Final = 2.0
FENCE_IQR: Final = 1.5
MIN_GAP_HOURS: Final = 8
MAX_GAP_HOURS: Final = 96
MAX_FILMS: Final = 14
MIN_FILMS: Final = 2


@dataclass(frozen=True)
class Rules:
    """What the official code does; False is what `strict` does instead."""

    name: str

    # Stays
    anchor_age: bool = False
    """Age in the anchor year; else at admission."""
    death_by_dates: bool = False
    """Died = dod or deathtime within the admission; else hospital_expire_flag."""
    los_fence: bool = False
    """Length of stay inside 1.5 IQR of the quartiles of all stays above 48 h; else no upper end."""

    # Films
    last_film_of_study: bool = False
    """Of a study's films the last in file order; else the smallest dicom_id."""
    film_filters_look_ahead: bool = False
    """A 15th film or a gap of 96 h at any time drops the stay, and gaps are taken once; else a
    film list ends before them, and a gap counts from the film kept before."""
    nearest_crops: bool = False
    """Crops resized by nearest neighbour; else bilinear."""

    # Progression labels
    pair_of_first_relation: bool = False
    """A graph's relations all belong to the pair of its first one; else each to its own pair."""
    negated_findings: bool = False
    """Negated findings count; else only those that the report affirms."""
    last_relation_wins: bool = False
    """A region's label is its last relation's; else regions that disagree have none."""
    gold_row_for_all_diseases: bool = False
    """A pair's first gold row overrides every disease; else its own (and its region's)."""
    no_region_edema: bool = False
    """Edema has no region labels, for its name is not matched; else it has."""

    # EHR
    events_by_stay_id: bool = False
    """Events belong to a stay by stay_id too, and only the hour before admission is a baseline;
    else by time alone, 24 h before admission to discharge."""
    hour_after_prediction: bool = False
    """Windows run to the end of the hour after the one of the prediction time; else to it."""
    fio2_always_divided: bool = False
    """FiO2 is always divided by 100; else only above 1."""
    gcs_none_missing: bool = False
    """A charted 'None' of eye opening is missing; else score 1."""
    inr_filled_as_seconds: bool = False
    """INR is 14.5 (seconds of prothrombin time) before its first value; else 1.2."""
    normalise_on_all: bool = False
    """Mean and sd over the whole cohort; else over training subjects."""

    # Demographics
    measures_look_ahead: bool = False
    """Height and weight are the stay's first; else the first before the prediction time."""
    height_inches_as_cm: bool = False
    """Heights in inches pass as centimetres; else they are converted."""

    # Splits
    subjects_without_sample: bool = False
    """Subjects (and stays) without a sample take part in the split; else they are left out."""


STRICT: Final = Rules("strict")

OFFICIAL: Final = Rules(
    "official", **{field.name: True for field in fields(Rules) if field.name != "name"}
)

RULES: Final = {rules.name: rules for rules in (STRICT, OFFICIAL)}

NOT_REPRODUCED: Final = {
    "strict": (),
    "official": (
        "series that end with the last charted event: windows have their full length",
        "values of one minute sorted as text: the largest number is kept",
        "statistics over stays without films: they are over the cohort's",
        "membership of the split: shares and gold subjects are, the draw is ours",
        "hours of a pair numbered one too late when its first film is on a whole hour",
    ),
}
"""What the official code does and a preset of that name here does not; printed and stored."""
