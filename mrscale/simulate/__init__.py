"""Simulated biobanks: genotypes, traits, summary statistics, and the truth kept beside them."""

from __future__ import annotations

import math
import operator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mrscale import places
from mrscale.errors import InputError
from mrscale.progress import Advance, silent
from mrscale.provenance import fingerprint, write_json
from mrscale.simulate import files
from mrscale.simulate.coalescent import ANCESTRY, CoalescentModel
from mrscale.simulate.cohort import NUM_NEUTRAL, Cohort, Model, Variants
from mrscale.simulate.instruments import list_instruments
from mrscale.simulate.latent import FactorModel
from mrscale.simulate.phenotypes import (
    COEFFICIENTS,
    draw_traits,
    exposure_gwas,
    principal_components,
)
from mrscale.simulate.semisynthetic import NUM_LISTED, ExistingModel

__all__ = ["simulate"]

_GWAS_PEOPLE = 20_000
_PEOPLE_PER_ENVIRONMENT = 50

# One random stream per purpose, so that a change to one leaves the others as they were.
_MODEL, _PEOPLE, _TRAITS, _GWAS, _LIST, _ORDER, _CALLS = range(7)


def simulate(
    out: str | Path,
    *,
    model: Literal["factor", "coalescent"] = "factor",
    num_people: int = 20_000,
    num_variants: int = 200,
    num_environments: int = 5,
    effect: float = 0.5,
    seed: int = 0,
    genotypes: str | Path | None = None,
    samples: str | Path | None = None,
    progress: Advance = silent,
) -> dict[str, Any]:
    """Write a simulated biobank and a study file that analyses it.

    Parameters
    ----------
    out : str or Path
        Folder for the files: ``genotypes.vcf.bgz`` and its index, ``phenotypes.tsv``,
        ``instruments.tsv``, ``latents.parquet``, ``study.toml`` and, last, ``truth.json``. It must
        be absent or empty; if it already holds this simulation, that is returned or finished.
    model : {"factor", "coalescent"}
        ``factor``: allele frequencies follow an exogenous and a confounded latent; learned
        instruments are needed. ``coalescent``: ordinary Mendelian sampling in out-of-Africa-like
        populations (msprime); adjusting for principal components and environments is enough.
    num_people, num_variants, num_environments : int
        Sizes. At least 50 people per environment, 10 variants, 2 environments (5 at most with
        ``coalescent``).
    effect : float
        Causal effect of the exposure on the outcome.
    seed : int
        Equal arguments give byte-identical files on one type of machine.
    genotypes, samples : str or Path, optional
        Semi-synthetic data: a bgzipped VCF, and a tab-separated table with ``sample_id`` (or
        ``person_id``) and ``environment``. Traits are drawn for the people of that VCF; ``model``
        and the three sizes are then not used, and no VCF is written.
    progress : Advance
        Called with fractions that sum to 1.

    Returns
    -------
    dict
        The content of ``truth.json``: effect, model, seed, the latents file and its columns,
        parameters, kinds of rows of the list of instruments, and the role of every variant.

    Raises
    ------
    InputError
        If a size is out of range, the folder holds something else, or the existing genotypes or
        samples cannot be used.
    MissingExtraError
        If msprime or pysam is needed and not installed (extra ``simulate``).

    Notes
    -----
    The summary statistics come from up to 20,000 other people of the same model. Semi-synthetic
    ones come from the same people with new noise, because there are no others.

    Examples
    --------
    >>> import mrscale as mr
    >>> truth = mr.simulate("biobank", num_people=1000, num_variants=20, num_environments=2)
    >>> truth["effect"], truth["exposure"], truth["outcome"]
    (0.5, 'exposure', 'outcome')

    ``mr.run("biobank/study.toml")`` then analyses it.
    """
    num_people, num_variants, num_environments, seed = (
        _whole(name, value)
        for name, value in {
            "num_people": num_people,
            "num_variants": num_variants,
            "num_environments": num_environments,
            "seed": seed,
        }.items()
    )
    effect = float(effect)
    if seed < 0 or not math.isfinite(effect):
        raise InputError(f"seed must be 0 or more and effect finite; found {seed} and {effect}")
    source = existing_files(genotypes, samples)
    if source is None:
        _check_sizes(model, num_people, num_variants, num_environments)
        what: dict[str, Any] = {
            "model": model,
            "num_people": num_people,
            "num_variants": num_variants,
            "num_environments": num_environments,
        }
    else:
        what = {"model": "semi-synthetic", "inputs": [fingerprint(path) for path in source]}
    request = what | {"effect": effect, "seed": seed}
    folder = Path(out)
    with places.writing(folder):
        if (truth := files.open_folder(folder, request)) is not None:
            progress(1.0)
            return truth
    drawn: Model
    if source is not None:
        drawn = ExistingModel(_stream(seed, _MODEL), *source)
    else:
        kind = FactorModel if model == "factor" else CoalescentModel
        drawn = kind(_stream(seed, _MODEL), num_variants, num_environments)
    progress(0.2)
    with places.writing(folder):
        return _write(folder, drawn, request, source, progress)


