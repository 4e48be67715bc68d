"""The closed sets that everything else is written in: tasks, regions, diseases, labels, variables.

Orders are those of the official code (paper, appendix; `CONSTANTS` of the released repository), so
that class indices and logits line up with published checkpoints.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final


class Task(StrEnum):
    """The paper's three tasks (section 3.1)."""

    DISEASE_PROGRESSION = "disease_progression"
    MORTALITY = "mortality"
    LENGTH_OF_STAY = "length_of_stay"

    @property
    def is_icu(self) -> bool:
        """Whether a sample is an ICU stay (else it is a pair of films)."""
        return self is not Task.DISEASE_PROGRESSION


class Cxr(StrEnum):
    """Which films of a sample a method is given."""

    NONE = "none"  # no film
    LAST = "last"  # the newest film before the prediction time
    LONG = "long"  # every film before the prediction time
    PAIR = "pair"  # the two films of a progression sample


class Split(StrEnum):
    """Parts of the one split by subject."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class Progression(IntEnum):
    """How a finding changed between the films of a pair; values are class indices."""

    WORSENED = 0
    IMPROVED = 1
    NO_CHANGE = 2


NOT_MENTIONED: Final = 3
"""Label of a disease that the report does not compare: ignored by losses and metrics."""

N_PROGRESSION_CLASSES: Final = len(Progression)

DISEASES: Final = (
    "atelectasis",
    "enlarged cardiac silhouette",
    "consolidation",
    "pulmonary edema",
    "lung opacity",
    "pleural effusion",
    "pneumonia",
)

DISEASE_IN_GRAPH: Final = {"pulmonary edema/hazy opacity": "pulmonary edema"} | {
    disease: disease for disease in DISEASES
}
"""Name in a Chest ImaGenome scene graph -> our name (edema has a longer one there; ledger D1)."""

DISEASE_IN_CHEXPERT: Final = {
    "Atelectasis": "atelectasis",
    "Cardiomegaly": "enlarged cardiac silhouette",
    "Consolidation": "consolidation",
    "Edema": "pulmonary edema",
    "Lung Opacity": "lung opacity",
    "Pleural Effusion": "pleural effusion",
    "Pneumonia": "pneumonia",
}
"""Column of the CheXpert labels of a study -> our name, in the order of `DISEASES`."""

FINDING_UNKNOWN: Final = -1
"""A film's finding that its report does not speak of; else 1 shown (or uncertain), 0 not shown."""

REGIONS: Final = (
    "left lung",
    "right lung",
    "left lower lung zone",
    "right lower lung zone",
    "left hilar structures",
    "right hilar structures",
    "left costophrenic angle",
    "right costophrenic angle",
    "cardiac silhouette",
    "mediastinum",
)
"""The ten regions that methods see, in the paper's order."""

BOX_REGIONS: Final = (
    *REGIONS,
    "aortic arch",
    "left apical zone",
    "right apical zone",
    "left mid lung zone",
    "right mid lung zone",
    "left upper lung zone",
    "right upper lung zone",
    "trachea",
    "upper mediastinum",
)
"""The nineteen regions whose boxes a cohort keeps; the first ten are `REGIONS`."""

ICU_HORIZON_HOURS: Final = 48.0
"""Prediction time of the ICU tasks, in hours since ICU admission."""

LENGTH_OF_STAY_EDGES_DAYS: Final = (2.0, 3.0, 4.0, 6.0)
"""Lower edges of the four length-of-stay classes in days; the last class is open (ledger D19)."""

N_LENGTH_OF_STAY_CLASSES: Final = len(LENGTH_OF_STAY_EDGES_DAYS)

EHR_VARIABLES: Final = (
    "Alanine aminotransferase",
    "Albumin",
    "Alkaline phosphate",
    "Anion gap",
    "Asparate aminotransferase",
    "Bicarbonate",
    "Bilirubin",
    "Blood urea nitrogen",
    "Chloride",
    "Creatinine",
    "Diastolic blood pressure",
    "Fraction inspired oxygen",
    "Glascow coma scale eye opening",
    "Glascow coma scale motor response",
    "Glascow coma scale verbal response",
    "Glucose",
    "Heart Rate",
    "Height",
    "Hematocrit",
    "Hemoglobin",
    "Magnesium",
    "Mean blood pressure",
    "Oxygen saturation",
    "Partial pressure of carbon dioxide",
    "Partial thromboplastin time",
    "Platelets",
    "Positive end-expiratory pressure",
    "Potassium",
    "Prothrombin time",
    "Respiratory rate",
    "Sodium",
    "Systolic blood pressure",
    "Temperature",
    "Troponin-T",
    "Urine output",
    "Weight",
    "White blood cell count",
    "pH",
)
"""The 38 hourly variables in model column order; spelling as in the official column names."""

DEMOGRAPHICS: Final = (
    "age",
    "height",
    "weight",
    "gender_F",
    "gender_M",
    "race_group_ASIAN",
    "race_group_BLACK/AFRICAN AMERICAN",
    "race_group_HISPANIC/LATINO",
    "race_group_OTHER",
    "race_group_UNKNOWN/UNABLE TO OBTAIN/PATIENT DECLINED TO ANSWER",
    "race_group_WHITE",
    "language_?",
    "language_ENGLISH",
    "marital_status_DIVORCED",
    "marital_status_MARRIED",
    "marital_status_SINGLE",
    "marital_status_WIDOWED",
)
"""The 17 demographic inputs in model column order: 3 continuous, then one-hot groups."""

DEMOGRAPHIC_GROUPS: Final = ("gender_", "race_group_", "language_", "marital_status_")
"""Name prefixes of the one-hot groups of `DEMOGRAPHICS`."""

SELECTION_METRIC: Final = {
    Task.DISEASE_PROGRESSION: "macro_f1",
    Task.MORTALITY: "auprc",
    Task.LENGTH_OF_STAY: "accuracy",
}
"""Validation metric by which the best checkpoint of a run is chosen (paper, section 3.1)."""
