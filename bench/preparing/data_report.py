"""A cohort's report before anything is trained: one HTML file without any link, and its command.

Pictures of films and of a single stay are drawn of training subjects only, and of a credentialed
cohort only where asked for.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from bench import page
from bench.data.cohort import Cohort
from bench.data.vocabulary import (
    DISEASES,
    EHR_VARIABLES,
    ICU_HORIZON_HOURS,
    NOT_MENTIONED,
    Split,
)
from bench.errors import Parser, UserError
from bench.preparing import describing
from bench.preparing.checking import Check, check_cohort
from bench.preparing.describing import CLASSES, LENGTHS_OF_STAY, MIN_PATIENTS, MORTALITY
from bench.preparing.report_pictures import (
    REGION_COLOURS,
    Limits,
    draw_distribution,
    draw_film,
    draw_timeline,
    limits_of,
)

N_FILMS: Final = 6
"""Films on the sheet, each of another stay."""


def add_arguments(p: Parser) -> None:
    """Arguments of `python -m bench.prepare check`."""
    p.add_argument("cohort", type=Path, metavar="COHORT", help="a prepared cohort")
    p.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="HTML")
    p.add_argument(
        "--release", action="store_true", help=f"hide cells under {MIN_PATIENTS} patients"
    )
    p.add_argument(
        "--show-patients", action="store_true", help="draw patients' films, for your eyes only"
    )


def run_check(arg: argparse.Namespace) -> int:
    """Check a cohort, write its report and print a summary; 1 if a check fails, else 0.

    A check that only warns fails nothing.
    """
    cohort = Cohort.open(arg.cohort)
    checks = check_cohort(cohort)
    write_report(cohort, arg.out, checks, arg.release, arg.show_patients)
    print(summary(cohort, checks, arg.release))
    print(f"report: {arg.out}")
    return int(any(check.holds is False and check.decides for check in checks))


def summary(cohort: Cohort, checks: Sequence[Check], release: bool = False) -> str:
    """A few lines of text: what the cohort is and how each check went."""
    lines = [f"{cohort.title} ({', '.join(labels(cohort))}), {cohort.content_hash}"]
    for check in checks:
        detail = "" if release else f" ({check.detail})"
        lines.append(f"  {check.verdict:<11}  {check.name}{detail}")
    return "\n".join(lines)


def write_report(
    cohort: Cohort,
    path: Path,
    checks: Sequence[Check],
    release: bool = False,
    show_patients: bool = False,
) -> None:
    """Write the report to `path`, replacing what is there in one rename.

    Args:
        cohort: what it is about
        path: an HTML file
        checks: what `check_cohort` found
        release: hide cells of 1 to 9 patients and the checks' details
        show_patients: draw films and a stay of a credentialed cohort

    Raises:
        UserError: `release` and `show_patients` of a credentialed cohort, or the disk refuses.
    """
    if release and show_patients and cohort.is_credentialed:
        raise UserError("--release is to be passed on, --show-patients is not: give one of them")
    text = _page(cohort, checks, release, show_patients)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _page(cohort: Cohort, checks: Sequence[Check], release: bool, show_patients: bool) -> str:
    min_patients = MIN_PATIENTS if release else 0
    title = f"Cohort report: {cohort.title}"
    body = [
        _head(cohort, title, release, show_patients),
        _checks(checks, release),
        origin(cohort, min_patients),
        _mended(cohort, min_patients),
        label_tables(cohort, min_patients),
        _demographics(cohort, min_patients),
        _films(cohort, min_patients),
        _ehr(cohort, min_patients),
        _patients(cohort, show_patients),
    ]
    return page.page(title, body)


def labels(cohort: Cohort) -> list[str]:
    """What kind of data it is."""
    return [
        "SIMULATED DATA" if cohort.is_simulated else "REAL DATA",
        "CREDENTIALED" if cohort.is_credentialed else "not credentialed",
    ]


def _head(cohort: Cohort, title: str, release: bool, show_patients: bool) -> str:
    notes = []
    if cohort.is_simulated:
        notes.append("Simulated: these numbers say nothing about MIMIC.")
    if cohort.is_credentialed and show_patients:
        notes.append("PATIENT DATA, DO NOT PASS ON.")
    elif cohort.is_credentialed and not release:
        notes.append("With small cells: do not pass on; --release hides them.")
    if release:
        notes.append(f"Cells of 1 to {MIN_PATIENTS - 1} patients, and what would give them away, "
                     "are hidden (–).")  # fmt: skip
    warnings = "".join(map(page.warning, notes))
    return (
        f"<h1>{escape(title)}</h1>\n{page.banners(labels(cohort))}\n"
        f"<p>Content hash <code>{escape(cohort.content_hash)}</code></p>\n{warnings}"
    )


def _checks(checks: Sequence[Check], release: bool) -> str:
    items = []
    for check in checks:
        kind = check.verdict if check.verdict in ("holds", "fails") else "soft"
        detail = "" if release else f"<br><small>{escape(check.detail)}</small>"
        items.append(
            f'<li><span class="{kind}">{check.verdict}</span>: {escape(check.name)}{detail}</li>'
        )
    return page.section("Checks", f'<ul class="checks">{"".join(items)}</ul>')


def origin(cohort: Cohort, min_patients: int) -> str:
    """Where it comes from, and what each rule left."""
    told = {
        "source": cohort.title,
        "labels": cohort.manifest.get("labels"),
        "region boxes": cohort.manifest.get("region_boxes"),
        "EHR items": cohort.manifest.get("ehr_items"),
        "releases": ", ".join(
            f"{data_set} {release}"
            for data_set, release in cohort.manifest.get("releases", {}).items()
        ),
        "rules": cohort.manifest.get("rules"),
        "as the official code": ", ".join(cohort.manifest.get("official_behaviour", [])),
        "seed of the split": cohort.manifest.get("split_seed"),
        "side of films, of regions (px)": f"{cohort.manifest['film_size']}, "
        f"{cohort.manifest['region_size']}",
    }
    lines = [f"{escape(k)}: {escape(str(v))}" for k, v in told.items() if v not in (None, "")]
    attrition = describing.attrition(cohort, min_patients).set_index("rule")
    attrition.columns = ["stays", "films", "subjects"]
    steps = page.table("left after", attrition) if len(attrition) else "<p>Not recorded.</p>"
    return page.section(
        "Origin",
        f"<p>{'<br>'.join(lines)}</p>",
        "<h3>Left after each rule</h3>",
        steps,
        name="origin",
    )


def _mended(cohort: Cohort, min_patients: int) -> str:
    """What is not as it was in the raw files, or not as the rules of that name ask for."""
    counts = describing.mended(cohort, min_patients)
    lacking = {
        "Not done": cohort.manifest.get("not_reproduced", []),
        "Not known": cohort.manifest.get("not_known", []),
    }
    lines = [f"<li>{kind}: {escape(what)}</li>" for kind, of in lacking.items() for what in of]
    return page.section(
        "Mended and left out",
        page.table("what", counts) if len(counts) else "<p>Nothing that was counted.</p>",
        f'<ul class="notes">{"".join(lines)}</ul>' if lines else "",
    )


def label_tables(cohort: Cohort, min_patients: int) -> str:
    """Samples and labels; the paper's counts beside those of a real credentialed cohort."""
    is_papers = cohort.is_credentialed and not cohort.is_simulated
    paper = {n: describing.paper_counts(n) if is_papers else None for n in (4, 5, 6, 7)}
    sizes = describing.sizes(cohort, min_patients)
    films = describing.films_per_stay(cohort, min_patients)
    parts = [
        page.titled("Samples of each split", page.table("split", sizes, paper[4])),
    ]
    if cohort.manifest.get("labels") == "none":
        return page.section("Labels", *parts, "<p>The cohort has no labels.</p>", name="labels")
    for column, classes in (("mortality", MORTALITY), ("length_of_stay", LENGTHS_OF_STAY)):
        counts = describing.outcome(cohort, column, classes, min_patients)
        title = f"{column.capitalize().replace('_', ' ')} of ICU samples"
        parts.append(page.titled(title, page.table("split", counts, paper[6])))
    parts.append(
        page.titled(
            f"Films before {ICU_HORIZON_HOURS:g} h of each ICU sample",
            page.table("split", films, paper[7]),
        )
    )
    in_all = describing.progression_in_all(cohort, min_patients)
    parts.append(
        page.titled("Progression labels, all splits", page.table("disease", in_all, paper[5]))
    )
    parts.append(
        page.titled("Progression labels of each split", _progression(cohort, min_patients))
    )
    return page.section("Labels", *parts, name="labels")


