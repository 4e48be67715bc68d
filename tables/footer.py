"""What stands under a table: what its numbers are, what they may be taken for, what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bench import significance
from bench.config import Request
from bench.contract import Preset
from bench.data.cohort import Cohort
from bench.data.vocabulary import DISEASES, Task
from bench.metrics import CURVE_METRICS, ranked_diseases
from bench.search import Setting
from bench.significance import STAR_LEVELS
from bench.store import Status
from tables.build import Built
from tables.grid import memory_notes, paper_notes
from tables.published import contradictions_of_text
from tables.runs import FoundRun
from tables.scores import BOOTSTRAP_SEED


@dataclass(frozen=True)
class Note:
    """One paragraph under a table, and the command to type if there is one."""

    text: str
    command: str = ""


def footer(built: Built) -> list[Note]:
    """All notes of a table."""
    return [*notes(built), *missing(built), *missing_at_once(built)]


def notes(built: Built) -> list[Note]:
    """What the numbers are and what they may be taken for."""
    done = [run for run in built.runs if run.is_done]
    texts = [
        *provenance(built.selection.cohort, built.selection.preset),
        _runs(built),
        _cells(built),
        *_hidden_ehr(built),
        *_diseases(built),
        *_paper(built),
        _stars(built),
        *_redrawn(built),
        _chosen(done),
        code_and_machine(done),
        *_searched(built),
        *_stale_draws(built),
        *memory_notes(built),
        *_notes_of_runs(done),
        *_undefined(built),
    ]
    sweep = built.selection.sweep_command(built.table.name)
    redo = [Note(f"{stale(done)} To redo them:", f"{sweep} --rerun stale")] if stale(done) else []
    return [*map(Note, texts), *redo]


def missing_at_once(built: Built) -> list[Note]:
    """The command that makes all that is missing, if anything is."""
    sweep = built.selection.sweep_command(built.table.name)
    return [Note("All that is missing, at once:", sweep)] if missing(built) else []


def provenance(cohort: Cohort, preset: Preset) -> list[str]:
    """What data this is, and that a simulation or a demo says nothing about MIMIC."""
    notes = [f"Cohort: {cohort.title} ({cohort.content_hash}); preset {preset}."]
    if cohort.is_simulated:
        notes.append("SIMULATED DATA: these numbers say nothing about MIMIC.")
    if preset is Preset.DEMO:
        notes.append(
            "DEMO PRESET: a check of the plumbing, too small to rank methods; its numbers say "
            "nothing about MIMIC."
        )
    return notes


def _runs(built: Built) -> str:
    seeds = ", ".join(map(str, built.selection.seeds))
    n_done = sum(run.is_done for run in built.runs)
    tests = [
        f"{runs.task} {len(runs.labels)} samples of {runs.n_subjects} subjects"
        for runs in built.task_runs
        if runs.scorers
    ]
    return f"{n_done} of {len(built.runs)} runs; seeds {seeds}; test set: {', '.join(tests)}."


def _cells(built: Built) -> str:
    n = len(built.selection.seeds)
    mean = f"Mean ± standard deviation over {n} seeds (ddof 1)" if n > 1 else "One seed"
    return (
        f"{mean}; the long CSV adds every seed's value and the 95 % interval of the mean over test "
        "subjects (cluster bootstrap, percentile)."
    )


def _diseases(built: Built) -> list[str]:
    """Which diseases enter AUROC and AUPRC."""
    notes = []
    for runs in built.task_runs:
        ranked_columns = CURVE_METRICS.keys() & set(built.table.metrics(runs.setting))
        if runs.task is Task.DISEASE_PROGRESSION and ranked_columns and runs.scorers:
            named = ranked_diseases(runs.labels, runs.min_labels)
            which = f"all {len(DISEASES)}" if len(named) == len(DISEASES) else ", ".join(named)
            notes.append(
                f"AUROC and AUPRC over diseases with at least {runs.min_labels} test labels of "
                f"every class: {which or 'none'}."
            )
    return notes


def _paper(built: Built) -> list[str]:
    if not built.shows_paper:
        return []
    note = (
        f"paper: mean ± sd that the paper's Table {built.table.paper_table} prints; Δ: ours minus "
        "the paper's mean, which lies in our 95 % interval of the mean (in) or does not (out)."
    )
    areas = [c.task for c in built.table.columns if c.metric == "auprc"]
    if set(areas) - {Task.MORTALITY}:
        note += " Its multi-class AUPRC is a trapezoid area; ours is average precision."
    cells = [f"[{letter}] {text}." for letter, text in paper_notes(built).items()]
    return [note, *cells, *contradictions_of_text(built.table.paper_table)]


def _hidden_ehr(built: Built) -> list[str]:
    """What is hidden in the columns that hide EHR, and what is not."""
    tasks = dict.fromkeys(c.task for c in built.table.columns if c.drop_ehr)
    samples = " and ".join("stays" if task.is_icu else "film pairs" for task in tasks)
    if not tasks:
        return []
    return [
        f"w/o EHR: the EHR hours of that share of the training {samples} are hidden; their "
        "demographics stay visible, and validation and test keep all. Which are hidden changes "
        "with the seed; it is the same for every method."
    ]


def _stars(built: Built) -> str:
    """The test, its correction and the smallest p it can give."""
    levels = ", ".join(f"{mark} p < {level}" for level, mark in reversed(STAR_LEVELS))
    m = built.family_size
    floor = significance.smallest_adjusted_p(built.n_resamples, m)
    reachable = [mark for level, mark in STAR_LEVELS if floor < level]
    short = (
        ""
        if len(reachable) == len(STAR_LEVELS)
        else (
            f" (at most {reachable[0]} can be reached)"
            if reachable
            else " (no star can be reached)"
        )
    )
    return (
        f"{levels}: differs from {built.reference.name}; two-sided paired cluster bootstrap over "
        f"test subjects, B = {built.n_resamples}, seed {BOOTSTRAP_SEED}, Holm-adjusted over the "
        f"{m} comparisons of each task and metric; smallest adjusted p attainable {floor:.2g}"
        f"{short}. Conditional on the trained models: seeds are averaged over, not resampled. "
        "Stars in brackets: with the seeds resampled too, the 95 % interval of the difference "
        "covers 0 (or there is one seed only)."
    )


def _redrawn(built: Built) -> list[str]:
    shares = [
        f"{scores.runs.task} {scores.metric} {scores.redrawn_share:.1%}"
        for scores in built.scores
        if scores.redrawn_share
    ]
    if not shares:
        return []
    return [f"Resamples drawn again because a class was missing: {', '.join(shares)}."]


def _chosen(done: Sequence[FoundRun]) -> str:
    """By what the epoch of each run was chosen."""
    rules: dict[Task, Counter[str]] = {}
    for run in done:
        rules.setdefault(run.request.task, Counter())[str(run.record["selection"]["rule"])] += 1
    named = ", ".join(f"{task} by {_mixture(counts)}" for task, counts in rules.items())
    return f"Epoch chosen on validation: {named}; the test set was used once."


def _searched(built: Built) -> list[str]:
    """Which rows have searched hyperparameters, if that was asked for."""
    chosen = built.selection.chosen
    if chosen is None:
        return []
    wanted = dict.fromkeys(Setting.of(run.request) for run in built.runs)
    how = dict.fromkeys(chosen[setting].how for setting in wanted if setting in chosen)
    without = ", ".join(setting.name for setting in wanted if setting not in chosen)
    searched = f"chosen on validation by bench.search ({'; '.join(how)})" if how else ""
    left = f"the preset's for {without}" if without else ""
    return [f"Hyperparameters: {'; '.join(filter(None, [searched, left]))}."]


def _stale_draws(built: Built) -> list[str]:
    """That searched hyperparameters rest on runs of older code, if some do."""
    chosen = built.selection.chosen or {}
    stale = {
        setting: chosen[setting].n_stale(setting.method)
        for setting in dict.fromkeys(Setting.of(run.request) for run in built.runs)
        if setting in chosen
    }
    named = ", ".join(f"{n} of {setting.name}" for setting, n in stale.items() if n)
    if not named:
        return []
    return [
        f"STALE: draws of the search that were made by older code: {named}. To redo them: "
        "bench.search as before with --rerun stale."
    ]


def code_and_machine(done: Sequence[FoundRun]) -> str:
    """Commit of the runs, and device, threads and versions where they differ between runs."""
    commits = Counter(str(run.record["commit"] or "unknown") for run in done)
    kinds = {
        "devices": Counter(str(run.record["device"]) for run in done),
        "thread counts": Counter(str(run.record["threads"]) for run in done),
    }
    for package in done[0].record["versions"]:
        counts = Counter(str(run.record["versions"].get(package)) for run in done)
        kinds[f"{package} versions"] = counts
    mixed = [f" Mixed {kind}: {_mixture(c)}." for kind, c in kinds.items() if len(c) > 1]
    changed = " ('+': with uncommitted changes)" if any(c.endswith("+") for c in commits) else ""
    return f"Code: commit {_mixture(commits)}{changed}.{''.join(mixed)}"


def stale(done: Sequence[FoundRun]) -> str:
    """That some runs were made by older code; empty if none was."""
    n = sum(run.status is Status.STALE for run in done)
    return f"STALE: {n} of these runs were made by older code." if n else ""


def _notes_of_runs(done: Sequence[FoundRun]) -> list[str]:
    notes = Counter(
        f"{run.request.task}: {note}"
        for run in done
        for note in run.record["notes"]
        if note not in run.memory_notes
    )
    return [f"{note} ({n} runs)." for note, n in notes.items()]


def _undefined(built: Built) -> list[str]:
    """Reasons of cells without a value or without a p, each once."""
    reasons: dict[str, None] = {}
    for cell in built.frame.to_dict("records"):
        for reason in str(cell["note"]).split("; "):
            if reason.startswith(("undefined", "no p", "declined")):
                reasons[f"{cell['task']} {cell['metric']}, {reason}."] = None
    return list(reasons)


def missing(built: Built) -> list[Note]:
    """Runs that gave no number, with the reason and the command; row by row."""
    cohort = str(built.selection.cohort.path)
    groups: dict[tuple[str, Task, str], list[Request]] = {}
    for runs in built.task_runs:
        for (row, _), run in runs.found.items():
            if not run.is_done and not run.is_declined:
                groups.setdefault((row.name, runs.task, run.reason), []).append(run.request)
    found = []
    for (name, task, reason), requests in groups.items():
        seeds = ", ".join(str(request.seed) for request in requests)
        text = f"Missing: {name} on {task}, seed {seeds}: {reason}."
        found.append(Note(text, requests[0].command(cohort)))
    return found


def _mixture(counts: Counter[str]) -> str:
    """One value, or all with how many runs have each."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{value} ({n} runs)" for value, n in sorted(counts.items()))
