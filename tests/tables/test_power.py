"""Detectable differences: the formula, the simulated power, and the command."""

import math

import numpy as np
import pandas as pd
import pytest

from bench.data.vocabulary import Task
from bench.errors import UserError
from bench.store import Store
from tables import power
from tables.definitions import DIPRO, Setting, request
from tables.power import detectable, meaning, summarise, with_detectable
from tables.runs import Selection
from tests.tables.mini_store import MINI, SEEDS, fill, write_run


def test_known_values():
    # (1.959964 + 0.841621) standard errors for one comparison.
    assert detectable(1.0, 1) == pytest.approx(2.801585, abs=1e-6)
    assert detectable(0.02, 1) == pytest.approx(0.0560317, abs=1e-7)
    assert detectable(1.0, 5) == pytest.approx(2.575829 + 0.841621, abs=1e-6)


def test_more_comparisons_need_a_larger_difference():
    found = [detectable(0.01, m) for m in range(1, 12)]
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_nothing_is_said_without_an_error():
    assert math.isnan(detectable(math.nan, 3))
    assert math.isnan(detectable(0.0, 3))


def test_a_detectable_difference_is_found_four_times_in_five():
    rng, m, error = np.random.default_rng(3), 6, 0.03
    z = rng.normal(detectable(error, m), error, 20_000) / error
    # The other comparisons show nothing: Holm compares with level / m.
    found = 2 * (1 - power.norm.cdf(np.abs(z))) < 0.05 / m
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def differences(errors: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "task": "mortality",
            "drop_ehr": 0.0,
            "metric": "auroc",
            "row": [f"row{k}" for k in range(len(errors))],
            "difference": -0.1,
            "standard_error": errors,
            "p_adjusted": [0.01, *[0.4] * (len(errors) - 1)],
            "n_comparisons": len(errors),
        }
    )


def test_summary_of_a_column():
    (column,) = summarise(with_detectable(differences([0.02, 0.01, math.nan]))).to_dict("records")
    assert (column["n_comparisons"], column["n_computed"], column["n_significant"]) == (3, 2, 1)
    assert column["smallest"] == pytest.approx(detectable(0.01, 3))
    assert column["largest"] == pytest.approx(detectable(0.02, 3))
    assert column["largest_observed"] == pytest.approx(0.1)
    said = meaning(pd.DataFrame([column]), "dipro-long")
    assert f"differed from dipro-long by {column['largest']:.3f}" in said
    assert "80%" in said


def test_a_table_without_errors_says_so():
    assert "nothing" in meaning(summarise(with_detectable(differences([math.nan]))), "dipro-long")


@pytest.fixture
def place(cohort, tmp_path):
    """Arguments that name a cohort on disk and a store with some runs of table 2."""
    results = tmp_path / "results"
    fill(Selection(cohort, Store(results), "demo", SEEDS), MINI)
    return ["--cohort", str(cohort.path), "--results", str(results)]


def test_command_prints_and_writes(place, tmp_path, capsys):
    assert power.main(["--table", "table2", *place, "--resamples", "200"]) == 0
    printed = capsys.readouterr().out
    assert "would have been detected (SIMULATED DATA)" in printed
    assert "differences to DiPro that" in printed
    assert "3 seeds (23, 29, 66)" in printed
    assert "Warning" in printed  # 9 comparisons and 200 resamples: no p reaches 0.05
    table = pd.read_csv(tmp_path / "results" / "tables" / "table2_power.csv")
    ratio = table["detectable"] / table["standard_error"]
    assert ratio.dropna().to_numpy() == pytest.approx(detectable(1.0, 9), rel=1e-3)
    assert table["detectable"].notna().sum() == 3 * 4


def test_wrong_usage_is_refused(place):
    with pytest.raises(UserError, match="did you mean 'table2'"):
        power.main(["--table", "tabel2", *place])
    with pytest.raises(UserError, match="did you mean 'dipro-long'"):
        power.main(["--table", "table2", *place, "--reference", "dipro"])


def test_without_a_pair_of_runs_nothing_is_written(cohort, tmp_path):
    results = tmp_path / "results"
    selection = Selection(cohort, Store(results), "demo", SEEDS)
    arguments = ["--table", "table2", "--cohort", str(cohort.path), "--results", str(results)]
    next_command = r"python -m bench\.sweep --table table2"
    with pytest.raises(UserError, match=next_command):
        power.main(arguments)
    # The reference alone, and another row with another seed, tell no two rows apart.
    write_run(selection, request(DIPRO, Setting(Task.MORTALITY), SEEDS[0], "demo"))
    other = next(row for row in MINI.rows if row != DIPRO)
    write_run(selection, request(other, Setting(Task.MORTALITY), SEEDS[1], "demo"))
    with pytest.raises(UserError, match=f"dipro-long and of another row .* {next_command}"):
        power.main(arguments)
    assert not (results / "tables").exists()