def _whole(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise InputError(f"{name} must be a whole number; found {value!r}") from None


def _write(
    folder: Path,
    model: Model,
    request: dict[str, Any],
    source: tuple[Path, Path] | None,
    progress: Advance,
) -> dict[str, Any]:
    """Draw people and write every file; the truth comes last and so marks a whole simulation."""
    seed, effect = request["seed"], request["effect"]
    num_people = request.get("num_people", 0)
    cohort = model.draw(_stream(seed, _PEOPLE), num_people, NUM_NEUTRAL)
    progress(0.2)
    person_id, table_order = _ids_and_order(_stream(seed, _ORDER), cohort)
    if source is None:
        _write_genotypes(folder, model.variants, cohort, person_id, seed, progress)
    else:
        progress(0.3)
    traits = draw_traits(_stream(seed, _TRAITS), cohort, effect)
    components = principal_components(cohort.neutral)
    table = files.phenotype_table(person_id, model.environment_names, cohort, traits, components)
    files.write_table(folder / files.PHENOTYPES, table.iloc[table_order])
    latents = files.latent_table(person_id, cohort)
    latents.iloc[table_order].to_parquet(folder / files.LATENTS, index=False)
    progress(0.2)
    kinds = _write_instruments(folder, model, num_people, seed, effect)
    files.write_study(
        folder / files.STUDY,
        name=f"Simulated biobank ({request['model']})",
        seed=seed,
        vcf=files.VCF if source is None else str(source[0].resolve()),
    )
    truth = request | {
        "exposure": "exposure",
        "outcome": "outcome",
        "latents": {
            "file": files.LATENTS,
            "exogenous": [c for c in map(str, latents) if c.startswith("z_i_")],
            "confounded": [c for c in map(str, latents) if c.startswith("z_c_")],
        },
        "parameters": model.parameters | COEFFICIENTS | {"num_neutral": cohort.neutral.shape[1]},
        "instrument_rows": kinds,
        "variants": model.roles,
    }
    write_json(folder / files.TRUTH, truth)
    progress(0.1)
    return truth


def _ids_and_order(
    rng: np.random.Generator, cohort: Cohort
) -> tuple[list[str], np.ndarray[Any, np.dtype[np.int64]]]:
    """Ids that tell nothing (seven digits, as biobanks give), and the order of the tables."""
    num_people = len(cohort.environment)
    if cohort.person_id is not None:
        return cohort.person_id.tolist(), rng.permutation(num_people)
    ids = 1_000_000 + rng.choice(max(9_000_000, 10 * num_people), num_people, replace=False)
    return [str(i) for i in ids], rng.permutation(num_people)


def _write_genotypes(
    folder: Path,
    variants: Variants,
    cohort: Cohort,
    person_id: list[str],
    seed: int,
    progress: Advance,
) -> None:
    rng = _stream(seed, _CALLS)
    order = rng.permutation(len(person_id))

    def advance(amount: float = 1, *, note: str = "") -> None:
        progress(0.3 * amount, note=note)

    files.write_vcf(
        folder / files.VCF,
        variants,
        [person_id[i] for i in order],
        np.asfortranarray(cohort.dosage[order]),
        rng,
        advance,
    )


def _write_instruments(
    folder: Path, model: Model, num_people: int, seed: int, effect: float
) -> dict[str, int]:
    """Run the GWAS in other people of the model and write its list; returns rows per kind."""
    rng = _stream(seed, _GWAS)
    cohort = model.draw(rng, min(num_people, _GWAS_PEOPLE), 0)
    statistics = exposure_gwas(cohort.dosage, draw_traits(rng, cohort, effect).exposure)
    listed = np.arange(len(model.variants))
    if cohort.person_id is not None:
        listed = np.sort(rng.permutation(listed)[:NUM_LISTED])
    table, kinds = list_instruments(
        _stream(seed, _LIST), model.variants.take(listed), statistics.take(listed)
    )
    files.write_table(folder / files.INSTRUMENTS, table)
    return kinds


def _stream(seed: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, purpose])


def existing_files(
    genotypes: str | Path | None, samples: str | Path | None
) -> tuple[Path, Path] | None:
    """Paths of semi-synthetic data; None if none were given, InputError if only one was."""
    if genotypes is None and samples is None:
        return None
    if genotypes is None or samples is None:
        given, absent = ("samples", "genotypes") if samples else ("genotypes", "samples")
        raise InputError(
            "traits on existing genotypes need both genotypes and samples (a table with sample_id "
            f"and environment); found {given} alone; give {absent} too"
        )
    paths = Path(genotypes), Path(samples)
    for path in paths:
        if not path.is_file():
            raise InputError(f"no file at {path}")
    return paths


def _check_sizes(model: str, num_people: int, num_variants: int, num_environments: int) -> None:
    if model not in ("factor", "coalescent"):
        raise InputError(f"model must be 'factor' or 'coalescent', not {model!r}")
    if num_variants < 10:
        raise InputError(f"at least 10 variants are needed, {num_variants} were asked for")
    most = len(ANCESTRY) if model == "coalescent" else 50
    if not 2 <= num_environments <= most:
        raise InputError(
            f"the {model} model has 2 to {most} environments; {num_environments} were asked for"
        )
    if num_people < (least := _PEOPLE_PER_ENVIRONMENT * num_environments):
        raise InputError(
            f"{num_environments} environments need at least {least} people, "
            f"{num_people} were asked for"
        )