def _progression(cohort: Cohort, min_patients: int) -> str:
    parts = [
        describing.progression(cohort, from_gold, min_patients).add_prefix(source)
        for source, from_gold in (("silver ", False), ("gold ", True))
    ]
    wide = pd.concat(parts, axis=1)
    wide.index = pd.Index([f"{disease}, {split}" for disease, split in wide.index])
    return page.table("disease, split", wide)


def _demographics(cohort: Cohort, min_patients: int) -> str:
    shares = describing.unknown_demographics(cohort, min_patients)
    table = (100 * shares).round(1).set_axis(["stays (%)"], axis=1)
    return page.section("Demographics", page.titled("Not known", page.table("", table)))


def _films(cohort: Cohort, min_patients: int) -> str:
    subject = cohort.stays["subject"].to_numpy()
    n_films = cohort.films["stay"].value_counts().reindex(cohort.stays.index, fill_value=0)
    hours = describing.gaps(cohort)
    of_pairs = subject[cohort.pairs["stay"]]
    pictures = [
        page.picture(draw_distribution(n_films.to_numpy(float), subject, None, min_patients),
                 "films per stay"),
        page.picture(draw_distribution(hours, of_pairs, None, min_patients),
                 "hours between the films of a pair"),
    ]  # fmt: skip
    told = f"{n_films.mean():.2f} films per stay"
    if len(hours):
        told += f"; median gap {np.median(hours):.1f} h"
    return page.section("Films", f"<p>{told}.</p>", page.grid(pictures))


