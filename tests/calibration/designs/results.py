"""What was measured, as tables: one row per estimate, and the verdict that the rule of today gives.

The verdict is taken anew from the checks that were stored, so that a change to the rule needs no
new fits.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
from grid import Case

from mrscale.stats.embedding import PermutationTest
from mrscale.stats.misfit import Misfit
from mrscale.stats.pooling import MetaAnalysis
from mrscale.workflow.checks import LatentCheck
from mrscale.workflow.judgement import RIVAL, LearnedFit, judge

FIGURES = ("estimate", "std_error", "lower", "upper", "first_stage_f", "j_pvalue")


def load(work: Path, cases: list[Case]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Estimates, one row per data set, redraw and estimator; verdicts, one per data set and redraw.

    Estimates have ``error``, ``share`` (absolute error over the bias of naive 2SLS, the mean of the
    data set) and ``covered``; both have the design's ``identified``.
    """
    estimates, verdicts = [], []
    for case in cases:
        path = work / case.key / "result.json.gz"
        if path.exists():
            with gzip.open(path, "rt") as file:
                found = json.load(file)
            estimates += _estimates(case, found)
            verdicts += _verdicts(case, found)
    if not estimates:
        return pd.DataFrame(), pd.DataFrame()
    table = pd.DataFrame(estimates)
    table["error"] = table["estimate"] - table["truth"]
    naive = table[table["key"] == "tsls"].groupby(["name", "seed"])["error"].mean().abs()
    table = table.join(naive.rename("naive"), on=["name", "seed"])
    table["share"] = table["error"].abs() / table["naive"]
    table["covered"] = (table["lower"] <= table["truth"]) & (table["truth"] <= table["upper"])
    said = pd.DataFrame(verdicts)
    at = ["name", "seed", "redraw"]
    headline = said.merge(table, left_on=[*at, "headline"], right_on=[*at, "key"])
    headline = headline[[*at, "headline", "estimate", "error", "share", "covered"]]
    said = said.merge(headline, on=[*at, "headline"])
    return table, said


def _estimates(case: Case, found: dict[str, Any]) -> list[dict[str, Any]]:
    about = {
        "name": case.name,
        "seed": case.seed,
        "identified": case.identified,
        "people": found["design"]["num_people"],
        "blocks": found["blocks"],
        "latent_dim": found["latent_dim"],
        "seconds": found["seconds"] + found["estimating_seconds"],
        "truth": found["design"]["effect"],
    }
    rows = []
    for redraw, one in enumerate(found["redraws"]):
        for key, figures in one["estimates"].items():
            r2 = found["r2"].get(key.removesuffix("_controls"), (float("nan"),) * 2)
            row = {**about, "redraw": redraw, "key": key, "r2_own": r2[0], "r2_other": r2[1]}
            rows.append(row | dict(zip(FIGURES, figures, strict=True)))
    return rows


def _verdicts(case: Case, found: dict[str, Any]) -> list[dict[str, Any]]:
    checks = {name: _check(stored) for name, stored in found["checks"].items()}
    rows = []
    for redraw, one in enumerate(found["redraws"]):
        fits = [_fit(stored, checks) for stored in one["learned"]]
        said = judge(fits)
        f = {fit.check.method: fit.first_stage_f for fit in fits}
        rows.append(
            {
                "name": case.name,
                "seed": case.seed,
                "identified": case.identified,
                "redraw": redraw,
                "trust": said.trust,
                "headline": said.headline,
                "rival": said.headline == RIVAL,
                "first_stage_f": f.get("flow", max(f.values())),
            }
        )
    return rows


def _check(stored: dict[str, Any]) -> LatentCheck:
    tests = {name: PermutationTest(**stored[name]) for name in ("invariance", "independence")}
    return LatentCheck(**stored | tests | {"misfit": Misfit(**stored["misfit"])})


def _fit(stored: dict[str, Any], checks: dict[str, LatentCheck]) -> LearnedFit:
    rest = {name: value for name, value in stored.items() if name != "method"}
    meta = MetaAnalysis(**stored["heterogeneity"])
    return LearnedFit(**rest | {"check": checks[stored["method"]], "heterogeneity": meta})
