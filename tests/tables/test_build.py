"""What a table does with missing, broken, undefined and shuffled runs."""

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest

from bench.contract import Preset
from bench.data.vocabulary import Task
from bench.errors import UserError
from bench.metrics import evaluate, stored_arrays
from tables.build import build
from tables.definitions import Labels, requests, with_labels
from tables.footer import footer
from tables.formats import as_latex, as_markdown, as_text, files
from tables.grid import memory_notes
from tests.tables.mini_store import (
    MINI,
    MINI_PAIRS,
    SEEDS,
    files_of,
    fill,
    mini_labels,
    mini_selection,
    table2_request,
    write_run,
)


@pytest.fixture
def selection(tmp_path):
    selection = mini_selection(tmp_path / "results")
    fill(selection)
    return selection


def cell(built, row, task, metric):
    frame = built.frame
    chosen = (frame["row"] == row) & (frame["task"] == task) & (frame["metric"] == metric)
    return frame[chosen].iloc[0]


def notes(built):
    return "\n".join(f"{note.text} {note.command}" for note in footer(built))


def remove(selection, row, task, seeds):
    for seed in seeds:
        files_of(selection, table2_request(selection, row, task, seed)).record.unlink()


def test_a_complete_cell(selection):
    built = build(MINI, selection, n_resamples=500)
    found = cell(built, "medfuse-long", Task.MORTALITY, "auroc")
    values = [float(v) for v in found["values"].split(";")]
    assert found["n_seeds"] == 3
    assert found["mean"] == pytest.approx(np.mean(values), abs=1e-6)
    assert found["sd"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    assert found["ci_low"] < found["mean"] < found["ci_high"]
    reference = cell(built, "dipro-long", Task.MORTALITY, "auroc")
    assert found["difference"] == pytest.approx(found["mean"] - reference["mean"])
    assert found["p"] <= found["p_adjusted"] <= 3 * found["p"]
    assert np.isnan(reference["p"])
    assert found["note"] == ""
    assert built.family_size == 3


@pytest.mark.parametrize("labels", [Labels.GOLD, Labels.SILVER])
def test_gold_and_silver_labels_apart(labels, tmp_path):
    selection = mini_selection(tmp_path / "results")
    fill(selection, MINI_PAIRS)
    built = build(with_labels(MINI_PAIRS, labels), selection, n_resamples=50)
    found = cell(built, "dipro-long", Task.DISEASE_PROGRESSION, "macro_f1")
    wanted = requests(MINI_PAIRS, selection.preset, [SEEDS[0]])[-1]
    predictions = files_of(selection, wanted).read_predictions()
    chosen = predictions[predictions["from_gold"] == (labels is Labels.GOLD)]
    logits, truth = stored_arrays(chosen)
    macro_f1 = evaluate(Task.DISEASE_PROGRESSION, logits, truth)["macro_f1"]
    assert float(found["values"].split(";")[0]) == pytest.approx(macro_f1, abs=1e-6)
    assert 0 < len(chosen) < len(predictions)
    assert set(files(built)) == {
        f"table1_{labels}{ending}" for ending in (".txt", ".md", ".tex", ".csv", "_wide.csv")
    }


def test_without_gold_labels_there_is_no_table_of_them(tmp_path):
    selection = mini_selection(tmp_path / "results")
    fill(selection, MINI_PAIRS)
    for wanted in requests(MINI_PAIRS, selection.preset, selection.seeds):
        path = files_of(selection, wanted).predictions
        pd.read_parquet(path).assign(from_gold=False).to_parquet(path)
    with pytest.raises(UserError, match="no pair with gold labels"):
        build(with_labels(MINI_PAIRS, Labels.GOLD), selection, n_resamples=50)


def test_no_run_names_the_command(tmp_path):
    with pytest.raises(UserError, match=r"python -m bench\.sweep --table table2 --preset demo"):
        build(MINI, mini_selection(tmp_path))


def test_missing_seeds_are_matched_and_reported(selection):
    remove(selection, "medfuse-long", Task.MORTALITY, [29])
    built = build(MINI, selection, n_resamples=200)
    found = cell(built, "medfuse-long", Task.MORTALITY, "auprc")
    reference = cell(built, "dipro-long", Task.MORTALITY, "auprc")
    assert (found["state"], found["n_seeds"]) == ("incomplete", 2)
    assert found["note"] == "2 of 3 runs: seed 29 not run"
    first, _, last = (float(v) for v in reference["values"].split(";"))
    matched = found["mean"] - (first + last) / 2
    assert found["difference"] == pytest.approx(matched, abs=1e-6)
    assert "--method medfuse --task mortality --cxr long --seed 29" in notes(built)
    assert built.family_size == 3


def test_a_row_or_task_without_any_run(selection):
    remove(selection, "medfuse-long", Task.MORTALITY, SEEDS)
    for row in MINI.rows:
        remove(selection, row.name, Task.LENGTH_OF_STAY, SEEDS)
    built = build(MINI, selection, n_resamples=200)
    for task, metric in ((Task.MORTALITY, "auprc"), (Task.LENGTH_OF_STAY, "kappa")):
        found = cell(built, "medfuse-long", task, metric)
        assert found["n_seeds"] == 0
        assert np.isnan([found["mean"], found["p"], found["p_adjusted"]]).all()
        assert "seed 66 not run" in found["note"]


def test_without_the_reference_there_is_no_p(selection):
    remove(selection, "dipro-long", Task.MORTALITY, SEEDS)
    built = build(MINI, selection, n_resamples=200)
    found = cell(built, "medfuse-long", Task.MORTALITY, "auprc")
    assert np.isfinite(found["mean"])
    assert np.isnan(found["p"])
    assert "no p: the reference has no run" in found["note"]


def test_another_reference_negates_the_difference_and_keeps_p(selection):
    own = cell(build(MINI, selection, 500), "medfuse-long", Task.LENGTH_OF_STAY, "kappa")
    other = build(MINI, selection, 500, reference="medfuse-long")
    swapped = cell(other, "dipro-long", Task.LENGTH_OF_STAY, "kappa")
    assert swapped["difference"] == pytest.approx(-own["difference"])
    assert swapped["p"] == own["p"]
    with pytest.raises(UserError, match="did you mean 'medfuse-long'"):
        build(MINI, selection, reference="medfuse-lnog")


def test_one_class_in_the_test_set_is_undefined_not_a_crash(tmp_path):
    selection = mini_selection(tmp_path)
    for wanted in requests(MINI, Preset.DEMO, SEEDS):
        labels = mini_labels(wanted.task)
        write_run(selection, wanted, np.zeros_like(labels) if wanted.task == "mortality" else None)
    built = build(MINI, selection, n_resamples=200)
    found = cell(built, "dipro-long", Task.MORTALITY, "auroc")
    assert found["state"] == "undefined"
    assert found["note"] == "undefined: the test samples are 90 of class 0"
    assert np.isnan(found["mean"])
    assert "mortality auroc, undefined" in notes(built)
    assert cell(built, "dipro-long", Task.LENGTH_OF_STAY, "kappa")["state"] == "complete"


def test_too_many_undefined_resamples_give_no_p(tmp_path):
    selection = mini_selection(tmp_path)
    labels = np.zeros(90, dtype=int)
    labels[0] = 1  # in about a third of the resamples its subject is not drawn
    for wanted in requests(MINI, Preset.DEMO, SEEDS):
        write_run(selection, wanted, labels if wanted.task == "mortality" else None)
    found = cell(build(MINI, selection, 500), "medfuse-long", Task.MORTALITY, "auroc")
    assert np.isfinite([found["mean"], found["difference"], found["ci_low"]]).all()
    assert np.isnan(found["p"])
    assert found["note"].startswith("no p: undefined in ")


def test_order_of_stored_predictions_moves_nothing(selection):
    before = build(MINI, selection, n_resamples=300).frame
    wanted = table2_request(selection, "dipro-long", Task.MORTALITY, 23)
    path = files_of(selection, wanted).predictions
    pd.read_parquet(path).sample(frac=1, random_state=1).to_parquet(path, index=False)
    pd.testing.assert_frame_equal(build(MINI, selection, n_resamples=300).frame, before)


def test_other_test_samples_are_refused(selection):
    path = files_of(
        selection, table2_request(selection, "dipro-long", Task.MORTALITY, 23)
    ).predictions
    pd.read_parquet(path).iloc[:-1].to_parquet(path, index=False)
    with pytest.raises(UserError, match="other test samples"):
        build(MINI, selection)


def test_predictions_that_are_not_finite_count_as_failed(selection):
    path = files_of(
        selection, table2_request(selection, "medfuse-last", Task.MORTALITY, 29)
    ).predictions
    predictions = pd.read_parquet(path)
    predictions.loc[40, "logit_0"] = np.nan
    predictions.to_parquet(path, index=False)
    built = build(MINI, selection, n_resamples=200)
    found = cell(built, "medfuse-last", Task.MORTALITY, "auroc")
    assert found["n_seeds"] == 2
    assert "not finite" in found["note"]
    assert cell(built, "medfuse-long", Task.MORTALITY, "auroc")["state"] == "complete"


def test_stale_and_mixed_machines_are_said(selection):
    wanted = table2_request(selection, "dipro-long", Task.MORTALITY, 23)
    files_of(selection, wanted).predictions.parent.rename(selection.store.root / "old")
    write_run(selection, wanted, fingerprint="older", device="cuda, H200", threads=2, commit=None)
    text = notes(build(MINI, selection, n_resamples=200))
    assert "STALE: 1 of these runs" in text
    assert "--rerun stale" in text
    assert "Mixed devices: cpu, x86_64 (23 runs), cuda, H200 (1 runs)" in text
    assert "Mixed thread counts" in text
    assert "commit 0a1b2c3d4e (23 runs), unknown (1 runs)" in text


def test_one_seed_has_no_sd(selection):
    built = build(MINI, dataclasses.replace(selection, seeds=(23,)), n_resamples=200)
    found = cell(built, "dipro-long", Task.MORTALITY, "auroc")
    assert found["state"] == "complete"
    assert np.isnan(found["sd"])


def test_the_footer_names_what_p_can_reach(selection):
    text = notes(build(MINI, selection, n_resamples=199))
    assert "B = 199" in text
    assert "smallest adjusted p attainable 0.03 (at most * can be reached)" in text


def test_the_preset_decides_the_resamples(tmp_path):
    for preset, expected in ((Preset.DEMO, 2_000), (Preset.MEDIUM, 10_000)):
        selection = mini_selection(tmp_path / preset, preset=preset)
        write_run(selection, table2_request(selection, "dipro-long", Task.MORTALITY, 23))
        assert build(MINI, selection).n_resamples == expected


def test_stars_that_seeds_could_undo_are_in_brackets(selection):
    frame = build(MINI, selection).frame
    starred = frame[frame["stars"] != ""]
    covers_0 = (starred["nested_low"] <= 0) & (starred["nested_high"] >= 0)
    assert (starred["stars"].str.startswith("(") == covers_0).all()
    assert set(starred["stars"]) > {"**", "(*)"}
    assert (starred["p_adjusted"] < 0.05).all()


def test_stars_of_one_seed_are_in_brackets(selection):
    one_seed = dataclasses.replace(selection, seeds=SEEDS[:1])
    frame = build(MINI, one_seed).frame
    starred = frame["stars"][frame["p_adjusted"] < 0.05]
    assert len(starred)
    assert starred.str.startswith("(").all()
    assert frame["nested_low"].isna().all()


def test_a_cell_of_a_run_without_enough_gpu_memory_is_marked(selection):
    split = "GPU memory ran out: gradients of 4 samples at a time instead of 8, 32 a step still"
    wanted = table2_request(selection, "medfuse-long", Task.MORTALITY, 29)
    record = files_of(selection, wanted).record
    changed = json.loads(record.read_text()) | {"notes": ["another note", split]}
    record.write_text(json.dumps(changed))
    built = build(MINI, selection, n_resamples=50)

    noted = built.frame[built.frame["note"] != ""]
    assert set(noted["row"] + noted["task"]) == {"medfuse-longmortality"}
    assert set(noted["note"]) == {f"seed 29 {split}"}
    for text, mark in (
        (as_text(built), "†"),
        (as_markdown(built), "†"),
        (as_latex(built), "dagger"),
    ):
        body = re.split("Cohort|Bold", text)[0]
        assert body.count(mark) == 2
        assert all("MedFuse" in line for line in body.splitlines() if mark in line)
    (explained,) = memory_notes(built)
    assert explained.startswith("† GPU memory ran out")
    assert "medfuse-long-mortality seed 29 (gradients of 4 samples at a time" in explained


def test_without_such_a_run_nothing_is_marked(selection):
    built = build(MINI, selection, n_resamples=50)
    assert memory_notes(built) == []
    assert "†" not in as_text(built)


def test_a_cell_of_stale_runs_is_marked(selection):
    wanted = table2_request(selection, "medfuse-long", Task.MORTALITY, 23)
    record = files_of(selection, wanted).record
    record.write_text(record.read_text().replace('"fingerprint": "', '"fingerprint": "older'))
    text = as_text(build(MINI, selection, n_resamples=50))
    rows = {line[:45].split("  ")[0]: line for line in text.splitlines() if " long " in line}
    assert rows["MedFuse"].count("(stale)") == 2
    assert "(stale)" not in rows["DiPro"]
