"""The extraction: genotypes, people and instruments in, a genotype store out.

Inputs are checked before the store's place is claimed. Hail then reads the genotypes once, into
staged blocks; quality control and clumping choose the variants; shards are cut from the blocks,
and the manifest is written last. The same call after a kill does only what is missing.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mrscale import config, places
from mrscale.errors import InputError
from mrscale.progress import Advance, silent
from mrscale.provenance import Clock, digest, software_versions
from mrscale.store import writer
from mrscale.store.schema import CALLS, DOSAGES, VARIANTS, DosageCode, Layout
from pipelines import (
    clumping,
    counting,
    identity,
    instruments,
    liftover,
    packing,
    pedigree,
    people,
    qc,
    sources,
    spark,
    staging,
    transpose,
    variants,
    workbench,
)
from pipelines.job import engine_errors, watched

logger = logging.getLogger(__name__)

_SHARE = {"start": 0.1, "stage": 0.6, "write": 0.3}


@dataclass(frozen=True)
class Inputs:
    """All that an extraction needs, found and checked before any engine starts.

    Attributes
    ----------
    study : mrscale.config.Study
        With the defaults of the workbench, where they apply.
    files : list of str
        The genotype files.
    tables : pipelines.people.PeopleTables
    listed : DataFrame or None
        The list of instruments; see :func:`pipelines.instruments.read_instruments`.
    settings : dict
        What decides the store's content; see :func:`pipelines.identity.settings`.
    finished : dict or None
        The manifest, if the store is there already.
    """

    study: config.Study
    files: list[str]
    tables: people.PeopleTables
    listed: pd.DataFrame | None
    settings: dict[str, Any]
    finished: dict[str, Any] | None


def check(study: config.Study, out: str) -> Inputs:
    """Find and check the inputs of an extraction to a place; nothing is written or started.

    Parameters and errors are those of :func:`extract`, as far as they need no engine.
    """
    study = workbench.with_defaults(study)
    files = sources.find_files(study.genotypes)
    tables = people.read_phenotypes(study)
    listed = instruments.read_instruments(study.instruments, study.genotypes.reference_genome)
    settings = identity.settings(study, files)
    finished = writer.examine(out, settings)
    return Inputs(study, files, tables, listed, settings, finished)


def extract(study: config.Study, out: str, *, progress: Advance = silent) -> dict[str, Any]:
    """Extract a study's genotypes into a store; resume or reuse what is there already.

    Parameters
    ----------
    study : mrscale.config.Study
        Sections ``genotypes``, ``people``, ``traits``, ``instruments``, ``qc``, ``folds`` and
        ``seed`` decide the store.
    out : str
        Folder or URL of the store; new, empty, or of an extraction with the same inputs and
        settings.
    progress : Advance
        Called with shares of the work that add up to 1.

    Returns
    -------
    dict
        The store's manifest.

    Raises
    ------
    InputError
        If an input is missing or unusable, or ``out`` holds something else.
    EngineError
        If Java is missing, or Spark or Hail fail.
    MissingExtraError
        If Hail or PySpark is not installed.
    """
    clock = Clock()
    inputs = check(study, out)
    if inputs.finished:
        return _tidied(out, inputs.finished)
    study, listed, settings = inputs.study, inputs.listed, inputs.settings
    genotypes = study.genotypes
    log = spark.start_hail(
        log_dir=_log_folder(study, out),
        requester_pays=genotypes.requester_pays,
        memory_gib=genotypes.memory_gib,
    )
    with engine_errors(log):
        if listed is not None:
            listed = liftover.lift(listed, study.instruments, genotypes.reference_genome)
        source = sources.open_source(genotypes, inputs.files, _positions(listed))
        cohort = people.arrange(
            inputs.tables, source.mt.sample.collect(), num_folds=study.folds, seed=study.seed
        )
        trios = _trios(study, cohort)
        progress(_SHARE["start"], note="reading genotypes")
        if finished := writer.claim(out, settings):
            return _tidied(out, finished)
        try:
            return _fill(source, cohort, trios, listed, study, out, settings, clock, progress)
        except Exception:
            # an identical extraction may have finished meanwhile, and removed what both read
            if finished := writer.examine(out, settings):
                return _tidied(out, finished)
            raise


def _tidied(out: str, finished: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a finished store, rid of what was staged for it by an extraction that was
    killed just after it had finished, or found it finished by another, unless it is read-only."""
    with suppress(InputError), places.writing(out):
        places.remove(places.join(out, writer.PARTS))
    return finished


def _trios(study: config.Study, cohort: people.People) -> pedigree.Trios | None:
    file = study.qc.pedigree
    return pedigree.read_trios(file, cohort.sample_id) if file else None


