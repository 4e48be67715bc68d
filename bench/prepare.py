"""Prepare a cohort: raw MIMIC-layout files, real or simulated, or loose film images.

python -m bench.prepare mimic --mimic-iv DIR --mimic-cxr DIR --imagenome DIR --out data/mimic
python -m bench.prepare simulated --raw data/raw/small --out data/small
python -m bench.prepare films 00000013_004.jpg 00000013_018.jpg --out data/films
python -m bench.prepare check data/small
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import joblib

from bench.arguments import choice, positive
from bench.contract import Preset
from bench.data.cohort import Cohort
from bench.errors import Parser, UserError, nearest, run_command
from bench.preparing.data_report import add_arguments, run_check
from bench.preparing.images import Sizes
from bench.preparing.items import ItemMap
from bench.preparing.loose_films import prepare_loose_films
from bench.preparing.mimic import Options, prepare_mimic
from bench.preparing.provenance import SIMULATION, find_simulation, provenance
from bench.preparing.rules import RULES, STRICT, Rules
from bench.preparing.selection import RawFolders
from bench.preparing.writing import check_out

SIZES = {
    Preset.DEMO: Sizes(film=128, region=32),
    Preset.MEDIUM: Sizes(film=128, region=48),
    Preset.PAPER: Sizes(film=224, region=224),
}
"""Sides of whole films and region crops by preset, in pixels."""


def parser() -> tuple[Parser, dict[str, Parser]]:
    """The command's arguments, and its subcommands by name."""
    p = Parser(prog="python -m bench.prepare", description=__doc__)
    p.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = p.add_subparsers(
        dest="command", required=True, metavar="mimic|simulated|films|check"
    )

    mimic = commands.add_parser("mimic", help="raw folders as downloaded")
    mimic.add_argument("--mimic-iv", type=Path, required=True, metavar="DIR", help="hosp/, icu/")
    mimic.add_argument(
        "--mimic-cxr",
        type=Path,
        required=True,
        metavar="DIR",
        help="MIMIC-CXR-JPG: files/, metadata",
    )
    mimic.add_argument(
        "--imagenome",
        type=Path,
        required=True,
        metavar="DIR",
        help="silver_dataset/, gold_dataset/",
    )
    mimic.add_argument(
        "--open", action="store_true", help="under no use agreement, as the open demo"
    )
    mimic.add_argument("--simulated", action="store_true", help="(part of) the data is simulated")
    _add_rules(mimic)
    _add_sizes(mimic)

    simulated = commands.add_parser("simulated", help="raw folders written by bench.simulate")
    simulated.add_argument("--raw", type=Path, required=True, metavar="DIR", help="the simulation")
    simulated.add_argument(
        "--preset", type=choice(Preset), default=Preset.DEMO, metavar="NAME", help="sets the sizes"
    )
    _add_rules(simulated)

    films = commands.add_parser("films", help="loose images, named PATIENT_ANYTHING.jpg or .png")
    films.add_argument(
        "images", type=Path, nargs="*", metavar="IMAGE", help="in order of their names"
    )
    _add_sizes(films)

    for command in commands.choices.values():
        command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the cohort")
        command.add_argument("--force", action="store_true", help="replace what is at --out")
        command.add_argument("--seed", type=_seed, default=0, metavar="N", help="of the split")
        command.add_argument(
            "--jobs", type=positive, default=joblib.cpu_count(), metavar="N", help="cores to use"
        )
    check = commands.add_parser("check", help="look at a prepared cohort before training")
    add_arguments(check)
    return p, dict(commands.choices)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    p, commands = parser()
    arg, unknown = p.parse_known_args(argv)
    if unknown:
        commands[arg.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    if arg.command == "check":
        return run_check(arg)
    check_out(arg.out, arg.force)
    cohort = PREPARE[arg.command](arg)
    sizes = ", ".join(f"{count} {name}" for name, count in cohort.manifest["counts"].items())
    print(f"{cohort.title}: {sizes} in {cohort.path}")
    return 0


def _prepare_mimic(arg: argparse.Namespace) -> Cohort:
    raw = RawFolders(arg.mimic_iv, arg.mimic_cxr, arg.imagenome)
    sizes = Sizes(arg.film_size, arg.region_size)
    return _prepare_raw(raw, sizes, arg, simulated=arg.simulated, is_open=arg.open)


def _prepare_simulated(arg: argparse.Namespace) -> Cohort:
    simulation = find_simulation(arg.raw)
    if simulation is None:
        raise UserError(
            f"{arg.raw} holds no {SIMULATION}: make raw files with python -m bench.simulate, "
            "or prepare real ones with python -m bench.prepare mimic"
        )
    raw = RawFolders(
        mimic_iv=arg.raw / str(simulation.get("mimic_iv") or "mimic-iv"),
        mimic_cxr=arg.raw / "mimic-cxr-jpg",
        imagenome=arg.raw / "chest-imagenome",
    )
    return _prepare_raw(raw, SIZES[arg.preset], arg)


def _prepare_raw(
    raw: RawFolders,
    sizes: Sizes,
    arg: argparse.Namespace,
    simulated: bool = False,
    is_open: bool = False,
) -> Cohort:
    for folder in vars(raw).values():
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder: name the root of a raw data set")
    origin = provenance(**vars(raw), marked_simulated=simulated, marked_open=is_open)
    print(f"{origin.title}, {arg.rules.name} rules, {arg.items} items")
    options = Options(arg.rules, sizes, arg.seed, arg.jobs, arg.items)
    return prepare_mimic(raw, origin, arg.out, options)


def _prepare_films(arg: argparse.Namespace) -> Cohort:
    print("regions: canonical boxes, the same for every film; no EHR, no labels")
    sizes = Sizes(arg.film_size, arg.region_size)
    return prepare_loose_films(arg.images, arg.out, sizes, arg.seed, arg.jobs)


PREPARE: dict[str, Callable[[argparse.Namespace], Cohort]] = {
    "mimic": _prepare_mimic,
    "simulated": _prepare_simulated,
    "films": _prepare_films,
}


def _add_rules(p: Parser) -> None:
    p.add_argument(
        "--rules",
        type=_rules,
        default=STRICT.name,
        metavar="NAME",
        help="strict (no look into the future) or official (as published)",
    )
    p.add_argument(
        "--items",
        type=choice(ItemMap),
        default=ItemMap.OFFICIAL,
        metavar="NAME",
        help="EHR items: official (one a variable) or extended (their equals and the laboratory's)",
    )


def _add_sizes(p: Parser) -> None:
    paper = SIZES[Preset.PAPER]
    p.add_argument(
        "--film-size", type=positive, default=paper.film, metavar="PX", help="side of whole films"
    )
    p.add_argument(
        "--region-size", type=positive, default=paper.region, metavar="PX", help="side of crops"
    )


def _rules(name: str) -> Rules:
    if name not in RULES:
        raise argparse.ArgumentTypeError(f"no rules '{name}', {nearest(name, RULES)}")
    return RULES[name]


def _seed(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number")
    return int(text)


if __name__ == "__main__":
    run_command(main)
