"""The words edit, calibrate and score of `python -m bench.simulate`.

edit       one film to a sequence of the same person in whom a finding grows (PIE, arXiv 2309.11745)
calibrate  how much of an asked change each stage makes
score      response, off-target change, identity and realism on held-out simulated films
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import joblib
import numpy as np
import pandas as pd

from bench import arguments
from bench.errors import Parser, UserError
from bench.simulating.engines import CACHE
from bench.simulating.flags import add, add_pretrained, seed
from bench.simulating.pie.calibration import Calibration
from bench.simulating.pie.clip import ClipImages
from bench.simulating.pie.edit import Anchor, Inversion, Options
from bench.simulating.pie.engine import EngineConfig, load_engine
from bench.simulating.pie.film_edit import MASK_FROM_REGIONS, Request, edit_film
from bench.simulating.pie.findings import level, named, severity_of
from bench.simulating.pie.painter import LEAST_CHANGE
from bench.simulating.pie.score import score
from bench.simulating.pie.sheets import check_free, score_table, write_score
from bench.simulating.population import FILM_SEVERITIES

DEFAULTS = Options()


def main(words: Sequence[str]) -> int:
    """Run the command that the first word names; returns the exit status."""
    command = {"edit": _edit, "calibrate": _calibrate, "score": _score}[words[0]]
    return command(words[1:])


def edit_parser() -> Parser:
    """The arguments after the word `edit`: PIE's own names and defaults."""
    p = _parser("edit", "Edit one film step by step towards a finding.")
    p.add_argument(
        "--image", "--image_path", type=Path, required=True, metavar="FILE",
        help="the start film: PNG, JPEG or TIFF",
    )  # fmt: skip
    p.add_argument(
        "--mask", "--mask_path", metavar="FILE",
        help=f"what may change, white; '{MASK_FROM_REGIONS}': where the findings show in a typical "
        "chest; without it everything may change, as in PIE",
    )  # fmt: skip
    p.add_argument(
        "--condition", action="append", default=[], type=_assignment, metavar="FINDING=SEVERITY",
        help="e.g. edema=1.2 or effusion_left=2 (.3 mild, 1 clear, 2 severe); may be repeated; the "
        "last film comes as near as it can, which the end of the output tells",
    )  # fmt: skip
    p.add_argument(
        "--as-published", action="store_true",
        help="tell the tiny engine these severities themselves and go through all stages, as PIE "
        "does: the films stay far milder than asked",
    )  # fmt: skip
    p.add_argument("--prompt", metavar="TEXT", help="for a Stable Diffusion folder")
    add_pretrained(
        p, "a Stable Diffusion 1.x folder saved by diffusers; without it the tiny engine"
    )
    add(p, "--finetuned-path", type=Path, metavar="DIR", help="its U-Net of the domain")
    _add_editing(p, DEFAULTS)
    p.add_argument("--inversion", type=arguments.choice(Inversion), default=DEFAULTS.inversion,
                   metavar="NAME", help=", ".join(Inversion))  # fmt: skip
    p.add_argument("--anchor", type=arguments.choice(Anchor), default=DEFAULTS.anchor,
                   metavar="NAME", help=", ".join(Anchor))  # fmt: skip
    p.add_argument("--reencode", action="store_true",
                   help="decode and encode between stages, as PIE's code: blurs")  # fmt: skip
    add(p, "--output-dir", type=Path, default=Path("simulation"), metavar="DIR", help="where")
    p.add_argument("--seed", type=seed, default=42, metavar="N", help="of the edit's noise")
    p.add_argument(
        "--resolution", type=arguments.positive, default=512, metavar="PX",
        help="side of the films; the tiny engine edits at 64 and adds its difference",
    )  # fmt: skip
    p.add_argument("--device", default="cpu", metavar="NAME",
                   help="of Stable Diffusion: auto, cpu, cuda, cuda:1")  # fmt: skip
    return p


def score_parser() -> Parser:
    """The arguments after the word `score`."""
    p = _parser("score", "Measure the tiny engine on held-out simulated films.")
    p.add_argument(
        "--findings", nargs="+", default=["edema", "effusion"], metavar="NAME", help="to grow"
    )
    p.add_argument("--films", type=_several, default=64, metavar="N", help="patients")
    p.add_argument(
        "--clip", type=Path, metavar="DIR",
        help="a CLIP folder saved by transformers: also CLIP-I, how alike start and last films are",
    )  # fmt: skip
    _add_editing(p, EngineConfig().options)
    add(p, "--output-dir", type=Path, metavar="DIR", help="where curves and sheets go (nowhere)")
    return p


def calibrate_parser() -> Parser:
    """The arguments after the word `calibrate`."""
    return _parser("calibrate", "Print the calibration of the tiny engine; train what is missing.")


