"""Defaults of the All of Us workbench: where its genotypes and tables of people are.

They apply only to a study that names no genotypes: anybody else's tables would not fit them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import fsspec.config

from mrscale import config, places
from mrscale.errors import InputError, MrscaleError

logger = logging.getLogger(__name__)

_VDS = "WGS_VDS_PATH"
_DENSE = (
    "WGS_ACAF_THRESHOLD_SPLIT_HAIL_PATH",
    "WGS_EXOME_SPLIT_HAIL_PATH",
    "WGS_CLINVAR_SPLIT_HAIL_PATH",
)
"""Dense MatrixTables, the one with most variants first."""
_AUXILIARY = "wgs/short_read/snpindel/aux"
_ANCESTRY = ("ancestry", "ancestry_preds.tsv")
_KINSHIP = ("relatedness", "relatedness.tsv")
_TOO_RELATED = ("relatedness", "relatedness_flagged_samples.tsv")
_FLAGGED = ("qc", "flagged_samples.tsv")
"""Folder and end of the file name: its beginning differs from release to release."""


def with_defaults(study: config.Study, environ: Mapping[str, str] = os.environ) -> config.Study:
    """Fill in the workbench's genotypes and tables of people where the study names none.

    Parameters
    ----------
    study : mrscale.config.Study
    environ : mapping of str to str
        Environment variables. Without those of the workbench, or with genotypes in the study,
        nothing changes and nothing is looked up.

    Returns
    -------
    mrscale.config.Study
        With ``genotypes`` (the VDS if the study lists its instruments, else a dense MatrixTable),
        ``reference_genome``, ``requester_pays`` and, from the folder of CDR_STORAGE_PATH,
        ``ancestry``, ``kinship`` and ``exclude``. People flagged in quality control are excluded;
        relatives only if there is no table of kinship to make families of them.

    Raises
    ------
    InputError
        If the workbench's folder cannot be listed.

    Notes
    -----
    Buckets whose reader pays are billed to ``requester_pays`` from then on, in this process.
    """
    chosen = None if study.genotypes.source else _choose_genotypes(study, environ)
    genotypes = _with_source(study.genotypes, *chosen, environ) if chosen else study.genotypes
    if genotypes.requester_pays:
        # fsspec takes it from its configuration only
        fsspec.config.conf.setdefault("gs", {})["requester_pays"] = genotypes.requester_pays
    if chosen is None:
        return study
    people = _with_tables(study.people, environ.get("CDR_STORAGE_PATH"))
    return study.model_copy(update={"genotypes": genotypes, "people": people})


def _choose_genotypes(study: config.Study, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """The variable that names the genotypes and the kind that they are."""
    listed = study.instruments.file is not None
    offered = [(_VDS, "vds")] if listed else []
    offered += [(variable, "mt") for variable in _DENSE]
    found = next((choice for choice in offered if environ.get(choice[0])), None)
    if found is None and environ.get(_VDS):
        logger.warning(
            "%s is set, but a VDS is too large to read without a list of instruments; give one as "
            "file in [instruments]",
            _VDS,
        )
    return found


def _with_source(
    genotypes: config.Genotypes, variable: str, kind: str, environ: Mapping[str, str]
) -> config.Genotypes:
    path = environ[variable]
    logger.info("the study names no genotypes; taking those of %s: %s", variable, path)
    payer = environ.get("GOOGLE_PROJECT") if path.startswith("gs://") else None
    return genotypes.model_copy(
        update={
            kind: path,
            "reference_genome": genotypes.reference_genome or "GRCh38",
            "requester_pays": genotypes.requester_pays or payer or None,
        }
    )


def _with_tables(people: config.People, root: str | None) -> config.People:
    """Ancestry, kinship and exclusions of the release, where the study names none."""
    if not root:
        return people
    changes: dict[str, Any] = {}
    if not people.ancestry and (ancestry := _find(root, *_ANCESTRY)):
        changes["ancestry"] = ancestry
    kinship = people.kinship or _find(root, *_KINSHIP)
    if kinship != people.kinship:
        changes["kinship"] = kinship
    if not people.exclude:
        lists = [_FLAGGED] if kinship or people.family_column else [_FLAGGED, _TOO_RELATED]
        changes["exclude"] = tuple(file for kind in lists if (file := _find(root, *kind)))
    for key, value in changes.items():
        logger.info("the study names no %s; taking %s", key, value or "none")
    return people.model_copy(update=changes)


def _find(root: str, folder: str, ending: str) -> str | None:
    """The file of the release with this ending; the last in order of names if there are several."""
    place = places.join(root, _AUXILIARY, folder)
    try:
        names = places.names(place)
    except MrscaleError:
        raise
    except Exception as error:  # every object store has its own classes
        raise InputError(
            f"the workbench's folder {place} cannot be listed ({type(error).__name__}); check the "
            "permissions and GOOGLE_PROJECT, or name ancestry, kinship and exclude in [people]"
        ) from None
    found = [name for name in names if name.removesuffix(".gz").endswith(ending)]
    if len(found) > 1:
        logger.warning("%d files of %s end with %s; taking the last", len(found), place, ending)
    if not found:
        logger.warning("no file of %s ends with %s", place, ending)
    return places.join(place, found[-1]) if found else None
