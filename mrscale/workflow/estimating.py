"""The estimate stage: every estimator of every exposure and outcome, with its checks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrscale.config import Method, Study
from mrscale.errors import InputError
from mrscale.progress import Advance, bar
from mrscale.provenance import Clock, digest, fingerprint, software_versions
from mrscale.report import load_result, write_report
from mrscale.results import Estimate, PairResult, StudyResult
from mrscale.sampling.plan import blocks
from mrscale.stats.iv import reduced_pair
from mrscale.stats.pooling import MetaAnalysis, interval, meta_analysis
from mrscale.stats.weak import anderson_rubin
from mrscale.store.reader import GenotypeStore, open_store
from mrscale.stream.engine import Client, engine
from mrscale.stream.products import mean_dosage
from mrscale.train.encoder import Encoder
from mrscale.workflow.designs import GENOTYPE, Estimator, PairData, true_latents
from mrscale.workflow.encoding import encoding_digest, load_encoders
from mrscale.workflow.fitting import (
    Fitted,
    FrameMoments,
    fit,
    fit_within,
    frame_moments,
    misfits,
    select,
    with_errors,
)
from mrscale.workflow.judgement import LearnedFit, judge
from mrscale.workflow.runfolder import RunFolder
from mrscale.workflow.training import (
    require_more_people_than_instruments,
    training_digest,
    typical_invariant,
)


@dataclass(frozen=True)
class Truth:
    """What the simulation knows: effect, latents file, names of the exogenous latents."""

    effect: float
    latents: Path
    exogenous: list[str]

    @classmethod
    def load(cls, file: str) -> Truth:
        """Read the ``truth.json`` of a simulation."""
        path = Path(file)
        if not path.is_file():
            raise InputError(
                f"[simulation] truth: no such file {path}; "
                "remove the section if the data are not simulated"
            )
        try:
            content = json.loads(path.read_text())
            latents = content["latents"]
            return cls(content["effect"], path.parent / latents["file"], latents["exogenous"])
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"[simulation] truth must be a truth.json that mrscale simulate wrote; {path} is "
                "not one; name another, or remove the section if the data are not simulated"
            ) from None


def estimate(study: Study, *, quiet: bool = False) -> StudyResult:
    """Estimate every exposure on every outcome; writes ``result.json`` and ``estimates.tsv``.

    Learned instruments are used if the encode stage is done for these settings; the other
    estimators need the genotype store only.

    Raises
    ------
    InputError
        If there are as many instruments as people, or a trait does not allow an estimate.
    """
    clock = Clock()
    store = open_store(study.store_path)
    require_more_people_than_instruments(store)
    folder = RunFolder.claim(study)
    folder.bind(store.genotype_digest)
    encoders = _finished_encoders(study, store, folder)
    identity = _digest(study, store, encoders)
    if folder.done("estimate") == identity:
        return load_result(folder.result)
    folder.reopen("estimate")
    truth = Truth.load(study.simulation.truth) if study.simulation else None
    oracle = true_latents(store, truth.latents, truth.exogenous) if truth else None
    effect = truth.effect if truth else None
    fill, methods = mean_dosage(store), tuple(encoders)
    drop = study.genotypes.missing == "drop"
    latents = str(folder.latents) if encoders else None
    exposures, outcomes = store.names("exposures"), store.names("outcomes")
    pairs = []
    with (
        engine(study.scheduler) as client,
        bar("Estimating", 3 * len(exposures) * len(outcomes), quiet=quiet) as progress,
    ):
        for x in range(len(exposures)):
            for y in range(len(outcomes)):
                data = PairData(store, fill, drop, x, y, latents, methods, oracle)
                pairs.append(_pair(client, data, encoders, study.seed, effect, progress))
    result = _study_result(study, store, pairs, encoders, identity)
    write_report(result, folder.path, clock=folder.clocks() | {"estimate": clock.record()})
    folder.finish("estimate", identity, clock)
    return load_result(folder.result)


def _finished_encoders(
    study: Study, store: GenotypeStore, folder: RunFolder
) -> dict[Method, list[Encoder]]:
    trained = training_digest(study, store)
    done = folder.done("train") == trained and folder.done("encode") == encoding_digest(trained)
    return load_encoders(study, folder) if done else {}


def _digest(study: Study, store: GenotypeStore, encoders: dict[Method, list[Encoder]]) -> str:
    truth = fingerprint(study.simulation.truth) if study.simulation else None
    learned = training_digest(study, store) if encoders else None
    return digest(
        ["estimate", store.digest, learned, truth, study.genotypes.missing, study.seed, study.name]
    )


def _pair(
    client: Client,
    data: PairData,
    encoders: dict[Method, list[Encoder]],
    seed: int,
    effect: float | None,
    progress: Advance,
) -> PairResult:
    store = data.store
    cuts = blocks(store.num_samples, store.layout.chunk_rows)
    moments = frame_moments(client, cuts, data, progress=progress)
    estimators = {one.key: one for one in data.estimators()}
    num_obs = select(moments, GENOTYPE).count
    environments = range(len(data.fill))
    inside = [estimators["tsls"], *(estimators[f"{m}_controls"] for m in data.methods)]
    fitted = [fit(moments, one) for one in estimators.values()]
    for one in inside:
        fitted += fit_within(moments, one, environments)
    fitted = with_errors(client, cuts, data, fitted, progress=progress)
    by_key = {one.estimator.key: one for one in fitted[: len(estimators)]}
    by_environment = _grouped(fitted[len(estimators) :])
    checks = misfits(client, cuts, data, seed, progress=progress) if data.methods else {}
    learned = [
        LearnedFit(
            method=method,
            first_stage_f=by_key[f"{method}_controls"].first_stage_f,
            misfit=checks[method],
            heterogeneity=_meta(by_environment.get(f"{method}_controls", [])),
            remainder_dim=data.latent_shape[method][2],
            num_environments=len(environments),
            invariant=typical_invariant([e.story["invariant"] for e in encoders[method]]),
            latent_dim=data.latent_shape[method][1],
        )
        for method in data.methods
    ]
    verdict = judge(learned)
    naive, names = by_environment.get("tsls", []), store.names("environments")
    estimates = [one.result(num_obs) for one in by_key.values()]
    if naive:
        used = sum(moments[GENOTYPE, one.environment].count for one in naive)
        estimates.insert(3, _meta_result(naive, used, len(environments)))
    return PairResult(
        exposure=store.names("exposures")[data.exposure],
        outcome=store.names("outcomes")[data.outcome],
        estimates=tuple(estimates),
        headline=verdict.headline,
        trust=verdict.trust,
        reasons=verdict.reasons,
        diagnostics=verdict.diagnostics,
        per_environment=tuple(
            one.result(
                moments[GENOTYPE, one.environment].count,
                key=names[one.environment],
                label=names[one.environment],
            )
            for one in naive
        ),
        anderson_rubin=_anderson_rubin(moments, estimators["tsls_pc"]),
        truth=effect,
    )


def _grouped(fitted: list[Fitted]) -> dict[str, list[Fitted]]:
    groups: dict[str, list[Fitted]] = {}
    for one in fitted:
        groups.setdefault(one.estimator.key, []).append(one)
    return groups


def _meta(fitted: list[Fitted]) -> MetaAnalysis:
    estimates = np.array([one.estimate for one in fitted])
    return meta_analysis(estimates, np.array([one.std_error for one in fitted]))


def _anderson_rubin(moments: FrameMoments, rival: Estimator) -> tuple[tuple[float, float], ...]:
    selected = select(moments, GENOTYPE).select(rival.columns)
    return anderson_rubin(reduced_pair(selected, len(rival.instruments))[0]).intervals


def _meta_result(within: list[Fitted], num_obs: int, num_environments: int) -> Estimate:
    """Naive 2SLS inside the environments that allow it, pooled by inverse variance."""
    pooled = _meta(within)
    lower, upper, pvalue = interval(pooled.estimate, pooled.std_error)
    return Estimate(
        key="meta",
        label="2SLS within environments, meta-analysed",
        estimate=pooled.estimate,
        std_error=pooled.std_error,
        ci_lower=lower,
        ci_upper=upper,
        pvalue=pvalue,
        num_obs=num_obs,
        num_instruments=min(fit.num_instruments for one in within for fit in one.fits),
        first_stage_f=min(one.first_stage_f for one in within),
        note="First-stage F is that of the weakest environment."
        + (
            f" Only {len(within)} of {num_environments} environments have people enough for this "
            "many instruments."
            if len(within) < num_environments
            else ""
        ),
    )


def _study_result(
    study: Study,
    store: GenotypeStore,
    pairs: list[PairResult],
    encoders: dict[Method, list[Encoder]],
    identity: str,
) -> StudyResult:
    manifest = store.manifest
    return StudyResult(
        name=study.name,
        pairs=tuple(pairs),
        environments=manifest["environments"],
        num_people=store.num_samples,
        num_variants=store.num_variants,
        missing_rate=manifest["missing_rate"],
        missing=study.genotypes.missing,
        variants=manifest["variants"],
        people=dict(manifest["people"]),
        encoders={method: _encoder_story(trained) for method, trained in encoders.items()},
        provenance={
            "command": "mrscale run study.toml",
            "seed": study.seed,
            "store": store.digest,
            "extraction": manifest["provenance"]["settings"],
            "encoder": study.encoder.model_dump(mode="json", exclude={"ranks"}),
            "estimate": identity,
            "software": software_versions(),
        },
    )


def _encoder_story(trained: list[Encoder]) -> dict[str, Any]:
    kept = ("fold", "best_step", "held_out_log_likelihood", "history", "invariant")
    return {
        "latent_dim": trained[0].latent_dim,
        "factors": trained[0].front.num_factors,
        "folds": [{k: e.story[k] for k in kept if k in e.story} for e in trained],
    }
