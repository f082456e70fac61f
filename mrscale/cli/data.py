"""Verbs that make, check and extend the data: simulate, extract, verify, describe, append."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mrscale.cli.base import (
    Ancestry,
    Covariate,
    DryRun,
    Exposure,
    Json,
    MissingValue,
    Outcome,
    Phenotypes,
    Quiet,
    SampleColumn,
    StudyFile,
    Words,
    app,
    examples,
    show,
    study_of,
)
from mrscale.disclosure import export_count, show_count, vague
from mrscale.errors import InputError
from mrscale.progress import bar

if TYPE_CHECKING:
    from mrscale.store.reader import GenotypeStore

Store = Annotated[str, typer.Argument(help="Genotype store, a folder or URL.")]


@app.command(epilog=examples("mrscale init study.toml", "mrscale init --all-of-us"))
def init(
    study: Annotated[Path, typer.Argument(help="The file to write.")] = Path("study.toml"),
    all_of_us: Annotated[
        bool, typer.Option("--all-of-us", help="From the variables of that workbench.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a study.toml with comments, to be corrected."""
    from mrscale.workflow.initialising import initialise

    written = initialise(study, all_of_us=all_of_us)
    text = f"Wrote {written}. Correct it, then: mrscale run {written}"
    show({"study": str(written)}, text, as_json)


