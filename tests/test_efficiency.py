"""Counting multiply-adds, and Table 9 from what was measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from bench import efficiency
from bench.contract import Preset
from bench.errors import UserError
from bench.registry import METHODS, load_method
from bench.store import Store
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


@pytest.mark.parametrize(
    ("method", "overrides", "expected"),
    [
        ("medfuse", (), 8.24),
        ("drfuse", (), 16.37),
        # At the released codes' 256 px the paper has 9.45 and, without attention's products, 19.95.
        ("sdpl", (("model.film_size", "256"),), 9.46),
        ("chexrelformer", (("model.film_size", "256"),), 20.34),
    ],
)
def test_multiply_adds_of_the_papers_sizes(method: str, overrides, expected: float):
    # On no memory: they follow from shapes alone.
    with torch.device("meta"):
        model = efficiency.build(method, True, Preset.PAPER, overrides)
    batch = efficiency.probe_batch(load_method(method).inputs, True, Preset.PAPER, 1)
    assert efficiency.count_macs(model, batch.to("meta")) / 1e9 == pytest.approx(expected, abs=0.01)


def row(method: str, ehr: bool = True, **changes: Any) -> efficiency.Efficiency:
    """A measurement with made-up numbers."""
    found = efficiency.Efficiency(
        method=method, title=method, ehr=ehr, preset="paper", device="cpu, x86_64", threads=1,
        torch="2.11", n_parameters=1, macs=1.0, flops=2.0, latency_ms=1.0, latency_low_ms=1.0,
        latency_high_ms=1.0, samples_per_s=1.0, batch_size=2, peak_memory_mb=1.0,
    )  # fmt: skip
    return replace(found, **changes)


class TestMerging:
    def test_a_new_measurement_takes_the_place_of_its_like_only(self):
        rows: list[efficiency.Efficiency] = []
        others = [{"threads": 2}, {"preset": "demo"}, {"device": "cuda"}, {"batch_size": 8}]
        for changes in ({}, *others, {"ehr": False}, {"overrides": "model.film_size=256"}):
            rows = efficiency.merged(rows, row("sdpl", **changes))
        assert len(rows) == 7
        rows = efficiency.merged(rows, row("dipro"))
        assert [r.method for r in rows] == ["dipro", *["sdpl"] * 7]
        rows = efficiency.merged(rows, row("sdpl", latency_ms=5.0))
        assert len(rows) == 8
        assert [r.threads for r in rows if r.latency_ms == 5] == [1]

    @pytest.fixture
    def measuring(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
        """Measure nothing, and remember what was asked for; SDPL without EHR is a kill."""
        asked: list[tuple[str, bool]] = []
        name = efficiency.environment.device_name(torch.device("cpu"))

        def measure(setting: tuple[Any, ...]) -> efficiency.Efficiency:
            method, ehr, *_, overrides = setting
            asked.append((method, ehr))
            if (method, ehr) == ("sdpl", False):
                raise KeyboardInterrupt
            words = " ".join(f"{name}={text}" for name, text in overrides)
            return row(method, ehr, device=name, overrides=words)

        monkeypatch.setattr(efficiency, "_in_new_process", measure)
        return asked

    def test_calls_add_up_and_a_kill_keeps_what_was_measured(self, measuring, tmp_path: Path):
        place = ["--device", "cpu", "--results", str(tmp_path)]
        file = Store(tmp_path).efficiency
        assert efficiency.main(["--method", "medfuse", *place]) == 0
        with pytest.raises(KeyboardInterrupt):
            efficiency.main(["--method", "utde", "sdpl", *place])
        found = [(r.method, r.ehr) for r in efficiency.measured(file)]
        assert found == [("medfuse", False), ("medfuse", True), ("utde", True)]
        measuring.clear()
        assert efficiency.main(["--method", "medfuse", "utde", "drfuse", "--missing", *place]) == 0
        assert measuring == [("drfuse", True)]

    def test_changed_sizes_are_rows_of_their_own(self, measuring, tmp_path: Path, capsys):
        place = ["--device", "cpu", "--results", str(tmp_path)]
        for words in ([], ["--set", "model.hidden=64"]):
            assert efficiency.main(["--method", "medfuse", *words, *place]) == 0
        assert table9.main(["--results", str(tmp_path)]) == 0
        printed = capsys.readouterr().out
        assert "Changed" in printed and "model.hidden=64" in printed
        assert "Threads  " not in printed

    def test_wrong_usage_measures_nothing(self, measuring, tmp_path: Path):
        place = ["--results", str(tmp_path)]
        for words, says in {
            ("--method", "medfuse", "--set", "model.hiden=64"): "did you mean 'hidden'",
            ("--method", "medfuse", "--set", "training.lr=1"): "model.FIELD=VALUE",
        }.items():
            with pytest.raises(UserError, match=says):
                efficiency.main([*words, *place])
        Store(tmp_path).efficiency.write_text("{")
        with pytest.raises(UserError, match="delete it and measure again"):
            efficiency.main(["--method", "medfuse", *place])
        assert measuring == []


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
