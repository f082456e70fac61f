"""Verbs that train, estimate and report, and those that look after the machine."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mrscale import __version__
from mrscale.cli.base import (
    DryRun,
    Json,
    Quiet,
    RunPath,
    Scheduler,
    Seed,
    StoreFolder,
    StudyFile,
    Words,
    app,
    examples,
    show,
    study_of,
)
from mrscale.config import Study
from mrscale.disclosure import show_count
from mrscale.errors import InputError
from mrscale.progress import bar
from mrscale.study_file import load_study

_ONE: Any = {"rich_help_panel": "Of one genotype store"}
"""Options that choose what a study's file says otherwise."""
EstimatorName = Annotated[
    str | None, typer.Option(help="2sls, ols, liml, fuller, gmm, cue, jive, ujive.", **_ONE)
]
ErrorKind = Annotated[str | None, typer.Option(help="robust, classical or cluster.", **_ONE)]
FirstStage = Annotated[str | None, typer.Option(help="split: that of the other folds.", **_ONE)]
OutcomeModel = Annotated[
    str | None, typer.Option(help="2sri or logistic: log odds ratios.", **_ONE)
]
Prevalence = Annotated[
    float | None, typer.Option(help="Of cases, where they were sampled.", **_ONE)
]


@app.command(
    epilog=examples(
        "mrscale train study.toml --ranks 2",
        "mrscale train --store store.zarr --run run",
        "torchrun --nproc-per-node 2 -m mrscale train study.toml",
    )
)
def train(
    study: StudyFile = None,
    store: StoreFolder = None,
    run: RunPath = None,
    seed: Seed = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="Training processes.")] = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the encoders, each on one fold of people.

    Under torchrun (torchrun -m mrscale train study.toml) its processes are the ranks.
    """
    from mrscale.train.ranks import leads_here
    from mrscale.workflow.training import train as train_encoders
    from mrscale.workflow.training import trained_on

    chosen = study_of(
        study, store=store, run=run, seed=seed, scheduler=scheduler, encoder={"ranks": ranks}
    )
    folder = train_encoders(chosen, quiet=quiet)
    if not leads_here():
        return
    places = trained_on(chosen)
    text = f"Encoders are in {folder.encoders}; trained on " + ", ".join(
        f"{place} ({method})" for method, place in places.items()
    )
    told = {"run": str(folder.path), "digest": folder.done("train"), "trained_on": places}
    show(told, text, as_json)


@app.command(
    epilog=examples(
        "mrscale encode study.toml",
        "mrscale encode --store store.zarr --run run",
    )
)
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

    folder = encode_people(study_of(study, store=store, run=run, seed=seed), quiet=quiet)
    text = f"Latent instruments are in {folder.latents}"
    show({"run": str(folder.path), "digest": folder.done("encode")}, text, as_json)


@app.command(
    epilog=examples(
        "mrscale estimate study.toml",
        "mrscale estimate run/store.zarr --exposure ldl --outcome chd --by environment",
    )
)
def estimate(
    study_or_store: Annotated[
        str | None,
        typer.Argument(help="A study.toml, or a genotype store; flags override the file."),
    ] = None,
    store: StoreFolder = None,
    run: RunPath = None,
    seed: Seed = None,
    exposure: Annotated[Words, typer.Option(help="Exposure; again for several.", **_ONE)] = None,
    outcome: Annotated[str | None, typer.Option(help="Outcome.", **_ONE)] = None,
    covariate: Annotated[Words, typer.Option(help="Covariate; all if left out.", **_ONE)] = None,
    by: Annotated[str | None, typer.Option(help="environment: each by itself.", **_ONE)] = None,
    estimator: EstimatorName = None,
    errors: ErrorKind = None,
    first_stage: FirstStage = None,
    outcome_model: OutcomeModel = None,
    prevalence: Prevalence = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Estimate a study's effects, or that of one exposure of a genotype store.

    With a study.toml: every exposure on every outcome, by every estimator, with the report. With
    a store: one regression; --run names a run whose latent instruments to use.
    """
    chosen_here = {
        "exposure": exposure or None,
        "outcome": outcome,
        "covariates": covariate or None,
        "by": by,
        "estimator": estimator,
        "errors": errors,
        "first_stage": first_stage,
        "outcome_model": outcome_model,
        "prevalence": prevalence,
    }
    given = {name: value for name, value in chosen_here.items() if value is not None}
    is_study = study_or_store is not None and study_or_store.endswith(".toml")
    one_store = store if study_or_store is None and given else study_or_store
    if one_store and not is_study:
        if seed is not None or (store and study_or_store):
            raise InputError(
                "--seed and --store are for a study file; found a genotype store; leave them out"
            )
        _estimate_store(one_store, run, given, as_json, quiet)
        return
    if given:
        raise InputError(
            f"{', '.join(given)} can be chosen for one genotype store; found a study, whose file "
            "says them; name the store (mrscale estimate run/store.zarr), or leave them out"
        )
    from mrscale.workflow.estimating import estimate as estimate_effects

    chosen = study_of(
        Path(study_or_store) if study_or_store else None, store=store, run=run, seed=seed
    )
    _print_result(chosen, estimate_effects(chosen, quiet=quiet), as_json)


