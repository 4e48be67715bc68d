"""Films to fine-tune on: those of a raw tree with their labels as prompts, or those of vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import joblib
import numpy as np
import pandas as pd
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from bench.errors import UserError
from bench.preparing.films import film_path
from bench.preparing.images import open_film
from bench.preparing.tables import INTEGER, NUMBER, TEXT, Table, find_table, read_table
from bench.simulating.diffusion.model import to_unit
from bench.simulating.diffusion.stable_diffusion import (
    StableDiffusion,
    TextStableDiffusion,
    vector_tokens,
)
from bench.simulating.mimic_cxr import CHEXPERT

SUBJECT: Final = "A chest X-ray image"
FRONTAL: Final = ("AP", "PA")
CXR_FOLDER: Final = "mimic-cxr-jpg"
"""Where bench.simulate puts the layout of MIMIC-CXR-JPG."""

FILMS: Final = Table(
    "mimic-cxr-2.0.0-metadata",
    {"dicom_id": TEXT, "subject_id": INTEGER, "study_id": INTEGER},
    {"ViewPosition": TEXT},
    key=("dicom_id",),
)
LABELS: Final = Table(
    "mimic-cxr-2.0.0-chexpert",
    {"study_id": INTEGER},
    dict.fromkeys(CHEXPERT, NUMBER),
    key=("study_id",),
)
SPLIT: Final = Table("mimic-cxr-2.0.0-split", {"dicom_id": TEXT, "split": TEXT}, key=("dicom_id",))


@dataclass(frozen=True)
class Prompted:
    """Image files and the prompts of their studies, in the same order."""

    paths: Sequence[Path]
    prompts: Sequence[str]

    def settings(self) -> dict[str, Any]:
        """What identifies them, JSON-able."""
        listed = json.dumps([[path.name for path in self.paths], list(self.prompts)])
        return {"n": len(self.paths), "listed": hashlib.sha256(listed.encode()).hexdigest()}


def prompt_of(positive: Sequence[str]) -> str:
    """What PIE (arXiv 2309.11745) tells of a film with these positive CheXpert labels."""
    return ", ".join([SUBJECT, *positive])


def read_prompted(raw: Path) -> Prompted:
    """Frontal films of the split `train` whose study has CheXpert labels.

    Args:
        raw: what bench.simulate wrote, or a folder in the layout of MIMIC-CXR-JPG

    Raises:
        UserError: a table is missing or broken, a film is missing, or no film is left.
    """
    root = raw / CXR_FOLDER if (raw / CXR_FOLDER).is_dir() else raw
    films = read_table(root, FILMS).merge(read_table(root, SPLIT), on="dicom_id")
    films = films[films["ViewPosition"].isin(FRONTAL) & (films["split"] == "train")]
    films = films.merge(read_table(root, LABELS), on="study_id").sort_values("dicom_id")
    if films.empty:
        raise UserError(
            f"{find_table(root, FILMS)}: no AP or PA film of the split train has CheXpert labels"
        )
    paths = [film_path(root, film) for film in films.itertuples()]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"{missing[0]} is not there ({len(missing)} of {len(paths)} films are missing): "
            "download it"
        )
    return Prompted(paths, _prompts(films))


def _prompts(films: pd.DataFrame) -> list[str]:
    positive = films[list(CHEXPERT)].to_numpy() == 1
    names = np.array(CHEXPERT)
    return [prompt_of(names[row].tolist()) for row in positive]


@dataclass(frozen=True)
class TextExamples:
    """Films that are read as they are needed, and their prompts."""

    prompted: Prompted
    generator: TextStableDiffusion
    resolution: int
    jobs: int

    def __len__(self) -> int:
        return len(self.prompted.paths)

    def films(self, rows: Tensor) -> Tensor:
        """As `Examples.films`."""
        # Threads: Pillow decodes and resizes without holding Python's lock.
        read = joblib.Parallel(n_jobs=self.jobs, prefer="threads")(
            joblib.delayed(square)(self.prompted.paths[row], self.resolution) for row in rows
        )
        return to_unit(np.stack(read))

    def conditions(self, rows: Tensor) -> Tensor:
        """As `Examples.conditions`."""
        # A copy: gradients cannot pass through what was made in inference mode.
        return self.generator.embed([self.prompted.prompts[row] for row in rows]).clone()


def square(path: Path, size: int) -> np.ndarray:
    """A film as uint8 [size, size]: short side to `size`, then its centre, as PIE trains."""
    return np.asarray(ImageOps.fit(open_film(path), (size, size), Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class VectorExamples:
    """Films uint8 [N, s, s] of any size, and vectors float32 [N, C] in place of text."""

    images: Tensor
    vectors: Tensor
    generator: StableDiffusion
    resolution: int

    def __len__(self) -> int:
        return len(self.images)

    def films(self, rows: Tensor) -> Tensor:
        """As `Examples.films`."""
        small = to_unit(self.images[rows].numpy())
        return F.interpolate(small, self.resolution, mode="bilinear", antialias=True)

    def conditions(self, rows: Tensor) -> Tensor:
        """As `Examples.conditions`."""
        return vector_tokens(self.vectors[rows], self.generator.width)
