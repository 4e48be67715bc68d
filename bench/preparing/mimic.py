"""Raw MIMIC-layout folders to a cohort: the whole way, step by step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.cohort import Cohort
from bench.data.vocabulary import DISEASES, NOT_MENTIONED, Split
from bench.errors import UserError
from bench.preparing.attrition import Attrition, Step
from bench.preparing.ehr import prepare_ehr
from bench.preparing.films import film_path, subject_of_films
from bench.preparing.findings import read_findings
from bench.preparing.images import FilmFile, Sizes, inspect_films
from bench.preparing.items import ItemMap
from bench.preparing.paper_cohort import compare_with_paper
from bench.preparing.progression import Gold, read_gold
from bench.preparing.provenance import Provenance
from bench.preparing.releases import releases
from bench.preparing.rules import NOT_REPRODUCED, OFFICIAL, Rules
from bench.preparing.scene_graphs import Box, SceneGraphs
from bench.preparing.selection import RawFolders, select
from bench.preparing.splits import draw_as_published, split_subjects
from bench.preparing.workplace import MEMORY_GB, workplace
from bench.preparing.writing import write_selection


@dataclass(frozen=True)
class Options:
    """How to prepare: rules, array sizes, seed of the split, EHR items, cores and memory."""

    rules: Rules
    sizes: Sizes
    seed: int = 0
    jobs: int = 1
    items: ItemMap = ItemMap.OFFICIAL
    memory_gb: float = MEMORY_GB


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
    graphs = SceneGraphs(raw.imagenome, subject_of_films(raw.mimic_cxr))
    selection, boxes = select(raw, graphs, gold, rules, attrition)
    selection.labels.count_dropped(attrition.oddities)
    found = releases(raw, graphs, attrition.steps[0].n_stays or 0)
    subjects = np.unique(selection.stays["subject_id"])
    if rules.published_draw:
        split = draw_as_published(subjects, gold.subjects, options.seed)
    else:
        split = split_subjects(subjects, gold.subjects, np.random.default_rng(options.seed))
    say(", ".join(f"{data_set} {release}" for data_set, release in found.items()))
    say(attrition.table())

    training = np.isin(selection.stays["subject_id"], subjects[split == Split.TRAIN])
    films = [
        _film_file(raw.mimic_cxr, film, film_boxes)
        for film, film_boxes in zip(selection.films.itertuples(), boxes, strict=True)
    ]
    inspect_films(films, attrition.oddities)
    findings = read_findings(raw.mimic_cxr, selection.films, attrition.oddities)
    with workplace(out, options.jobs, options.memory_gb) as work:
        ehr = prepare_ehr(
            raw.mimic_iv,
            selection,
            training,
            rules,
            attrition.oddities,
            work,
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
            _manifest(options, attrition, found),
            nearest=rules.nearest_crops,
            work=work,
        )
    for line in _remarks(cohort, attrition, rules):
        say(line)
    if origin.credentialed and not origin.simulated:
        official = _official_steps(raw, graphs, gold)
        for line in compare_with_paper(cohort, attrition.steps, official, rules):
            say(line)
    return cohort


def _official_steps(raw: RawFolders, graphs: SceneGraphs, gold: Gold) -> list[Step]:
    """What the official rules leave of the same raw data, up to where they leave nothing."""
    attrition = Attrition()
    with suppress(UserError):
        select(raw, graphs, gold, OFFICIAL, attrition)
    return attrition.steps


def _film_file(mimic_cxr: Path, film: Any, boxes: dict[str, Box]) -> FilmFile:
    is_known = not (np.isnan(film.Rows) or np.isnan(film.Columns))
    size = (int(film.Columns), int(film.Rows)) if is_known else None
    return FilmFile(film_path(mimic_cxr, film), boxes, size)


def _manifest(options: Options, attrition: Attrition, found: dict[str, str]) -> dict[str, Any]:
    rules = options.rules
    return {
        "labels": "reports",
        "region_boxes": "scene graphs",
        "releases": found,
        "ehr_items": str(options.items),
        "rules": rules.title,
        "official_behaviour": rules.official_behaviour,
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
    return lines + [f"not done: {what}" for what in NOT_REPRODUCED[rules.name]]
