"""What the doctor looks at on a workbench: its variables, bucket, release and cluster.

Nothing is looked up, least of all over the network, where none of the variables is set.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mrscale import places
from mrscale.errors import MissingExtraError, MrscaleError
from mrscale.study_file import parse_study
from mrscale.workflow.checkup import Check

_MEANING = {
    "WORKSPACE_BUCKET": "the bucket for stores",
    "GOOGLE_PROJECT": "the project that pays",
    "CDR_STORAGE_PATH": "the release's tables of ancestry and relatives",
    "WORKSPACE_CDR": "the release's BigQuery dataset",
}
_GENOTYPES = "WGS_"
DATAPROC_FOLDER = Path("/etc/google-dataproc")
SPARK_DEFAULTS = Path("/etc/spark/conf/spark-defaults.conf")
_SETTINGS = (
    "spark.executor.memory",
    "spark.executor.cores",
    "spark.driver.memory",
    "spark.dynamicAllocation.enabled",
)
_ON_A_CLUSTER = (
    "the command runs Spark on this machine alone; to use the cluster, start Hail in a notebook "
    "(hl.init), then mr.run. Preemptible workers and workers that autoscaling removes take their "
    "shuffle data with them, and extraction shuffles all genotypes once: use neither during it. "
    "Exit code 137 of executors is too little memory: spark.executor.memory. The master needs "
    "4 GiB for encoders and estimates beside the driver's memory. See docs/workbench.md"
)


def examine_workbench(environ: Mapping[str, str] = os.environ) -> list[Check]:
    """Checks of a workbench, none if no variable of one is set; nothing is written.

    Parameters
    ----------
    environ : mapping of str to str
    """
    given = {name: value for name, value in environ.items() if value and _is_ours(name)}
    if not given:
        return []
    checks = [_variables(given)]
    if bucket := given.get("WORKSPACE_BUCKET"):
        checks.append(_bucket(bucket))
    if any(value.startswith("gs://") for value in given.values()):
        checks.append(_payer(given))
    if "CDR_STORAGE_PATH" in given:
        checks.append(_release(given))
    return [*checks, _cluster(environ)]


def _is_ours(name: str) -> bool:
    return name in _MEANING or (name.startswith(_GENOTYPES) and name.endswith("_PATH"))


def _variables(given: Mapping[str, str]) -> Check:
    absent = {name: meaning for name, meaning in _MEANING.items() if name not in given}
    if not any(name.startswith(_GENOTYPES) for name in given):
        absent["WGS_VDS_PATH"] = "the genotypes, or one of WGS_*_SPLIT_HAIL_PATH"
    listed = ", ".join(f"{name} ({meaning})" for name, meaning in absent.items())
    note = f"not set: {listed}; what they give must then be named in the study file"
    return Check("Workbench", True, ", ".join(sorted(given)), note=note if absent else "")


def _bucket(bucket: str) -> Check:
    try:
        places.require_writable(bucket)
        with places.reading(bucket):
            places.names(bucket)
    except MrscaleError as error:
        return Check("Workspace bucket", False, str(error), _remedy(error, "WORKSPACE_BUCKET"))
    return Check("Workspace bucket", True, f"{bucket} can be listed; writing was not tried")


def _payer(given: Mapping[str, str]) -> Check:
    if project := given.get("GOOGLE_PROJECT"):
        return Check("Requester pays", True, f"reading is billed to {project}")
    return Check(
        "Requester pays",
        False,
        "GOOGLE_PROJECT is not set, and buckets whose reader pays refuse to be read",
        "export GOOGLE_PROJECT=..., the workspace's project, or requester_pays in [genotypes]",
    )


def _release(given: Mapping[str, str]) -> Check:
    """What a study without genotypes of its own would take."""
    from pipelines.workbench import with_defaults

    name, study = "Release", parse_study({"instruments": {"file": "instruments.tsv"}})
    try:
        found = with_defaults(study, given)
    except MrscaleError as error:
        return Check(name, False, str(error), _remedy(error, "CDR_STORAGE_PATH"))
    if found.genotypes.source is None:
        note = "without a variable of genotypes its tables are not looked up"
        return Check(name, True, "no genotypes", note=note)
    tables = {"ancestry": found.people.ancestry, "kinship": found.people.kinship}
    tables["people flagged in quality control"] = next(iter(found.people.exclude), None)
    there = [table for table, file in tables.items() if file]
    absent = [table for table, file in tables.items() if not file]
    text = f"genotypes as {found.genotypes.source}; tables: {', '.join(there) or 'none'}"
    note = f"not found: {', '.join(absent)}; name your own in [people]" if absent else ""
    return Check(name, True, text, note=note)


def _cluster(environ: Mapping[str, str]) -> Check:
    # HAIL_DATAPROC is what Hail itself goes by, on clusters that hailctl has made
    marked = any(name == "HAIL_DATAPROC" or name.startswith("DATAPROC_") for name in environ)
    if not (marked or DATAPROC_FOLDER.is_dir()):
        return Check("Cluster", True, "not on Dataproc: Spark runs on this machine alone")
    known = ", ".join(f"{name} {value}" for name, value in _spark_defaults().items())
    found = f"Dataproc; {known or f'no settings in {SPARK_DEFAULTS}'}"
    return Check("Cluster", True, found, note=_ON_A_CLUSTER)


def _spark_defaults() -> dict[str, str]:
    """Settings of the cluster that matter here."""
    if not SPARK_DEFAULTS.is_file():
        return {}
    lines = SPARK_DEFAULTS.read_text(errors="replace").splitlines()
    pairs = [line.replace("=", " ", 1).split(None, 1) for line in lines if line.strip()]
    found = {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}
    return {name: found[name] for name in _SETTINGS if name in found}


def _remedy(error: MrscaleError, variable: str) -> str:
    if isinstance(error, MissingExtraError):
        return "pip install 'mrscale[gcs]'"
    return f"check {variable} and your credentials (gcloud auth application-default login)"
