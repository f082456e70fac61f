"""Semi-synthetic data: simulated traits on top of genotypes that already exist.

The exposure takes a score of common, spread-out variants of the file; the confounder follows the
environment. Linkage disequilibrium, allele frequencies and missing calls are the file's own.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mrscale.disclosure import show_count, vague
from mrscale.errors import InputError
from mrscale.simulate.cohort import (
    NUM_NEUTRAL,
    Cohort,
    DosageArray,
    Variants,
    standardise,
)

NUM_CAUSAL = 60
NUM_LISTED = 50
"""Causal variants, and how many of them the list of instruments has."""

_CALLS = {b"0/0": 0, b"0|0": 0, b"0/1": 1, b"1/0": 1, b"0|1": 1, b"1|0": 1, b"1/1": 2, b"1|1": 2}
_MINOR_ALLELE_FREQUENCY = 0.05
_CALL_RATE = 0.95
_CANDIDATES_PER_VARIANT = 6

Site = tuple[str, int, str, str, str]


class ExistingModel:
    """Traits for the people of a VCF; draws of it are the same people every time.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the effects of variants and environments.
    genotypes : Path
        Bgzipped (or gzipped) VCF whose first FORMAT field is GT.
    samples : Path
        Tab-separated table with the columns ``sample_id`` (or ``person_id``) and ``environment``.

    Raises
    ------
    InputError
        If a file is absent or not of its kind, if people of the VCF are not in the table, if there
        are fewer than two environments, or if too few common variants are found.

    Notes
    -----
    The exogenous latent is the score standardised within each environment, so that it neither
    shifts nor stretches between environments. Missing calls count as the rounded mean dosage, in
    the score and the principal components only; the genotype file is not touched.
    """

    def __init__(self, rng: np.random.Generator, genotypes: Path, samples: Path) -> None:
        self._person_id = read_sample_ids(genotypes)
        self.environment_names, self._environment = read_environments(samples, self._person_id)
        causal, neutral = choose_variants(genotypes)
        self.variants, self._dosage = _listing(causal), _stack(causal)
        self._neutral = _stack(neutral)
        self._effect = rng.standard_normal(len(causal))
        level = rng.standard_normal(len(self.environment_names))
        self._level = level - level.mean()
        self.parameters: dict[str, Any] = {
            "num_causal": len(causal),
            "minor_allele_frequency": _MINOR_ALLELE_FREQUENCY,
            "confounding_by_environment": dict(
                zip(self.environment_names, np.round(self._level, 6).tolist(), strict=True)
            ),
        }

    @property
    def roles(self) -> dict[str, Any]:
        """Per causal variant: its role and its weight in the score."""
        return {
            str(name): {"role": "causal", "weight": round(float(w), 6)}
            for name, w in zip(self.variants.name, self._effect, strict=True)
        }

    def draw(self, rng: np.random.Generator, num_people: int, num_neutral: int) -> Cohort:  # noqa: ARG002
        """The people of the file; see :class:`mrscale.simulate.cohort.Model`."""
        score = standardise(self._dosage @ self._effect)
        confounder = standardise(self._level[self._environment])
        exogenous = np.empty_like(score)
        for e in range(len(self.environment_names)):
            exogenous[self._environment == e] = standardise(score[self._environment == e])
        return Cohort(
            environment=self._environment,
            family=np.arange(len(score)),
            dosage=self._dosage,
            neutral=self._neutral[:, :num_neutral],
            exogenous=exogenous[:, None],
            confounded=confounder[:, None],
            score=score,
            confounder=confounder,
            person_id=self._person_id,
        )


def read_sample_ids(genotypes: Path) -> NDArray[np.str_]:
    """Sample ids of a VCF, in its order; raises InputError if it is not a VCF with samples."""
    for line in _lines(genotypes):
        if line.startswith(b"#CHROM"):
            ids = np.array(line.decode().split("\t")[9:])
            if len(ids) == 0:
                raise InputError(f"{genotypes.name} has no samples; genotypes of people are needed")
            return ids
        if not line.startswith(b"#"):
            break
    raise InputError(f"{genotypes.name} is not a VCF: it has no #CHROM header line")


def read_environments(
    samples: Path, person_id: NDArray[np.str_]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Environment names (sorted) and each person's code into them.

    Parameters
    ----------
    samples : Path
        Tab-separated table; other columns than the two needed are ignored.
    person_id : ndarray of str, shape (N,)
        The people needed; others in the table are ignored.

    Returns
    -------
    names : tuple of str
    environment : ndarray of int64, shape (N,)

    Raises
    ------
    InputError
        If the table lacks a column, names a person twice, lacks people, or has one environment.
    """
    if not samples.is_file():
        raise InputError(f"no table of samples at {samples}")
    try:
        table = pd.read_csv(samples, sep="\t", dtype=str, keep_default_na=False, na_values=[""])
    except ValueError:
        raise InputError(
            f"{samples.name} is not a tab-separated table with a header line"
        ) from None
    key = next((c for c in ("sample_id", "person_id") if c in table), None)
    if key is None or "environment" not in table:
        raise InputError(
            f"{samples.name} needs a column sample_id (or person_id) and a column environment; "
            f"it has: {', '.join(map(str, table.columns[:10]))}"
        )
    if num_repeated := int(table[key].duplicated().sum()):
        raise InputError(
            f"{samples.name} has {show_count(num_repeated)} repeated rows in {key!r}; "
            "give one row per person"
        )
    environment = table.set_index(key)["environment"].reindex(person_id)
    if num_unknown := int(environment.isna().sum()):
        raise InputError(
            f"every sample of the VCF needs an environment in {samples.name}, but "
            f"{show_count(vague(num_unknown))} of {show_count(len(person_id))} have none; "
            "check that the ids are written the same way in both files"
        )
    codes, names = pd.factorize(environment, sort=True)
    if len(names) < 2:
        raise InputError(f"{samples.name} has one environment only; at least two are needed")
    return tuple(str(name) for name in names), codes.astype(np.int64)


