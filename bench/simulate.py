"""Simulate raw files in the MIMIC-IV, MIMIC-CXR-JPG and Chest ImaGenome layouts.

python -m bench.simulate --size small --out data/raw/small
python -m bench.simulate --mimic-iv DIR --out data/raw/demo100    films for a real directory's stays
python -m bench.simulate --engine image-longitudinal --association 0.5        another engine
python -m bench.simulate oracle data/raw/small                    the best scores that are possible
python -m bench.simulate evaluate data/raw/small-image-longitudinal           its own five checks
python -m bench.simulate edit | calibrate | score --help          films edited step by step
python -m bench.simulate finetune --help                          a Stable Diffusion U-Net on films
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import joblib
import numpy as np
import pandas as pd

from bench import arguments
from bench.errors import Parser, UserError, nearest, run_command
from bench.simulating import engines, oracle
from bench.simulating.flags import seed
from bench.simulating.identifiers import Identifiers, draw_identifiers
from bench.simulating.populate import simulate_population
from bench.simulating.population import Population
from bench.simulating.real_stays import population_of
from bench.simulating.sizes import Decoder, Engine, Knobs, Signal, Size
from bench.simulating.writing import Settings, is_there, write_raw

KNOBS = {
    "chronic": "chronic severities, which mislead static appearance",
    "reader_noise": "noise of the reader who writes the reports",
    "ehr_gain": "how strongly the course drives the EHR",
    "dynamics": "insult doses",
    "timing": "weight of recency in the outcomes",
    "nuisance": "variation of exposure between films",
}
"""Multipliers of what is planted (`sizes.Knobs`), as --help explains them."""


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m bench.simulate", description=__doc__)
    p.add_argument(
        "--size",
        type=arguments.choice(Size),
        default=Size.SMALL,
        metavar="NAME",
        help=", ".join(f"{size} ({size.n_stays} stays)" for size in Size),
    )
    p.add_argument(
        "--engine",
        type=arguments.choice(Engine),
        default=Engine.PROCEDURAL,
        metavar="NAME",
        help=", ".join(Engine),
    )
    p.add_argument("--out", type=Path, metavar="DIR", help="where (data/raw/SIZE[-ENGINE])")
    p.add_argument("--seed", type=seed, default=7, metavar="N", help="decides everything")
    p.add_argument(
        "--film-size", type=arguments.positive, default=256, metavar="PX", help="side of a film"
    )
    p.add_argument("--jobs", type=arguments.positive, metavar="N", help="processes (cores)")
    p.add_argument("--gzip", action="store_true", help="write .csv.gz")
    p.add_argument("--force", action="store_true", help="replace an older simulation")
    p.add_argument(
        "--mimic-iv", type=Path, metavar="DIR", help="draw films for this directory's real stays"
    )
    for name, meaning in KNOBS.items():
        p.add_argument(
            f"--{name.replace('_', '-')}",
            type=arguments.not_negative,
            default=1.0,
            metavar="X",
            help=meaning,
        )
    p.add_argument(
        "--signal",
        type=arguments.choice(Signal),
        default=Signal.BOTH,
        metavar="NAME",
        help="which modality carries the planted course: " + ", ".join(Signal),
    )
    _add_image_longitudinal(p)
    return p


def _add_image_longitudinal(p: Parser) -> None:
    p.add_argument(
        "--decoder",
        type=arguments.choice(Decoder),
        metavar="NAME",
        help="of image-longitudinal: what draws its films, " + ", ".join(Decoder) + " (procedural)",
    )
    p.add_argument(
        "--association",
        type=arguments.share,
        metavar="R2",
        help="of image-longitudinal: the share of anything else's variance that films can explain "
        "at best, above 0 and at most 1 (1)",
    )
    p.add_argument(
        "--perceptual",
        type=Path,
        metavar="FILE",
        help="of --decoder vae and diffusion: VGG-16 weights of torchvision for the autoencoder's "
        "perceptual loss",
    )
    p.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="of --decoder diffusion: a Stable Diffusion 1.x folder whose U-Net was trained on "
        "this autoencoder's vectors, in place of the tiny model",
    )
    p.add_argument(
        "--engines", type=Path, default=engines.CACHE, metavar="DIR", help="trained engines"
    )


def oracle_parser() -> Parser:
    """The arguments after the word `oracle`."""
    p = Parser(
        prog="python -m bench.simulate oracle",
        description="Print the best scores that are possible on a simulation.",
    )
    p.add_argument("raw", type=Path, metavar="DIR", help="a folder that bench.simulate wrote")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    # No subparser: with one, the value of a mistyped flag would be taken for a wrong command.
    if words and words[0] in COMMANDS:
        return COMMANDS[words[0]](words)
    if words and not words[0].startswith("-"):
        raise UserError(
            f"unknown argument '{words[0]}': {nearest(words[0], COMMANDS)}, or flags alone"
        )
    arg = parser().parse_args(words)
    if arg.film_size < 64 or arg.film_size % 2:
        raise UserError(f"--film-size {arg.film_size}: choose an even number of 64 px or more")
    knobs = Knobs(**{name: getattr(arg, name) for name in KNOBS}, signal=arg.signal)
    real = arg.mimic_iv.absolute() if arg.mimic_iv else None
    size = "real stays" if real else str(arg.size)
    settings = Settings(
        size, arg.seed, arg.film_size, arg.gzip, str(real) if real else None, knobs,
        arg.engine, _options(arg),
    )  # fmt: skip
    engines.check(settings)
    out = arg.out or default_out("real-stays" if real else size, arg.engine)
    print(f"simulating {size}, seed {arg.seed}, films of {arg.film_size} px -> {out}", flush=True)
    if is_there(out, settings, arg.force):
        print("already there")
        return 0
    started = time.monotonic()
    jobs = arg.jobs or joblib.cpu_count()
    # A painter may train for minutes, and keeps what it has learned.
    painter = engines.painter_of(settings, jobs, arg.engines)
    population, ids = _populate(arg.size, settings, real)
    write_raw(out, population, ids, settings, painter, jobs)
    print(_summary(population, out, time.monotonic() - started))
    if arg.engine is Engine.PIE:
        from bench.simulating.pie.painter import rejection_line

        print(rejection_line(pd.read_csv(out / "truth" / "films.csv")))
    return 0


def default_out(name: str, engine: Engine) -> Path:
    """Where raw files lie unless told otherwise."""
    is_default = engine is Engine.PROCEDURAL
    return Path("data") / "raw" / (name if is_default else f"{name}-{engine}")


def _options(arg: argparse.Namespace) -> dict[str, str | float]:
    """What the engine was told, defaults filled in.

    Raises:
        UserError: it is not for this engine or decoder.
    """
    is_ours = arg.engine is Engine.IMAGE_LONGITUDINAL
    for name in ("decoder", "association", "perceptual", "checkpoint"):
        if getattr(arg, name) is not None and not is_ours:
            raise UserError(f"--{name} is for --engine image-longitudinal: give both or none")
    if not is_ours:
        return {}
    options = {
        "decoder": str(arg.decoder or Decoder.PROCEDURAL),
        "association": arg.association or 1.0,
    }
    if arg.perceptual is not None:
        if options["decoder"] == Decoder.PROCEDURAL or not arg.perceptual.is_file():
            raise UserError(
                f"--perceptual {arg.perceptual}: name a file, and --decoder vae or diffusion"
            )
        options["perceptual"] = str(arg.perceptual.absolute())
    if arg.checkpoint is not None:
        if arg.decoder is not Decoder.DIFFUSION or not arg.checkpoint.is_dir():
            raise UserError(
                f"--checkpoint {arg.checkpoint}: name a folder, and --decoder diffusion"
            )
        options["checkpoint"] = str(arg.checkpoint.absolute())
    return options


def _populate(size: Size, settings: Settings, real: Path | None) -> tuple[Population, Identifiers]:
    """A simulated population, or films for real stays; with its identifiers."""
    if real is not None:
        return population_of(real, settings.seed)
    courses = engines.courses_of(settings)
    population = simulate_population(size, settings.seed, settings.knobs, courses)
    return population, draw_identifiers(population)


def _summary(population: Population, out: Path, seconds: float) -> str:
    megabytes = sum(f.stat().st_size for f in out.rglob("*") if f.is_file()) / 1e6
    kinds = population.stays["kind"].value_counts()
    n_films = len(population.films)
    labelled = np.mean(population.pairs["compared"]) if len(population.pairs) else 0
    return (
        f"{len(population.stays)} stays ({kinds.get('clean', 0)} to be kept), {n_films} films, "
        f"{len(population.pairs)} pairs ({labelled:.0%} compared), {len(population.events)} EHR "
        f"rows; {seconds:.0f} s, {n_films / seconds:.0f} films/s, {megabytes:.0f} MB"
    )


def _oracle(words: Sequence[str]) -> int:
    print(oracle.report(oracle_parser().parse_args(words[1:]).raw))
    return 0


def _evaluate(words: Sequence[str]) -> int:
    from bench.simulating.image_longitudinal import command

    return command.main(words[1:])


def _pie(words: Sequence[str]) -> int:
    from bench.simulating.pie import command

    return command.main(words)


def _finetune(words: Sequence[str]) -> int:
    from bench.simulating.diffusion import finetune_command

    return finetune_command.main(words[1:])


COMMANDS = {
    "oracle": _oracle,
    "evaluate": _evaluate,
    "edit": _pie,
    "calibrate": _pie,
    "score": _pie,
    "finetune": _finetune,
}
"""What a first word other than a flag does, instead of simulating."""


if __name__ == "__main__":
    # Stopped by a scheduler it cleans up as it does after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run_command(main)
