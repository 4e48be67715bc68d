"""EHR rows: 38 variables driven by the same course as the films, charted irregularly.

    value = base + b z + couplings . drivers + sd (.8 AR(tau) + .6 white)

`DRIVERS` says what the letters of the couplings mean. A row is charted in an hour with probability
e^{.5 sick} / interval: sicker stays are measured more often. One value in a hundred is wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from bench.simulating.course import N_HOURS, low_pass, ornstein_uhlenbeck
from bench.simulating.population import ACUTE_PROCESSES, Course
from bench.simulating.streams import Tag, stream

DRIVERS: Final = {
    "R": "respiratory load: low-passed acute severities, 1 h late",
    "I": "insults of the last hours, 1 h late",
    "N": "infection: pneumonia and consolidation, 8 h ahead of the film",
    "E": "edema, 2 h late",
    "S": "shock",
    "K": "renal",
    "G": "neuro",
    "L": "liver and coagulation",
}


@dataclass(frozen=True)
class Variable:
    """How one item behaves: see the module's equation; `log` means exp() of it is charted."""

    name: str
    itemid: int
    unit: str
    base: float
    between: float
    sd: float
    tau: float
    interval: float
    couplings: dict[str, float]
    decimals: int
    low: float
    high: float
    log: bool = False


_TABLE = """
Heart Rate|220045|bpm|86|11|4/4|1|R4 I7 N3 E2 S8|0|20..220
Respiratory rate|220210|insp/min|19|3|2.2/3|1|R2.2 I3.5 N.8 E1 S1|0|4..60
Oxygen saturation|220277|%|97|1.3|.9/3|1|R-1 I-2.6 N-.2 E-.4 S-.2|0|60..100
Systolic blood pressure|220179|mmHg|122|14|8/5|1|I3 N-2 E4 S-10|0|50..240
Diastolic blood pressure|220180|mmHg|62|8|5/5|1|I1 N-1 E2 S-5|0|20..150
Mean blood pressure|220181|mmHg|78|9|5/5|1|I1.6 N-1.4 E2.6 S-7|0|30..180
Temperature|223761|°F|98.6|.4|.35/6|4|I.1 N.75 S.05|1|91..107
Glucose|225664|mg/dL|140|32|18/6|5|I2 N5 S6 K2|0|40..700
Glascow coma scale eye opening|220739||3.4|.5|.3/8|4|R-.1 S-.1 G-.7|0|1..4
Glascow coma scale motor response|223901||5.5|.5|.3/8|4|R-.1 S-.1 G-.7|0|1..6
Glascow coma scale verbal response|223900||3.6|.9|.4/8|4|R-.3 S-.1 G-.9|0|1..5
Fraction inspired oxygen|223835||.46|.07|.04/5|4|R.07 I.06 E.02|2|.21..1
Positive end-expiratory pressure|224700|cmH2O|6.2|1.6|.7/8|5|R1 I.5 E.5|0|0..25
Partial pressure of carbon dioxide|220235|mmHg|40|5|3/8|8|R1.5 I2.5 S-.5|0|15..130
pH|223830|units|7.38|.045|.02/8|8|R-.008 I-.012 S-.03 K-.015|2|6.7..7.8
Urine output|226559|ml|95|35|38/3|2|E-12 S-18 K-26|0|0..1200
White blood cell count|220546|K/uL|10.8|3.6|.9/24|14|N2.6 S.8|1|.1..200
Blood urea nitrogen|225624|mg/dL|27|14|2/36|14|E1.5 S2 K9|0|2..240
Creatinine|220615|mg/dL|1.3|.8|.1/36|14|E.08 S.1 K.55|1|.1..20
Bicarbonate|227443|mEq/L|24|3.4|1/18|14|R.3 S-1.6 K-1.4|0|5..50
Anion gap|227073|mEq/L|14|2.6|1/18|14|N.2 S1.4 K1.1|0|4..45
Chloride|220602|mEq/L|104|5|1.4/24|14|E-.5 S.2 K.3|0|70..140
Sodium|220645|mEq/L|139|4.5|1.2/24|14|E-.8 K.2|0|105..180
Potassium|227442|mEq/L|4.1|.45|.25/14|14|S.05 K.25|1|2..9
Magnesium|220635|mg/dL|2.1|.28|.12/24|15|K.08|1|.8..6
Hematocrit|220545|%|31|5|1/30|14|E-.4 S-.6 K-.3 L-.8|1|12..65
Hemoglobin|220228|g/dL|10.3|1.7|.35/30|14|E-.13 S-.2 K-.1 L-.27|1|4..22
Platelets|227457|K/uL|205|90|12/48|15|N4 S-8 L-32|0|5..1200
Prothrombin time|227467||1.45|.5|.06/36|18|S.05 L.3|1|.8..12
Partial thromboplastin time|227466|sec|36|12|3/24|18|S1 L5|1|18..149
Alanine aminotransferase|220644|IU/L|3.5|.9|.1/48|26|S.15 L.25|0|2..9000|log
Asparate aminotransferase|220587|IU/L|3.8|.9|.1/48|26|S.2 L.25|0|6..19000|log
Alkaline phosphate|225612|IU/L|4.5|.5|.06/48|26|N.03 L.12|0|20..3500|log
Bilirubin|225690|mg/dL|-.1|.9|.08/48|26|S.05 L.35|1|.1..55|log
Albumin|227456|g/dL|3.0|.55|.1/60|40|N-.08 E-.05 S-.08 L-.12|1|.8..5.8
Troponin-T|227429|ng/mL|-2.6|1.2|.2/24|40|E.2 S.25 K.1|2|.01..20|log
Weight|224639|kg|82|22|.6/48|24|E.9 K.4|1|30..240
Height|226730|cm|169|10|0/1|0||0|130..215
"""
"""name|item|unit|base|b|sd/tau|interval (0: once)|couplings|decimals|physiological range|log"""


