"""What a person wants to know of a genotype store, disclosure-controlled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrscale import places
from mrscale.disclosure import (
    AtMost,
    bounded,
    export_count,
    is_small,
    policy,
    show_count,
    total_of,
)
from mrscale.errors import without_secrets
from mrscale.provenance import without_people
from mrscale.store.reader import GenotypeStore, open_store
from mrscale.store.schema import TRAITS

_ROWS_AT_ONCE = 2**16
_DIGITS = 4


@dataclass(frozen=True)
class Description:
    """A store in numbers that may leave: counts of 1 to 20 people are bounds such as ``"<=20"``.

    Attributes
    ----------
    store, digest : str
    schema_version : str
    version : int
        1 for an extraction, one more with each append.
    people : int or str
    environments : dict of str to (int or str)
        People per environment.
    funnel : dict of str to (int or str)
        People left after each step of the extraction.
    variants : int
    variants_dropped : dict of str to int
        Candidate variants that were not taken, by reason.
    dosages : str
        ``"calls"`` (0, 1, 2) or ``"dosages"`` (imputed).
    missing_genotypes : float or str
        Share of genotypes without a call; in words where it would give a small count away.
    traits : dict of str to dict of str to (float or str)
        For exposures, outcomes and covariates, the share of people for whom each is missing;
        in words where it would give a small count away.
    appended : dict of str to list of str
        Which of the traits were appended.
    folds : int
    families : int or str
        Families of two or more.
    num_bytes, num_objects : int
    chunks, shards : dict of str to int
        ``"num"`` and ``"rows"``: the units of reading and of writing.
    provenance : dict
        Seed, software and inputs of the extraction.
    """

    store: str
    digest: str
    schema_version: str
    version: int
    people: int | str
    environments: dict[str, int | str]
    funnel: dict[str, int | str]
    variants: int
    variants_dropped: dict[str, int]
    dosages: str
    missing_genotypes: float | str
    traits: dict[str, dict[str, float | str]]
    appended: dict[str, list[str]]
    folds: int
    families: int | str
    num_bytes: int
    num_objects: int
    chunks: dict[str, int]
    shards: dict[str, int]
    provenance: dict[str, Any]

    def summary(self) -> str:
        """The description as lines of text."""
        people = f"{_number(self.people)}: {_joined(self.environments)}"
        folds = f"{self.folds}; families of two or more: {_number(self.families)}"
        variants = (
            f"{self.variants:,} ({self.dosages}), {_in_percent(self.missing_genotypes)} missing"
        )
        layout = f"chunks of {self.chunks['rows']:,} rows, shards of {self.shards['rows']:,}"
        appended = [name for names in self.appended.values() for name in names]
        software = [f"{name} {version}" for name, version in self.provenance["software"].items()]
        lines = {
            "Store": f"{self.store} (schema {self.schema_version}, version {self.version})",
            "People": people,
            "Steps": _joined(self.funnel),
            "Folds": folds,
            "Variants": variants,
            "Dropped": _joined(self.variants_dropped),
            **{plural.capitalize(): _shares(found) for plural, found in self.traits.items()},
            "Appended": ", ".join(appended),
            "Size": f"{self.num_bytes / 2**20:,.1f} MiB in {self.num_objects:,} files",
            "Layout": layout,
            "Seed": "" if self.provenance["seed"] is None else str(self.provenance["seed"]),
            "Made with": ", ".join(software),
            "Digest": self.digest,
        }
        return "\n".join(f"{name:<11} {text}" for name, text in lines.items() if text)


def describe(path: str | Path) -> Description:
    """Describe a finished genotype store; reads traits, but no genotypes.

    Parameters
    ----------
    path : str or Path
        Folder or URL.

    Returns
    -------
    Description
        Numbers that may leave; ``summary()`` is their text.

    Raises
    ------
    StoreError
        If the store is unfinished, damaged, or of another schema version.

    Examples
    --------
    ``store.zarr`` holds 900 simulated people of three environments, and 30 variants.

    >>> import mrscale as mr
    >>> found = mr.describe("store.zarr")
    >>> found.people, found.variants, found.traits["exposures"]
    (900, 30, {'exposure': 0.0})
    >>> print(found.summary())  # doctest: +ELLIPSIS
    Store       store.zarr (schema 1.1, version 1)
    People      900: north 290, south 285, west 325
    ...
    """
    store = open_store(path)
    manifest, layout = store.manifest, store.layout
    environments, people, funnel = _people(store)
    family, fold = store.array("family"), store.array("fold")
    families = len(np.unique(family[family >= 0]))
    sizes = places.files(path)
    return Description(
        store=without_secrets(str(path)),
        digest=store.digest,
        schema_version=manifest["schema_version"],
        version=manifest["version"],
        people=people,
        environments=environments,
        funnel=funnel,
        variants=store.num_variants,
        variants_dropped={k: v for k, v in manifest.get("variants", {}).items() if k != "kept"},
        dosages=store.code.name,
        missing_genotypes=_missing_calls(store),
        traits={plural: _missing(store, kind) for kind, plural in TRAITS.items()},
        appended={plural: _appended(store, kind) for kind, plural in TRAITS.items()},
        folds=int(fold.max(initial=-1)) + 1,
        families=export_count(bounded(families, [])),
        num_bytes=sum(sizes.values()),
        num_objects=len(sizes),
        chunks={"num": layout.num_chunks, "rows": layout.chunk_rows},
        shards={"num": layout.num_shards, "rows": layout.shard_rows},
        provenance=_provenance(manifest["provenance"]),
    )


def _people(store: GenotypeStore) -> tuple[dict[str, int | str], int | str, dict[str, int | str]]:
    """People per environment, in all and after each step, controlled together."""
    counts = np.bincount(store.array("environment"), minlength=len(store.names("environments")))
    cells = [bounded(int(count), []) for count in counts]
    everyone: list[int] = []
    whole = total_of(cells, store.num_samples)
    # an exact count of everybody, or nearly, would undo the bound on a small environment
    reach = whole + policy().limit if isinstance(whole, AtMost) else 0
    total = bounded(whole, everyone)
    funnel = {
        step: export_count(total if count == store.num_samples else bounded(count, everyone, reach))
        for step, count in store.manifest.get("people", [])
    }
    names = store.names("environments")
    return dict(zip(names, map(export_count, cells), strict=True)), export_count(total), funnel


def _missing(store: GenotypeStore, kind: str) -> dict[str, float | str]:
    names = store.array(TRAITS[kind]).tolist()
    missing = np.zeros(len(names), dtype=np.int64)
    for start in range(0, store.num_samples if names else 0, _ROWS_AT_ONCE):
        missing += np.isnan(store.array(kind, slice(start, start + _ROWS_AT_ONCE))).sum(axis=0)
    return {
        name: _share(int(count), store.num_samples)
        for name, count in zip(names, missing, strict=True)
    }


def _missing_calls(store: GenotypeStore) -> float | str:
    rate = store.manifest.get("missing_rate", 0)
    missing = round(rate * store.num_samples * store.num_variants)
    return f"{show_count(missing)} calls" if is_small(missing) else round(rate, _DIGITS)


def _appended(store: GenotypeStore, kind: str) -> list[str]:
    entries = store.manifest["appended"]
    return [name for entry in entries for name in entry["traits"].get(kind, [])]


def _share(missing: int, total: int) -> float | str:
    if is_small(missing):
        return f"{show_count(missing)} people"
    if is_small(total - missing):
        return f"all but {show_count(total - missing)} people"
    # a share of so few digits could be that of twice as many counts as are hidden
    digits = int(math.log10(max(1, total) / (2 * policy().limit + 1)))
    if missing and digits < 1:
        return f"more than {policy().limit} people"
    return round(missing / max(1, total), min(digits, _DIGITS))


def _provenance(provenance: dict[str, Any]) -> dict[str, Any]:
    settings = without_people(provenance.get("settings", {}))
    return {
        "seed": settings.get("seed"),
        "software": provenance.get("software", {}),
        "inputs": settings.get("inputs", {}),
    }


def _number(count: int | str) -> str:
    return count if isinstance(count, str) else f"{count:,}"


def _joined(counts: Mapping[str, int | str]) -> str:
    return ", ".join(f"{name} {_number(count)}" for name, count in counts.items())


def _shares(found: dict[str, float | str]) -> str:
    """Names of traits, each with the share of people for whom it is missing."""
    return ", ".join(f"{name} (missing: {_in_percent(share)})" for name, share in found.items())


def _in_percent(share: float | str) -> str:
    return share if isinstance(share, str) else f"{100 * share:.4g} %"
