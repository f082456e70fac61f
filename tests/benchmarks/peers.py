"""Peers: what benchmarks time beside mrscale, each with the same data.

``make bench`` installs them into an environment of their own, where mrscale is not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from measuring import Job, run_one

NUM_INSTRUMENTS, NUM_COVARIATES = 64, 20
WARM_UP = 2_000
IVMODELS, IVMODELS_WALD = "ivmodels, estimate alone", "ivmodels, estimate and Wald interval"
BATCH, BATCHES = 1024, 20
"""Of loaders that take a sample from all over the store for each batch, few are enough."""


def regression(num_people: int) -> tuple[np.ndarray, ...]:
    """Outcome, exposure, instruments and covariates, all float64."""
    rng = np.random.default_rng(0)
    z = rng.integers(0, 3, (num_people, NUM_INSTRUMENTS), dtype=np.int8).astype(np.float64)
    w = rng.normal(size=(num_people, NUM_COVARIATES))
    confounder = rng.normal(size=num_people)
    x = z @ rng.uniform(0, 0.1, NUM_INSTRUMENTS) + w[:, 0] + confounder
    x += rng.normal(size=num_people)
    y = 0.5 * x - confounder + w[:, 1] + rng.normal(size=num_people) * (0.5 + z[:, 0])
    return y, x, z, w


def prepared(fit: Callable[..., list[float]], num_people: int) -> Job:
    """A fit of that many people, after one of few."""
    fit(*regression(WARM_UP))
    return partial(fit, *regression(num_people))


def by_linearmodels(y: np.ndarray, x: np.ndarray, z: np.ndarray, w: np.ndarray) -> list[float]:
    """Estimate and its robust standard error."""
    from linearmodels.iv import IV2SLS

    fit = IV2SLS(y, np.column_stack([np.ones(len(y)), w]), x, z).fit(cov_type="robust")
    return [float(fit.params["endog"]), float(fit.std_errors["endog"])]


def by_ivmodels(y: np.ndarray, x: np.ndarray, z: np.ndarray, w: np.ndarray) -> list[float]:
    """Estimate; the package has no robust error."""
    from ivmodels import KClass

    return [float(KClass("tsls").fit(X=x[:, None], y=y, Z=z, C=w).coef_[0])]


def by_ivmodels_wald(y: np.ndarray, x: np.ndarray, z: np.ndarray, w: np.ndarray) -> list[float]:
    """Estimate, and what its classical interval takes (not compared)."""
    from ivmodels.tests import inverse_wald_test

    found = by_ivmodels(y, x, z, w)
    inverse_wald_test(Z=z, X=x[:, None], y=y, C=w, alpha=0.05, estimator="tsls")
    return found


def by_pyfixest(num_people: int) -> Job:
    """Estimate and its robust standard error, from a data frame, which is not timed."""
    import pyfixest

    def frame(num: int) -> pd.DataFrame:
        y, x, z, w = regression(num)
        columns = ["y", "x", *instruments, *covariates]
        return pd.DataFrame(np.column_stack([y, x, z, w]), columns=columns)

    def fit(data: pd.DataFrame) -> list[float]:
        formula = f"y ~ {' + '.join(covariates)} | x ~ {' + '.join(instruments)}"
        found = pyfixest.feols(formula, data, vcov="hetero", ssc=plain)
        return [float(found.coef()["x"]), float(found.se()["x"])]

    plain = pyfixest.ssc(k_adj=False, G_adj=False)  # HC0, as the others
    instruments = [f"z{i}" for i in range(NUM_INSTRUMENTS)]
    covariates = [f"w{i}" for i in range(NUM_COVARIATES)]
    fit(frame(WARM_UP))
    return partial(fit, frame(num_people))


def by_statsmodels(y: np.ndarray, x: np.ndarray, z: np.ndarray, w: np.ndarray) -> list[float]:
    """Associations of the exposure and of the outcome with each instrument, one regression each;
    the last coefficient and its error."""
    from statsmodels.regression.linear_model import OLS

    constant, found = np.ones(len(y)), []
    for instrument in z.T:
        design = np.column_stack([instrument, w, constant])
        for trait in (x, y):
            fit = OLS(trait, design).fit()
            found = [float(fit.params[0]), float(fit.bse[0])]
    return found


def by_xbatcher(path: str) -> Job:
    """Consecutive rows, as xbatcher cuts them, batches in random order; rows."""
    import xarray as xr
    from xbatcher import BatchGenerator

    dosage = xr.open_zarr(path, consolidated=True)["call_dosage"]
    made = BatchGenerator(dosage, {"samples": BATCH, "variants": dosage.sizes["variants"]})
    chosen = np.random.default_rng(0).permutation(len(made))[:BATCHES]
    return lambda: [float(sum(len(made[int(i)].to_numpy()) for i in chosen))]


def by_annbatch(path: str) -> Job:
    """One epoch of its loader with its defaults, runs of 512 rows in random order; rows."""
    import zarr
    from annbatch import Loader

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})  # as its page says
    made = Loader(batch_size=BATCH, shuffle=True, to=None, rng=np.random.default_rng(0))
    made.add_dataset(zarr.open_array(f"{path}/call_dosage", mode="r"))
    return lambda: [float(sum(len(batch["X"]) for batch in made))]


def random_rows(people: int) -> list[np.ndarray]:
    """Sorted random rows of some batches."""
    rng = np.random.default_rng(0)
    return [np.sort(rng.choice(people, BATCH, replace=False)) for _ in range(BATCHES // 4)]


def by_dask(path: str) -> Job:
    """Random batches by fancy indexing; rows."""
    import dask.array as da

    dosage = da.from_zarr(f"{path}/call_dosage")
    wanted = random_rows(dosage.shape[0])
    return lambda: [float(sum(len(dosage[rows].compute()) for rows in wanted))]


def by_zarr(path: str) -> Job:
    """Random batches by orthogonal indexing; rows."""
    import zarr

    dosage = zarr.open_array(f"{path}/call_dosage", mode="r")
    wanted = random_rows(dosage.shape[0])
    return lambda: [float(sum(len(dosage.oindex[rows, :]) for rows in wanted))]


JOBS: dict[str, Callable[[Any], Job]] = {
    "linearmodels": partial(prepared, by_linearmodels),
    IVMODELS: partial(prepared, by_ivmodels),
    IVMODELS_WALD: partial(prepared, by_ivmodels_wald),
    "pyfixest": by_pyfixest,
    "statsmodels": partial(prepared, by_statsmodels),
    "xbatcher": by_xbatcher,
    "annbatch": by_annbatch,
    "dask": by_dask,
    "zarr": by_zarr,
}


if __name__ == "__main__":
    run_one(JOBS)
