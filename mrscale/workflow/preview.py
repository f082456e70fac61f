"""What a study would do and take, before it is started: nothing is written, no engine starts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from mrscale import disclosure, places
from mrscale.config import Study
from mrscale.disclosure import export_count, is_small, vague
from mrscale.store.reader import GenotypeStore, open_store
from mrscale.study_file import StudyLike, as_study
from mrscale.workflow.encoding import encoding_digest
from mrscale.workflow.estimating import estimation_digest
from mrscale.workflow.runfolder import RunFolder
from mrscale.workflow.study import is_reported, lies_in_run
from mrscale.workflow.training import is_trained, training_digest
from mrscale.workflow.truth import truth_of

State = Literal["done", "to continue", "to do"]

_SOURCE = "measured on the two cores of docs/benchmarks.md; not measured on more"
_GENOTYPES_PER_SECOND = {"mt": 200e6 / 9.01, "vcf": 200e6 / 46.22}
"""200 M genotypes of a MatrixTable and, as a whole command, of a VCF: docs/benchmarks.md."""
_FLOW_STEP_SECONDS = 0.1323
"""Of 4 folds x 2 restarts with batches of 1,024 people: docs/benchmarks.md."""
_BYTES_PER_GENOTYPE = 226 * 2**20 / 500e6
"""Hard calls with 1 % missing: docs/benchmarks.md, which has no imputed dosages."""
_BYTES_PER_TRAIT = 4
_BLOCK = 4096


@dataclass(frozen=True)
class Stage:
    """One stage of a study.

    Attributes
    ----------
    name : str
    state : {"done", "to continue", "to do"}
    minutes : float or None
        What it is expected to take; None if it is done, or no benchmark tells.
    basis : str
        What the minutes are based on, or why there are none.
    """

    name: str
    state: State
    minutes: float | None = None
    basis: str = ""


@dataclass(frozen=True)
class Preview:
    """A study before it runs, in numbers that may leave.

    1 to 20 people are ``"<=20"``. More are rounded up to hundreds: beside an exact number of those
    who were analysed, an exact number of rows would give away how few were left out.

    Attributes
    ----------
    study, run, store : str
        Name of the study, and where it would write.
    inputs : dict of str to dict of str to int
        By kind of input, the number of ``"files"`` (or folders) and their ``"bytes"``, rounded up
        to 4 KiB: the exact size of a short list of ids is their number.
    people : int or str
        At most: the smaller of the table of people and the genotype file, or those of a store
        that is there.
    people_listed, people_genotyped : int or str
        Rows of the table of people, and samples of the genotype file.
    variants : int
        At most: usable rows of the list of instruments, or all of the genotype file. Exact in a
        store that is there.
    variants_listed : int or None
        Usable rows of the list; None without a list.
    variants_genotyped : int
        Rows of the genotype file.
    variants_counted : bool
        Whether that number was counted, or judged from the beginning of the file.
    genotypes : int
        People times variants: at most.
    store_bytes : int
        Size of the store: expected, or as it is.
    stages : tuple of Stage
    """

    study: str
    run: str
    store: str
    inputs: dict[str, dict[str, int]]
    people: int | str
    people_listed: int | str
    people_genotyped: int | str
    variants: int
    variants_listed: int | None
    variants_genotyped: int
    variants_counted: bool
    genotypes: int
    store_bytes: int
    stages: tuple[Stage, ...]

    def summary(self) -> str:
        """The preview as lines of text."""
        is_there = self.stages[0].state == "done"
        bound, size = ("", "") if is_there else ("at most ", "expected, about ")
        listed = self.variants_listed
        usable = "no list of instruments" if listed is None else f"{listed:,} usable in the list"
        about = "" if self.variants_counted else "about "
        lines = {
            "Study": f"{self.study} (a preview: nothing was written or started)",
            **{f"Input {kind}": _files(found) for kind, found in self.inputs.items()},
            "People": f"at most {_number(self.people)}: {_number(self.people_listed)} in the table "
            f"of people, {_number(self.people_genotyped)} in the genotype file (rounded up)",
            "Variants": f"{bound}{self.variants:,}: {usable}, {about}{self.variants_genotyped:,} "
            "rows of the genotype file",
            "Genotypes": f"at most {self.genotypes:,}",
            "Store": f"{self.store}, {size}{self.store_bytes:,} bytes",
            **{f"Stage {stage.name}": _words(stage) for stage in self.stages},
        }
        return "\n".join(f"{name:<17} {text}" for name, text in lines.items())


def preview_extraction(study: StudyLike, out: str | None = None) -> Preview:
    """Check the inputs of an extraction as it would, and say what it would take.

    Parameters
    ----------
    study : Study, str, Path or mapping
        As for :func:`mrscale.extract`.
    out : str, optional
        Folder or URL of the store; by default the study's.

    Raises
    ------
    MrscaleError
        If an input or the place of the store does not allow the extraction.
    """
    study = as_study(study)
    out = out or study.store_path
    if lies_in_run(study, out):
        RunFolder.examine(study)
    return _preview(study, out)


def preview_run(study: StudyLike) -> Preview:
    """Check the inputs of a whole study, and say which stages are done and what the rest takes.

    Parameters and errors are those of :func:`mrscale.run`, as far as they need no engine.
    """
    study = as_study(study)
    truth_of(study)
    return _preview(study, study.store_path, RunFolder.examine(study))


def _preview(study: Study, out: str, folder: RunFolder | None = None) -> Preview:
    """A preview of the extraction or, with the run folder, of all stages."""
    from pipelines import extract, identity, sources

    disclosure.enforce(study.disclosure.as_policy())
    inputs = extract.check(study, out)
    extent = sources.measure(inputs.study.genotypes, inputs.files)
    listed = None if inputs.listed is None else int((inputs.listed["status"] == "").sum())
    store = open_store(out) if inputs.finished else None
    num_listed = len(inputs.tables.people)
    if store:
        people, variants = store.num_samples, store.num_variants
    else:
        people = min(num_listed, extent.num_people)
        variants = extent.num_rows if listed is None else listed
    counted = vague(people)
    traits = sum(len(names) for names in study.traits.model_dump().values())
    expected = counted * (variants * _BYTES_PER_GENOTYPE + traits * _BYTES_PER_TRAIT)
    minutes, basis = _minutes_to_extract(inputs.study, counted, variants, extent)
    begun: State = "to continue" if places.names(out) else "to do"
    first = Stage("extract", "done") if store else Stage("extract", begun, minutes, basis)
    files = identity.input_files(inputs.study, inputs.files)
    return Preview(
        study=study.name,
        run=study.run,
        store=out,
        inputs={kind: _sizes(paths) for kind, paths in files.items()},
        people=_rounded(people),
        people_listed=_rounded(num_listed),
        people_genotyped=_rounded(extent.num_people),
        variants=variants,
        variants_listed=listed,
        variants_genotyped=extent.num_rows,
        variants_counted=extent.exact,
        genotypes=counted * variants,
        store_bytes=sum(places.files(out).values()) if store else round(expected),
        stages=(first, *(_later_stages(study, store, folder) if folder else ())),
    )


def _minutes_to_extract(
    study: Study, people: int, variants: int, extent: Any
) -> tuple[float | None, str]:
    kind = study.genotypes.source or ""
    rate = _GENOTYPES_PER_SECOND.get(kind)
    if rate is None:
        return None, f"no benchmark of {kind} files"
    # a VCF has no index: all of it is read; of a MatrixTable the parts around the instruments are
    whole = kind == "vcf"
    read = vague(extent.num_people) * extent.num_rows if whole else people * variants
    basis = f"{rate / 1e6:.1f} M genotypes a second, {_SOURCE}"
    if kind == "mt":
        basis += "; reading what lies around listed variants comes on top"
    return round(read / rate / 60, 1), basis


def _later_stages(study: Study, store: GenotypeStore | None, folder: RunFolder) -> list[Stage]:
    """The stages after the extraction, each done only if all before it are."""
    learning = bool(study.encoder.methods)
    trained = encoded = estimated = False
    if store:
        identity = training_digest(study, store)
        trained = not learning or is_trained(study, folder, identity)
        encoded = trained and (not learning or folder.done("encode") == encoding_digest(identity))
        estimates = estimation_digest(study, store, learned=learning)
        estimated = encoded and folder.done("estimate") == estimates
    told = {
        "train": _training(study, done=trained),
        "encode": _untimed("encode", done=encoded),
        "estimate": _untimed("estimate", done=estimated),
        "report": _untimed("report", done=estimated and is_reported(folder)),
    }
    return [stage for name, stage in told.items() if learning or name not in ("train", "encode")]


def _training(study: Study, *, done: bool) -> Stage:
    settings = study.encoder
    if done or "flow" not in settings.methods:
        return _untimed("train", done=done)
    steps = 1000 if settings.steps == "auto" else settings.steps
    basis = (
        f"flow encoders alone, {steps:,} steps of {1000 * _FLOW_STEP_SECONDS:.0f} ms for 4 folds "
        f"x 2 restarts of 1,024 people, {_SOURCE}; other methods and the choice of the latent "
        "dimension come on top"
    )
    return Stage("train", "to do", round(steps * _FLOW_STEP_SECONDS / 60, 1), basis)


def _untimed(name: str, *, done: bool) -> Stage:
    return Stage(name, "done") if done else Stage(name, "to do", basis="no benchmark")


def _rounded(people: int) -> int | str:
    return export_count(people) if is_small(people) else int(vague(people))


def _sizes(paths: Iterable[str]) -> dict[str, int]:
    sizes = [
        places.size(path) if places.is_file(path) else sum(places.files(path).values())
        for path in paths
    ]
    return {"files": len(sizes), "bytes": -(-sum(sizes) // _BLOCK) * _BLOCK}


def _files(found: dict[str, int]) -> str:
    plural = "s" if found["files"] > 1 else ""
    return f"{found['files']:,} file{plural} or folder{plural}, {found['bytes']:,} bytes"


def _words(stage: Stage) -> str:
    if stage.state == "done":
        return stage.state
    if stage.minutes is None:
        return f"{stage.state}; minutes unknown ({stage.basis})"
    time = "less than a minute" if stage.minutes < 1 else f"about {stage.minutes:,.0f} min"
    return f"{stage.state}; {time} ({stage.basis})"


def _number(count: int | str) -> str:
    return count if isinstance(count, str) else f"{count:,}"
