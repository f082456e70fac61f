"""The run folder: whose it is, which stages are done, and whether they are still valid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrscale import disclosure, places
from mrscale.config import Method, Study
from mrscale.errors import RunError
from mrscale.provenance import Clock, write_json
from mrscale.workflow import lock

MARKER = "run.json"


@dataclass(frozen=True)
class RunFolder:
    """Paths and receipts of one run; make it with :meth:`claim`."""

    path: Path

    @classmethod
    def claim(cls, study: Study) -> RunFolder:
        """Take the study's run folder into use, or refuse it untouched, as :meth:`examine` does."""
        folder = cls.examine(study)
        marker = folder.path / MARKER
        if _owner(marker) is None:
            write_json(marker, {"study": study.name})
        return folder

    @classmethod
    @contextmanager
    def held(cls, study: Study) -> Iterator[RunFolder]:
        """Claim the study's run folder, and keep other processes from it for the block.

        Raises
        ------
        RunError
            As :meth:`examine`, if another process works in it, or if its disk is full.
        """
        folder = cls.examine(study)
        with lock.locked(folder.path), places.room(folder.path):
            yield cls.claim(study)

    @classmethod
    def examine(cls, study: Study) -> RunFolder:
        """The study's run folder, which need not be there yet; writes nothing.

        The study's disclosure policy is in force in this process from then on.

        Raises
        ------
        RunError
            If the folder holds something else, or the run of another study.
        """
        disclosure.enforce(study.disclosure.as_policy())
        folder = cls(Path(study.run))
        marker = folder.path / MARKER
        advice = 'nothing was touched; choose another folder (run = "..." or --run) or remove it'
        if folder.path.exists() and not folder.path.is_dir():
            raise RunError(f"{folder.path} is a file, not a run folder; {advice}")
        owner = _owner(marker)
        if owner is None and folder.path.is_dir() and not _is_blank(study):
            raise RunError(f"{folder.path} is not empty and not a run folder; {advice}")
        if owner not in (None, study.name):
            raise RunError(
                f"{folder.path} holds the run of another study, {owner!r}, "
                f"not of {study.name!r}; {advice}"
            )
        return folder

    def bind(self, genotype_digest: str) -> None:
        """Tie the run to one genotype store, whatever traits it has; refuses a second one."""
        marker = self.path / MARKER
        content = json.loads(marker.read_text())
        if content.get("genotypes", genotype_digest) != genotype_digest:
            raise RunError(
                f"{self.path} holds results from another genotype store; nothing was touched; "
                "choose another run folder or remove this one"
            )
        if "genotypes" not in content:
            write_json(marker, {**content, "genotypes": genotype_digest})

    @property
    def encoders(self) -> Path:
        """Folder of all encoders; there once a training has begun."""
        return self.path / "encoders"

    def fold(self, fold: int) -> Path:
        """Folder of one fold's encoders."""
        return self.encoders / f"fold-{fold}"

    def prepared(self, fold: int) -> Path:
        """Front end and scores of one fold."""
        return self.fold(fold) / "prepared.safetensors"

    def encoder(self, method: Method, fold: int) -> Path:
        """Trained encoder of one fold."""
        return self.fold(fold) / f"{method}.safetensors"

    def checkpoint(self, what: str) -> Path:
        """State of encoders in training."""
        return self.encoders / f"{what}.checkpoint.safetensors"

    def metrics(self, what: str) -> Path:
        """What was measured while encoders trained."""
        return self.encoders / f"{what}.metrics.jsonl"

    @property
    def latent_dim(self) -> Path:
        """The latent dimension of all encoders, and what it was chosen by."""
        return self.encoders / "latent_dim.json"

    @property
    def latents(self) -> Path:
        """Latent instruments and remainders of everybody."""
        return self.path / "latents.zarr"

    @property
    def result(self) -> Path:
        """All results in one file, with provenance."""
        return self.path / "result.json"

    @property
    def published(self) -> Path:
        """Exact counts of people that all results of this run have shown."""
        return self.path / "published.json"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / "report.html"

    def done(self, stage: str) -> str | None:
        """Digest of what a finished stage was made from; None if it is not finished, or if what it
        made was removed."""
        made = {"encode": self.latents, "estimate": self.result}.get(stage, self.path)
        if not made.exists():
            return None
        return _receipt_in(self._receipt(stage)).get("digest")

    def finish(self, stage: str, digest: str, clock: Clock) -> None:
        """Record that a stage is done; written last, so that its absence means not done."""
        lock.require_held(self.path)
        write_json(self._receipt(stage), {"digest": digest, "run": clock.record()})

    def reopen(self, stage: str) -> None:
        """Forget that a stage was done, before its artefacts change."""
        self._receipt(stage).unlink(missing_ok=True)

    def clocks(self) -> dict[str, Any]:
        """When and how long each finished stage ran."""
        receipts = sorted((self.path / "stages").glob("*.json"))
        found = {receipt.stem: _receipt_in(receipt) for receipt in receipts}
        return {stage: content["run"] for stage, content in found.items() if content}

    def _receipt(self, stage: str) -> Path:
        return self.path / "stages" / f"{stage}.json"


def _receipt_in(file: Path) -> dict[str, Any]:
    """What a receipt says; nothing if there is none, or a damaged one: the stage is then redone."""
    try:
        content = json.loads(file.read_text())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    whole = isinstance(content, dict) and isinstance(content.get("digest"), str)
    return content if whole and isinstance(content.get("run"), dict) else {}


def _owner(marker: Path) -> str | None:
    """Name of the study that a marker was written for; None if there is no marker of ours."""
    try:
        content = json.loads(marker.read_text())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return content.get("study") if isinstance(content, dict) else None


def _is_blank(study: Study) -> bool:
    """Whether a run folder holds nothing yet but what an extraction, or a process killed at its
    first marker, left in it."""
    store = Path(study.store_path).resolve()
    return all(
        p.resolve() == store or p.name in ("logs", lock.FOLDER) or p.name.startswith(f".{MARKER}.")
        for p in Path(study.run).iterdir()
    )