def _ehr(cohort: Cohort, min_patients: int) -> str:
    """Sampling and distribution of every variable in the stays' windows."""
    if not cohort.arrays["ehr_observed"].any():
        return page.section("EHR", "<p>Nothing was observed.</p>")
    sampling = describing.sampling(cohort, min_patients)
    table = pd.DataFrame(
        {
            "stays never observed (%)": (100 * sampling["never_observed"]).round(1),
            "observed hours per stay and day": sampling["per_day"].round(2),
        }
    ).set_axis(describing.variable_titles(cohort))
    shown = sampling["per_day"].notna().to_numpy()
    by = cohort.manifest.get("normalised_by")
    told = "Red: clipping limits (an arrow where out of view)."
    if by:
        told = f"Normalised by the {by}: in sd from the mean, without clipping limits."
    return page.section(
        "EHR",
        f"<p>Stays' windows, the first {ICU_HORIZON_HOURS:g} h.</p>",
        page.table("variable", table),
        "<h3>Observed values</h3>",
        f"<p>{escape(told)} The outermost bins hold what lies beyond 3 IQR of the quartiles.</p>",
        page.grid(_distributions(cohort, shown, min_patients)),
    )


def _distributions(cohort: Cohort, shown: np.ndarray, min_patients: int) -> list[str]:
    """A picture of each variable's observed values; shown is bool [38]."""
    row, stay = describing.stay_rows(cohort)
    values, observed = cohort.arrays["ehr_values"][row], cohort.arrays["ehr_observed"][row] & shown
    subject = cohort.stays["subject"].to_numpy()[stay]
    limits = {} if "normalised_by" in cohort.manifest else limits_of(cohort)
    pictures = []
    for variable, title in enumerate(describing.variable_titles(cohort)):
        known = observed[:, variable]
        own = values[known, variable]
        limit = limits.get(EHR_VARIABLES[variable])
        told = limit.in_words if limit else ""
        # Every value of a score may be its lowest or highest and not be clipped.
        limit = None if limit and limit.of_score else limit
        drawn = draw_distribution(own, subject[known], limit, min_patients)
        told += _at_limit(own, limit) if limit and not min_patients else ""
        pictures.append(page.picture(drawn, title, told))
    return pictures


