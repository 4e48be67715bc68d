"""The word `finetune` of bench.simulate: from a pipeline folder and films to a pipeline folder."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Final

import joblib

from bench import arguments
from bench.environment import choose_device
from bench.errors import Parser, UserError
from bench.simulating import flags
from bench.simulating.diffusion.finetune import (
    RECIPES,
    Condition,
    Examples,
    Recipe,
    check_resolution,
    finetune,
)
from bench.simulating.diffusion.finetune_examples import (
    Prompted,
    TextExamples,
    VectorExamples,
    read_prompted,
)
from bench.simulating.diffusion.finetune_place import Place
from bench.simulating.diffusion.stable_diffusion import StableDiffusion, TextStableDiffusion
from bench.simulating.engines import CACHE
from bench.simulating.image_longitudinal.decoders import films_and_vectors
from bench.simulating.image_longitudinal.training import Training, trained_vae

COPIED: Final = {
    Condition.TEXT: ("vae", "scheduler", "text_encoder", "tokenizer"),
    Condition.VECTOR: ("vae", "scheduler"),
}
"""Parts of the pretrained pipeline that make the result complete."""


def parser() -> Parser:
    """The arguments after the word."""
    p = Parser(
        prog="python -m bench.simulate finetune",
        description="Fine-tune the U-Net of a local Stable Diffusion 1.x folder on films: told by "
        "text as in PIE (arXiv 2309.11745), or by vectors as in Image-Longitudinal "
        "(arXiv 2410.16177). Killed, the same command goes on. Defaults are the papers'.",
    )
    add = partial(flags.add, p)
    flags.add_pretrained(
        p, "a Stable Diffusion 1.x folder saved by diffusers; nothing is downloaded", required=True
    )
    add("--condition", type=arguments.choice(Condition), required=True, metavar="NAME",
        help="text: films of --raw and their CheXpert labels; vector: the films of the "
        "autoencoder of --decoder diffusion, its z and severities")  # fmt: skip
    add("--raw", type=Path, metavar="DIR",
        help="of text: what bench.simulate wrote, or the folder of MIMIC-CXR-JPG")  # fmt: skip
    add("--output-dir", type=Path, required=True, metavar="DIR", help="where the pipeline goes")
    _add_recipe(p)
    add("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1")
    add("--jobs", type=arguments.positive, metavar="N", help="threads or processes (cores)")
    add("--engines", type=Path, default=CACHE, metavar="DIR",
        help="of vector: trained engines; a missing autoencoder is trained")  # fmt: skip
    add("--perceptual", type=Path, metavar="FILE",
        help="of vector: as the autoencoder was trained with")  # fmt: skip
    return p


def _add_recipe(p: Parser) -> None:
    """What may differ from the paper's recipe; defaults differ by condition."""
    text, vector = RECIPES[Condition.TEXT], RECIPES[Condition.VECTOR]

    def add(flag: str, kind: Callable[[str], Any], metavar: str, meaning: str, field: str) -> None:
        default = f"(text {getattr(text, field):g}, vector {getattr(vector, field):g})"
        flags.add(
            p, flag, type=kind, metavar=metavar, dest=field, help=f"{meaning} {default}".strip()
        )

    add("--train-steps", arguments.positive, "N", "steps of the optimizer", "n_steps")
    add("--batch-size", arguments.positive, "N", "films at once", "batch_size")
    add("--accumulate", arguments.positive, "N", "batches of a step", "accumulate")
    add("--learning-rate", arguments.above_0, "X", "", "lr")
    add("--warm-up", arguments.whole, "N", "steps in which the learning rate rises", "warm_up")
    add(
        "--noise-offset",
        arguments.not_negative,
        "X",
        "sd of the noise of a whole channel",
        "noise_offset",
    )
    add("--resolution", arguments.positive, "PX", "side of the films", "resolution")
    add("--seed", flags.seed, "N", "of films and noise", "seed")


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    arg = parser().parse_args(argv)
    _check(arg)
    recipe = recipe_of(arg)
    source = Training(perceptual=arg.perceptual) if arg.raw is None else read_prompted(arg.raw)
    place = Place(arg.output_dir)
    settings = {
        "condition": str(arg.condition),
        "pretrained": str(arg.pretrained_model_name_or_path.absolute()),
        "recipe": recipe.settings(),
        "films": source.settings(),
    }
    if place.is_done(settings):
        print(f"{arg.output_dir} is already there")
        return 0
    generator, examples = _loaded(arg, recipe, source)
    check_resolution(generator, recipe.resolution)
    place.begin(settings)
    print(f"{len(examples)} films, {recipe.n_steps} steps -> {place.out}", flush=True)
    finetune(generator, examples, recipe, place.checkpoint)
    place.finish(generator.unet, arg.pretrained_model_name_or_path, COPIED[arg.condition])
    return 0


def recipe_of(arg: argparse.Namespace) -> Recipe:
    """The paper's recipe of a condition, with what the command says in its place."""
    given = {f.name: getattr(arg, f.name, None) for f in fields(Recipe)}
    return RECIPES[arg.condition].changed(**given)


def _check(arg: argparse.Namespace) -> None:
    if arg.condition is Condition.TEXT and arg.raw is None:
        raise UserError("--condition text needs --raw DIR: films and their CheXpert labels")
    if arg.condition is Condition.VECTOR and arg.raw is not None:
        raise UserError("--raw is for --condition text: vector draws its own films, leave it out")
    for_text = arg.condition is Condition.TEXT
    if arg.perceptual is not None and (for_text or not arg.perceptual.is_file()):
        raise UserError(f"--perceptual {arg.perceptual}: name a file, and --condition vector")


def _loaded(
    arg: argparse.Namespace, recipe: Recipe, source: Prompted | Training
) -> tuple[StableDiffusion, Examples]:
    """The pipeline, and the films of a source as it is told of them."""
    folder, device = arg.pretrained_model_name_or_path, choose_device(arg.device)
    jobs = arg.jobs or joblib.cpu_count()
    if isinstance(source, Prompted):
        told = TextStableDiffusion(folder, device=device)
        return told, TextExamples(source, told, recipe.resolution, jobs)
    generator = StableDiffusion(folder, device=device)
    vae = trained_vae(source, arg.engines, jobs)
    images, vectors = films_and_vectors(vae, source, jobs)
    return generator, VectorExamples(images, vectors, generator, recipe.resolution)
