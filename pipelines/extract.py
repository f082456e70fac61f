"""The extraction: genotypes, people and instruments in, a genotype store out.

Everything is checked and counted before the store's folder is touched; then shards are written,
and the manifest last. The same call after a kill writes only the shards that are missing.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrscale import config
from mrscale.errors import EngineError, InputError, MrscaleError
from mrscale.progress import Advance, silent
from mrscale.provenance import Clock, digest, fingerprint, software_versions, write_json
from mrscale.store import writer
from mrscale.store.schema import MANIFEST, SCHEMA_VERSION, Layout
from pipelines import instruments, people, qc, sources, spark, transpose, variants

logger = logging.getLogger(__name__)

IDENTITY = "extraction.json"
VARIANTS = "variants.tsv"
_ENGINE_MODULES = ("hail.utils.java", "py4j", "pyspark")
_SHARE = {"start": 0.1, "count": 0.3, "write": 0.6}


def extract(study: config.Study, out: str, *, progress: Advance = silent) -> dict[str, Any]:
    """Extract a study's genotypes into a store; resume or reuse what is there already.

    Parameters
    ----------
    study : mrscale.config.Study
        Sections ``genotypes``, ``people``, ``traits``, ``instruments``, ``qc``, ``folds`` and
        ``seed`` decide the store.
    out : str
        Folder of the store; new, empty, or of an extraction with the same inputs and settings.
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
    files = sources.find_files(study.genotypes)
    phenotypes = people.read_phenotypes(study)
    listed = instruments.read_instruments(study.instruments)
    settings = _settings(study, files)
    identity = digest(settings)
    if finished := _claim(out, settings):
        return finished
    log = spark.start_hail(log_dir=Path(out).absolute().parent / "logs")
    with _hail_errors(log):
        mt = sources.read(study.genotypes, files)
        samples = mt.sample.collect()
        cohort = people.arrange(phenotypes, samples, num_folds=study.folds, seed=study.seed)
        mt = mt.choose_cols(cohort.column.tolist())
        progress(_SHARE["start"], note="counting genotypes")
        sites = qc.count_genotypes(mt, cohort.environment_offset, listed)
        chosen = variants.choose(sites, listed, study)
        qc.require_instruments(chosen.status_counts)
        progress(_SHARE["count"], note="writing genotypes")
        layout = Layout.choose(len(cohort.sample_id), len(chosen.effect_is_alt))
        write_json(Path(out) / IDENTITY, {"digest": identity, "settings": settings})
        arrays, key = _write_small_arrays(out, layout, cohort, chosen, study)
        shards = _write_dosage(mt, out, layout, chosen, key, study.genotypes.partitions, progress)
    return writer.finalise(
        out,
        layout=layout,
        arrays=arrays,
        shards=shards,
        report=_report(cohort, chosen),
        provenance={
            "extraction": identity,
            "settings": settings,
            "software": software_versions(),
        },
        run=clock.record(),
    )


def _settings(study: config.Study, files: list[str]) -> dict[str, Any]:
    """What decides the store: settings, and inputs by content rather than by path."""
    inputs = {"genotypes": [fingerprint(file) for file in files]}
    inputs["people"] = [fingerprint(study.people.phenotypes)]
    if study.instruments.file:
        inputs["instruments"] = [fingerprint(study.instruments.file)]
    return {
        "schema_version": SCHEMA_VERSION,
        "inputs": inputs,
        "genotypes": {"reference_genome": study.genotypes.reference_genome},
        "people": study.people.model_dump(mode="json", exclude={"phenotypes"}),
        "traits": study.traits.model_dump(mode="json"),
        "instruments": study.instruments.model_dump(mode="json", exclude={"file"}),
        "qc": study.qc.model_dump(mode="json"),
        "folds": study.folds,
        "seed": study.seed,
    }


