"""Raw MIMIC-layout folders to a cohort: the whole way, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.cohort import Cohort
from bench.data.vocabulary import DISEASES, NOT_MENTIONED, Split
from bench.preparing.attrition import Attrition
from bench.preparing.ehr import prepare_ehr
from bench.preparing.films import film_path
from bench.preparing.findings import read_findings
from bench.preparing.images import FilmFile, Sizes, inspect_films
from bench.preparing.items import ItemMap
from bench.preparing.progression import read_gold
from bench.preparing.provenance import Provenance
from bench.preparing.rules import NOT_REPRODUCED, Rules
from bench.preparing.scene_graphs import Box, SceneGraphs
from bench.preparing.selection import RawFolders, select
from bench.preparing.splits import split_subjects
from bench.preparing.writing import write_selection


@dataclass(frozen=True)
class Options:
    """How to prepare: rules, array sizes, seed of the split, parallel workers, EHR items."""

    rules: Rules
    sizes: Sizes
    seed: int = 0
    jobs: int = 1
    items: ItemMap = ItemMap.OFFICIAL


def prepare_mimic(
    raw: RawFolders,
    origin: Provenance,
    out: Path,
    options: Options,
    say: Callable[[str], None] = print,
) -> Cohort:
    """Prepare a cohort from raw folders, real or simulated, and write it to `out`.

    Raises:
        UserError: a raw file is missing or wrong, or a rule leaves nothing.
    """
    rules, attrition = options.rules, Attrition()
    gold = read_gold(raw.imagenome, attrition.oddities)
    selection, boxes = select(raw, SceneGraphs(raw.imagenome), gold, rules, attrition)
    subjects = np.unique(selection.stays["subject_id"])
    split = split_subjects(subjects, gold.subjects, np.random.default_rng(options.seed))
    say(attrition.table())

    training = np.isin(selection.stays["subject_id"], subjects[split == Split.TRAIN])
    films = [
        _film_file(raw.mimic_cxr, film, film_boxes)
        for film, film_boxes in zip(selection.films.itertuples(), boxes, strict=True)
    ]
    inspect_films(films, attrition.oddities)
    findings = read_findings(raw.mimic_cxr, selection.films, attrition.oddities)
    ehr = prepare_ehr(
        raw.mimic_iv,
        selection,
        training,
        rules,
        attrition.oddities,
        jobs=options.jobs,
        item_map=options.items,
    )
    cohort = write_selection(
        out,
        selection,
        split,
        ehr,
        films,
        findings,
        options.sizes,
        origin,
        _manifest(options, attrition),
        jobs=options.jobs,
        nearest=rules.nearest_crops,
    )
    for line in _remarks(cohort, attrition, rules):
        say(line)
    return cohort


def _film_file(mimic_cxr: Path, film: Any, boxes: dict[str, Box]) -> FilmFile:
    is_known = not (np.isnan(film.Rows) or np.isnan(film.Columns))
    size = (int(film.Columns), int(film.Rows)) if is_known else None
    return FilmFile(film_path(mimic_cxr, film), boxes, size)


def _manifest(options: Options, attrition: Attrition) -> dict[str, Any]:
    rules = options.rules
    return {
        "labels": "reports",
        "region_boxes": "scene graphs",
        "ehr_items": str(options.items),
        "rules": rules.name,
        "official_behaviour": [name for name, on in asdict(rules).items() if on is True],
        "not_reproduced": list(NOT_REPRODUCED[rules.name]),
        "split_seed": options.seed,
        "attrition": attrition.to_json(),
        "oddities": dict(sorted(attrition.oddities.items())),
    }


def _remarks(cohort: Cohort, attrition: Attrition, rules: Rules) -> list[str]:
    """What a user should know of the finished cohort."""
    labelled = (cohort.pairs[list(DISEASES)] != NOT_MENTIONED).any(axis=1).to_numpy()
    split = cohort.split_of_stays()
    counts = {
        "ICU stays": split[cohort.stays["icu_sample"].to_numpy()],
        "labelled pairs": split[cohort.pairs["stay"].to_numpy()[labelled]],
    }
    lines = [
        f"{what}: " + ", ".join(f"{(splits == name).sum()} {name}" for name in Split)
        for what, splits in counts.items()
    ]
    lines += [f"{what}: {count}" for what, count in sorted(attrition.oddities.items()) if count]
    return lines + [f"not as published: {what}" for what in NOT_REPRODUCED[rules.name]]