def _parse(line: str) -> Variable:
    name, item, unit, base, between, spread, interval, couplings, decimals, span, *log = line.split(
        "|"
    )
    sd, tau = map(float, spread.split("/"))
    low, high = map(float, span.split(".."))
    pairs = re.findall(r"([A-Z])(-?[\d.]+)", couplings)
    return Variable(
        name, int(item), unit, float(base), float(between), sd, tau, float(interval),
        {letter: float(size) for letter, size in pairs}, int(decimals), low, high, bool(log),
    )  # fmt: skip


VARIABLES: Final = tuple(_parse(line) for line in _TABLE.strip().splitlines())

VENTILATED_ABOVE: Final = 1.2
VENTILATED_EARLY: Final = 0.4
EARLY_SHARE: Final = 0.2
"""Respiratory load at which a stay is ventilated; a fifth of the stays already at the lower one."""

WRONG_SHARE: Final = 0.01
CHUNK: Final = 256


def drivers(course: Course, gain: float = 1.0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Drivers [S, H] by letter, centred at hour 24, and the uncentred respiratory load [S, H]."""

    def total(name: str) -> np.ndarray:
        return course.acute[:, [p.startswith(name) for p in ACUTE_PROCESSES]].sum(axis=1)

    E, F, A, C = map(total, ("edema", "effusion", "atelectasis", "consolidation"))
    N, O = total("pneumonia"), total("opacity")  # noqa: E741
    load = delayed(low_pass(E + 0.15 * F + 0.2 * A + 0.5 * C + 0.8 * N + 0.1 * O, 3), 1)
    weight = np.array([_pulse_weight(name) for name in ACUTE_PROCESSES])
    pulses = np.einsum("sph,p->sh", course.dose_pulses, weight)
    raw = {
        "R": load,
        "I": delayed(5 * low_pass(pulses, 5), 1),
        "N": delayed(low_pass(N + 0.3 * C, 10), -8),
        "E": delayed(low_pass(E, 6), 2),
        **dict(zip("SKGL", np.moveaxis(course.organs, 1, 0), strict=True)),
    }
    at = min(24, load.shape[1] - 1)
    return {letter: gain * (x - x[:, at].mean()) for letter, x in raw.items()}, load


def _pulse_weight(process: str) -> float:
    weights = {"edema": 1.0, "effusion": 0.4, "atelectasis": 0.6}
    return weights.get(process.partition("_")[0], 0.8)


def delayed(x: np.ndarray, hours: int) -> np.ndarray:
    """Shift [S, H] by whole hours (negative: ahead), repeating the edge."""
    index = np.clip(np.arange(x.shape[1]) - hours, 0, x.shape[1] - 1)
    return x[:, index]


def ventilation(load: np.ndarray, early: np.ndarray) -> np.ndarray:
    """Ventilated hours, bool [S, H]: load above the stay's threshold now or in the last 2 h."""
    above = load > np.where(early, VENTILATED_EARLY, VENTILATED_ABOVE)[:, None]
    return above | delayed(above, 1) | delayed(above, 2)


def is_early(seed: int, stay: int) -> bool:
    """Whether a stay is ventilated at the lower load."""
    return bool(stream(seed, Tag.EHR, stay, 0).random() < EARLY_SHARE)


def simulate_events(
    seed: int, stays: np.ndarray, los_hours: np.ndarray, course: Course, gain: float = 1.0
) -> tuple[pd.DataFrame, np.ndarray]:
    """Charted rows of the stays, and the ventilated hours, bool [S, H]."""
    driver, load = drivers(course, gain)
    early = np.array([is_early(seed, stay) for stay in stays])
    ventilated = ventilation(load, early)
    parts = [
        _events_of(seed, stays[rows], los_hours[rows], ventilated[rows],
                   {letter: x[rows] for letter, x in driver.items()})
        for start in range(0, len(stays), CHUNK)
        for rows in [np.arange(start, min(start + CHUNK, len(stays)))]
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True), ventilated


def _events_of(
    seed: int,
    stays: np.ndarray,
    los_hours: np.ndarray,
    ventilated: np.ndarray,
    driver: dict[str, np.ndarray],
) -> pd.DataFrame:
    """Rows of one chunk of stays, sorted by stay and time."""
    n_hours = min(int(np.ceil(los_hours.max())), N_HOURS)
    shape = (len(stays), len(VARIABLES), n_hours)
    ar, white = np.empty(shape, np.float32), np.empty(shape, np.float32)
    chance, minute = np.empty(shape, np.float32), np.empty(shape, np.float32)
    between = np.empty(shape[:2], np.float32)
    for i, stay in enumerate(stays):
        rng = stream(seed, Tag.EHR, stay, 1)
        between[i] = rng.standard_normal(shape[1], dtype=np.float32)
        # Drawn for the longest stay there is, so that a chunk's length decides nothing.
        full = rng.standard_normal((2, shape[1], N_HOURS), dtype=np.float32)
        ar[i], white[i] = full[..., :n_hours]
        full = rng.random((2, shape[1], N_HOURS), dtype=np.float32)
        chance[i], minute[i] = full[..., :n_hours]
    sick = np.clip(0.25 * driver["R"] + 0.2 * driver["S"], -0.6, 1.2)[:, :n_hours]
    on = ventilated[:, :n_hours]
    inside = np.arange(n_hours) + 1 < los_hours[:, None]
    parts = []
    for k, variable in enumerate(VARIABLES):
        value = variable.base + variable.between * between[:, k, None]
        for letter, size in variable.couplings.items():
            value = value + size * driver[letter][:, :n_hours]
        noise = 0.8 * ornstein_uhlenbeck(ar[:, k], 1.0, variable.tau) + 0.6 * white[:, k]
        value = value + variable.sd * noise
        value = np.exp(value) if variable.log else value
        seen = inside & (chance[:, k] < _rate(variable, sick, on, chance[:, 0, :1]))
        row, hour = np.nonzero(seen)
        parts.append(_rows(variable, stays[row], hour, minute[:, k][seen], value[seen], on[seen]))
    events = pd.concat(parts, ignore_index=True)
    return events.sort_values(["stay", "hours", "itemid"], kind="stable", ignore_index=True)


GASES = ("Partial pressure of carbon dioxide", "pH")
VENTILATOR = ("Fraction inspired oxygen", "Positive end-expiratory pressure")


def _rate(variable: Variable, sick: np.ndarray, on: np.ndarray, lot: np.ndarray) -> np.ndarray:
    """Chance of a row in each hour, [S, H]; `lot`, uniform [S, 1], decides once per stay."""
    if variable.interval == 0:
        once = np.zeros(sick.shape)
        once[:, 1] = lot[:, 0] < 0.6
        return once
    rate = np.exp(0.5 * sick) / variable.interval
    if variable.name in VENTILATOR:
        return np.where(on, rate, 0.04 * rate)
    if variable.name in GASES:
        return np.where(on | (lot < 0.25), rate, 0)
    return rate


GCS_TEXT: Final = {
    220739: ("None", "To Pain", "To Speech", "Spontaneously"),
    223901: (
        "No response", "Abnormal extension", "Abnormal Flexion",
        "Flex-withdraws", "Localizes Pain", "Obeys Commands",
    ),
    223900: (
        "No Response", "Incomprehensible sounds", "Inappropriate Words", "Confused", "Oriented",
    ),
}  # fmt: skip
"""Words of the Glasgow coma scale items, score 1 first."""

VERBAL, FIO2, TEMPERATURE, URINE = 223900, 223835, 223761, 226559


def _rows(
    variable: Variable,
    stay: np.ndarray,
    hour: np.ndarray,
    minute: np.ndarray,
    value: np.ndarray,
    ventilated: np.ndarray,
) -> pd.DataFrame:
    """Charted rows of one variable; `minute` in [0, 1) is the time within the hour."""
    value = np.clip(value, variable.low, variable.high)
    if variable.itemid == FIO2:
        # Charted in percent; a few as a fraction.
        value = np.where(minute < 0.02, value, np.round(value * 100))
    value = np.round(value.astype(np.float64), variable.decimals)
    if variable.itemid == VERBAL:
        value = np.where(ventilated, 1.0, value)
    wrong = np.abs(minute - 0.5) < WRONG_SHARE / 2
    if variable.itemid not in GCS_TEXT:
        value = np.where(wrong & (variable.itemid != FIO2), value * 10, value)
    return pd.DataFrame(
        {
            "stay": stay,
            "hours": hour + np.floor(minute * 60) / 60,
            "itemid": variable.itemid,
            "table": "outputevents" if variable.itemid == URINE else "chartevents",
            "value": _text(variable, value, ventilated),
            "valuenum": value,
            "valueuom": variable.unit,
        }
    )


def _text(variable: Variable, value: np.ndarray, ventilated: np.ndarray) -> np.ndarray:
    """What the `value` column holds."""
    if variable.itemid in GCS_TEXT:
        text = np.array(GCS_TEXT[variable.itemid])[value.astype(np.int64) - 1].astype(object)
        if variable.itemid == VERBAL:
            text[ventilated] = "No Response-ETT"
        return text
    unique, inverse = np.unique(value, return_inverse=True)
    return np.array([f"{v:.10g}" for v in unique], dtype=object)[inverse]


ARTERIAL: Final = {220179: 220050, 220180: 220051, 220181: 220052}
"""Cuff pressures and their arterial counterparts, which the official item map drops."""

LAB_COPIES: Final = {225624: 51006, 220615: 50912, 220645: 50983, 227467: 51237}
"""Charted labs and their rows in labevents, which the official item map drops."""

INR, SECONDS = 227467, 227465


def with_oddities(events: pd.DataFrame) -> pd.DataFrame:
    """Add what real tables hold besides: other items, copies, duplicate triples.

    Everything added is a function of the rows there are. Nothing of it may change a cohort: other
    items are not in the official map, and a duplicate repeats its row.
    """
    item = events["itemid"]
    tenth = events.index.to_numpy() % 10 == 0
    arterial = events[item.isin(ARTERIAL) & tenth]
    arterial = arterial.assign(itemid=arterial["itemid"].map(ARTERIAL))
    labs = events[item.isin(LAB_COPIES)]
    labs = labs.assign(itemid=labs["itemid"].map(LAB_COPIES), table="labevents")
    seconds = events[item == INR]
    value = (seconds["valuenum"] * 10.5).round(1)
    seconds = seconds.assign(
        itemid=SECONDS, valuenum=value, value=value.map("{:.10g}".format), valueuom="sec"
    )
    doubled = events[events.index % 7001 == 7000]
    return pd.concat([events, arterial, labs, seconds, doubled]).sort_values(
        ["stay", "hours", "itemid"], kind="stable", ignore_index=True
    )