def _claim(path: str, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest if this extraction is finished already; refuse any other content of ``path``."""
    identity = digest(settings)
    if "://" in path:
        raise InputError(f"a store must be a local folder for now, not {path}; give another --out")
    out = Path(path)
    present = [p for p in out.iterdir() if not p.name.endswith(".partial")] if out.is_dir() else []
    if not present and not out.is_file():
        return None
    file = out / IDENTITY
    previous = json.loads(file.read_text()) if file.is_file() else {}
    if previous.get("digest") != identity:
        raise InputError(
            f"{out} exists and is not this study's store{_differences(previous, settings)}; "
            "nothing was touched; choose another place for it (--out, or run = in the study file) "
            "or remove it"
        )
    manifest = out / MANIFEST
    return dict(json.loads(manifest.read_text())) if manifest.is_file() else None


def _differences(previous: dict[str, Any], settings: dict[str, Any]) -> str:
    """Which parts of the study changed since a store was begun, for a message."""
    before = previous.get("settings", {})
    parts = before.get("inputs", {}), settings["inputs"]
    files = [f"the {name} file" for name in parts[1] if parts[0].get(name) != parts[1][name]]
    named = [name for name in settings if name != "inputs" and before.get(name) != settings[name]]
    return f" (what changed: {', '.join(files + named)})" if before else ""


def _write_small_arrays(
    out: str, layout: Layout, cohort: people.People, chosen: variants.Chosen, study: config.Study
) -> tuple[dict[str, str], str]:
    """Write all but the dosages; their digests, and the key of shards that fit them."""
    writer.create(out, layout)
    values = _people_arrays(cohort, study.traits) | variants.store_arrays(chosen)
    arrays = {name: writer.write_array(out, name, value) for name, value in values.items()}
    chosen.report.to_csv(Path(out) / VARIANTS, sep="\t", index=False)
    return arrays, digest([arrays, layout.chunk_rows, layout.shard_rows])


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
    mt: Any,
    out: str,
    layout: Layout,
    chosen: variants.Chosen,
    key: str,
    partitions: int | None,
    progress: Advance,
) -> dict[int, str]:
    done = writer.finished_shards(out, key)
    missing = [shard for shard in range(layout.num_shards) if shard not in done]
    logger.info("%d of %d shards to write", len(missing), layout.num_shards)
    if not missing:
        return done
    sites = chosen.sites.table["site"]
    with _watched(out, key, len(missing), progress):
        transpose.write_shards(
            mt,
            path=out,
            layout=layout,
            shards=missing,
            variant_of_site={site: column for column, site in enumerate(sites)},
            effect_is_alt_M=chosen.effect_is_alt,
            key=key,
            partitions=partitions,
        )
    return writer.finished_shards(out, key)


def _report(cohort: people.People, chosen: variants.Chosen) -> dict[str, Any]:
    """What people want to know of an extraction, for the manifest."""
    counts_E = chosen.sites.num_people.tolist()
    called = chosen.sites.called.sum()
    calls_wanted = len(chosen.effect_is_alt) * sum(counts_E)
    return {
        "people": cohort.funnel,
        "environments": dict(zip(cohort.environment_name.tolist(), counts_E, strict=True)),
        "variants": chosen.status_counts,
        "missing_rate": float(1 - called / calls_wanted),
    }


@contextmanager
def _watched(out: str, key: str, num_shards: int, progress: Advance) -> Iterator[None]:
    """Report shards as their markers appear: Spark's own call returns only at the end."""
    stop = threading.Event()
    start, seen = len(writer.finished_shards(out, key)), 0

    def watch() -> None:
        nonlocal seen
        while not stop.wait(0.5):
            fresh = len(writer.finished_shards(out, key)) - start
            if fresh > seen:
                progress(_SHARE["write"] * (fresh - seen) / num_shards)
                seen = fresh

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    progress(_SHARE["write"] * (num_shards - seen) / num_shards)


@contextmanager
def _hail_errors(log: Path) -> Iterator[None]:
    """Turn engine failures into one sentence: Hail quotes input lines, with people's genotypes."""
    try:
        yield
    except MrscaleError:
        raise
    except Exception as error:
        if not type(error).__module__.startswith(_ENGINE_MODULES):
            raise
        logger.debug("engine failure", exc_info=True)
        raise EngineError(
            f"Hail could not finish ({type(error).__name__}); the cause is in {log}. Too little "
            "memory shows there as OutOfMemoryError: use a larger machine or fewer variants"
        ) from None