def _estimate_store(
    store: str, run: str | None, given: dict[str, Any], as_json: bool, quiet: bool
) -> None:
    from mrscale.workflow.cohort import estimate as estimate_store

    instruments: Any = "latent" if run else "genotype"
    found = estimate_store(store, instruments=instruments, run=run, quiet=quiet, **given)
    show(found.to_dict(), found.summary(), as_json)


@app.command(
    epilog=examples(
        "mrscale report study.toml",
        "mrscale report --store store.zarr --run run --json",
    )
)
def report(
    study: StudyFile = None,
    store: StoreFolder = None,
    run: RunPath = None,
    as_json: Json = False,
) -> None:
    """Write the report of a run that has its estimates."""
    from mrscale.workflow.study import report as write

    chosen = study_of(study, store=store, run=run)
    _print_result(chosen, write(chosen), as_json)


@app.command(epilog=examples("mrscale run study.toml --dry-run", "mrscale run study.toml"))
def run(
    study: Annotated[Path, typer.Argument(help="A study.toml.")],
    scheduler: Scheduler = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Do every stage of a study that is not done yet."""
    chosen = study_of(study, scheduler=scheduler)
    if dry_run:
        from mrscale.workflow.preview import preview_run

        found = preview_run(chosen)
        show(asdict(found), found.summary(), as_json)
        return
    from mrscale.workflow.study import run as run_study

    _print_result(chosen, run_study(chosen, quiet=quiet), as_json)


@app.command(epilog=examples("mrscale explain run"))
def explain(
    run: Annotated[
        Path, typer.Argument(help="A run folder, a file of results in it, or a study.toml.")
    ],
    as_json: Json = False,
) -> None:
    """Put the results of a run into words."""
    from mrscale.workflow.study import in_words

    told = in_words(run)
    show(told, "\n\n".join("\n".join(lines) for lines in told.values()), as_json)


@app.command(epilog=examples("mrscale doctor", "mrscale doctor --json"))
def doctor(as_json: Json = False) -> None:
    """Check this machine: what is there, what is missing, and the command that mends it."""
    from mrscale.workflow.doctor import examine

    checks = examine()
    if as_json:
        typer.echo(json.dumps([vars(check) for check in checks]))
    else:
        table = Table("", "What", "Found", "To do or to know", title=f"mrscale {__version__}")
        for check in checks:
            good = "[yellow]note[/yellow]" if check.note else "[green]ok[/green]"
            mark = good if check.ok else "[red]missing[/red]"
            table.add_row(mark, check.name, escape(check.found), escape(check.fix or check.note))
        Console().print(table)
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


@app.command(epilog=examples("mrscale demo --out demo-run"))
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


def _print_result(study: Study, result: Any, as_json: bool) -> None:
    from mrscale.report.export import to_json

    if as_json:
        typer.echo(json.dumps(to_json(result)))
        return
    people = "; ".join(f"{step} {show_count(count)}" for step, count in result.people.items())
    variants = "; ".join(f"{status} {count:,}" for status, count in result.variants.items())
    typer.echo(f"People: {people}\nVariants: {variants}\n\n{result.summary()}")
    typer.echo(f"\nReport: {Path(study.run) / 'report.html'}")
