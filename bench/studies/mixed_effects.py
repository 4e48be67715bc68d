"""Does a fit of the mixed-effects model recover the parameters that made the series?

python -m bench.studies.mixed_effects

Series of subjects with known parameters (omega .2, so that all of them can be told from 21 points)
are fitted from the publication's start, by FOCE and by Laplace. An error of 3 standard errors or
more is a bug. Prints Markdown for RESULTS.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from bench.arguments import positive
from bench.errors import Parser, run_command
from bench.simulating.image_longitudinal.fitting import Method, as_logs, fit
from bench.simulating.image_longitudinal.nlme import PARAMETERS, Nlme

TRUTH = Nlme(omega=(0.2, 0.2, 0.2))
METHODS: tuple[Method, ...] = ("foce", "laplace")
NAMES = [*(f"tv {p}" for p in PARAMETERS), *(f"omega {p}" for p in PARAMETERS), "sigma"]


def recovered(n_subjects: int, method: Method, seed: int) -> pd.DataFrame:
    """A row per parameter: truth, estimate, and the error of its logarithm in standard errors."""
    generator = np.random.default_rng(seed)
    eta = generator.standard_normal((n_subjects, 3)) * np.sqrt(TRUTH.omega)
    started = time.perf_counter()
    found = fit(TRUTH.simulate(eta, generator), method=method)
    truth = as_logs(TRUTH)
    return pd.DataFrame(
        {
            "method": method,
            "parameter": NAMES,
            "truth": np.exp(truth),
            "estimate": np.exp(found.log_estimate),
            "se of log": found.se,
            "error in se": (found.log_estimate - truth) / found.se,
            "minutes": (time.perf_counter() - started) / 60,
        }
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Fit and print."""
    parser = Parser(prog="python -m bench.studies.mixed_effects", description=__doc__)
    parser.add_argument("--subjects", type=positive, default=200, metavar="N")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--jobs", type=positive, default=2, metavar="N", help="fits at once")
    arg = parser.parse_args(argv)
    fits = Parallel(n_jobs=arg.jobs)(
        delayed(recovered)(arg.subjects, method, arg.seed) for method in METHODS
    )
    table = pd.concat(fits, ignore_index=True)
    print(table.to_markdown(index=False, floatfmt=".3f"))
    worst = table["error in se"].abs().max()
    print(f"\n{arg.subjects} subjects; the largest error is {worst:.2f} standard errors (below 3).")
    return int(worst >= 3)


if __name__ == "__main__":
    run_command(main)
