"""The rules by which raw files become a cohort: `strict` (the default) and `official`.

The released preprocessing of DiPro has defects and looks into the future in places. `strict` mends
both; `official` repeats them so that the paper's counts can be compared. Every field names one
thing that the official code does, and `strict` does none of them; each can be switched alone.
Options are what neither does unless it is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Final

MIN_AGE_YEARS: Final = 18
MIN_LOS_DAYS: Final = 2.0
FENCE_IQR: Final = 1.5
MIN_GAP_HOURS: Final = 8
MAX_GAP_HOURS: Final = 96
MAX_FILMS: Final = 14
MIN_FILMS: Final = 2


def _rule(official: str, strict: str) -> bool:
    """A rule's field: what either does, in words for `--help`."""
    rule: bool = field(default=False, metadata={"official": official, "strict": strict})
    return rule


def _option(otherwise: str, instead: str) -> bool:
    """An option's field: what both sets do, and what they do where it is switched on."""
    option: bool = field(default=False, metadata={"otherwise": otherwise, "option": instead})
    return option


@dataclass(frozen=True)
class Rules:
    """What the official code does; False is what `strict` does instead.

    name: the set that these are, but for single rules that were switched
    """

    name: str

    # Stays
    anchor_age: bool = _rule("age in the anchor year", "at admission")
    death_by_dates: bool = _rule(
        "died = dod or deathtime within the admission", "hospital_expire_flag"
    )
    los_fence: bool = _rule(
        "length of stay inside 1.5 IQR of the quartiles of all stays above 48 h", "no upper end"
    )

    # Films
    last_film_of_study: bool = _rule(
        "of a study's films the last in file order", "the smallest dicom_id"
    )
    film_filters_look_ahead: bool = _rule(
        "a 15th film or a gap of 96 h at any time drops the stay, and gaps are taken once",
        "a film list ends before them, and a gap counts from the film kept before",
    )
    nearest_crops: bool = _rule("crops resized by nearest neighbour", "bilinear")

    # Progression labels
    pair_of_first_relation: bool = _rule(
        "a graph's relations all belong to the pair of its first one", "each to its own pair"
    )
    negated_findings: bool = _rule("negated findings count", "only those that the report affirms")
    last_relation_wins: bool = _rule(
        "a region's label is its last relation's", "regions that disagree have none"
    )
    gold_row_for_all_diseases: bool = _rule(
        "a pair's first gold row overrides every disease", "its own, and its region's"
    )
    no_region_edema: bool = _rule(
        "edema has no region labels, for its name is not matched", "it has"
    )

    # EHR
    events_by_stay_id: bool = _rule(
        "events belong to a stay by stay_id too, and only the hour before admission is a baseline",
        "by time alone, 24 h before admission to discharge",
    )
    hour_after_prediction: bool = _rule(
        "windows run to the end of the hour after the one of the prediction time", "to it"
    )
    series_end_with_charting: bool = _rule(
        "windows end with the hour of the stay's last charted value", "they have their full length"
    )
    whole_hours_numbered_late: bool = _rule(
        "a pair whose first film is on a whole hour begins an hour earlier, numbered as that hour",
        "it begins with that hour",
    )
    sorted_as_text: bool = _rule(
        "of values of one minute the last as text is kept, where the code leaves them text",
        "the largest number",
    )
    fio2_always_divided: bool = _rule("FiO2 is always divided by 100", "only above 1")
    gcs_none_missing: bool = _rule("a charted 'None' of eye opening is missing", "score 1")
    inr_filled_as_seconds: bool = _rule(
        "INR is 14.5 (seconds of prothrombin time) before its first value", "1.2"
    )
    normalise_on_kept: bool = _rule(
        "mean and sd over the value of each minute that is kept", "over all values"
    )
    normalise_on_all: bool = _rule("mean and sd over the whole cohort", "over training subjects")
    normalise_beyond_cohort: bool = _rule(
        "mean and sd over all adult stays, with films or without", "over those of the cohort"
    )

    # Demographics
    measures_look_ahead: bool = _rule(
        "height and weight are the stay's first", "the first before the prediction time"
    )
    height_inches_as_cm: bool = _rule("heights in inches pass as centimetres", "converted")

    # Splits
    subjects_without_sample: bool = _rule(
        "subjects (and stays) without a sample take part in the split", "they are left out"
    )
    published_draw: bool = _rule(
        "subjects drawn as published, which seed 0 repeats; test is a little under 20 %",
        "a draw of our own, 70 / 10 / 20",
    )

    # Options
    resolved: bool = _option(
        "a negated finding that the report calls improved is as other negated ones",
        "it counts: it has resolved",
    )
    as_known: bool = _option(
        "an event counts from its charttime on",
        "an event counts from its storetime on, if that is later: what nobody had entered yet is "
        "not known",
    )

    @property
    def title(self) -> str:
        """The set's name, the rules that were switched and the options that are on."""
        usual = RULES[self.name]
        other = STRICT if usual == OFFICIAL else OFFICIAL
        switched = [
            f"{rule}={other.name}"
            for rule in RULE_NAMES
            if getattr(self, rule) != getattr(usual, rule)
        ]
        return ", ".join([self.name, *switched, *self.options])

    @property
    def official_behaviour(self) -> list[str]:
        """Rules that are as the official code has them."""
        return [rule for rule in RULE_NAMES if getattr(self, rule)]

    @property
    def options(self) -> list[str]:
        """Options that are on."""
        return [option for option in OPTION_NAMES if getattr(self, option)]


RULE_NAMES: Final = tuple(rule.name for rule in fields(Rules) if "official" in rule.metadata)

OPTION_NAMES: Final = tuple(option.name for option in fields(Rules) if "option" in option.metadata)

STRICT: Final = Rules("strict")

OFFICIAL: Final = Rules("official", **dict.fromkeys(RULE_NAMES, True))

RULES: Final = {rules.name: rules for rules in (STRICT, OFFICIAL)}


def switched(rules: Rules, switches: Mapping[str, str], options: Iterable[str] = ()) -> Rules:
    """The rules with single ones (name -> strict or official) as the named set has them.

    `options` are switched on.
    """
    chosen = {rule: getattr(RULES[name], rule) for rule, name in switches.items()}
    return replace(rules, **chosen | dict.fromkeys(options, True))


def described() -> str:
    """Every rule in words: what the official code does, and what `strict` does instead."""
    return _listed(RULE_NAMES, "official", "strict")


def described_options() -> str:
    """Every option in words: what is done without it, and what with it."""
    return _listed(OPTION_NAMES, "otherwise", "option")


def _listed(names: Collection[str], *ways: str) -> str:
    return "\n".join(
        "\n    ".join([f"  {rule.name}", *(f"{way}: {rule.metadata[way]}" for way in ways)])
        for rule in fields(Rules)
        if rule.name in names
    )


NOT_REPRODUCED: Final = {
    "strict": (
        "a flag for unknown height and weight (they are NaN in the cohort, the mean in a batch)",
        "the option of all films of a study (its one film has the smallest dicom_id)",
    ),
    "official": (
        "series that go on to the last value of a variable outside the 38",
        "negative ages, which become 90 (here they are refused)",
    ),
}
"""What the rules of a name ask for and a preset of that name here does not; printed and stored."""