def _fill(
    source: sources.GenotypeSource,
    cohort: people.People,
    trios: pedigree.Trios | None,
    listed: pd.DataFrame | None,
    study: config.Study,
    out: str,
    settings: dict[str, Any],
    clock: Clock,
    progress: Advance,
) -> dict[str, Any]:
    """Everything from the first write to the manifest."""
    code = DOSAGES if source.imputed else CALLS
    staged = _stage(source, cohort, out, settings, study.genotypes.partitions, progress)
    sites = counting.count(staged, code, trios)
    chosen = variants.choose(sites, listed, study, cohort.environment_name.tolist())
    try:
        qc.require_instruments(chosen.status_counts)
    except InputError:
        # the claim last: a rerun knows a place by it
        places.remove(places.join(out, writer.PARTS))
        places.remove(out)
        raise
    if study.instruments.clump_r2 is not None:
        kept_by = clumping.representatives(staged, chosen, study.instruments)
        chosen = variants.drop_clumped(chosen, kept_by)
    progress(0, note="writing genotypes")
    layout = Layout.choose(len(cohort.sample_id), len(chosen.effect_is_alt))
    writer.create(out, layout, code=code)
    arrays = _write_small_arrays(out, cohort, chosen, study.traits)
    shards = _write_dosage(staged, out, layout, code, chosen, arrays, progress)
    return writer.finalise(
        out,
        layout=layout,
        arrays=arrays,
        shards=shards,
        report=_report(cohort, chosen),
        provenance={
            "extraction": digest(settings),
            "settings": settings,
            "software": software_versions(),
        },
        run=clock.record(),
    )


def _log_folder(study: config.Study, out: str) -> Path:
    """Where engines write their logs: never in the store, nor in a bucket."""
    beside = Path(study.run) if places.is_url(out) else Path(out).absolute().parent
    return beside / "logs"


def _positions(listed: pd.DataFrame | None) -> pd.DataFrame | None:
    return None if listed is None else listed[listed["status"] == ""]


def _stage(
    source: sources.GenotypeSource,
    cohort: people.People,
    out: str,
    settings: dict[str, Any],
    partitions: int | None,
    progress: Advance,
) -> staging.Staged:
    """Read the genotypes into staged blocks, or those that an earlier call left over."""
    packed = packing.DOSAGES if source.imputed else packing.CALLS
    offsets = tuple(cohort.environment_offset.tolist())
    blocks = staging.Blocks(len(cohort.sample_id), offsets, packed)
    key = digest([settings, blocks.num_samples, offsets, packed.bits, blocks.rows])[:16]
    staged = staging.Staged(places.join(out, writer.PARTS, "staged"), blocks, key)
    mt = source.mt.choose_cols(cohort.column.tolist())

    def advance(share: float) -> None:
        progress(_SHARE["stage"] * share)

    with watched(lambda: len(staged.finished()), len(blocks), advance):
        staging.stage(mt, staged, partitions=partitions)
    return staged


def _write_small_arrays(
    out: str, cohort: people.People, chosen: variants.Chosen, traits: config.Traits
) -> dict[str, str]:
    """Write all but the dosages, and give their digests."""
    values = _people_arrays(cohort, traits) | variants.store_arrays(chosen)
    with places.writing(out):
        report = chosen.report.to_csv(sep="\t", index=False, lineterminator="\n")
        places.write_bytes(places.join(out, VARIANTS), report.encode())
    return {name: writer.write_array(out, name, value) for name, value in values.items()}


def _people_arrays(cohort: people.People, traits: config.Traits) -> dict[str, NDArray[Any]]:
    same_name = (
        "sample_id",
        "environment",
        "environment_name",
        "environment_offset",
        "exposure",
        "outcome",
        "covariate",
        "family",
        "cluster",
        "fold",
    )
    return {
        **{name: getattr(cohort, name) for name in same_name},
        "exposures": np.array(traits.exposure, dtype=str),
        "outcomes": np.array(traits.outcome, dtype=str),
        "covariates": np.array(traits.covariate, dtype=str),
    }


def _write_dosage(
    staged: staging.Staged,
    out: str,
    layout: Layout,
    code: DosageCode,
    chosen: variants.Chosen,
    arrays: dict[str, str],
    progress: Advance,
) -> dict[int, str]:
    """Cut the shards that are missing from the staged blocks; digests of all."""
    key = digest([arrays, layout.chunk_rows, layout.shard_rows])
    done = writer.finished_shards(out, key)
    missing = [shard for shard in range(layout.num_shards) if shard not in done]
    logger.info("%d of %d shards to write", len(missing), layout.num_shards)

    def advance(share: float) -> None:
        progress(_SHARE["write"] * share)

    def num_written() -> int:
        return len(writer.finished_shards(out, key)) - len(done)

    with watched(num_written, len(missing), advance):
        transpose.write_shards(
            staged,
            path=out,
            layout=layout,
            code=code,
            shards=missing,
            variants_M=chosen.sites.table["site"].to_numpy(),
            effect_is_alt_M=chosen.effect_is_alt,
            key=key,
        )
    return writer.finished_shards(out, key)


def _report(cohort: people.People, chosen: variants.Chosen) -> dict[str, Any]:
    """What people want to know of an extraction, for the manifest."""
    sites = chosen.sites
    wanted = len(chosen.effect_is_alt) * int(sites.num_people.sum())
    return {
        "people": list(cohort.funnel.items()),
        "environments": dict(
            zip(cohort.environment_name.tolist(), sites.num_people.tolist(), strict=True)
        ),
        "variants": chosen.status_counts,
        "missing_rate": float(1 - sites.called.sum() / wanted),
    }