def choose_variants(
    genotypes: Path,
) -> tuple[list[tuple[Site, DosageArray]], list[tuple[Site, DosageArray]]]:
    """Pick causal variants and neutral ones, both common and spread evenly over the file.

    A first pass over the positions takes candidates at even steps; a second one decodes only those.

    Returns
    -------
    causal, neutral : list of (site, dosage)
        Site is (chromosome, position, id, ref, alt); dosage has shape (N,), none missing.

    Raises
    ------
    InputError
        If fewer than 60 + 10 common biallelic variants are found.
    """
    is_candidate = [_biallelic(line) for line in _records(genotypes)]
    eligible = np.flatnonzero(is_candidate)
    wanted = (NUM_CAUSAL + NUM_NEUTRAL) * _CANDIDATES_PER_VARIANT
    chosen = set(_evenly(len(eligible), wanted, eligible))
    found = [
        decoded
        for index, line in enumerate(_records(genotypes))
        if index in chosen and (decoded := _decode(line)) is not None
    ]
    if len(found) < NUM_CAUSAL + 10:
        raise InputError(
            f"{genotypes.name} has {len(found)} biallelic variants with a call rate of "
            f"{_CALL_RATE} and a minor allele frequency of {_MINOR_ALLELE_FREQUENCY} "
            f"among those looked at; at least {NUM_CAUSAL + 10} are needed; give a file with more"
        )
    causal = _evenly(len(found), NUM_CAUSAL, np.arange(len(found)))
    rest = np.setdiff1d(np.arange(len(found)), causal)
    neutral = _evenly(len(rest), NUM_NEUTRAL, rest)
    return [found[i] for i in causal], [found[i] for i in neutral]


def _evenly(num_rows: int, wanted: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most ``wanted`` of the rows, at even steps."""
    steps = np.linspace(0, num_rows - 1, min(wanted, num_rows)).astype(int)
    return np.asarray(rows[np.unique(steps)])


def _lines(path: Path) -> Iterator[bytes]:
    if not path.is_file():
        raise InputError(f"no genotype file at {path}")
    try:
        with gzip.open(path) as handle:
            for line in handle:
                yield line.rstrip(b"\r\n")
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise InputError(
            f"{path.name} is not a bgzipped VCF, or is cut short; compress it with bgzip"
        ) from None


def _records(path: Path) -> Iterator[bytes]:
    return (line for line in _lines(path) if line and not line.startswith(b"#"))


def _biallelic(line: bytes) -> bool:
    fields = line.split(b"\t", 5)
    if len(fields) < 6:
        return False
    ref, alt = fields[3:5]
    return len(ref) == len(alt) == 1 and ref in b"ACGT" and alt in b"ACGT"


def _decode(line: bytes) -> tuple[Site, DosageArray] | None:
    """Site and dosages of a common, well-called variant; None for any other."""
    chromosome, position, name, ref, alt, *_, fields = line.split(b"\t", 9)
    calls = np.array([_CALLS.get(field[:3], -1) for field in fields.split(b"\t")], np.int8)
    called = calls >= 0
    if called.mean() < _CALL_RATE:
        return None
    mean = calls[called].mean()
    if min(mean, 2 - mean) / 2 < _MINOR_ALLELE_FREQUENCY:
        return None
    calls[~called] = round(mean)
    alleles = (ref.decode(), alt.decode())
    place = (chromosome.decode(), int(position))
    known = name.decode() if name != b"." else ":".join(map(str, (*place, *alleles)))
    return (*place, known, *alleles), calls


def _stack(variants: list[tuple[Site, DosageArray]]) -> DosageArray:
    return np.stack([dosage for _, dosage in variants], axis=1)


def _listing(variants: list[tuple[Site, DosageArray]]) -> Variants:
    chromosome, position, name, ref, alt = zip(*(site for site, _ in variants), strict=True)
    return Variants(
        chromosome=np.array(chromosome),
        position=np.array(position),
        ref=np.array(ref),
        alt=np.array(alt),
        name=np.array(name),
    )
