"""Loading an epoch from a prepared cohort, beside decoding every film again at each access.

python -m bench.studies.loading_speed

The prepared side makes whole batches (regions, EHR, labels) as training gets them; the other only
decodes films and cuts their regions, as the released code does, at the same size of crops.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench import arguments
from bench.data.batch import Samples
from bench.data.cohort import IDENTIFIERS, Cohort
from bench.data.miniature import miniature_cohort
from bench.data.vocabulary import REGIONS, Cxr, Split, Task
from bench.demo import open_cohort, raw_folder
from bench.errors import Parser, UserError, run_command
from bench.studies.plain_dipro import decode_batch
from bench.studies.training_speed import slope
from methods.dipro.model import DiPro

COHORT_STAYS = (200, 400, 800)
"""Sizes of the cohorts on which the growth of an epoch is measured."""


def progression_samples(cohort: Cohort) -> Samples:
    """Pairs of films with EHR, as DiPro reads them."""
    return Samples(cohort, Task.DISEASE_PROGRESSION, Cxr.PAIR, DiPro.inputs)


def prepared_seconds(samples: Samples, batch_size: int) -> float:
    """Seconds to make every batch of an epoch, in shuffled order."""
    order = np.random.default_rng(0).permutation(samples.indices(Split.TRAIN))
    started = time.perf_counter()
    for start in range(0, len(order), batch_size):
        samples.batch(order[start : start + batch_size])
    return time.perf_counter() - started


def decoding_seconds(cohort: Cohort, raw: Path, samples: Samples, n_samples: int) -> float:
    """Seconds to decode and cut the films of an epoch, from `n_samples` of its samples."""
    positions = samples.indices(Split.TRAIN)
    chosen = np.random.default_rng(0).permutation(positions)[:n_samples]
    pairs = cohort.pairs.iloc[samples.rows[chosen]]
    paths = film_paths(cohort, raw)
    boxes = cohort.arrays["boxes"][:, : len(REGIONS)]
    crop_size = cohort.arrays["regions"].shape[-1]
    started = time.perf_counter()
    for films in pairs[["film_1", "film_2"]].to_numpy():
        decode_batch([paths[film] for film in films], boxes[films], crop_size)
    return (time.perf_counter() - started) / len(chosen) * len(positions)


def film_paths(cohort: Cohort, raw: Path) -> list[Path]:
    """The JPEG of every film of a cohort that was prepared from `raw`.

    Raises:
        UserError: there are no such files.
    """
    names = json.loads((cohort.path / IDENTIFIERS).read_text())["films"]
    files = {path.stem: path for path in raw.rglob("*.jpg")}
    if not set(names) <= files.keys():
        raise UserError(f"{raw} has not the films of {cohort.path}: name its raw folder with --raw")
    return [files[name] for name in names]


def growth(n_stays: Sequence[int], batch_size: int) -> tuple[list[float], float]:
    """Seconds of an epoch on made-up cohorts of several sizes, and their slope."""
    seconds = []
    for n in n_stays:
        with tempfile.TemporaryDirectory() as folder:
            samples = progression_samples(miniature_cohort(Path(folder) / "cohort", n_stays=n))
            prepared_seconds(samples, batch_size)
            seconds.append(prepared_seconds(samples, batch_size))
    return seconds, slope(n_stays, seconds)


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m bench.studies.loading_speed", description=__doc__)
    p.add_argument("--raw", type=Path, metavar="DIR", help="what the cohort was prepared from")
    p.add_argument("--batch-size", type=arguments.positive, default=8, metavar="N")
    p.add_argument(
        "--decoded", type=arguments.positive, default=200, metavar="N", help="samples decoded"
    )
    arguments.add_place(p)
    return p


def main(argv: Sequence[str] | None = None) -> None:
    """Print the comparison."""
    arg = parser().parse_args(argv)
    cohort = open_cohort(arg.cohort, arg.preset)
    samples = progression_samples(cohort)
    prepared_seconds(samples, arg.batch_size)
    prepared = prepared_seconds(samples, arg.batch_size)
    decoding = decoding_seconds(cohort, arg.raw or raw_folder(cohort.path), samples, arg.decoded)
    n_pairs, crop_size = len(samples.indices(Split.TRAIN)), cohort.arrays["regions"].shape[-1]
    print(f"{cohort.title}: an epoch of {n_pairs} pairs, crops of {crop_size} px")
    print(
        f"prepared {prepared:.3f} s, decoded at each access {decoding:.2f} s: "
        f"{decoding / prepared:.0f} times faster (wanted 50)"
    )
    seconds, exponent = growth(COHORT_STAYS, arg.batch_size)
    listed = ", ".join(f"{n}: {s:.3f} s" for n, s in zip(COHORT_STAYS, seconds, strict=True))
    print(f"epoch by stays: {listed}; slope {exponent:.2f}")


if __name__ == "__main__":
    run_command(main)
