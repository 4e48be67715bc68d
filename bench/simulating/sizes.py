"""How large a simulated cohort is, and the knobs that change what is planted."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Size(StrEnum):
    """Cohort sizes by name."""

    TINY = "tiny"
    SMALL = "small"
    MEDIUM = "medium"
    PAPER = "paper"

    @property
    def n_stays(self) -> int:
        """Clean stays."""
        return {"tiny": 24, "small": 300, "medium": 1500, "paper": 3763}[self.value]


class Engine(StrEnum):
    """Who makes a simulated cohort's films, and what they have to do with its series."""

    PROCEDURAL = "procedural"
    """Drawn by formulas from the one course that the series follow too."""
    IMAGE_LONGITUDINAL = "image-longitudinal"
    """After Deltadahl et al. (arXiv 2410.16177): how much films tell of the series is set."""
    PIE = "pie"
    """After PIE (arXiv 2309.11745): a film is edited step by step towards a finding."""


class Decoder(StrEnum):
    """What turns the latent state into a film in the engine image-longitudinal."""

    PROCEDURAL = "procedural"
    VAE = "vae"
    DIFFUSION = "diffusion"


class Signal(StrEnum):
    """Which modality carries the planted course; the others are drawn from another stay's."""

    BOTH = "both"
    CXR = "cxr"
    EHR = "ehr"
    NONE = "none"


@dataclass(frozen=True)
class Knobs:
    """Multipliers of what is planted; 1 is the default cohort.

    chronic: chronic severities that mislead static appearance
    reader_noise: noise of the reader who writes the report
    ehr_gain: how strongly the course drives the EHR
    dynamics: insult doses
    timing: weight of recency in the outcomes
    nuisance: variation of acquisition between films
    signal: which modality carries the course
    """

    chronic: float = 1.0
    reader_noise: float = 1.0
    ehr_gain: float = 1.0
    dynamics: float = 1.0
    timing: float = 1.0
    nuisance: float = 1.0
    signal: Signal = Signal.BOTH