def _parser(word: str, description: str) -> Parser:
    p = Parser(prog=f"python -m bench.simulate {word}", description=description)
    p.add_argument("--engine-seed", type=seed, default=7, metavar="N", help="of the tiny engine")
    p.add_argument(
        "--engines", type=Path, default=CACHE, metavar="DIR",
        help="trained engines; a missing one is trained, which takes some 12 minutes of one core",
    )  # fmt: skip
    p.add_argument("--jobs", type=arguments.positive, metavar="N", help="processes (cores)")
    return p


def _add_editing(p: Parser, default: Options) -> None:
    p.add_argument("--step", type=arguments.positive, default=default.steps, metavar="N",
                   help="stages")  # fmt: skip
    p.add_argument("--strength", type=arguments.not_negative, default=default.strength, metavar="X",
                   help="share of the noise levels that a stage goes through, 0 to 1")  # fmt: skip
    add(p, "--guidance-scale", type=arguments.not_negative, default=default.guidance, metavar="X",
         help="how much the condition is exaggerated")  # fmt: skip


def _assignment(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise UserError(f"--condition {text}: write it as FINDING=SEVERITY, e.g. edema=1.2")


def _several(text: str) -> int:
    n = arguments.positive(text)
    if n < 2:
        raise argparse.ArgumentTypeError("one film has no spread: choose 2 or more")
    return n


def _edit(words: Sequence[str]) -> int:
    arg = edit_parser().parse_args(words)
    options = Options(
        steps=arg.step, strength=arg.strength, guidance=arg.guidance_scale,
        inversion=arg.inversion, anchor=arg.anchor, reencode=arg.reencode,
    )  # fmt: skip
    request = Request(
        image=arg.image, mask=arg.mask, condition=named(dict(arg.condition)), prompt=arg.prompt,
        pipeline=arg.pretrained_model_name_or_path, finetuned=arg.finetuned_path,
        device=arg.device, seed=arg.seed, resolution=arg.resolution, options=options,
        as_published=arg.as_published,
    )  # fmt: skip
    config = EngineConfig(seed=arg.engine_seed)
    seen = edit_film(request, config, _jobs(arg), arg.engines, arg.output_dir)
    print(f"{arg.step + 1} films, their GIF and confidence curve -> {arg.output_dir}")
    _print_reached(request.condition, seen)
    return 0


def _print_reached(condition: dict[str, float], seen: np.ndarray) -> None:
    """Asked and seen severities, and a warning of findings that did not go where they should.

    Args:
        condition: severities asked for
        seen: levels after stages 0..N, [N + 1, 12]
    """
    failed = []
    for finding, severity in condition.items():
        first, last = seen[[0, -1], FILM_SEVERITIES.index(finding)]
        wanted = float(level(np.array(severity))) - first
        if abs(wanted) > LEAST_CHANGE and (last - first) * np.sign(wanted) < LEAST_CHANGE:
            failed.append(f"{finding} did not {'rise' if wanted > 0 else 'fall'}")
        first, last = severity_of(np.array([first, last]))
        print(f"{finding}: asked {severity:g}, seen {first:.2f} at the start, {last:.2f} at last")
    if failed:
        print(f"warning: {', '.join(failed)}: another film, mask or --guidance-scale may help",
              file=sys.stderr)  # fmt: skip


def _calibrate(words: Sequence[str]) -> int:
    arg = calibrate_parser().parse_args(words)
    engine = load_engine(EngineConfig(seed=arg.engine_seed), _jobs(arg), arg.engines)
    print("SIMULATED films: share of an asked change of level after each stage\n")
    print(_table(engine.calibration).to_markdown(index=False, floatfmt=".2f"))
    return 0


def _table(calibration: Calibration) -> pd.DataFrame:
    rows = [
        {"asked for": asked, "finding": finding} | {str(n): x for n, x in enumerate(curve)}
        for asked, curves in zip(("the worst", "nothing"), calibration.share, strict=True)
        for finding, curve in zip(FILM_SEVERITIES, curves, strict=True)
    ]
    return pd.DataFrame(rows)


def _score(words: Sequence[str]) -> int:
    arg = score_parser().parse_args(words)
    # All that may be refused comes before the engine, which may be trained first.
    for finding in arg.findings:
        named({finding: 0.0}, "--findings")
    if arg.output_dir:
        check_free(arg.output_dir)
    clip = None if arg.clip is None else ClipImages(arg.clip)
    config, jobs = EngineConfig(seed=arg.engine_seed), _jobs(arg)
    options = Options(
        steps=arg.step, strength=arg.strength, guidance=arg.guidance_scale,
        inference_steps=config.options.inference_steps,
    )  # fmt: skip
    engine = load_engine(config, jobs, arg.engines)
    scores = [score(engine, name, arg.films, options, jobs, clip) for name in arg.findings]
    print(f"SIMULATED: {arg.films} held-out healthy films, edited towards one finding\n")
    print(score_table(scores).to_markdown(index=False, floatfmt=".3f"))
    if arg.output_dir:
        write_score(arg.output_dir, scores)
    return 0


def _jobs(arg: argparse.Namespace) -> int:
    return arg.jobs or joblib.cpu_count()
