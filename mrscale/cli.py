"""The command line: each verb parses, makes one library call, and prints a summary."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from mrscale import __version__
from mrscale.config import Study, load_study, parse_study
from mrscale.disclosure import export_count, show_count
from mrscale.errors import InputError, MrscaleError
from mrscale.progress import bar

app = typer.Typer(
    name="mrscale",
    help="Biobank-scale Mendelian randomization with learned instruments.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

StudyFile = Annotated[Path | None, typer.Argument(help="A study.toml; flags go before it.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
StoreFolder = Annotated[str | None, typer.Option("--store", help="Genotype store.")]
RunPath = Annotated[str | None, typer.Option("--run", help="Run folder.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of all that is random.")]

INTERRUPTED = 130
"""Exit code that typer gives a command stopped with Ctrl-C."""


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mrscale {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the command ``mrscale``."""
    try:
        app()
    except MrscaleError as error:
        _fail(error)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            typer.echo("Stopped. Run the same command again to continue where it was.", err=True)
        raise


def _fail(error: MrscaleError) -> NoReturn:
    if "--json" in sys.argv:
        typer.echo(json.dumps({"error": str(error), "kind": type(error).__name__}))
    else:
        typer.echo(f"Error: {error}", err=True)
    raise SystemExit(1)


@app.command()
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
    _print({"out": str(out), "effect": truth["effect"], "seed": seed}, text, as_json)


