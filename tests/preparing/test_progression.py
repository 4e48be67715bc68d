"""Progression labels rule by rule, strict and official."""

from __future__ import annotations

from collections import Counter

import pandas as pd

from bench.data.vocabulary import DISEASES, NOT_MENTIONED, REGIONS, Progression
from bench.preparing.progression import (
    Gold,
    GoldRow,
    PairLabels,
    consecutive_pairs,
    label_pairs,
    relations_by_pair,
)
from bench.preparing.rules import OFFICIAL, STRICT, Rules
from bench.preparing.scene_graphs import Relation

PAIR = ("before", "now")
WORSE, BETTER, SAME = Progression.WORSENED, Progression.IMPROVED, Progression.NO_CHANGE
NO_GOLD = Gold(frozenset(), ())


def said(
    verdict: Progression | tuple[Progression, ...],
    *diseases: str,
    region: str = "left lung",
    pair: tuple[str, str] = PAIR,
    affirmed: bool = True,
) -> Relation:
    verdicts = verdict if isinstance(verdict, tuple) else (verdict,)
    return Relation(*pair, region, verdicts, tuple((d, affirmed) for d in diseases))


def annotated(
    verdict: Progression | None, disease: str | None, region: str = "left lung", **changes: bool
) -> GoldRow:
    return GoldRow(PAIR, region, disease, changes.get("affirmed", True), verdict)


def labelled(*relations: Relation, gold: tuple[GoldRow, ...] = (), rules: Rules = STRICT):
    grouped = relations_by_pair([relations], {}, rules, Counter())
    return label_pairs([PAIR], grouped, Gold(frozenset(), gold), rules)


def diseases_of(labels: PairLabels) -> dict[str, int]:
    return {d: v for d, v in zip(DISEASES, labels.diseases[0], strict=True) if v != NOT_MENTIONED}


def regions_of(labels: PairLabels) -> dict[tuple[str, str], int]:
    return {
        (region, disease): labels.regions[0, i, j]
        for i, region in enumerate(REGIONS)
        for j, disease in enumerate(DISEASES)
        if labels.regions[0, i, j] != NOT_MENTIONED
    }


def test_a_sentence_labels_its_diseases_and_its_region():
    labels = labelled(said(BETTER, "pleural effusion", "lung opacity"))
    assert diseases_of(labels) == {"pleural effusion": BETTER, "lung opacity": BETTER}
    assert regions_of(labels) == {
        ("left lung", "pleural effusion"): BETTER,
        ("left lung", "lung opacity"): BETTER,
    }


def test_a_region_outside_the_ten_counts_for_the_film_only():
    labels = labelled(said(SAME, "atelectasis", region="trachea"))
    assert diseases_of(labels) == {"atelectasis": SAME}
    assert regions_of(labels) == {}


def test_two_verdicts_in_a_sentence_drop_it():
    assert diseases_of(labelled(said((WORSE, BETTER), "pneumonia"))) == {}
    assert diseases_of(labelled(said((), "pneumonia"))) == {}


def test_disagreeing_regions_drop_the_disease_and_keep_their_own_labels():
    labels = labelled(
        said(WORSE, "consolidation"),
        said(BETTER, "consolidation", region="right lung"),
        said(SAME, "pneumonia"),
    )
    assert diseases_of(labels) == {"pneumonia": SAME}
    assert regions_of(labels)["left lung", "consolidation"] == WORSE
    assert regions_of(labels)["right lung", "consolidation"] == BETTER


def test_a_region_that_disagrees_with_itself_has_no_label():
    sentences = said(WORSE, "consolidation"), said(BETTER, "consolidation")
    assert regions_of(labelled(*sentences)) == {}
    last_wins = Rules("last", last_relation_wins=True)
    assert regions_of(labelled(*sentences, rules=last_wins)) == {
        ("left lung", "consolidation"): BETTER
    }


def test_negated_findings_label_nothing_unless_official():
    absent = said(BETTER, "pleural effusion", affirmed=False)
    assert diseases_of(labelled(absent)) == {}
    negated = Rules("negated", negated_findings=True)
    assert diseases_of(labelled(absent, rules=negated)) == {"pleural effusion": BETTER}


def test_a_negated_finding_that_improved_counts_where_resolved_ones_do():
    resolved = Rules("resolved", resolved=True)
    better = said(BETTER, "pleural effusion", affirmed=False)
    assert diseases_of(labelled(better, rules=resolved)) == {"pleural effusion": BETTER}
    for verdict in (WORSE, SAME):
        absent = said(verdict, "pneumonia", affirmed=False)
        assert diseases_of(labelled(absent, rules=resolved)) == {}
    gold = (annotated(BETTER, "pneumonia", affirmed=False),)
    assert diseases_of(labelled(gold=gold, rules=resolved)) == {"pneumonia": BETTER}
    assert diseases_of(labelled(gold=gold)) == {}


