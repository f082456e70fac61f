"""What decides a store's content: its inputs by content, and the settings that matter."""

from __future__ import annotations

from typing import Any

from mrscale import config
from mrscale.provenance import fingerprint
from mrscale.store.schema import SCHEMA_VERSION
from pipelines import people, tables

_GENOTYPE_SETTINGS = {"reference_genome", "hard_calls"}


def input_files(study: config.Study, genotype_files: list[str]) -> dict[str, list[str]]:
    """All files that an extraction reads, by what they are.

    Parameters
    ----------
    study : mrscale.config.Study
    genotype_files : list of str
        From :func:`pipelines.sources.find_files`.
    """
    named = {"genotypes": genotype_files, **people.input_files(study)}
    if study.genotypes.bgen_sample:
        named["bgen_sample"] = [study.genotypes.bgen_sample]
    for name, section, key in _FILES:
        if file := getattr(getattr(study, section), key):
            named[name] = [file]
    return named


def settings(study: config.Study, genotype_files: list[str]) -> dict[str, Any]:
    """Everything that an extraction depends on, without paths, as JSON.

    Parameters
    ----------
    study : mrscale.config.Study
    genotype_files : list of str
        From :func:`pipelines.sources.find_files`.
    """
    named = input_files(study, genotype_files)
    return {
        "schema_version": SCHEMA_VERSION,
        "inputs": {name: [fingerprint(file) for file in files] for name, files in named.items()},
        "genotypes": study.genotypes.model_dump(mode="json", include=_GENOTYPE_SETTINGS),
        "people": people_settings(study.people),
        "traits": study.traits.model_dump(mode="json"),
        "instruments": study.instruments.model_dump(mode="json", exclude={"file", "liftover"}),
        "qc": study.qc.model_dump(mode="json", exclude={"pedigree"}),
        "folds": study.folds,
        "seed": study.seed,
    } | ({"query": query} if (query := tables.made_by(study.people.phenotypes)) else {})


def people_settings(people: config.People) -> dict[str, Any]:
    """The settings of people without the paths of their tables, as JSON."""
    return people.model_dump(mode="json", exclude={"phenotypes", "ancestry", "kinship", "exclude"})


_FILES = (
    ("instruments", "instruments", "file"),
    ("liftover", "instruments", "liftover"),
    ("pedigree", "qc", "pedigree"),
)