def _at_limit(values: np.ndarray, limit: Limits) -> str:
    """The share of values that were clipped, or charted as what others are clipped to."""
    at_limit = np.isin(values, np.array([limit.low, limit.high], np.float32))
    return f"; {at_limit.mean():.1%} at a limit" if at_limit.any() else ""


def _patients(cohort: Cohort, show_patients: bool) -> str:
    """Films with their regions, and one stay from admission to discharge."""
    if cohort.is_credentialed and not show_patients:
        note = "Not drawn: these are patients. --show-patients draws them, for your own eyes only."
        return page.section("Some films, and one stay", f"<p>{note}</p>")
    split = cohort.split_of_stays()[cohort.films["stay"]]
    films = cohort.films[split == Split.TRAIN]
    if films.empty:
        return page.section("Some films, and one stay", "<p>No film of a training subject.</p>")
    sheet = films.drop_duplicates("stay").head(N_FILMS).index
    legend = ", ".join(
        f'<i class="chip" style="background:{colour}"></i>{escape(region)}'
        for region, colour in REGION_COLOURS.items()
    )
    stay = int(films["stay"].value_counts(sort=False).idxmax())
    return page.section(
        "Some films, and one stay",
        "<p>Of training subjects.</p>",
        f"<p><small>{legend}</small></p>",
        page.grid(
            [page.picture(draw_film(cohort, film, True), "first film of a stay") for film in sheet]
        ),
        _stay(cohort, stay),
    )


def _stay(cohort: Cohort, stay: int) -> str:
    """The stay with the most films: its films, vital signs and events."""
    films = np.flatnonzero(cohort.films["stay"] == stay)
    hours = cohort.films["hours"].to_numpy()[films]
    pictures = [
        page.picture(draw_film(cohort, int(film), False), f"film {number}, hour {hour:.1f}")
        for number, (film, hour) in enumerate(zip(films, hours, strict=True), start=1)
    ]
    events = "".join(f"<li>hour {hour:.1f}: {escape(what)}</li>" for hour, what in
                     sorted(_events(cohort, stay)))  # fmt: skip
    return "\n".join(
        [
            "<h3>A stay with the most films</h3>",
            page.grid(pictures),
            f'<div class="wide">{page.image(draw_timeline(cohort, stay), "vital signs")}</div>',
            "<p><small>Dots: observed hours; dashed: films; red: the ICU tasks' prediction time."
            f"</small></p>\n<ul>{events}</ul>",
        ]
    )


def _events(cohort: Cohort, stay: int) -> Iterable[tuple[float, str]]:
    """Hour and description of what happened, in any order."""
    icu_sample, died, los_days = (
        cohort.stays[column].to_numpy()[stay] for column in ("icu_sample", "mortality", "los_days")
    )
    yield 0.0, "admitted to the ICU"
    if icu_sample:
        yield ICU_HORIZON_HOURS, "prediction time of the ICU tasks"
    if np.isfinite(los_days):
        fate = "died in the hospital" if died else "survived"
        yield 24 * float(los_days), f"left the ICU, {fate}"
    changes = {
        film: [
            f"{d} {CLASSES[k]}" for d, k in zip(DISEASES, labels, strict=True) if k != NOT_MENTIONED
        ]
        for film, *labels in cohort.pairs[["film_2", *DISEASES]].to_numpy()
    }
    films = np.flatnonzero(cohort.films["stay"] == stay)
    for number, film in enumerate(films, start=1):
        told = f": {', '.join(changes[film]) or 'no label'}" if film in changes else ""
        yield float(cohort.films["hours"].iloc[film]), f"film {number}{told}"
