"""Progression labels of film pairs from report comparisons and human (gold) annotation.

Paper, section 3.1: per disease worsened, improved or no change; not mentioned otherwise. A pair is
(previous, current), two films that follow each other in a stay's list.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bench.data.vocabulary import (
    DISEASE_IN_GRAPH,
    DISEASES,
    NOT_MENTIONED,
    REGIONS,
    Progression,
)
from bench.errors import UserError, nearest
from bench.preparing.rules import Rules
from bench.preparing.scene_graphs import VERDICTS, Relation, affirmed, image_of
from bench.preparing.tables import GOLD_COMPARISONS, find_table, read_table, row_of

EDEMA = "pulmonary edema"

FilmPair = tuple[str, str]
"""dicom_id of the previous and of the current film."""


@dataclass(frozen=True)
class GoldRow:
    """One human-made comparison; verdict None where two are joined (';;')."""

    pair: FilmPair
    region: str
    disease: str | None
    affirmed: bool
    verdict: Progression | None


@dataclass(frozen=True)
class Gold:
    """The gold file: its subjects (test only) and its rows in file order."""

    subjects: frozenset[int]
    rows: tuple[GoldRow, ...]


@dataclass(frozen=True)
class PairLabels:
    """Labels of N pairs.

    diseases: int8 [N, 7]
    regions: int8 [N, 10, 7]
    from_gold: bool [N]; a human annotation decided at least one disease
    n_negated: int64 [N]; findings of its reports that do not count, for they are negated
    n_disagreeing: int64 [N]; diseases without a label of its reports, for regions disagree
    """

    diseases: np.ndarray
    regions: np.ndarray
    from_gold: np.ndarray
    n_negated: np.ndarray
    n_disagreeing: np.ndarray

    def count_dropped(self, oddities: Counter[str]) -> None:
        """Count what of the reports gave no label."""
        oddities["findings left out: negated"] += int(self.n_negated.sum())
        oddities["diseases of a pair left out: its regions disagree"] += int(
            self.n_disagreeing.sum()
        )


def read_gold(imagenome: Path, oddities: Counter[str]) -> Gold:
    """Read the gold comparisons.

    Raises:
        UserError: the file is missing, lacks a column or holds an unknown comparison.
    """
    path = find_table(imagenome, GOLD_COMPARISONS)
    table = read_table(imagenome, GOLD_COMPARISONS)
    rows = []
    for position, row in enumerate(table.to_dict("records")):
        if ";;" in row["comparison"]:
            oddities["gold rows with two comparisons left out"] += 1
        elif row["comparison"] not in VERDICTS:
            raise UserError(
                f"{path}, row {row_of(position)}, column comparison: unknown comparison "
                f"{row['comparison']!r}, {nearest(row['comparison'], VERDICTS)}"
            )
        disease, verdict = DISEASE_IN_GRAPH.get(row["label_name"]), VERDICTS.get(row["comparison"])
        # Rows that label nothing may say anything.
        labels = disease is not None and verdict is not None
        rows.append(
            GoldRow(
                pair=(image_of(row["previous_image_id"]), image_of(row["current_image_id"])),
                region=row["bbox"],
                disease=disease,
                affirmed=labels and _gold_affirmed(path, position, row["attribute"], oddities),
                verdict=verdict,
            )
        )
    return Gold(frozenset(table["patient_id"]), tuple(rows))


def _gold_affirmed(path: Path, position: int, attribute: str, oddities: Counter[str]) -> bool:
    try:
        _, polarity, _ = attribute.split("|")
        return affirmed(polarity, oddities)
    except ValueError:
        raise UserError(
            f"{path}, row {row_of(position)}, column attribute: {attribute!r} is not "
            "category|yes or no|name"
        )


def relations_by_pair(
    graphs: Iterable[tuple[Relation, ...]],
    study_of: dict[str, int],
    rules: Rules,
    oddities: Counter[str],
) -> dict[FilmPair, list[Relation]]:
    """Group the usable relations of all graphs by the pair that they compare.

    Left out and counted: relations with two verdicts or none, and relations inside one study
    (`study_of`: study by dicom_id), which compare a report with itself.
    """
    grouped: dict[FilmPair, list[Relation]] = defaultdict(list)
    for relations in graphs:
        for relation in relations:
            first = relations[0] if rules.pair_of_first_relation else relation
            pair = (first.previous, first.current)
            study = study_of.get(pair[0])
            if study is not None and study == study_of.get(pair[1]):
                oddities["relations left out: both films in one study"] += 1
            elif len(relation.verdicts) != 1:
                oddities["relations left out: two comparisons, or none"] += 1
            else:
                grouped[pair].append(relation)
    return grouped


def no_labels(n_pairs: int) -> PairLabels:
    """Pairs that nobody compares."""
    return PairLabels(
        diseases=np.full((n_pairs, len(DISEASES)), NOT_MENTIONED, np.int8),
        regions=np.full((n_pairs, len(REGIONS), len(DISEASES)), NOT_MENTIONED, np.int8),
        from_gold=np.zeros(n_pairs, bool),
        n_negated=np.zeros(n_pairs, np.int64),
        n_disagreeing=np.zeros(n_pairs, np.int64),
    )


def label_pairs(
    pairs: list[FilmPair], relations: dict[FilmPair, list[Relation]], gold: Gold, rules: Rules
) -> PairLabels:
    """Label pairs of films; what nobody compares is `NOT_MENTIONED`."""
    labels = no_labels(len(pairs))
    gold_of: dict[FilmPair, list[GoldRow]] = defaultdict(list)
    for row in gold.rows:
        gold_of[row.pair].append(row)
    for i, pair in enumerate(pairs):
        labels.n_negated[i], labels.n_disagreeing[i] = _silver(
            relations.get(pair, []), labels.diseases[i], labels.regions[i], rules
        )
        if pair in gold_of:
            override = _gold_first_row if rules.gold_row_for_all_diseases else _gold_by_disease
            labels.from_gold[i] = override(gold_of[pair], labels.diseases[i], rules)
            _gold_regions(gold_of[pair], labels.regions[i], rules)
    if rules.no_region_edema:
        labels.regions[:, :, DISEASES.index(EDEMA)] = NOT_MENTIONED
    return labels


class _Verdicts:
    """Verdicts collected by key; a key whose verdicts disagree has no label."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[int, ...], list[Progression]] = defaultdict(list)

    def add(self, key: tuple[int, ...], verdict: Progression) -> None:
        self._by_key[key].append(verdict)

    def write(self, labels: np.ndarray, last_wins: bool = False) -> tuple[int, int]:
        """Write the labels into an array that the keys index; return how many there are and not."""
        n_written = 0
        for key, verdicts in self._by_key.items():
            if last_wins or len(set(verdicts)) == 1:
                labels[key] = verdicts[-1]
                n_written += 1
        return n_written, len(self._by_key) - n_written


