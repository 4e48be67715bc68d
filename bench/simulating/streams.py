"""Random streams: one per purpose and entity, so that a stay is the same in every cohort size."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Tag(IntEnum):
    """What a stream is for."""

    TRAJECTORY = 1
    CHRONIC = 2
    ANATOMY = 3
    FILM = 4
    EHR = 5
    LABELS = 6
    OUTCOME = 7
    WRITING = 8
    SUBJECT = 9
    SCHEDULE = 10
    EXCHANGE = 11
    ENGINE = 12
    EDIT = 13
    ASSOCIATION = 14


def stream(seed: int, tag: Tag, *ids: int) -> np.random.Generator:
    """The generator of one purpose and entity."""
    # SeedSequence pads with zeros: without their number, ids (5,) and (5, 0) would be one stream.
    return np.random.default_rng([seed, int(tag), len(ids), *ids])
