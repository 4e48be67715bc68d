"""A toy engine: every part is there and has seen a few films."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.simulating.pie.edit import Options
from bench.simulating.pie.engine import EngineConfig, load_engine

TOY = EngineConfig(
    seed=3, n_patients=4, n_calibration=4, autoencoder_steps=60, unet_steps=10, severity_steps=20,
    autoencoder_width=8, unet_width=16,
    options=Options(steps=2, strength=0.2, guidance=3.0, inference_steps=10),
)  # fmt: skip


@pytest.fixture(scope="session")
def toy() -> EngineConfig:
    return TOY


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the toy engine."""
    folder = tmp_path_factory.mktemp("engines")
    load_engine(TOY, 1, folder)
    return folder
