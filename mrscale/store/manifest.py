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
from typing import Any

from mrscale import places
from mrscale.provenance import digest
from mrscale.store import guard
from mrscale.store.schema import (
    MANIFEST,
    SCHEMA_VERSION,
    TRAITS,
    DosageCode,
    Layout,
)

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
