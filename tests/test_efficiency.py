"""Counting multiply-adds, and Table 9 from what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from bench import efficiency
from bench.contract import Preset
from bench.errors import UserError
from bench.registry import METHODS, load_method
from methods.attention import Attention
from tables import table9


class Wrapped(nn.Module):
    """A module that gets its own arguments instead of a batch."""

    def __init__(self, module: nn.Module, *arguments: object) -> None:
        super().__init__()
        self.module, self.arguments = module, arguments

    def forward(self, batch: object) -> object:
        return self.module(*self.arguments)


def macs(module: nn.Module, *arguments: object) -> float:
    return efficiency.count_macs(Wrapped(module, *arguments), None)  # type: ignore[arg-type]


def test_linear_and_convolution():
    assert macs(nn.Linear(5, 7), torch.zeros(3, 5)) == 3 * 5 * 7
    assert macs(nn.Conv2d(2, 4, 3, padding=1), torch.zeros(1, 2, 8, 8)) == 8 * 8 * 9 * 2 * 4


def test_lstm_counts_every_weight_once_a_step():
    lstm = nn.LSTM(8, 16, num_layers=2, batch_first=True)
    weights = sum(w.numel() for name, w in lstm.named_parameters() if name.startswith("weight"))
    assert macs(lstm, torch.zeros(2, 5, 8)) == 2 * 5 * weights


def test_attention_counts_projections_and_products():
    d, n = 16, 6
    x = torch.zeros(1, n, d)
    valid = torch.ones(1, n, dtype=torch.bool)
    assert macs(Attention(d, 4), x, x, x, valid) == 4 * n * d * d + 2 * n * n * d


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ehr", [True, False])
def test_every_method_predicts_on_the_probe(method: str, ehr: bool):
    try:
        model = efficiency.build(method, ehr, Preset.DEMO)
    except UserError as refused:
        assert method in str(refused)
        return
    inputs = load_method(method).inputs
    batch = efficiency.probe_batch(inputs, ehr, Preset.DEMO, 2)
    assert torch.isfinite(model(batch).logits).all()
    assert efficiency.count_macs(model, batch) == pytest.approx(
        2 * efficiency.count_macs(model, efficiency.probe_batch(inputs, ehr, Preset.DEMO, 1)),
        rel=0.02,
    )


def test_the_table_is_made_of_what_was_measured(tmp_path: Path, capsys):
    place = ["--results", str(tmp_path)]
    with pytest.raises(UserError, match=r"bench\.efficiency"):
        table9.main(place)
    words = ["--method", "medfuse", "--preset", "demo", "--batch-size", "2"]
    assert efficiency.main([*words, *place]) == 0
    assert table9.main(place) == 0
    measured = json.loads((tmp_path / "efficiency.json").read_text())
    table = pd.read_csv(tmp_path / "tables" / "table9.csv")
    assert table["n_parameters"].tolist() == [row["n_parameters"] for row in measured]
    assert (table["flops"] == 2 * table["macs"]).all()
    with_ehr = table[table["ehr"]].iloc[0]
    assert (with_ehr["paper_parameters"], with_ehr["paper_macs"]) == (27.21, 8.28)
    assert table.loc[~table["ehr"], "paper_macs"].isna().all()
    printed = capsys.readouterr().out
    assert "MedFuse" in printed and "multiply-adds" in printed


def test_wrong_usage_names_the_nearest(tmp_path: Path):
    with pytest.raises(UserError, match="did you mean 'medfuse'"):
        efficiency.main(["--method", "medfus", "--results", str(tmp_path)])
