"""The estimate stage: every estimator of every exposure and outcome, with its checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mrscale import __version__
from mrscale.config import Study
from mrscale.errors import InputError, RunError
from mrscale.progress import bar
from mrscale.provenance import (
    Clock,
    digest,
    fingerprint,
    software_versions,
    without_people,
    write_json,
)
from mrscale.report import load_result, write_report
from mrscale.report.control import Published, disclose
from mrscale.report.export import SCHEMA_VERSION
from mrscale.results import PairResult, StudyResult
from mrscale.store.reader import GenotypeStore, open_store
from mrscale.stream.products import mean_dosage
from mrscale.train.encoder import Encoder
from mrscale.workflow.checks import LatentCheck, check_latents
from mrscale.workflow.designs import PairData
from mrscale.workflow.encoding import encoding_digest, load_encoders
from mrscale.workflow.instrument_list import left_out
from mrscale.workflow.latents import Encoders, Latents
from mrscale.workflow.pair import estimate_pair
from mrscale.workflow.runfolder import RunFolder
from mrscale.workflow.study_engine import study_engine
from mrscale.workflow.training import (
    require_more_people_than_instruments,
    settings_of,
    training_digest,
)
from mrscale.workflow.truth import Truth, true_latents, truth_of


def estimate(study: Study, *, quiet: bool = False) -> StudyResult:
    """Estimate every exposure on every outcome; writes ``result.json`` and ``estimates.tsv``.

    Learned instruments are used if encoders are trained for these settings; the other estimators
    need the genotype store only.

    Raises
    ------
    InputError
        If there are as many instruments as people, or no pair of traits allows an estimate.
    RunError
        If there are encoders, but of other settings, not trained to the end, or not applied.
    """
    clock = Clock()
    truth = truth_of(study)
    store = open_store(study.store_path)
    require_more_people_than_instruments(store)
    with RunFolder.held(study) as folder:
        folder.bind(store.genotype_digest)
        return _estimate_in(folder, study, store, truth, clock, quiet)


def _estimate_in(
    folder: RunFolder,
    study: Study,
    store: GenotypeStore,
    truth: Truth | None,
    clock: Clock,
    quiet: bool,
) -> StudyResult:
    encoders = _finished_encoders(study, store, folder)
    identity = estimation_digest(study, store, learned=bool(encoders))
    if folder.done("estimate") == identity:
        return load_result(folder.result)
    folder.reopen("estimate")
    oracle = true_latents(store, truth.latents, truth.exogenous) if truth else None
    effect = truth.effect if truth else None
    fill, methods = mean_dosage(store), tuple(encoders)
    drop = study.genotypes.missing == "drop"
    latents = Latents.open(folder.latents, methods) if encoders else Latents({}, ())
    exposures, outcomes = store.names("exposures"), store.names("outcomes")
    pairs: list[PairResult] = []
    refused: dict[str, str] = {}
    with (
        study_engine(study, store) as client,
        bar("Estimating", 1 + 2 * len(exposures) * len(outcomes), quiet=quiet) as progress,
    ):
        checks = check_latents(
            client, store, latents, encoders, study.seed, drop_missing=drop, progress=progress
        )
        for x in range(len(exposures)):
            for y in range(len(outcomes)):
                data = PairData(store, fill, drop, x, y, latents, oracle, clustered=True)
                try:
                    pair = estimate_pair(client, data, checks, truth=effect, progress=progress)
                except InputError as error:
                    refused[f"{exposures[x]} on {outcomes[y]}"] = str(error)
                else:
                    pairs.append(pair)
    if not pairs:
        pair_name, why = next(iter(refused.items()))
        raise InputError(f"no pair of exposure and outcome allows an estimate; {pair_name}: {why}")
    exact = _study_result(study, store, pairs, refused, encoders, checks, identity)
    result = _disclosed(exact, study, folder)
    write_report(result, folder.path, clock=folder.clocks() | {"estimate": clock.record()})
    folder.finish("estimate", identity, clock)
    return load_result(folder.result)


def _finished_encoders(study: Study, store: GenotypeStore, folder: RunFolder) -> Encoders:
    if not study.encoder.methods or not folder.encoders.is_dir():
        return {}
    trained = training_digest(study, store)
    if folder.done("train") != trained:
        raise RunError(
            f"the encoders in {folder.path} are those of other settings, or not trained to the "
            "end, and results without them would be others; run first: mrscale train study.toml, "
            "or, for the other estimators alone, set methods = [] in [encoder]"
        )
    if folder.done("encode") != encoding_digest(trained):
        raise RunError(
            f"the encoders of these settings are trained, but {folder.path} has no latents of "
            "theirs, without which the results would be others; run first: mrscale encode "
            "study.toml, or mrscale run study.toml for every stage"
        )
    return load_encoders(study, folder)


def estimation_digest(study: Study, store: GenotypeStore, *, learned: bool) -> str:
    """Digest of what the estimates depend on, with or without learned instruments."""
    truth = fingerprint(study.simulation.truth) if study.simulation else None
    trained = training_digest(study, store) if learned else None
    return digest(
        [
            "estimate",
            __version__,
            SCHEMA_VERSION,
            store.digest,
            trained,
            truth,
            study.genotypes.missing,
            study.seed,
            study.name,
            study.disclosure.model_dump(),
        ]
    )


def _disclosed(result: StudyResult, study: Study, folder: RunFolder) -> StudyResult:
    """The result with every count controlled, also against what earlier results have shown.

    What this one shows is remembered before it is written: a run that is killed in between hides
    the same counts when it is run again.
    """
    known: Published = {}
    for place in (folder, *map(RunFolder, map(Path, study.disclosure.earlier))):
        for group, counts in _shown_before(place, folder).items():
            known.setdefault(group, []).extend(counts)
    result = disclose(result, known)
    write_json(folder.published, {group: sorted(set(n)) for group, n in known.items()})
    return result


def _shown_before(place: RunFolder, own: RunFolder) -> Published:
    if place.published.is_file():
        try:
            return dict(json.loads(place.published.read_text()))
        except (ValueError, TypeError, RecursionError):
            raise RunError(
                f"{place.published} is damaged; it says which counts were shown before and cannot "
                "be made again: restore it from a copy, or start in another run folder"
            ) from None
    if place is own:
        return {}
    raise InputError(
        f"every folder of earlier in [disclosure] must be that of a run with results; {place.path} "
        "has none; correct it or leave it out"
    )


def _study_result(
    study: Study,
    store: GenotypeStore,
    pairs: list[PairResult],
    refused: dict[str, str],
    encoders: Encoders,
    checks: dict[str, LatentCheck],
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
        left_out=left_out(store),
        people=dict(manifest["people"]),
        encoders={
            method: _encoder_story(trained) | {"profile": checks[method].profile}
            for method, trained in encoders.items()
        },
        provenance={
            "command": "mrscale run study.toml",
            "seed": study.seed,
            "store": store.digest,
            "extraction": without_people(manifest["provenance"]["settings"]),
            "encoder": settings_of(study),
            "estimate": identity,
            "software": software_versions(),
        },
        not_estimated=refused,
    )


def _encoder_story(trained: list[Encoder]) -> dict[str, Any]:
    kept = ("fold", "best_step", "held_out", "history", "invariant")
    return {
        "latent_dim": trained[0].latent_dim,
        "factors": trained[0].front.num_factors,
        "folds": [
            {k: e.story[k] for k in kept if k in e.story}
            | {"eigenvalues": e.front.eigenvalues.tolist()}
            for e in trained
        ],
    }
