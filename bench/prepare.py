"""Prepare a cohort: raw MIMIC-layout files, real or simulated, a directory that the official
scripts have processed, or loose film images.

python -m bench.prepare mimic --mimic-iv DIR --mimic-cxr DIR --imagenome DIR --out data/mimic
python -m bench.prepare simulated --raw data/raw/small --out data/small
python -m bench.prepare official --processed DIR --mimic-cxr DIR --out data/official
python -m bench.prepare films 00000013_004.jpg 00000013_018.jpg --out data/films
python -m bench.prepare check data/small
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

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
from bench.preparing.official_directory import prepare_official
from bench.preparing.provenance import SIMULATION, find_simulation, provenance
from bench.preparing.rules import (
    OPTION_NAMES,
    RULE_NAMES,
    RULES,
    STRICT,
    Rules,
    described,
    described_options,
    switched,
)
from bench.preparing.selection import RawFolders
from bench.preparing.workplace import MEMORY_GB
from bench.preparing.writing import check_out

SIZES = {
    Preset.DEMO: Sizes(film=128, region=32),
    Preset.MEDIUM: Sizes(film=128, region=48),
    Preset.PAPER: Sizes(film=224, region=224),
}
"""Sides of whole films and region crops by preset, in pixels."""

MIN_MEMORY_GB = 0.5

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def parser() -> tuple[Parser, dict[str, Parser]]:
    """The command's arguments, and its subcommands by name."""
    p = Parser(prog="python -m bench.prepare", description=__doc__)
    p.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = p.add_subparsers(
        dest="command", required=True, metavar="mimic|simulated|official|films|check"
    )

    for add in (_add_mimic, _add_simulated, _add_official, _add_films):
        add(commands)
    for name, command in commands.choices.items():
        command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the cohort")
        command.add_argument("--force", action="store_true", help="replace what is at --out")
        if name != "official":
            command.add_argument("--seed", type=_seed, default=0, metavar="N", help="of the split")
        command.add_argument(
            "--jobs", type=positive, default=joblib.cpu_count(), metavar="N", help="cores to use"
        )
    check = commands.add_parser("check", help="look at a prepared cohort before training")
    add_arguments(check)
    return p, dict(commands.choices)


def _add_mimic(commands: Commands) -> None:
    p = commands.add_parser("mimic", help="raw folders as downloaded")
    _add_folder(p, "--mimic-iv", "hosp/, icu/")
    _add_folder(p, "--mimic-cxr", "MIMIC-CXR-JPG: files/, metadata")
    _add_folder(p, "--imagenome", "silver_dataset/, gold_dataset/")
    _add_origin(p)
    _add_rules(p)
    _add_memory(p)
    _add_sizes(p)


def _add_simulated(commands: Commands) -> None:
    p = commands.add_parser("simulated", help="raw folders written by bench.simulate")
    _add_folder(p, "--raw", "the simulation")
    p.add_argument(
        "--preset", type=choice(Preset), default=Preset.DEMO, metavar="NAME", help="sets the sizes"
    )
    _add_rules(p)
    _add_memory(p)


def _add_official(commands: Commands) -> None:
    p = commands.add_parser("official", help="a directory of the official scripts, as it is")
    _add_folder(p, "--processed", "their processed_data_dir")
    _add_folder(p, "--mimic-cxr", "MIMIC-CXR-JPG: files/, metadata; or films side by side")
    _add_origin(p)
    _add_sizes(p)


def _add_films(commands: Commands) -> None:
    p = commands.add_parser("films", help="loose images, named PATIENT_ANYTHING.jpg or .png")
    p.add_argument("images", type=Path, nargs="*", metavar="IMAGE", help="in order of their names")
    _add_sizes(p)


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
    rules = switched(arg.rules, dict(arg.rule), arg.option)
    print(f"{origin.title}, rules: {rules.title}, {arg.items} items")
    options = Options(rules, sizes, arg.seed, arg.jobs, arg.items, arg.memory)
    return prepare_mimic(raw, origin, arg.out, options)


def _prepare_films(arg: argparse.Namespace) -> Cohort:
    print("regions: canonical boxes, the same for every film; no EHR, no labels")
    sizes = Sizes(arg.film_size, arg.region_size)
    return prepare_loose_films(arg.images, arg.out, sizes, arg.seed, arg.jobs)


def _prepare_official(arg: argparse.Namespace) -> Cohort:
    print("splits, labels and normalised EHR as they are in the directory; nearest-neighbour crops")
    sizes = Sizes(arg.film_size, arg.region_size)
    return prepare_official(
        *(arg.processed, arg.mimic_cxr, arg.out, sizes),
        jobs=arg.jobs,
        simulated=arg.simulated,
        is_open=arg.open,
    )


PREPARE: dict[str, Callable[[argparse.Namespace], Cohort]] = {
    "mimic": _prepare_mimic,
    "simulated": _prepare_simulated,
    "official": _prepare_official,
    "films": _prepare_films,
}


def _add_folder(p: Parser, flag: str, content: str) -> None:
    p.add_argument(flag, type=Path, required=True, metavar="DIR", help=content)


def _add_origin(p: Parser) -> None:
    p.add_argument("--open", action="store_true", help="under no use agreement, as the open demo")
    p.add_argument("--simulated", action="store_true", help="(part of) the data is simulated")


def _add_rules(p: Parser) -> None:
    p.add_argument(
        "--rules",
        type=_rules,
        default=STRICT.name,
        metavar="NAME",
        help="strict (no look into the future) or official (as published)",
    )
    p.add_argument(
        "--rule",
        type=_rule,
        action="append",
        default=[],
        metavar="NAME=SET",
        help="switch one rule of those below to strict or official; may be repeated",
    )
    p.add_argument(
        "--option",
        type=_option,
        action="append",
        default=[],
        metavar="NAME",
        help="switch one of the options below on; may be repeated",
    )
    p.epilog = (
        f"rules that --rule can switch:\n{described()}\n\n"
        f"options that --option switches on:\n{described_options()}"
    )
    p.add_argument(
        "--items",
        type=choice(ItemMap),
        default=ItemMap.OFFICIAL,
        metavar="NAME",
        help="EHR items: official (one a variable) or extended (their equals and the laboratory's)",
    )


def _add_memory(p: Parser) -> None:
    p.add_argument(
        "--memory",
        type=_gigabytes,
        default=MEMORY_GB,
        metavar="GB",
        help="for reading events; beyond it, they spill to disk beside the cohort",
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


def _rule(text: str) -> tuple[str, str]:
    """A rule and the set whose way it takes."""
    rule, equals, name = text.partition("=")
    if rule not in RULE_NAMES:
        raise argparse.ArgumentTypeError(f"no rule '{rule}', {nearest(rule, RULE_NAMES)}")
    if not equals:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=SET, e.g. {rule}=official")
    return rule, _rules(name).name


def _option(name: str) -> str:
    if name not in OPTION_NAMES:
        raise argparse.ArgumentTypeError(f"no option '{name}', {nearest(name, OPTION_NAMES)}")
    return name


def _gigabytes(text: str) -> float:
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not MIN_MEMORY_GB <= gigabytes < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from {MIN_MEMORY_GB} up")
    return gigabytes


def _seed(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number")
    return int(text)


if __name__ == "__main__":
    run_command(main)
