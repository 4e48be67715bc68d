"""What the simulated reports say of earlier films, one sentence a region and finding.

Besides the planted words there are sentences that no label may come from: negated findings, two
comparisons at once, comparisons with a film that is not the one before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from bench.data.vocabulary import DISEASE_IN_GRAPH, DISEASES, NOT_MENTIONED, Progression
from bench.simulating.identifiers import Identifiers
from bench.simulating.images import Kind
from bench.simulating.population import Population
from bench.simulating.streams import Tag, stream

GRAPH_NAME: Final = {disease: name for name, disease in reversed(DISEASE_IN_GRAPH.items())}
"""Our name -> the graph's; edema's is the long one."""

WORD: Final = {
    Progression.WORSENED: "worsened",
    Progression.IMPROVED: "improved",
    Progression.NO_CHANGE: "no change",
}
SHARE_AMBIGUOUS, SHARE_NEGATED, SHARE_SKIPPING = 0.1, 0.1, 0.05
"""Pairs whose report also holds such a sentence; the last skips the film before."""


@dataclass(frozen=True)
class Sentence:
    """A sentence that compares a region with an earlier image.

    previous: dicom_id of that image
    words: how it changed; two are ambiguous
    attributes: 'category|yes or no|name' of the findings
    """

    previous: str
    region: str
    words: tuple[Progression, ...]
    attributes: tuple[str, ...]


def attribute_of(disease: str, polarity: str = "yes") -> str:
    """'category|yes or no|name' of a disease."""
    category = "disease" if disease == "pneumonia" else "anatomicalfinding"
    return f"{category}|{polarity}|{GRAPH_NAME.get(disease, disease)}"


def write_reports(
    population: Population, ids: Identifiers, images: pd.DataFrame
) -> list[list[Sentence]]:
    """The sentences that each image's graph holds; the images of a study share its report."""
    before = images[images["kind"] == Kind.EARLIER]
    earlier = dict(zip(before["film"], before["dicom_id"], strict=True))
    pair_of = {int(film): i for i, film in enumerate(population.pairs["film_2"])}
    reports = [
        _report(population, ids, film, pair_of, earlier) for film in range(len(population.films))
    ]
    sentences = []
    for film, kind in zip(images["film"], images["kind"], strict=True):
        own = [] if kind == Kind.EARLIER else reports[film]
        if kind == Kind.SECOND_AP:
            # A report cannot compare its own images: readers refuse such a pair.
            own = [*own, _sentence(ids.dicom_id[film], "left lung", Progression.IMPROVED)]
        sentences.append(own)
    return sentences


def _report(
    population: Population,
    ids: Identifiers,
    film: int,
    pair_of: Mapping[int, int],
    earlier: Mapping[int, str],
) -> list[Sentence]:
    if film in earlier:
        return [_sentence(earlier[film], "left lung", Progression.WORSENED)]
    if film not in pair_of:
        return []
    rng = stream(population.seed, Tag.WRITING, 3, film)
    previous = int(population.pairs["film_1"].iloc[pair_of[film]])
    sentences = _of_pair(population, pair_of[film], ids.dicom_id[previous], rng)
    if previous in pair_of and rng.random() < SHARE_SKIPPING:
        skipped = int(population.pairs["film_1"].iloc[pair_of[previous]])
        sentences.append(_sentence(ids.dicom_id[skipped], "right lung", Progression.WORSENED))
    return sentences


def _sentence(previous: str, region: str, word: Progression) -> Sentence:
    return Sentence(previous, region, (word,), (attribute_of("pleural effusion"),))


def _of_pair(
    population: Population, pair: int, previous: str, rng: np.random.Generator
) -> list[Sentence]:
    """What the report of a pair's second film says of the first, region by region."""
    labels = population.pairs.iloc[pair][list(DISEASES)]
    words = [*population.region_words[pair], *population.contradictions[pair]]
    sentences = []
    for region, disease, word in words:
        attributes = [attribute_of(disease), "nlp|yes|abnormal"]
        # Parent concept: added where it says what the report says of lung opacity anyway.
        lung = "lung" in region and disease not in ("lung opacity", "enlarged cardiac silhouette")
        if lung and labels["lung opacity"] == word and (region, "lung opacity", word) in words:
            attributes.insert(1, attribute_of("lung opacity"))
        sentences.append(Sentence(previous, region, (Progression(word),), tuple(attributes)))
    if not population.pairs["compared"].iloc[pair]:
        return sentences
    free = next((d for d in DISEASES if labels[d] == NOT_MENTIONED), "pneumothorax")
    if rng.random() < SHARE_AMBIGUOUS:
        both = (Progression.WORSENED, Progression.IMPROVED)
        sentences.append(Sentence(previous, "right lung", both, (attribute_of(free),)))
    if rng.random() < SHARE_NEGATED:
        absent = (attribute_of(free, "no"),)
        sentences.append(Sentence(previous, "left lung", (Progression.IMPROVED,), absent))
    return sentences
