"""What all verbs share: the application, its common options, errors and output."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from mrscale import __version__, places, stopping
from mrscale.config import SOURCES, Study
from mrscale.errors import InputError, MrscaleError
from mrscale.study_file import load_study, parse_study

app = typer.Typer(
    name="mrscale",
    help="Biobank-scale Mendelian randomization with learned instruments.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    suggest_commands=False,  # click does, and both would
    epilog="What is common to all verbs, with the exit codes: docs/command-line.md",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Words = list[str] | None
"""Type of an option that may be given several times."""
StudyFile = Annotated[Path | None, typer.Argument(help="A study.toml; flags override the file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what it would do and take; do nothing.")
]
StoreFolder = Annotated[
    str | None, typer.Option("--store", help="Genotype store, a folder or URL.")
]
RunPath = Annotated[str | None, typer.Option("--run", help="Run folder.")]
Scheduler = Annotated[str | None, typer.Option("--scheduler", help="Address of a Dask scheduler.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of all that is random.")]
Phenotypes = Annotated[str | None, typer.Option("--phenotypes", help="Table of people.")]
SampleColumn = Annotated[
    str | None, typer.Option("--sample-column", help="Column with sample ids.")
]
Exposure = Annotated[Words, typer.Option("--exposure", help="Exposure column.")]
Outcome = Annotated[Words, typer.Option("--outcome", help="Outcome column.")]
Covariate = Annotated[Words, typer.Option("--covariate", help="Covariate column.")]
Ancestry = Annotated[
    str | None, typer.Option("--ancestry", help="Table of genetic ancestry; adds PC1, PC2, ...")
]
MissingValue = Annotated[
    Words, typer.Option("--missing-value", help="Cell that means missing, such as -9.")
]

INTERRUPTED = 130
"""Exit code that typer gives a command stopped with Ctrl-C."""
TERMINATED = 143
"""Exit code of a command that was asked to end, by SIGTERM."""


def examples(*lines: str) -> str:
    """The end of a verb's help: command lines to copy."""
    return "\n\n".join(["Examples:", *lines])


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
        with stopping.heeded():
            app()
    except MrscaleError as error:
        _fail(error)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            # tasks of engines that nobody waits for any more say so while the interpreter ends
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)
            again = shlex.join(["mrscale", *sys.argv[1:]])
            typer.echo(f"Stopped; what is finished stays. To go on, run: {again}", err=True)
            if stopping.was_asked():
                raise SystemExit(TERMINATED) from None
        raise


def _fail(error: MrscaleError) -> NoReturn:
    if "--json" in sys.argv:
        typer.echo(json.dumps({"error": str(error), "kind": type(error).__name__}))
    else:
        typer.echo(f"Error: {error}", err=True)
    raise SystemExit(1)


def study_of(file: Path | None, **flags: Any) -> Study:
    """The study of a file with flags laid over it, or one made of flags alone."""
    given = {
        key: {k: v for k, v in flag.items() if v not in (None, [])}
        if isinstance(flag, dict)
        else flag
        for key, flag in flags.items()
    }
    if file is None and all(value in (None, {}) for value in given.values()):
        here = Path("study.toml")
        hint = f"there is {here} in this folder: give it" if here.is_file() else "see --help"
        raise InputError(f"this verb needs a study file or flags; {hint}")
    base = load_study(file).model_dump() if file else {}
    for key, value in given.items():
        if isinstance(value, dict):
            if key == "genotypes" and value:  # a source takes the place of that of the file
                base[key] = {k: v for k, v in base.get(key, {}).items() if k not in SOURCES}
            base[key] = {**base.get(key, {}), **value}
        elif value is not None:
            base[key] = value
    if file is None and base.get("store") and places.exists(base["store"]):
        from mrscale.store.reader import open_store

        settings = open_store(base["store"]).manifest["provenance"]["settings"]
        base = {"folds": settings["folds"], "seed": settings["seed"], **base}
    return parse_study(base)


def show(summary: dict[str, Any], text: str, as_json: bool) -> None:
    """Print a summary, as JSON or as text."""
    if as_json:
        from mrscale.report.export import plain

        text = json.dumps(plain(summary), allow_nan=False)
    typer.echo(text)