def test_what_a_pair_loses_is_counted():
    labels = labelled(
        said(WORSE, "consolidation"),
        said(BETTER, "consolidation", region="right lung"),
        said(BETTER, "pneumonia", "atelectasis", affirmed=False),
    )
    oddities: Counter[str] = Counter()
    labels.count_dropped(oddities)
    assert oddities == {
        "findings left out: negated": 2,
        "diseases of a pair left out: its regions disagree": 1,
    }


def test_relations_go_to_their_own_pair():
    other = said(WORSE, "pneumonia", pair=("long ago", "now"))
    graph = (said(BETTER, "pleural effusion"), other)
    grouped = relations_by_pair([graph], {}, STRICT, Counter())
    assert set(grouped) == {PAIR, ("long ago", "now")}
    first = Rules("first", pair_of_first_relation=True)
    grouped = relations_by_pair([graph], {}, first, Counter())
    assert len(grouped[PAIR]) == 2 and len(grouped) == 1


def test_a_pair_in_two_graphs_is_merged_and_may_disagree():
    graphs = [(said(WORSE, "pneumonia"), said(SAME, "atelectasis")), (said(BETTER, "pneumonia"),)]
    grouped = relations_by_pair(graphs, {}, STRICT, Counter())
    assert diseases_of(label_pairs([PAIR], grouped, NO_GOLD, STRICT)) == {"atelectasis": SAME}


def test_the_direction_of_a_pair_counts():
    grouped = relations_by_pair(
        [(said(WORSE, "pneumonia", pair=("now", "before")),)], {}, STRICT, Counter()
    )
    assert diseases_of(label_pairs([PAIR], grouped, NO_GOLD, STRICT)) == {}


def test_a_pair_inside_one_study_is_refused():
    oddities: Counter[str] = Counter()
    studies = {"before": 5, "now": 5}
    assert relations_by_pair([(said(WORSE, "pneumonia"),)], studies, STRICT, oddities) == {}
    assert oddities == {"relations left out: both films in one study": 1}
    assert relations_by_pair(
        [(said(WORSE, "pneumonia"),)], {"before": 5, "now": 6}, STRICT, oddities
    )


def test_gold_overrides_its_disease_only():
    labels = labelled(
        said(WORSE, "pneumonia", "atelectasis"), gold=(annotated(BETTER, "pneumonia"),)
    )
    assert diseases_of(labels) == {"pneumonia": BETTER, "atelectasis": WORSE}
    assert regions_of(labels)["left lung", "pneumonia"] == BETTER
    assert labels.from_gold.tolist() == [True]


def test_gold_adds_what_no_report_compares():
    labels = labelled(gold=(annotated(SAME, "pulmonary edema"),))
    assert diseases_of(labels) == {"pulmonary edema": SAME}
    assert labels.from_gold.tolist() == [True]


def test_gold_that_decides_nothing_leaves_the_report():
    silver = said(WORSE, "pneumonia")
    undecided = (
        (annotated(None, "pneumonia"),),  # two comparisons joined by ;;
        (annotated(BETTER, "pneumonia", affirmed=False),),
        (annotated(BETTER, None),),  # a finding that is none of the seven
        (annotated(BETTER, "pneumonia"), annotated(SAME, "pneumonia", region="right lung")),
    )
    for rows in undecided:
        labels = labelled(silver, gold=rows)
        assert diseases_of(labels) == {"pneumonia": WORSE}
        assert labels.from_gold.tolist() == [False]


def test_officially_the_first_gold_row_decides_every_disease():
    rules = Rules("gold", gold_row_for_all_diseases=True)
    silver = said(WORSE, "pneumonia", "atelectasis")
    rows = (annotated(BETTER, "pleural effusion"), annotated(SAME, "pneumonia"))
    labels = labelled(silver, gold=rows, rules=rules)
    assert diseases_of(labels) == {"pneumonia": BETTER, "atelectasis": BETTER}
    assert diseases_of(labelled(silver, gold=(annotated(None, "pneumonia"),), rules=rules)) == {}


def test_edema_has_region_labels_unless_official():
    relation = said(WORSE, "pulmonary edema")
    assert ("left lung", "pulmonary edema") in regions_of(labelled(relation))
    official = labelled(relation, rules=OFFICIAL)
    assert regions_of(official) == {}
    assert diseases_of(official) == {"pulmonary edema": WORSE}


def test_pairs_are_neighbours_of_a_stay():
    films = pd.DataFrame(
        {"stay": [0, 0, 1, 2, 2, 2], "seconds": [5, 9, 1, 3, 4, 8], "dicom_id": list("abcdef")}
    )
    pairs = consecutive_pairs(films)
    assert pairs["stay"].tolist() == [0, 2, 2]
    assert pairs["film_1"].tolist() == [0, 3, 4]
    assert list(pairs["previous"] + pairs["current"]) == ["ab", "de", "ef"]
    assert pairs["seconds_2"].tolist() == [9, 4, 8]
    assert consecutive_pairs(films.iloc[:1]).empty
