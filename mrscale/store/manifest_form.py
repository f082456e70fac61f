"""The form of a manifest, which may come from anywhere: checked before anything is done with it.

In a module of its own: Spark's Python workers write shards, and need no validation at their start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mrscale.store import guard
from mrscale.store.manifest import content_digest
from mrscale.store.schema import ARRAYS, CODES, DOSAGE, TRAITS, Layout

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
        if (
            self.shard_rows % self.chunk_rows
            or self.shard_rows > guard.MOST_CHUNKS * self.chunk_rows
        ):
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
