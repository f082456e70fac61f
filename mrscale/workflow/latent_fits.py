"""2SLS on learned instruments, for a chosen exposure, outcome and covariates of a store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from mrscale.config import Method
from mrscale.errors import InputError, RunError
from mrscale.progress import Advance, silent
from mrscale.results import Estimate
from mrscale.results.cohort import ESTIMATES
from mrscale.sampling.plan import blocks
from mrscale.store.reader import GenotypeStore
from mrscale.stream.engine import Client
from mrscale.stream.products import mean_dosage
from mrscale.workflow.designs import GENOTYPE, PairData
from mrscale.workflow.encoding import encoding_digest
from mrscale.workflow.fitting import (
    Fitted,
    FrameMoments,
    few_cases,
    fit,
    fit_within,
    frame_moments,
    in_several_clusters,
    may_be_shown,
    select,
    with_errors,
)
from mrscale.workflow.latents import Latents
from mrscale.workflow.runfolder import MARKER, RunFolder
from mrscale.workflow.subsets import (
    ALL_FEW_CASES,
    ALL_TOO_FEW,
    meta_table,
    with_the_others,
)


def latent_estimates(
    store: GenotypeStore,
    client: Client | None,
    run: str | Path,
    exposures: Sequence[str],
    outcome: str,
    covariates: Sequence[str],
    by: str | None,
    *,
    clustered: bool,
    progress: Advance = silent,
) -> tuple[dict[str, Any], dict[int, int]]:
    """2SLS on every latent instrument of a run, in two passes over the store.

    Returns
    -------
    dict of str to DataFrame
        Fields of a :class:`mrscale.results.cohort.CohortResult`; labels of ``estimates`` are the
        keys of a study's estimates. Environments by themselves: the first of linear,
        kernel and flow that the run trained, with the remainder as controls.
    dict of int to int
        People who have all the traits, by environment code.

    Raises
    ------
    InputError
        If several exposures are named, people are too few, or all of them are one cluster.
    RunError
        If the run has no latents of its encoders, or those of another store, or if they are made
        again meanwhile.
    """
    if len(exposures) != 1:
        raise InputError(
            "latent instruments take one exposure at a time; found "
            f"{len(exposures)}; estimate them one by one, or use instruments='genotype'"
        )
    folder = RunFolder(Path(run))
    latents = _latents(store, folder)
    made = folder.clocks().get("encode")
    data = PairData(
        store=store,
        fill=mean_dosage(store),
        drop_missing=False,
        exposure=store.names("exposures").index(exposures[0]),
        outcome=store.names("outcomes").index(outcome),
        latents=latents,
        oracle=None,
        covariates=tuple(covariates),
        clustered=clustered,
    )
    cuts = blocks(store.num_samples, store.layout.chunk_rows)
    moments = frame_moments(client, cuts, data, progress=progress)
    everybody, within = _shown(data, moments, by_environment=bool(by))
    fitted, _ = with_errors(client, cuts, data, [*everybody, *within], progress=progress)
    if folder.clocks().get("encode") != made:
        raise RunError(
            f"the latents in {run} were made again while they were read; when that has ended, run "
            "the same command again"
        )
    people = {code: found.count for (frame, code), found in moments.items() if frame == GENOTYPE}
    count = select(moments, GENOTYPE).count
    names = store.names("environments")
    table = [one.result(count, label=one.estimator.key) for one in fitted[: len(everybody)]]
    inside = [
        one.result(people[one.environments[0]], label=names[one.environments[0]])
        for one in fitted[len(everybody) :]
    ]
    by_environment = _rows(inside, exposures[0])
    meta = meta_table(by_environment)
    if by:
        by_environment = with_the_others(by_environment, names, exposures, people)
    tables: dict[str, Any] = {
        "estimates": _rows(table, exposures[0]),
        "by_environment": by_environment,
        "meta": meta,
    }
    return tables, people


def _shown(
    data: PairData, moments: FrameMoments, *, by_environment: bool
) -> tuple[list[Fitted], list[Fitted]]:
    """Fits on the latents of everybody, and within environments if asked, that may be shown."""
    learned = {one.key: one for one in data.estimators() if one.frames != (GENOTYPE,)}
    everybody = [fit(moments, one) for one in learned.values()]
    if few_cases(moments):
        raise InputError(ALL_FEW_CASES)
    sizes = np.bincount(data.store.array("environment"), minlength=len(data.fill))
    if not all(may_be_shown(one, moments, sizes) for one in everybody):
        raise InputError(ALL_TOO_FEW)
    within: list[Fitted] = []
    if by_environment:
        controlled = learned[f"{data.latents.methods[0]}_controls"]
        found = fit_within(moments, controlled, range(len(data.fill)))
        within = [one for one in found if may_be_shown(one, moments, sizes)]
    everybody, within = in_several_clusters(data, [everybody, within])
    return everybody, within


def _rows(estimates: Sequence[Estimate], exposure: str) -> pd.DataFrame:
    fields = [name for name in ESTIMATES if name != "exposure"]
    rows = [{name: getattr(one, name) for name in fields} for one in estimates]
    return pd.DataFrame(rows, columns=fields).assign(exposure=exposure)[list(ESTIMATES)]


def _latents(store: GenotypeStore, folder: RunFolder) -> Latents:
    run, marker = folder.path, folder.path / MARKER
    trained = folder.done("train")
    applied = trained and folder.done("encode") == encoding_digest(trained)
    if not applied or not marker.is_file():
        raise RunError(
            f"{run} must be a run folder whose encoders are trained and applied; found no latents "
            "of its encoders in it; run mrscale train and mrscale encode first"
        )
    if json.loads(marker.read_text()).get("genotypes") != store.genotype_digest:
        raise RunError(
            f"the latents in {run} are those of another genotype store; name the store that they "
            "were made from, or train on this one"
        )
    return Latents.open(folder.latents, get_args(Method))
