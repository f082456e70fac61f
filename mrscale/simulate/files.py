"""The files of a simulated biobank, written so that they depend on the seed only."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mrscale.errors import InputError, MissingExtraError
from mrscale.progress import Advance
from mrscale.provenance import write_json
from mrscale.simulate.cohort import Cohort, DosageArray, FloatArray, Variants
from mrscale.simulate.phenotypes import NUM_COMPONENTS, Traits

VCF, TRUTH, LATENTS, STUDY = "genotypes.vcf.bgz", "truth.json", "latents.parquet", "study.toml"
PHENOTYPES, INSTRUMENTS = "phenotypes.tsv", "instruments.tsv"
MISSING_RATE = 0.005

_REQUEST = ".simulation.json"
_CALLS = np.frombuffer(b"0/0\t0/1\t1/1\t./.\t", dtype="<u4")
_COMPONENTS = [f"PC{i + 1}" for i in range(NUM_COMPONENTS)]


def open_folder(out: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """Claim an output folder for one simulation.

    Parameters
    ----------
    out : Path
        Absent, empty, or begun by an equal request.
    request : dict
        Everything that the simulation depends on.

    Returns
    -------
    dict or None
        The truth, if the folder already holds the whole simulation; otherwise None.

    Raises
    ------
    InputError
        If the folder has other content. Nothing in it is touched.
    """
    claim, truth = out / _REQUEST, out / TRUTH
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder for the simulation")
    if out.is_dir() and any(out.iterdir()):
        if _claimed(claim) != request:
            raise InputError(
                f"{out} is not empty and does not hold this simulation; give another folder, "
                "or empty this one first"
            )
        if truth.is_file():
            return dict(json.loads(truth.read_text()))
    write_json(claim, request)
    return None


def _claimed(claim: Path) -> Any:
    """What a folder was begun for; nothing if that cannot be read."""
    with suppress(FileNotFoundError, ValueError):
        return json.loads(claim.read_text())
    return None


def write_vcf(
    path: Path,
    variants: Variants,
    person_id: list[str],
    dosage: DosageArray,
    rng: np.random.Generator,
    progress: Advance,
) -> None:
    """Write a bgzipped, tabix-indexed VCF with some calls missing at random.

    Parameters
    ----------
    path : Path
        Ends in ``.vcf.bgz``; the index is written beside it.
    variants : Variants
        Sorted by contig and position.
    person_id : list of str
        Sample names, in the order of the rows of ``dosage``.
    dosage : ndarray of int8, shape (N, M)
        Copies of the alternate allele.
    rng : numpy.random.Generator
        Chooses the 0.5 % of calls that are missing.
    progress : Advance
        Called with fractions that sum to 1.

    Raises
    ------
    MissingExtraError
        If pysam is not installed.
    """
    try:
        import pysam
    except ImportError:
        raise MissingExtraError("pysam", "simulate") from None
    num_missing = round(MISSING_RATE * len(person_id))
    with pysam.BGZFile(str(path), "w", None) as handle:
        handle.write(_vcf_header(variants, person_id))
        for j in range(len(variants)):
            code = dosage[:, j].copy()
            code[rng.choice(len(code), num_missing, replace=False)] = 3
            handle.write(_vcf_site(variants, j) + _CALLS[code].tobytes()[:-1] + b"\n")
            progress(1 / len(variants))
    pysam.tabix_index(str(path), preset="vcf", force=True)


def _vcf_header(variants: Variants, person_id: list[str]) -> bytes:
    contigs = "".join(f"##contig=<ID={c}>\n" for c in dict.fromkeys(variants.chromosome.tolist()))
    fixed = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT"]
    text = (
        "##fileformat=VCFv4.2\n##source=mrscale simulate\n"
        '##FILTER=<ID=PASS,Description="All filters passed">\n'
        f"{contigs}"
        '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n'
    )
    return (text + "\t".join(fixed + person_id) + "\n").encode()


def _vcf_site(variants: Variants, j: int) -> bytes:
    v = variants
    fields = (v.chromosome[j], v.position[j], v.name[j], v.ref[j], v.alt[j], ".", "PASS", ".", "GT")
    return ("\t".join(map(str, fields)) + "\t").encode()


def phenotype_table(
    person_id: list[str],
    environment_names: tuple[str, ...],
    cohort: Cohort,
    traits: Traits,
    components: FloatArray,
) -> pd.DataFrame:
    """One row per person: id, environment, traits, covariates and family."""
    names = np.array(environment_names)
    table = pd.DataFrame(
        {
            "person_id": person_id,
            "environment": names[cohort.environment],
            "exposure": traits.exposure,
            "outcome": traits.outcome,
            "age": traits.age.astype(int),
            "sex": traits.sex.astype(int),
        }
    )
    table[_COMPONENTS[: components.shape[1]]] = components
    return table.assign(family_id=[f"F{code + 1}" for code in cohort.family])


def latent_table(person_id: list[str], cohort: Cohort) -> pd.DataFrame:
    """One row per person: id and the latents ``z_i_1, ...`` and ``z_c_1, ...``."""
    exogenous = {f"z_i_{k + 1}": z for k, z in enumerate(cohort.exogenous.T)}
    confounded = {f"z_c_{k + 1}": z for k, z in enumerate(cohort.confounded.T)}
    return pd.DataFrame({"person_id": person_id} | exogenous | confounded)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write tab-separated text with seven significant digits."""
    table.to_csv(path, sep="\t", index=False, float_format="%.7g", lineterminator="\n")


def write_study(path: Path, *, name: str, seed: int, vcf: str) -> None:
    """Write the study file that analyses this simulation; paths are relative to its folder."""
    covariates = json.dumps(["age", "sex", *_COMPONENTS])
    # a JSON string is a TOML string
    path.write_text(
        f"name = {json.dumps(name)}\n"
        f"seed = {seed}\n"
        'run = "run"\n\n'
        f"[genotypes]\nvcf = {json.dumps(vcf)}\n\n"
        f'[people]\nphenotypes = "{PHENOTYPES}"\nsample_column = "person_id"\n'
        'environment_column = "environment"\nfamily_column = "family_id"\n\n'
        f'[traits]\nexposure = ["exposure"]\noutcome = ["outcome"]\ncovariate = {covariates}\n\n'
        f'[instruments]\nfile = "{INSTRUMENTS}"\n\n'
        f'[simulation]\ntruth = "{TRUTH}"\n'
    )