def _counts(is_affirmed: bool, verdict: Progression | None, rules: Rules) -> bool:
    """Whether a finding beside a comparison labels anything."""
    is_resolved = verdict == Progression.IMPROVED and rules.resolved
    return is_affirmed or is_resolved or rules.negated_findings


def _silver(
    relations: list[Relation], diseases: np.ndarray, regions: np.ndarray, rules: Rules
) -> tuple[int, int]:
    """Labels of one pair from its reports: diseases over all regions, and each of our regions.

    Returns how many findings were left out as negated, and diseases for their regions disagree.
    """
    by_disease, by_region, n_negated = _Verdicts(), _Verdicts(), 0
    for relation in relations:
        verdict = relation.verdicts[0]
        for name, is_affirmed in relation.findings:
            if not _counts(is_affirmed, verdict, rules):
                n_negated += 1
                continue
            disease = DISEASES.index(name)
            by_disease.add((disease,), verdict)
            if relation.region in REGIONS:
                by_region.add((REGIONS.index(relation.region), disease), verdict)
    _, n_disagreeing = by_disease.write(diseases)
    by_region.write(regions, last_wins=rules.last_relation_wins)
    return n_negated, n_disagreeing


def _gold_by_disease(rows: list[GoldRow], diseases: np.ndarray, rules: Rules) -> bool:
    """Diseases on which the annotated regions agree, also those that no report compares."""
    verdicts = _Verdicts()
    for row in rows:
        usable = _counts(row.affirmed, row.verdict, rules)
        if usable and row.verdict is not None and row.disease is not None:
            verdicts.add((DISEASES.index(row.disease),), row.verdict)
    n_written, _ = verdicts.write(diseases)
    return n_written > 0


def _gold_first_row(rows: list[GoldRow], diseases: np.ndarray, rules: Rules) -> bool:
    """As published: the first row's comparison for every disease that a report compares."""
    verdict = rows[0].verdict
    diseases[diseases != NOT_MENTIONED] = NOT_MENTIONED if verdict is None else verdict
    return True


def _gold_regions(rows: list[GoldRow], regions: np.ndarray, rules: Rules) -> None:
    verdicts = _Verdicts()
    for row in rows:
        usable = _counts(row.affirmed, row.verdict, rules)
        if usable and row.verdict is not None and row.disease is not None and row.region in REGIONS:
            key = (REGIONS.index(row.region), DISEASES.index(row.disease))
            verdicts.add(key, row.verdict)
    verdicts.write(regions, last_wins=rules.last_relation_wins)


def consecutive_pairs(films: pd.DataFrame) -> pd.DataFrame:
    """Pairs of films that follow each other in a stay.

    Args:
        films: columns stay, seconds and dicom_id, sorted by stay and time

    Returns:
        Columns stay, film_1, film_2 (rows in `films`), seconds_1, seconds_2, previous, current.
    """
    same = films["stay"].to_numpy()[1:] == films["stay"].to_numpy()[:-1]
    first = np.flatnonzero(same)
    seconds, dicom = films["seconds"].to_numpy(), films["dicom_id"].to_numpy()
    return pd.DataFrame(
        {
            "stay": films["stay"].to_numpy()[first],
            "film_1": first,
            "film_2": first + 1,
            "seconds_1": seconds[first],
            "seconds_2": seconds[first + 1],
            "previous": dicom[first],
            "current": dicom[first + 1],
        }
    )