@app.command(epilog=examples("mrscale query people.sql --out phenotypes.parquet"))
def query(
    sql: Annotated[Path, typer.Argument(help="File with one SQL query.")],
    out: Annotated[str, typer.Option("--out", help="Parquet file to write, a path or URL.")],
    project: Annotated[
        str | None, typer.Option(help="Who pays; GOOGLE_PROJECT by default.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Of tables named without one; WORKSPACE_CDR by default.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take people's phenotypes from BigQuery into a file that remembers the query."""
    from mrscale.workflow.querying import query as ask

    with bar("Asking BigQuery", quiet=quiet):
        found = ask(sql, out, project=project, dataset=dataset)
    show(found.to_dict(), found.summary(), as_json)


@app.command(
    epilog=examples(
        "mrscale simulate --out biobank --people 5000",
        "mrscale simulate --out real --genotypes F.vcf.bgz --samples F.tsv",
    )
)
def simulate(
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("biobank"),
    model: Annotated[
        Literal["factor", "coalescent"], typer.Option(help="How genotypes come about.")
    ] = "factor",
    people: Annotated[int, typer.Option(min=100, help="Number of people.")] = 20_000,
    variants: Annotated[int, typer.Option(min=10, help="Number of instruments.")] = 200,
    environments: Annotated[int, typer.Option(min=2, help="Number of environments.")] = 5,
    effect: Annotated[float, typer.Option(help="True effect of exposure on outcome.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
    genotypes: Annotated[
        str | None, typer.Option(help="Draw only phenotypes, on this bgzipped VCF.")
    ] = None,
    samples: Annotated[
        str | None, typer.Option(help="Sample ids and environments of that VCF.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a simulated biobank, with the truth beside it."""
    from mrscale.simulate import simulate as draw

    with bar("Simulating", 1, quiet=quiet) as progress:
        truth = draw(
            out,
            model=model,
            num_people=people,
            num_variants=variants,
            num_environments=environments,
            effect=effect,
            seed=seed,
            genotypes=genotypes,
            samples=samples,
            progress=progress,
        )
    text = f"Wrote {out}; the true effect is {truth['effect']}. Next: mrscale run {out}/study.toml"
    show({"out": str(out), "effect": truth["effect"], "seed": seed}, text, as_json)


@app.command(epilog=examples("mrscale extract study.toml --dry-run", "mrscale extract study.toml"))
def extract(
    study: StudyFile = None,
    vcf: Annotated[Words, typer.Option(help="Bgzipped VCF, or a pattern of them.")] = None,
    mt: Annotated[str | None, typer.Option(help="Hail MatrixTable.")] = None,
    vds: Annotated[str | None, typer.Option(help="Hail VariantDataset.")] = None,
    plink: Annotated[str | None, typer.Option(help="PLINK .bed file.")] = None,
    bgen: Annotated[Words, typer.Option(help="BGEN file, or a pattern of them.")] = None,
    phenotypes: Phenotypes = None,
    sample_column: SampleColumn = None,
    environment_column: Annotated[
        Words, typer.Option(help="Environment column; several are crossed.")
    ] = None,
    family_column: Annotated[str | None, typer.Option(help="Family column.")] = None,
    kinship: Annotated[str | None, typer.Option(help="Table of pairs of relatives.")] = None,
    ancestry: Ancestry = None,
    exclude: Annotated[Words, typer.Option(help="Table of people to leave out.")] = None,
    missing_value: MissingValue = None,
    exposure: Exposure = None,
    outcome: Outcome = None,
    covariate: Covariate = None,
    instruments: Annotated[str | None, typer.Option(help="GWAS summary table.")] = None,
    p_value: Annotated[float | None, typer.Option(help="Largest p-value in that table.")] = None,
    out: Annotated[str | None, typer.Option(help="Store to write, a folder or URL.")] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Extract genotypes, people and instruments into a genotype store."""
    from mrscale.workflow.study import extract as extract_store

    chosen = study_of(
        study,
        genotypes={"vcf": vcf, "mt": mt, "vds": vds, "plink": plink, "bgen": bgen},
        people={
            "phenotypes": phenotypes,
            "sample_column": sample_column,
            "environment_column": environment_column,
            "family_column": family_column,
            "kinship": kinship,
            "ancestry": ancestry,
            "exclude": exclude,
            "missing_values": missing_value,
        },
        traits={"exposure": exposure, "outcome": outcome, "covariate": covariate},
        instruments={"file": instruments, "p_value": p_value},
    )
    if study is None and out is None:
        raise InputError("extract needs a place for the store; give --out FOLDER or a study.toml")
    if dry_run:
        from mrscale.workflow.preview import preview_extraction

        found = preview_extraction(chosen, out)
        show(asdict(found), found.summary(), as_json)
        return
    store = extract_store(chosen, out, quiet=quiet)
    _show_store(store, as_json)


def _show_store(store: GenotypeStore, as_json: bool) -> None:
    counts = store.manifest["environments"]
    shown = ", ".join(f"{name} {show_count(n)}" for name, n in counts.items())
    summary = {
        "store": store.path,
        "digest": store.digest,
        "num_variants": store.num_variants,
        "environments": {name: export_count(n) for name, n in counts.items()},
        "variants": store.manifest["variants"],
    }
    show(summary, f"{store}; {shown}", as_json)


@app.command(epilog=examples("mrscale verify run/store.zarr"))
def verify(store: Store, as_json: Json = False, quiet: Quiet = False) -> None:
    """Check every array of a genotype store; names the chunk that is broken."""
    from mrscale.store.verify import verify as verify_store

    with bar("Verifying", 1, quiet=quiet) as progress:
        found = verify_store(store, progress=progress)
    summary = {"store": store, "sound": True, "digest": found.digest}
    text = (
        f"{store} is sound: {found.num_variants:,} variants, {show_count(found.num_samples)} "
        f"people, {found.layout.num_shards} shards"
    )
    show(summary, text, as_json)


@app.command(
    epilog=examples(
        "mrscale describe run/store.zarr",
        "mrscale describe gs://bucket/store.zarr --json",
    )
)
def describe(store: Store, as_json: Json = False, quiet: Quiet = False) -> None:
    """Say what a genotype store holds."""
    from mrscale.workflow.describing import describe as describe_store

    with bar("Reading", quiet=quiet):
        found = describe_store(store)
    show(asdict(found), found.summary(), as_json)


@app.command(
    epilog=examples(
        "mrscale append run/store.zarr --phenotypes more.tsv --outcome stroke",
    )
)
def append(
    store: Store,
    phenotypes: Phenotypes = None,
    sample_column: SampleColumn = None,
    exposure: Exposure = None,
    outcome: Outcome = None,
    covariate: Covariate = None,
    ancestry: Ancestry = None,
    missing_value: MissingValue = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Add exposures, outcomes or covariates to a store without touching its genotypes."""
    from mrscale.workflow.appending import append as append_traits

    if not (phenotypes or exposure or outcome or covariate):
        raise InputError(
            "say what to append to the store: a table (--phenotypes) and columns of it "
            "(--exposure, --outcome, --covariate)"
        )
    chosen = study_of(
        None,
        people={
            "phenotypes": phenotypes,
            "sample_column": sample_column,
            "ancestry": ancestry,
            "missing_values": missing_value,
        },
        traits={"exposure": exposure, "outcome": outcome, "covariate": covariate},
    )
    done = append_traits(store, chosen.people, chosen.traits, quiet=quiet)
    names = [name for given in done.names.values() for name in given]
    summary = {
        "store": store,
        "digest": done.store.digest,
        "appended": done.names,
        "new": done.is_new,
        "people_without_a_row": export_count(vague(done.num_absent)),
    }
    did = f"Appended {', '.join(names)} to" if done.is_new else "Nothing to do: all this is in"
    text = f"{did} {store}; people of the store without a row: {show_count(vague(done.num_absent))}"
    show(summary, text, as_json)
