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


def stream(seed: int, tag: Tag, *ids: int) -> np.random.Generator:
    """The generator of one purpose and entity."""
    return np.random.default_rng([seed, int(tag), *ids])
