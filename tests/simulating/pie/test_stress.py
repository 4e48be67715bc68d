"""PIE's stress test shows a model what it says: first and edited film, forwards and backwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bench.contract import Output
from bench.data.batch import Batch, Inputs, Samples
from bench.data.cohort import Cohort
from bench.data.vocabulary import DISEASES, Cxr, Progression, Split, Task
from bench.simulating.pie.engine import EngineConfig, load_engine
from bench.studies.pie_stress import Response, Sequences, edit_test_pairs, probabilities, table


@pytest.fixture(scope="module")
def samples(prepared: Cohort) -> Samples:
    return Samples(prepared, Task.DISEASE_PROGRESSION, Cxr.PAIR, Inputs(regions=True))


def brightness(batch: Batch) -> Output:
    """What got brighter has worsened, what got darker has improved."""
    grey = batch.regions.float().mean(dim=(2, 3, 4))
    change = (grey[:, 1] - grey[:, 0])[:, None]
    logits = torch.zeros(len(batch), len(DISEASES), len(Progression))
    logits[..., Progression.WORSENED], logits[..., Progression.IMPROVED] = change, -change
    return Output(logits)


def brightening(samples: Samples) -> Sequences:
    """Three stages, each ten grey levels above the one before."""
    positions = samples.indices(Split.TEST)[:3]
    shape = samples.batch(positions).regions[:, 0].shape
    regions = np.stack([np.full(shape, 100 + 10 * n, dtype=np.uint8) for n in range(3)])
    return Sequences(positions, regions, np.ones(shape[:2], dtype=bool))


def test_a_model_that_reads_brightness_answers_as_the_stages_rise(samples: Samples):
    sequences = brightening(samples)
    batch = samples.batch(sequences.positions).without_targets()
    worsened, improved = probabilities(brightness, batch, sequences, disease=2)
    assert worsened[0] == pytest.approx(1 / 3) and improved[0] == pytest.approx(1 / 3)
    assert (np.diff(worsened) > 0).all()
    np.testing.assert_allclose(worsened, improved)
    rows = table({("reader", "edema"): Response(worsened, improved)})
    assert rows["rank"].tolist() == [1.0, 1.0] and list(rows["shown"].str[:8]) == [
        "(x0, xn)",
        "(xn, x0)",
    ]


def test_the_first_film_of_test_pairs_is_edited_where_the_finding_shows(
    prepared: Cohort, samples: Samples, toy: EngineConfig, engines: Path
):
    sequences = edit_test_pairs(prepared, load_engine(toy, 1, engines), "effusion", 2)
    assert set(sequences.positions) <= set(samples.indices(Split.TEST))
    assert len(set(samples.subject[sequences.positions])) == len(sequences.positions)
    assert sequences.regions.shape[:3] == (toy.options.steps + 1, len(sequences.positions), 10)
    own = samples.batch(sequences.positions).regions[:, 0].numpy().astype(float)
    seen = sequences.regions[0].astype(float)
    there = sequences.present[..., None, None] & np.ones_like(own, dtype=bool)
    # Stage 0 is the film itself; its crops are of fewer pixels than the cohort's were made of.
    assert np.corrcoef(own[there], seen[there])[0, 1] > 0.97
    assert not np.array_equal(sequences.regions[0], sequences.regions[-1])
