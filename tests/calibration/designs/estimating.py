"""Every estimator on every data set, with traits drawn again and again for the same encoders."""

from __future__ import annotations

import gzip
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from grid import Case
from threadpoolctl import threadpool_limits

from mrscale.config import Method
from mrscale.sampling.plan import blocks
from mrscale.simulate.designs import redraw_traits
from mrscale.train.encoder import Encoder
from mrscale.workflow.checks import check_latents
from mrscale.workflow.cohorts import ArrayCohort, fill_of
from mrscale.workflow.designs import PairData
from mrscale.workflow.latents import Encoders, Latents, encode_rows
from mrscale.workflow.pair import PairFits, fit_pair

FEATURES = 300
"""Random features of the regression behind R2."""
JUDGED = 6000
"""People R2 is taken on: half to fit, half to judge."""


def estimate(case: Case, work: Path, methods: Sequence[Method], redraws: int) -> None:
    """Write ``result.json.gz`` of one trained data set, unless it is there."""
    folder = work / case.key
    if (folder / "result.json.gz").exists():
        return
    torch.set_num_threads(1)
    with threadpool_limits(1):
        found = _result(case, folder, methods, redraws)
    partial = folder / "partial.json.gz"
    with gzip.open(partial, "wt") as file:
        json.dump(found, file)
    partial.rename(folder / "result.json.gz")


def _result(case: Case, folder: Path, methods: Sequence[Method], redraws: int) -> dict[str, Any]:
    began = time.process_time()
    data = case.draw()
    cohort = case.cohort(data, *redraw_traits(data, num_redraws=redraws))
    folds = int(cohort.arrays["fold"].max()) + 1
    encoders: Encoders = {
        method: [Encoder.load(folder / f"{method}-{fold}.safetensors") for fold in range(folds)]
        for method in methods
    }
    latents = Latents.unfilled(encoders, cohort.num_samples, {})
    for rows in blocks(cohort.num_samples, cohort.layout.chunk_rows):
        encode_rows(cohort, encoders, latents.arrays, rows)
    checks = check_latents(None, cohort, latents, encoders, case.seed)
    oracle = data["z_exogenous"].to_numpy()
    fits = [
        fit_pair(None, PairData(cohort, fill_of(cohort), False, r, r, latents, oracle), checks)
        for r in range(redraws)
    ]
    return {
        "name": case.name,
        "seed": case.seed,
        "design": dict(data.attrs),
        "blocks": folds,
        "factors": encoders[methods[0]][0].front.num_factors,
        **json.loads((folder / "trained.json").read_text()),
        "r2": {method: _recovered(latents, method, data, cohort) for method in methods},
        "checks": {method: asdict(check) for method, check in checks.items()},
        "redraws": [_redraw(one) for one in fits],
        "estimating_seconds": time.process_time() - began,
    }


def _redraw(fits: PairFits) -> dict[str, Any]:
    return {
        "estimates": {
            e.key: [e.estimate, e.std_error, e.ci_lower, e.ci_upper, e.first_stage_f, e.j_pvalue]
            for e in fits.estimates
        },
        "learned": [
            {
                "method": one.check.method,
                "first_stage_f": one.first_stage_f,
                "heterogeneity": asdict(one.heterogeneity),
                "overidentification": one.overidentification,
                "without_controls": one.without_controls,
                "from_rival": one.from_rival,
                "from_others": one.from_others,
            }
            for one in fits.learned
        ],
        "anderson_rubin": fits.anderson_rubin,
    }


def _recovered(
    latents: Latents, method: str, data: xr.Dataset, cohort: ArrayCohort
) -> tuple[float, float]:
    """R2 of the true z_I and of z_C given the learned latent, the mean over encoders."""
    fold, found = cohort.arrays["fold"], []
    for s, (latent, _) in enumerate(latents.of(method, slice(None))):
        rows = np.flatnonzero(fold != s)[:JUDGED]
        found.append(recovery(latent[rows], data.isel(samples=rows)))
    exogenous, confounded = np.mean(found, axis=0)
    return float(exogenous), float(confounded)


def recovery(given: np.ndarray, truth: xr.Dataset) -> tuple[float, float]:
    """Held-out R2 of the true z_I and of z_C, each the mean over its dimensions, of one ridge
    regression on smooth random functions of the latent."""
    targets = [truth[name].to_numpy() for name in ("z_exogenous", "z_confounded")]
    target = np.concatenate(targets, axis=1)
    rng = np.random.default_rng(0)
    given = (given - given.mean(0)) / given.std(0)
    scale = rng.choice([0.4, 1.0, 2.0], FEATURES) / math.sqrt(given.shape[1])
    waves = given @ (rng.standard_normal((given.shape[1], FEATURES)) * scale)
    features = np.cos(waves + rng.uniform(0, 2 * np.pi, FEATURES))
    features = np.concatenate([np.ones((len(given), 1)), given, features], axis=1)
    half = len(given) // 2
    a, b = features[:half], target[:half]
    gram = a.T @ a + 1e-4 * half * np.eye(features.shape[1])
    residual = target[half:] - features[half:] @ np.linalg.solve(gram, a.T @ b)
    found = 1 - residual.var(0) / target[half:].var(0)
    own = targets[0].shape[1]
    return float(found[:own].mean()), float(found[own:].mean())
