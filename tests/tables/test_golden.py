"""The mini store gives exactly the committed tables."""

import pytest

from tests.tables.mini_store import GOLDEN, golden_files


def test_mini_store_gives_the_committed_tables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = golden_files()
    assert sorted(texts) == sorted(path.name for path in GOLDEN.glob("table2*"))
    for name, text in texts.items():
        assert text == (GOLDEN / name).read_text(), (
            f"{name} changed; if it should, write it anew: python -m tests.tables.mini_store"
        )


@pytest.mark.parametrize("name", ["table2.txt", "table2.md", "table2.tex"])
def test_every_printed_table_says_simulated(name):
    text = " ".join((GOLDEN / name).read_text().split())
    assert "SIMULATED DATA" in text.split("MedFuse")[0]
    assert "say nothing about MIMIC" in text
    assert "Conditional on the trained models" in text
