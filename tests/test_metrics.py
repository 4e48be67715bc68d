"""Metrics against scikit-learn, one sample at a time and in resamples of subjects."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from bench import metrics
from bench.data.vocabulary import DISEASES, NOT_MENTIONED, SELECTION_METRIC, Task
from bench.metrics import Scorer, evaluate, evaluate_table, probabilities

EXACT = {"rel": 0, "abs": 1e-12}


def random_case(task, n=120, seed=0, ties=False):
    """Logits and labels with some signal; rounded scores give ties."""
    rng = np.random.default_rng(seed)
    n_logits = {Task.DISEASE_PROGRESSION: 21, Task.MORTALITY: 1, Task.LENGTH_OF_STAY: 4}[task]
    logits = rng.normal(size=(n, n_logits)).astype(np.float32)
    if ties:
        logits = np.round(logits)
    if task is Task.DISEASE_PROGRESSION:
        labels = rng.integers(0, 4, (n, 7))
    elif task is Task.MORTALITY:
        labels = (rng.random(n) < 0.3).astype(int)
    else:
        labels = rng.integers(0, 4, n)
    return logits, labels


def of_classes(labels, p):
    """scikit-learn's values of one multi-class problem, one-vs-rest where it ranks."""
    classes, predicted = range(p.shape[1]), p.argmax(-1)
    common = {"labels": list(classes), "average": "macro", "zero_division": 0}
    area = []
    for c in classes:
        precision, recall, _ = sk.precision_recall_curve(labels == c, p[:, c])
        area.append(sk.auc(recall, precision))
    return {
        "accuracy": sk.accuracy_score(labels, predicted),
        "kappa": sk.cohen_kappa_score(labels, predicted),
        "macro_precision": sk.precision_score(labels, predicted, **common),
        "macro_recall": sk.recall_score(labels, predicted, **common),
        "macro_f1": sk.f1_score(labels, predicted, **common),
        "auroc": np.mean([sk.roc_auc_score(labels == c, p[:, c]) for c in classes]),
        "auprc": np.mean([sk.average_precision_score(labels == c, p[:, c]) for c in classes]),
        "auprc_trapezoid": np.mean(area),
    }


def by_scikit_learn(task, logits, labels):
    p = probabilities(task, logits)
    if task is Task.LENGTH_OF_STAY:
        return of_classes(labels, p)
    if task is Task.MORTALITY:
        precision, recall, _ = sk.precision_recall_curve(labels, p)
        return {
            "auprc": sk.average_precision_score(labels, p),
            "auroc": sk.roc_auc_score(labels, p),
            "accuracy": sk.accuracy_score(labels, p > 0.5),
            "auprc_trapezoid": sk.auc(recall, precision),
        }
    each = []
    for k in range(len(DISEASES)):
        seen = labels[:, k] != NOT_MENTIONED
        each.append(of_classes(labels[seen, k], p[seen, k]))
    expected = {name: np.mean([values[name] for values in each]) for name in each[0]}
    del expected["kappa"]
    for disease, values in zip(DISEASES, each, strict=True):
        expected[f"macro_f1[{disease}]"] = values["macro_f1"]
    return expected


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("task", list(Task))
def test_agrees_with_scikit_learn(task, ties):
    logits, labels = random_case(task, ties=ties)
    assert evaluate(task, logits, labels) == pytest.approx(
        by_scikit_learn(task, logits, labels), **EXACT
    )


@pytest.mark.parametrize("task", list(Task))
def test_a_resample_is_the_metric_of_the_repeated_samples(task):
    logits, labels = random_case(task, ties=True)
    rng = np.random.default_rng(1)
    subject = rng.integers(0, 40, len(labels))
    subject[:40] = np.arange(40)
    counts = rng.multinomial(40, np.full(40, 1 / 40), size=5).T.astype(float)
    names = metrics.TASK_METRICS[task]
    values = Scorer.of(task, logits, labels, subject).values(names, counts)
    for b in range(counts.shape[1]):
        repeated = np.repeat(np.arange(len(labels)), counts[subject, b].astype(int))
        expected = by_scikit_learn(task, logits[repeated], labels[repeated])
        assert dict(zip(names, values[:, b], strict=True)) == pytest.approx(expected, **EXACT)


