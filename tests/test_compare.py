"""Comparing two files of predictions: known values, symmetry, independent formulas, bad input."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sk

from bench import compare
from bench.errors import UserError, run_command


def table(
    n: int = 120, seed: int = 0, skill: float = 1.0, n_subjects: int = 60, salt: int = 0
) -> pd.DataFrame:
    """Samples of two classes; the score is a logit that leans towards the label."""
    labels = np.random.default_rng(seed).integers(0, 2, n)
    noise = np.random.default_rng([seed, 1, salt]).normal(size=n)
    return pd.DataFrame(
        {
            "sample": [f"s{i:04d}" for i in range(n)],
            "subject": [f"p{i % n_subjects}" for i in range(n)],
            "y": labels,
            "score": skill * (2 * labels - 1) + noise,
        }
    )


def multiclass(n: int = 150, seed: int = 0, skill: float = 1.0) -> pd.DataFrame:
    labels = np.random.default_rng(seed).integers(0, 4, n)
    logits = skill * np.eye(4)[labels] + np.random.default_rng([seed, 2]).normal(size=(n, 4))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    columns = {f"p{k}": p[:, k] for k in range(4)}
    return pd.DataFrame({"sample": range(n), "subject": np.arange(n) // 2, "y": labels, **columns})


@pytest.fixture
def files(tmp_path: Path):
    """Write tables as a.csv, b.csv, ...; returns the arguments that name them."""

    def write(*tables: pd.DataFrame) -> list[str]:
        paths = [tmp_path / f"{name}.csv" for name in "abcd"[: len(tables)]]
        for path, content in zip(paths, tables, strict=True):
            content.to_csv(path, index=False)
        more = ["--more", *map(str, paths[2:])] if len(paths) > 2 else []
        return ["--a", str(paths[0]), "--b", str(paths[1]), *more]

    return write


def result(arguments: list[str], capsys, *options: str) -> dict:
    capsys.readouterr()
    assert compare.main([*arguments, "--json", "--resamples", "500", *options]) == 0
    return json.loads(capsys.readouterr().out)


EXPECTED = {
    "auroc": lambda y, s: sk.roc_auc_score(y, s),
    "auprc": lambda y, s: sk.average_precision_score(y, s),
    "accuracy": lambda y, s: sk.accuracy_score(y, s > 0),
    "kappa": lambda y, s: sk.cohen_kappa_score(y, s > 0),
    "macro_f1": lambda y, s: sk.f1_score(y, s > 0, average="macro"),
}


@pytest.mark.parametrize("metric", EXPECTED)
def test_estimates_are_scikit_learn_s(metric: str, files, capsys):
    a, b = table(skill=1), table(skill=0.4, salt=1)
    found = result(files(a, b), capsys, "--metric", metric)
    for key, content in (("estimate_a", a), ("estimate_b", b)):
        expected = EXPECTED[metric](content["y"], content["score"])
        assert found[key] == pytest.approx(expected, abs=1e-12)
    assert found["difference"] == pytest.approx(found["estimate_a"] - found["estimate_b"])
    assert found["ci_low"] < found["difference"] < found["ci_high"]
    assert (found["n_samples"], found["n_subjects"], found["test"]) == (120, 60, "bootstrap")


def test_several_classes(files, capsys):
    a, b = multiclass(skill=1.5), multiclass(skill=0.2)
    p = a[[f"p{k}" for k in range(4)]].to_numpy()
    for metric, expected in {
        "auroc": sk.roc_auc_score(a["y"], p, multi_class="ovr"),
        "kappa": sk.cohen_kappa_score(a["y"], p.argmax(1)),
        "macro_f1": sk.f1_score(a["y"], p.argmax(1), average="macro"),
    }.items():
        assert result(files(a, b), capsys, "--metric", metric)["estimate_a"] == pytest.approx(
            expected, abs=1e-12
        )


@pytest.mark.parametrize("test", ["bootstrap", "permutation", "delong", "mcnemar"])
def test_swapping_keeps_p_and_negates_the_difference(test: str, files, capsys):
    metric = "accuracy" if test == "mcnemar" else "auroc"
    a, b = table(skill=1.2), table(skill=0.7, salt=1)
    options = ["--metric", metric, "--test", test]
    one, other = result(files(a, b), capsys, *options), result(files(b, a), capsys, *options)
    assert one["p"] == pytest.approx(other["p"], abs=0.03 if test == "permutation" else 1e-12)
    assert one["difference"] == pytest.approx(-other["difference"])
    assert one["ci_low"] == pytest.approx(-other["ci_high"])


@pytest.mark.parametrize("test", ["bootstrap", "permutation", "delong", "mcnemar"])
def test_identical_predictions(test: str, files, capsys):
    metric = "accuracy" if test == "mcnemar" else "auroc"
    found = result(files(table(), table()), capsys, "--metric", metric, "--test", test)
    assert (found["p"], found["difference"], found["ci_low"]) == (1, 0, 0)


def test_delong_equals_the_definition(files, capsys):
    """Structural components by comparing every positive with every negative."""
    a, b = table(n=70, n_subjects=70), table(n=70, n_subjects=70, skill=0.5, salt=1)
    a["score"], b["score"] = a["score"].round(1), b["score"].round(1)  # ties
    positive = a["y"] == 1
    components = []
    for content in (a, b):
        above, below = (content.loc[m, "score"].to_numpy() for m in (positive, ~positive))
        wins = (above[:, None] > below) + 0.5 * (above[:, None] == below)
        components.append((wins.mean(1), wins.mean(0)))
    s10, s01 = (np.cov(*(c[k] for c in components)) for k in range(2))
    contrast = np.array([1, -1])
    n_positive, n_negative = positive.sum(), (~positive).sum()
    variance = contrast @ (s10 / n_positive + s01 / n_negative) @ contrast
    difference = components[0][0].mean() - components[1][0].mean()
    z = difference / math.sqrt(variance)
    found = result(files(a, b), capsys, "--test", "delong")
    assert found["p"] == pytest.approx(2 * stats.norm.sf(abs(z)), abs=1e-12)
    assert found["ci_high"] == pytest.approx(difference + 1.959964 * math.sqrt(variance), abs=1e-6)


def test_mcnemar_by_hand(files, capsys):
    """Ten samples that only A gets right, three that only B does: 2 P(X <= 3), X ~ B(13, 1/2)."""
    a = table(n=40, n_subjects=40)
    b = a.copy()
    right = 2.0 * a["y"] - 1
    a["score"], b["score"] = right, right
    a.loc[:2, "score"] *= -1
    b.loc[10:19, "score"] *= -1
    found = result(files(a, b), capsys, "--test", "mcnemar", "--metric", "accuracy")
    assert found["p"] == pytest.approx(2 * sum(math.comb(13, k) for k in range(4)) / 2**13)


def test_more_files_are_corrected_together(files, capsys):
    tables = [table(skill=s, salt=i) for i, s in enumerate((1.5, 0.2, 1.4, 0.8))]
    found = result(files(*tables), capsys)
    p = [row["p"] for row in found["comparisons"]]
    steps = np.maximum.accumulate(np.sort(p) * [3, 2, 1])
    assert sorted(row["p_adjusted"] for row in found["comparisons"]) == pytest.approx(
        np.minimum(steps, 1).tolist()
    )
    assert found["difference"] == found["comparisons"][0]["difference"]


def test_the_order_of_rows_does_not_matter(files, capsys):
    a, b = table(), table(skill=0.5, salt=1)
    expected = result(files(a, b), capsys)
    assert result(files(a.iloc[::-1], b.sample(frac=1, random_state=1)), capsys) == expected


def test_scores_in_0_to_1_are_probabilities_and_a_threshold_moves_both(files, capsys):
    logit, p = table(), table()
    p["score"] = 1 / (1 + np.exp(-p["score"]))
    found = result(files(logit, p), capsys, "--metric", "accuracy")
    assert found["difference"] == 0
    strict = result(files(logit, logit), capsys, "--metric", "accuracy", "--threshold", "0.8")
    expected = sk.accuracy_score(logit["y"], logit["score"] > 0.8)
    assert strict["estimate_a"] == pytest.approx(expected)


@pytest.mark.parametrize("test", ["delong", "mcnemar"])
def test_repeating_subjects_are_warned_of(test: str, files, capsys):
    metric = "accuracy" if test == "mcnemar" else "auroc"
    found = result(files(table(), table(salt=1)), capsys, "--test", test, "--metric", metric)
    assert "subjects repeat" in found["warnings"][0]
    single = [table(n=60, salt=s) for s in range(2)]
    found = result(files(*single), capsys, "--test", test, "--metric", metric)
    assert found["warnings"] == []


def test_constant_scores_are_warned_of(files, capsys):
    flat = table().assign(score=0.3)
    found = result(files(table(), flat), capsys)
    assert found["estimate_b"] == 0.5
    assert "is the same" in found["warnings"][0]


def change(**columns) -> pd.DataFrame:
    return table().assign(**columns)


@pytest.mark.parametrize(
    ("b", "options", "says"),
    [
        (change(score=np.nan), [], "b.csv, row 2, column score: not a finite number"),
        (change(score="high"), [], "b.csv, row 2, column score: not a finite number"),
        (change(sample="x"), [], "b.csv, row 3, column sample: twice in the file"),
        (change(subject=None), [], "b.csv, row 2, column subject: empty"),
        (change(y=2), [], "b.csv, row 2, column y: not a class 0..1"),
        (table().rename(columns={"y": "label"}), [], "b.csv has no column y"),
        (table().rename(columns={"score": "p0"}), [], "neither a column score nor columns p0"),
        (table().iloc[:0], [], "b.csv has no row"),
        (table(n=119), [], "b.csv lacks sample s0119"),
        (table(seed=4), [], "column y: not as in"),
        (change(subject="p1"), [], "column subject: not as in"),
        (table(), ["--metric", "f1"], "unknown metric 'f1'"),
        (table(), ["--metric", "kappa", "--test", "delong"], "--test delong is about auroc"),
        (table(), ["--test", "t"], "no 't'"),
        (table(), ["--resamples", "0"], "above 0"),
        (table(), ["--sead", "1"], "did you mean '--seed'"),
    ],
)
def test_bad_input_is_one_line(b: pd.DataFrame, options, says: str, files, capsys):
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: compare.main([*files(table(), b), *options]))
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert says in error and error.count("\n") == 1


def test_one_class_and_one_subject(files, capsys):
    dead = table().assign(y=1)
    with pytest.raises(UserError, match=r"auroc has no value: y of .* holds class 1 only"):
        compare.main(files(dead, dead))
    alone = table().assign(subject="p")
    with pytest.raises(UserError, match="has one subject"):
        compare.main(files(alone, alone))
    empty = Path(files(table(), table())[1])
    empty.write_text("")
    with pytest.raises(UserError, match=r"a\.csv cannot be read as CSV"):
        compare.main(["--a", str(empty), "--b", str(empty)])


def test_text_names_both_files(files, capsys):
    assert compare.main([*files(table(), table(salt=1)), "--resamples", "50"]) == 0
    printed = capsys.readouterr().out
    assert "a.csv" in printed and "b.csv" in printed and "p " in printed
