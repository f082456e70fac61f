"""Running an experiment: what is finished stays, and tables and figures of all there is."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mrscale import places
from mrscale.experiments.cases import Case
from mrscale.experiments.estimators import ESTIMATORS, estimate
from mrscale.plots.boxes import boxes
from mrscale.progress import bar
from mrscale.provenance import digest
from mrscale.report.figures import save
from mrscale.stream.spread import spread

RESULTS, TABLE, FIGURE = "results.parquet", "table.tsv", "estimates.svg"


def run(
    cases: Sequence[Case], out: Path, *, scheduler: str | None = None, quiet: bool = False
) -> pd.DataFrame:
    """Estimate every data set that is not in the folder yet, then gather them.

    Parameters
    ----------
    cases : sequence of Case
    out : Path
        Folder: ``results.parquet`` (a row per data set and estimator, in the order of ``cases``),
        ``table.tsv`` (:func:`summarise`), ``estimates.svg`` (box plots), and ``cases/``, a file for
        each data set, by which an interrupted run goes on.
    scheduler : str, optional
        Of a Dask cluster; without one, a process for each core of this machine.
    quiet : bool, default False

    Returns
    -------
    DataFrame
        Columns as in :func:`mrscale.experiments.estimators.estimate`.
    """
    places.require_writable(out)
    files = {case: out / "cases" / _file_name(case) for case in cases}
    missing = [case for case, file in files.items() if not file.exists()]
    with bar("Estimating data sets", len(cases), quiet=quiet) as progress:
        progress(len(cases) - len(missing))
        for case, table in spread(estimate, missing, scheduler=scheduler):
            _write(files[case], table)
            progress(1, note=f"{case.design}, seed {case.seed}")
    results = pd.concat([pd.read_parquet(file) for file in files.values()], ignore_index=True)
    _write(out / RESULTS, results)
    summary = summarise(results)
    places.write_bytes(out / TABLE, summary.to_csv(sep="\t", index=False).encode())
    drawn = results.assign(error=results["estimate"] - results["effect"])
    with places.replacing(out / FIGURE) as handle:
        save(boxes(drawn, "error", labels=ESTIMATORS, reference=0), handle, "svg")
    return results


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """A row for each design and estimator.

    Returns
    -------
    DataFrame
        ``design``, ``estimator``, ``sets``, ``bias`` (mean error) and ``monte_carlo_error`` (sd
        over the root of ``sets``), ``median_error`` (absolute), ``rmse``, ``covered`` (share of
        nominal 95 % intervals), ``first_stage_f`` (median), ``green`` (share of learned estimates
        with that trust). Data sets to which an estimator does not apply are left out.
    """
    rows = []
    for (design, estimator), group in results.groupby(["design", "estimator"], sort=False):
        group = group.dropna(subset="estimate")
        if group.empty:
            continue
        error = group["estimate"] - group["effect"]
        inside = (group["ci_lower"] <= group["effect"]) & (group["effect"] <= group["ci_upper"])
        rows.append(
            {
                "design": design,
                "estimator": estimator,
                "sets": len(error),
                "bias": error.mean(),
                "monte_carlo_error": error.std() / math.sqrt(len(error)),
                "median_error": error.abs().median(),
                "rmse": math.sqrt((error**2).mean()),
                "covered": inside.mean(),
                "first_stage_f": _median(group["first_stage_f"]),
                "green": (group["trust"] == "green").mean(),
            }
        )
    return pd.DataFrame(rows)


def _median(values: pd.Series) -> float:
    """NaN, without a warning, where an estimator has no such number."""
    return float(values.median()) if values.notna().any() else math.nan


def _file_name(case: Case) -> str:
    """Names people can read; the digest tells apart what they do not say."""
    words = re.sub(r"\W+", "-", case.design).strip("-")
    return f"{words}-{case.seed}-{digest(repr(case))[:12]}.parquet"


def _write(file: Path, table: pd.DataFrame) -> None:
    with places.writing(file), places.replacing(file) as handle:
        table.to_parquet(handle, index=False)
