"""The manifest: what a store is, written last, and added to without ever being changed.

``manifest.json`` commits an extraction. Each append then makes one more version,
``manifest.2.json`` and so on, by exclusive creation: of two that try for one number, one is told
so and goes on from the other's. The newest version holds everything; no version is rewritten, so
a reader sees the store before an append or after it, on object stores too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mrscale import places
from mrscale.provenance import digest
from mrscale.store import guard
from mrscale.store.schema import (
    ARRAYS,
    CODES,
    DOSAGE,
    MANIFEST,
    SCHEMA_VERSION,
    TRAITS,
    DosageCode,
    Layout,
)

_MOST_CHUNKS = 1024
"""Of a shard."""
_VERSION = re.compile(r"manifest\.(\d+)\.json")
_NOT_TRAINED_ON = {*TRAITS, *TRAITS.values(), "cluster"}


def read(path: str | Path) -> dict[str, Any] | None:
    """The newest manifest of a store; None if there is none."""
    names = places.names(path)
    if MANIFEST not in names:
        return None
    versions = [int(found[1]) for name in names if (found := _VERSION.fullmatch(name))]
    newest = f"manifest.{max(versions)}.json" if versions else MANIFEST
    guard.require_inside(path, places.join(path, newest))
    return guard.read_json(places.join(path, newest))


Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**40)]


def _one_of(*names: str) -> Any:
    return Field(pattern=f"^({'|'.join(names)})$")


class _Layout(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    num_samples: Count
    num_variants: Count
    chunk_rows: Annotated[int, Field(ge=1, lt=2**40)]
    shard_rows: Annotated[int, Field(ge=1, lt=2**40)]

    @model_validator(mode="after")
    def _whole_chunks(self) -> _Layout:
        if self.shard_rows % self.chunk_rows or self.shard_rows > _MOST_CHUNKS * self.chunk_rows:
            raise ValueError("shards must be some whole chunks")
        return self


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True)
    name: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    arrays: dict[Annotated[str, _one_of(*TRAITS, *TRAITS.values())], Digest]
    traits: dict[Annotated[str, _one_of(*TRAITS)], list[str]]


class _Provenance(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")
    settings: dict[str, Any] = {}
    software: dict[str, str] = {}


class _Manifest(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")
    version: Annotated[int, Field(ge=1)]
    layout: _Layout
    code: Annotated[str, _one_of(*CODES)]
    arrays: dict[str, Digest]
    shards: list[Digest]
    appended: list[_Entry]
    provenance: _Provenance
    digest: Digest
    people: list[Annotated[list[str | int], Field(min_length=2, max_length=2)]] = []
    environments: dict[str, Count] = {}
    variants: dict[str, Count] = {}
    missing_rate: Annotated[float, Field(ge=0, le=1)] = 0


def require_sound(manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest of this schema version that is not whole, or not as it was written.

    Raises
    ------
    StoreError
        If a key is missing or has a value that it cannot have, or the digest is another.
    """
    try:
        _Manifest.model_validate(dict(manifest))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"][:2]))
        raise guard.damaged(f"{place} in the manifest: {first['msg']}") from None
    layout = Layout(**manifest["layout"])
    whole = (
        manifest["arrays"].keys() == {spec.name for spec in ARRAYS} - {DOSAGE}
        and len(manifest["shards"]) == layout.num_shards
        and content_digest(manifest) == manifest["digest"]
    )
    if not whole:
        raise guard.damaged("the manifest does not fit its own digest")


def first(
    layout: Layout,
    code: DosageCode,
    arrays: Mapping[str, str],
    shards: list[str],
    *,
    provenance: Mapping[str, Any],
    report: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest of an extraction; arguments as of :func:`mrscale.store.writer.finalise`."""
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "version": 1,
        "layout": {name: getattr(layout, name) for name in Layout.__dataclass_fields__},
        "code": code.name,
        "arrays": dict(arrays),
        "shards": shards,
        "appended": [],
        "provenance": dict(provenance),
        **report,
    }
    return manifest | {"digest": content_digest(manifest)}


def next_version(manifest: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with one more entry of ``appended``."""
    appended = [*manifest["appended"], dict(entry)]
    following = {**manifest, "version": manifest["version"] + 1, "appended": appended}
    return following | {"digest": content_digest(following)}


def commit(path: str | Path, manifest: Mapping[str, Any]) -> bool:
    """Write a new version; False if another process has written that version already."""
    version = manifest["version"]
    name = MANIFEST if version == 1 else f"manifest.{version}.json"
    text = json.dumps(manifest, indent=2, sort_keys=True, allow_nan=False) + "\n"
    return places.create_bytes(places.join(path, name), text.encode())


def content_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of all that a store holds, appended traits included."""
    whole = [_form(manifest), manifest["arrays"], manifest["shards"]]
    return digest([*whole, [entry["arrays"] for entry in manifest["appended"]]])


def genotype_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of what encoders are trained on: people, their genotypes, environments,
    families and folds, but no traits."""
    arrays = {k: v for k, v in manifest["arrays"].items() if k not in _NOT_TRAINED_ON}
    return digest([_form(manifest), arrays, manifest["shards"]])


def _form(manifest: Mapping[str, Any]) -> list[Any]:
    return [manifest["schema_version"], manifest["layout"], manifest["code"]]
