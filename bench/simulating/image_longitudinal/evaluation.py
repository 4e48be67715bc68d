"""The paper's downstream check: how well do random effects from five sources explain the series?

true: what made the series; image: estimated from the film by a network that learned the estimates
of other subjects; EBE: estimated from the series; population: 0; random: drawn from the prior.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from bench.simulating.image_longitudinal.association import ceiling
from bench.simulating.image_longitudinal.image_model import fit_image_model, predict
from bench.simulating.image_longitudinal.nlme import Nlme
from bench.simulating.image_longitudinal.pairs import Pairs

SOURCES: Final = ("true", "EBE", "image", "population", "random")
N_RESAMPLES: Final = 1000


@dataclass(frozen=True)
class Evaluation:
    """What the check found on test subjects.

    v: variance of the noise between film and series
    estimates: by source, float64 [N, 3]; `EBE` is what `image` is judged by
    series_mse, nll: by source, float64 [N], on a second reading of each subject's series
    ebe_shares: float64 [3]; share of the variance of the true effects that the EBE explain
    retest: float64 [3]; correlation of the EBE of the two readings
    explained: float64 [3]; R² of `image` against the EBE; explained_se: by bootstrap
    """

    v: float
    estimates: dict[str, np.ndarray]
    series_mse: dict[str, np.ndarray]
    nll: dict[str, np.ndarray]
    ebe_shares: np.ndarray
    retest: np.ndarray
    explained: np.ndarray
    explained_se: np.ndarray

    @property
    def ceilings(self) -> np.ndarray:
        """R² that no image model exceeds against the EBE, [3].

        A function of eta explains at most the share of an estimate's variance that is no residual
        noise, and a function of z at most 1 / (1 + v) of that (Gebelein's inequality).
        """
        return self.retest * ceiling(self.v)


def evaluate(
    train: Pairs,
    test: Pairs,
    v: float,
    model: Nlme | None = None,
    n_epochs: int = 20,
    seed: int = 0,
) -> Evaluation:
    """Train the image model on `train` and compare the five sources on `test`."""
    model = model or Nlme()
    network = fit_image_model(train.films, model.ebe(train.series), n_epochs, seed)
    ebe = model.ebe(test.series)
    truth = test.eta * np.sqrt(model.omega)
    rng = np.random.default_rng(seed)
    estimates = {
        "true": truth,
        "EBE": ebe,
        "image": predict(network, test.films),
        "population": np.zeros_like(ebe),
        "random": rng.standard_normal(ebe.shape) * np.sqrt(model.omega),
    }
    # A second reading: the EBE have seen the noise of the first.
    again = test.again
    explained, se = r_squared(estimates["image"], ebe, rng)
    return Evaluation(
        v=v,
        estimates=estimates,
        series_mse={
            k: ((model.predict(eta) - again) ** 2).mean(axis=-1) for k, eta in estimates.items()
        },
        nll={k: model.conditional_nll(again, eta) for k, eta in estimates.items()},
        ebe_shares=_correlations(ebe, truth) ** 2,
        retest=_correlations(ebe, model.ebe(again)),
        explained=explained,
        explained_se=se,
    )


def _correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of columns [N, K], [K]."""
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(x.T, y.T, strict=True)])


def r_squared(
    predicted: np.ndarray, truth: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """1 - SSE / SST of each column [K], and its standard error over resampled subjects [K]."""
    counts = rng.multinomial(len(truth), np.full(len(truth), 1 / len(truth)), N_RESAMPLES)
    weights = np.concatenate([np.ones((1, len(truth))), counts])
    mean = weights @ truth / len(truth)
    total = weights @ truth**2 - len(truth) * mean**2
    values = 1 - weights @ (predicted - truth) ** 2 / total
    return values[0], values[1:].std(axis=0)


def table(evaluation: Evaluation) -> pd.DataFrame:
    """A row a source: error of the effects, of the series, and the series' -log p."""
    ebe = evaluation.estimates["EBE"]
    return pd.DataFrame(
        {
            "source of effects": source,
            "MSE against EBE": ((evaluation.estimates[source] - ebe) ** 2).mean(),
            "MSE of the series": evaluation.series_mse[source].mean(),
            "-log p(series)": evaluation.nll[source].mean(),
            "its median": np.median(evaluation.nll[source]),
        }
        for source in SOURCES
    )


def ceiling_table(evaluation: Evaluation, names: tuple[str, ...]) -> pd.DataFrame:
    """A row an effect: what the image model explains, and both ceilings."""
    return pd.DataFrame(
        {
            "effect": names,
            "R² of image": evaluation.explained,
            "standard error": evaluation.explained_se,
            "ceiling 1/(1+v)": ceiling(evaluation.v),
            "EBE explain of truth": evaluation.ebe_shares,
            "retest of EBE": evaluation.retest,
            "ceiling against EBE": evaluation.ceilings,
            "R² / ceiling": evaluation.explained / evaluation.ceilings,
        }
    )