@app.command()
def extract(
    study: StudyFile = None,
    vcf: Annotated[str | None, typer.Option(help="Bgzipped VCF.")] = None,
    mt: Annotated[str | None, typer.Option(help="Hail MatrixTable.")] = None,
    phenotypes: Annotated[str | None, typer.Option(help="Table of people.")] = None,
    sample_column: Annotated[str | None, typer.Option(help="Column with sample ids.")] = None,
    environment_column: Annotated[str | None, typer.Option(help="Environment column.")] = None,
    family_column: Annotated[str | None, typer.Option(help="Family column.")] = None,
    exposure: Annotated[list[str] | None, typer.Option(help="Exposure column.")] = None,
    outcome: Annotated[list[str] | None, typer.Option(help="Outcome column.")] = None,
    covariate: Annotated[list[str] | None, typer.Option(help="Covariate column.")] = None,
    instruments: Annotated[str | None, typer.Option(help="GWAS summary table.")] = None,
    out: Annotated[str | None, typer.Option(help="Store to write.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Extract genotypes, people and instruments into a genotype store."""
    from mrscale.workflow.study import extract as extract_store

    chosen = _study(
        study,
        genotypes={"vcf": vcf, "mt": mt},
        people={
            "phenotypes": phenotypes,
            "sample_column": sample_column,
            "environment_column": environment_column,
            "family_column": family_column,
        },
        traits={"exposure": exposure, "outcome": outcome, "covariate": covariate},
        instruments={"file": instruments},
    )
    if study is None and out is None:
        raise InputError("extract needs a place for the store; give --out FOLDER or a study.toml")
    store = extract_store(chosen, out or chosen.store_path, quiet=quiet)
    counts = store.manifest["environments"]
    shown = ", ".join(f"{name} {show_count(n)}" for name, n in counts.items())
    text = (
        f"Store {store.path}: {show_count(store.num_samples)} people, "
        f"{store.num_variants:,} variants; {shown}"
    )
    summary = {
        "store": store.path,
        "digest": store.digest,
        "num_variants": store.num_variants,
        "environments": {name: export_count(n) for name, n in counts.items()},
        "variants": store.manifest["variants"],
    }
    _print(summary, text, as_json)


@app.command()
def train(
    study: StudyFile = None,
    store: StoreFolder = None,
    run: RunPath = None,
    seed: Seed = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="Training processes.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the encoders, each on one fold of people."""
    from mrscale.workflow.training import train as train_encoders

    chosen = _study(study, store=store, run=run, seed=seed, encoder={"ranks": ranks})
    folder = train_encoders(chosen, quiet=quiet)
    text = f"Encoders are in {folder.path / 'encoders'}"
    _print({"run": str(folder.path), "digest": folder.done("train")}, text, as_json)


@app.command()
def encode(
    study: StudyFile = None,
    store: StoreFolder = None,
    run: RunPath = None,
    seed: Seed = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Apply every encoder to the people it was not trained on."""
    from mrscale.workflow.encoding import encode as encode_people

    folder = encode_people(_study(study, store=store, run=run, seed=seed), quiet=quiet)
    text = f"Latent instruments are in {folder.latents}"
    _print({"run": str(folder.path), "digest": folder.done("encode")}, text, as_json)


@app.command()
def estimate(
    study: StudyFile = None,
    store: StoreFolder = None,
    run: RunPath = None,
    seed: Seed = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Estimate the effect of every exposure on every outcome."""
    from mrscale.workflow.estimating import estimate as estimate_effects

    chosen = _study(study, store=store, run=run, seed=seed)
    _print_result(chosen, estimate_effects(chosen, quiet=quiet), as_json)


@app.command()
def report(
    study: StudyFile = None,
    store: StoreFolder = None,
    run: RunPath = None,
    as_json: Json = False,
) -> None:
    """Write the report of a run that has its estimates."""
    from mrscale.workflow.study import report as write

    chosen = _study(study, store=store, run=run)
    _print_result(chosen, write(chosen), as_json)


@app.command()
def run(study: Path, as_json: Json = False, quiet: Quiet = False) -> None:
    """Do every stage of a study that is not done yet."""
    from mrscale.workflow.study import run as run_study

    chosen = load_study(study)
    _print_result(chosen, run_study(chosen, quiet=quiet), as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this machine: what is there, what is missing, and the command that mends it."""
    from mrscale.workflow.doctor import examine

    checks = examine()
    if as_json:
        typer.echo(json.dumps([vars(check) for check in checks]))
    else:
        table = Table("", "What", "Found", "To do", title=f"mrscale {__version__}")
        for check in checks:
            mark = "[green]ok[/green]" if check.ok else "[red]missing[/red]"
            table.add_row(mark, check.name, check.found, check.fix)
        Console().print(table)
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("demo-run"),
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Simulate a biobank of 20,000 people and run the whole study on it."""
    from mrscale.simulate import simulate as draw
    from mrscale.workflow.study import run as run_study

    start = time.perf_counter()
    with bar("Simulating", 1, quiet=quiet) as progress:
        draw(out, seed=seed, progress=progress)
    chosen = load_study(out / "study.toml")
    result = run_study(chosen, quiet=quiet)
    _print_result(chosen, result, as_json)
    if not as_json:
        typer.echo(f"Done in {time.perf_counter() - start:.0f} s.")


def _study(file: Path | None, **flags: Any) -> Study:
    """The study of a file with flags laid over it, or one made of flags alone."""
    base = load_study(file).model_dump() if file else {}
    for key, value in flags.items():
        if isinstance(value, dict):
            given = {k: v for k, v in value.items() if v not in (None, [])}
            base[key] = {**base.get(key, {}), **given}
        elif value is not None:
            base[key] = value
    if file is None and base.get("store") and Path(base["store"]).exists():
        from mrscale.store.reader import open_store

        settings = open_store(base["store"]).manifest["provenance"]["settings"]
        base = {"folds": settings["folds"], "seed": settings["seed"], **base}
    return parse_study(base)


def _print(summary: dict[str, Any], text: str, as_json: bool) -> None:
    typer.echo(json.dumps(summary) if as_json else text)


def _print_result(study: Study, result: Any, as_json: bool) -> None:
    from mrscale.report.control import show
    from mrscale.report.export import to_json

    if as_json:
        typer.echo(json.dumps(to_json(result)))
        return
    people = "; ".join(f"{step} {show(count)}" for step, count in result.people.items())
    variants = "; ".join(f"{status} {count:,}" for status, count in result.variants.items())
    typer.echo(f"People: {people}\nVariants: {variants}\n\n{result.summary()}")
    typer.echo(f"\nReport: {Path(study.run) / 'report.html'}")
