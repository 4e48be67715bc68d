"""Populations and raw files that several tests of the simulator share."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import simulate
from bench.simulating.populate import simulate_population
from bench.simulating.population import Population


@pytest.fixture(scope="session")
def small() -> Population:
    return simulate_population("small", seed=7)


@pytest.fixture(scope="session")
def tiny_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("raw") / "tiny"
    assert simulate.main(["--size", "tiny", "--out", str(out), "--film-size", "96"]) == 0
    return out
