"""Labels of single films' findings, which some methods learn from beside the task."""

from __future__ import annotations

from bench.data.cohort import Cohort
from bench.data.vocabulary import FINDING_UNKNOWN, Split


def has_findings(cohort: Cohort) -> bool:
    """Whether the report of any training film says of any disease that it shows or does not."""
    of_training = cohort.split_of_stays()[cohort.films["stay"].to_numpy()] == Split.TRAIN
    return bool((cohort.arrays["findings"][of_training] != FINDING_UNKNOWN).any())
