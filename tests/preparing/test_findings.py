"""Labels of single films, from the CheXpert file of their studies."""

from __future__ import annotations

import pytest

from bench.data.vocabulary import DISEASES
from bench.errors import UserError
from tests.preparing.raw_tree import CHEXPERT, RawTree, plain_tree, prepare


@pytest.fixture
def tree() -> RawTree:
    return plain_tree()


def label(tree: RawTree, film: str, **labels: float) -> None:
    """Write labels (underscores for spaces) into the row of a film's study."""
    position = list(tree.images).index(film)
    tree.rows[CHEXPERT][position].update(
        {name.replace("_", " "): value for name, value in labels.items()}
    )


def test_uncertain_counts_as_shown_and_blank_is_unknown(tree, tmp_path):
    label(tree, "a0", Atelectasis=1.0, Cardiomegaly=-1.0, Edema=0.0)
    cohort = prepare(tree, tmp_path)
    by_disease = dict(zip(DISEASES, cohort.arrays["findings"][0].tolist(), strict=True))
    assert by_disease == {
        **dict.fromkeys(DISEASES, -1),
        "atelectasis": 1,
        "enlarged cardiac silhouette": 1,
        "pulmonary edema": 0,
    }


def test_no_finding_means_that_none_is_shown(tree, tmp_path):
    label(tree, "a0", No_Finding=1.0)
    findings = prepare(tree, tmp_path).arrays["findings"]
    assert (findings[0] == 0).all()
    assert (findings[1] == -1).all()


def test_a_study_without_a_row_is_unknown(tree, tmp_path):
    label(tree, "a0", Edema=1.0)
    del tree.rows[CHEXPERT][1:]
    findings = prepare(tree, tmp_path).arrays["findings"]
    assert findings[0].max() == 1
    assert (findings[1:] == -1).all()


def test_another_number_is_refused_with_its_row(tree, tmp_path):
    label(tree, "b0", Edema=2.0)
    with pytest.raises(UserError, match=r"chexpert.csv, row 3, column Edema: 2.0 is not 1, 0, -1"):
        prepare(tree, tmp_path)


def test_a_column_that_is_missing_is_named(tree, tmp_path, monkeypatch):
    from tests.preparing import raw_tree

    monkeypatch.setitem(raw_tree.COLUMNS, CHEXPERT, ["study_id", "Edema", "No Finding"])
    with pytest.raises(UserError, match="has no column Atelectasis"):
        prepare(tree, tmp_path)