@pytest.mark.parametrize("task", list(Task))
def test_order_of_samples_does_not_matter(task):
    logits, labels = random_case(task)
    order = np.random.default_rng(2).permutation(len(labels))
    assert evaluate(task, logits[order], labels[order]) == pytest.approx(
        evaluate(task, logits, labels), **EXACT
    )


@pytest.mark.parametrize("task", list(Task))
def test_every_task_has_its_selection_metric(task):
    assert SELECTION_METRIC[task] in metrics.TASK_METRICS[task]
    assert set(evaluate(task, *random_case(task))) == set(metrics.TASK_METRICS[task])


def test_one_class_leaves_ranking_undefined_but_not_accuracy():
    logits, _ = random_case(Task.MORTALITY, n=8)
    values = evaluate(Task.MORTALITY, logits, np.zeros(8, dtype=int))
    assert np.isnan(values["auroc"])
    assert np.isnan(values["auprc"])
    assert values["accuracy"] == np.mean(logits[:, 0] <= 0)


def test_macro_counts_a_missing_class_as_zero():
    logits = np.array([[9.0, 0, 0, 0], [0, 9, 0, 0]])
    values = evaluate(Task.LENGTH_OF_STAY, logits, np.array([0, 1]))
    assert values["macro_f1"] == 0.5
    assert values["accuracy"] == 1
    assert np.isnan(values["auroc"])


def test_kappa_is_undefined_when_all_is_one_class():
    logits = np.tile([9.0, 0, 0, 0], (5, 1))
    assert np.isnan(evaluate(Task.LENGTH_OF_STAY, logits, np.zeros(5, dtype=int))["kappa"])


def test_few_labels_keep_a_disease_out_of_ranking_only():
    task = Task.DISEASE_PROGRESSION
    logits, labels = random_case(task, n=300)
    few = labels.copy()
    few[np.flatnonzero(few[:, 0] == 1)[4:], 0] = NOT_MENTIONED
    assert metrics.ranked_diseases(few, 5) == list(DISEASES[1:])
    others = by_scikit_learn(task, logits, few)
    p = probabilities(task, logits)
    expected = []
    for k in range(1, 7):
        seen = few[:, k] != NOT_MENTIONED
        expected.append(of_classes(few[seen, k], p[seen, k])["auroc"])
    values = evaluate(task, logits, few, min_labels=5)
    assert values["auroc"] == pytest.approx(np.mean(expected), **EXACT)
    assert values["macro_f1"] == pytest.approx(others["macro_f1"], **EXACT)


def test_a_disease_without_labels_is_left_out_of_the_mean():
    task = Task.DISEASE_PROGRESSION
    logits, labels = random_case(task)
    labels[:, 6] = NOT_MENTIONED
    values = evaluate(task, logits, labels)
    assert np.isnan(values["macro_f1[pneumonia]"])
    each = [values[f"macro_f1[{disease}]"] for disease in DISEASES[:6]]
    assert values["macro_f1"] == pytest.approx(np.mean(each), **EXACT)


def test_no_label_at_all_is_undefined():
    task = Task.DISEASE_PROGRESSION
    values = evaluate(task, np.zeros((3, 21)), np.full((3, 7), NOT_MENTIONED))
    assert np.isnan(list(values.values())).all()


def test_a_diverged_run_is_undefined():
    logits, labels = random_case(Task.MORTALITY)
    logits[3] = np.nan
    assert np.isnan(list(evaluate(Task.MORTALITY, logits, labels).values())).all()


def test_stored_columns_are_read_in_numeric_order():
    task = Task.DISEASE_PROGRESSION
    logits, labels = random_case(task)
    columns = {f"logit_{k}": logits[:, k] for k in range(21)}
    columns |= {f"label_{k}": labels[:, k] for k in range(7)}
    shuffled = pd.DataFrame({name: columns[name] for name in sorted(columns)})
    assert evaluate_table(task, shuffled) == evaluate(task, logits, labels)


def test_probabilities_are_float64_and_sum_to_one():
    for task, n_axes in ((Task.DISEASE_PROGRESSION, 3), (Task.LENGTH_OF_STAY, 2)):
        p = probabilities(task, random_case(task)[0])
        assert p.dtype == np.float64
        assert p.ndim == n_axes
        np.testing.assert_allclose(p.sum(-1), 1, rtol=0, atol=1e-15)
