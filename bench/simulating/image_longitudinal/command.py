"""The word `evaluate` of bench.simulate: the paper's downstream check of a simulation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import joblib

from bench import arguments
from bench.errors import Parser, UserError
from bench.simulating.engines import CACHE
from bench.simulating.image_longitudinal.association import noise_variance
from bench.simulating.image_longitudinal.decoders import Recipe
from bench.simulating.image_longitudinal.evaluation import ceiling_table, evaluate, table
from bench.simulating.image_longitudinal.nlme import PARAMETERS
from bench.simulating.image_longitudinal.pairs import (
    DecodedShow,
    ProceduralShow,
    Show,
    draw_pairs,
)
from bench.simulating.sizes import Decoder, Engine
from bench.simulating.writing import SETTINGS_FILE


def parser() -> Parser:
    """The arguments after the word."""
    p = Parser(
        prog="python -m bench.simulate evaluate",
        description="One film and one series a subject, with a simulation's decoder, association "
        "and seed: how well do random effects explain the series that come from the truth, from "
        "the series, from the film, from nowhere? (Image-Longitudinal, arXiv 2410.16177)",
    )
    p.add_argument("raw", type=Path, metavar="DIR", help="made with --engine image-longitudinal")
    p.add_argument(
        "--subjects", type=arguments.at_least(10), default=2000, metavar="N", help="to learn from"
    )
    p.add_argument(
        "--test-subjects",
        type=arguments.at_least(10),
        default=1000,
        metavar="N",
        help="to judge by",
    )
    p.add_argument("--epochs", type=arguments.positive, default=20, metavar="N")
    p.add_argument("--jobs", type=arguments.positive, metavar="N", help="processes (cores)")
    p.add_argument("--engines", type=Path, default=CACHE, metavar="DIR", help="trained engines")
    return p


def main(argv: Sequence[str]) -> int:
    """Run the check."""
    arg = parser().parse_args(argv)
    settings = _settings(arg.raw)
    options, seed = settings["options"], settings["seed"]
    v = noise_variance(options["association"])
    show = _show(options, arg.engines, arg.jobs or joblib.cpu_count())
    n = arg.subjects + arg.test_subjects
    print(f"drawing {n} films and series, then learning from them: minutes", flush=True)
    train = draw_pairs(arg.subjects, v, 2 * seed, show)
    test = draw_pairs(arg.test_subjects, v, 2 * seed + 1, show)
    found = evaluate(train, test, v, n_epochs=arg.epochs)
    print(
        f"SIMULATED: decoder {options['decoder']}, v = {v:g}, {arg.subjects} subjects to learn "
        f"from, {arg.test_subjects} to judge by\n"
    )
    print(table(found).to_markdown(index=False, floatfmt=".4g") + "\n")
    print(ceiling_table(found, PARAMETERS).to_markdown(index=False, floatfmt=".3f"))
    return 0


def _settings(raw: Path) -> dict:  # type: ignore[type-arg]
    try:
        settings = json.loads((raw / SETTINGS_FILE).read_text())
        if settings["engine"] == Engine.IMAGE_LONGITUDINAL:
            return settings
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(
        f"{raw} was not made with --engine {Engine.IMAGE_LONGITUDINAL}: nothing to evaluate"
    )


def _show(options: dict, root: Path, jobs: int) -> Show:  # type: ignore[type-arg]
    if options["decoder"] == Decoder.PROCEDURAL:
        return ProceduralShow(jobs)
    return DecodedShow(Recipe.of(options), root)
