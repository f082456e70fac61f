"""Writing a genotype store: claim, arrays, dosages shard by shard, and the manifest last.

The claim (``extraction.json``) is created exclusively: of several extractions that want one place,
the first decides what it will hold; an identical one may work beside it, any other is refused.
Each finished shard of ``call_dosage`` leaves a small marker under ``parts/``, keyed by a digest of
everything that decides the shard's content, so that a rerun writes only what is missing. Any
number of processes may write shards, and writing one twice is harmless.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mrscale import places
from mrscale.errors import InputError, StoreError
from mrscale.provenance import digest, write_json
from mrscale.store import arrays as zarrs
from mrscale.store import guard
from mrscale.store import manifest as manifests
from mrscale.store.schema import ARRAYS, CALLS, CODES, DOSAGE, SPECS, DosageCode, Layout

CLAIM = "extraction.json"
PARTS = "parts"
RUN_RECORD = "run.json"


def examine(path: str | Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Look whether an extraction may write to a place, without writing.

    Parameters
    ----------
    path : str or Path
        Folder or URL of the store to be.
    settings : mapping
        JSON-able; all that decides the store's content. Inputs, under ``"inputs"``, by content.

    Returns
    -------
    dict or None
        The manifest if this very extraction is finished already.

    Raises
    ------
    InputError
        If the place holds anything but this extraction, is read-only, or has no bucket.
    StoreError
        If its claim, or its manifest, is damaged.
    """
    present = [name for name in places.names(path) if not name.endswith(".partial")]
    if not present and not places.is_file(path):
        places.require_writable(path)
        return None
    claim_file = places.join(path, CLAIM)
    previous = guard.read_json(claim_file) if CLAIM in present else {}
    if previous.get("digest") != digest(settings):
        raise InputError(
            f"{path} exists and is not this study's store{_differences(previous, settings)}; "
            "nothing was touched; choose another place for it (--out, or run = in the study file) "
            "or remove it"
        )
    return manifests.read(path)


def claim(path: str | Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Take a place for an extraction; call it just before the first write.

    Parameters and errors are those of :func:`examine`; a place that cannot be written is an
    InputError too.

    Returns
    -------
    dict or None
        The manifest if this very extraction is finished already.
    """
    with places.writing(path):
        finished = examine(path, settings)
        content = {"digest": digest(settings), "settings": dict(settings)}
        text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"
        created = places.create_bytes(places.join(path, CLAIM), text.encode())
        # another process may have been first, with this extraction or with another one
        return finished if created else examine(path, settings)


def create(path: str | Path, layout: Layout, *, code: DosageCode = CALLS) -> None:
    """Create the group and an empty ``call_dosage``, or keep those that are there.

    Parameters
    ----------
    path : str or Path
        Folder or URL of the store.
    layout : Layout
        Numbers of people and variants, and how rows are cut.
    code : DosageCode
        How dosages are written: hard calls, or imputed ones.

    Raises
    ------
    StoreError
        If there is an unfinished store of another layout.
    InputError
        If the place cannot be written.
    """
    with places.writing(path):
        zarrs.create_group(path)
        zarrs.create_dosage(path, layout, code)


def write_array(path: str | Path, name: str, values: NDArray[Any]) -> str:
    """Write one of the small arrays whole.

    Parameters
    ----------
    path : str or Path
        Folder or URL of the store, already created.
    name : str
        Name in :data:`mrscale.store.schema.SPECS`.
    values : ndarray
        Shape and kind as in the schema; converted to the schema's dtype.

    Returns
    -------
    str
        The array's digest.
    """
    with places.writing(path):
        return zarrs.write_whole(path, name, values)


def write_shard(path: str | Path, index: int, dosage: NDArray[Any], *, key: str) -> str:
    """Write one shard of ``call_dosage`` and then its marker.

    Parameters
    ----------
    path : str or Path
        Folder or URL of the store, already created.
    index : int
        Number of the shard.
    dosage : ndarray of the code's dtype, shape (rows of the shard, num_variants)
        Codes as of :meth:`mrscale.store.schema.DosageCode.encode`.
    key : str
        Digest of what decides the content; see :func:`finished_shards`.

    Returns
    -------
    str
        SHA-256 (hex) of the decoded block.
    """
    with places.writing(path):
        array = zarrs.open_array(path, DOSAGE)
        if dosage.dtype != array.dtype:
            raise TypeError(f"call_dosage is {array.dtype}, but the shard is {dosage.dtype}")
        shard_rows = array.shards[0] if array.shards else array.chunks[0]
        if dosage.size:
            array[index * shard_rows : index * shard_rows + len(dosage)] = dosage
        sha = zarrs.digest_of(dosage)
        write_json(places.join(path, PARTS, f"{index:06d}.json"), {"key": key, "sha256": sha})
    return sha


def finished_shards(path: str | Path, key: str) -> dict[int, str]:
    """Digests of the shards already written with this key, by shard number; what cannot be read as
    a record of one (power was lost) is none, and the shard is written again."""
    done = {}
    for name in places.names(places.join(path, PARTS)):
        if not name[:1].isdigit():
            continue
        try:
            found = json.loads(places.read_bytes(places.join(path, PARTS, name)))
            if found["key"] == key:
                done[int(name.removesuffix(".json"))] = str(found["sha256"])
        except FileNotFoundError:  # an identical extraction has just finished the store
            continue
        except (ValueError, KeyError, TypeError):  # half a record
            continue
    return done


def finalise(
    path: str | Path,
    *,
    layout: Layout,
    arrays: Mapping[str, str],
    shards: Mapping[int, str],
    report: Mapping[str, Any],
    provenance: Mapping[str, Any],
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """Commit the store: write ``run.json``, then ``manifest.json``.

    Parameters
    ----------
    path : str or Path
        Folder or URL of the store with all arrays written.
    layout : Layout
        As given to :func:`create`.
    arrays : mapping of str to str
        Digest of every small array.
    shards : mapping of int to str
        Digest of every shard of ``call_dosage``.
    report : mapping
        What a reader wants to know of the people and variants (counts by status).
    provenance : mapping
        Input digests, versions, seed: nothing that differs between equal runs.
    run : mapping
        Times and machine; kept beside the store, not in its digest.

    Returns
    -------
    dict
        The manifest; that of an identical extraction if it has finished the store meanwhile.

    Raises
    ------
    StoreError
        If an array or a shard has not been written, or another process has finished the store
        with other content.
    """
    with places.writing(path):
        finished = manifests.read(path)
        if finished is None:
            _require_all(layout, arrays, shards)
            dtype = str(zarrs.open_array(path, DOSAGE).dtype)
            code = next(code for code in CODES.values() if code.dtype == dtype)
            in_order = [shards[i] for i in range(layout.num_shards)]
            manifest = manifests.first(
                layout, code, arrays, in_order, provenance=provenance, report=report
            )
            zarrs.consolidate(path, SPECS)
            write_json(places.join(path, RUN_RECORD), dict(run))
            finished = manifest if manifests.commit(path, manifest) else manifests.read(path)
        if finished is None or finished["arrays"] != dict(arrays):
            raise StoreError(
                f"another process finished {path} meanwhile with other content; run the same "
                "command again for another place"
            )
        places.remove(places.join(path, PARTS))
    return finished


def _require_all(layout: Layout, arrays: Mapping[str, str], shards: Mapping[int, str]) -> None:
    absent = [s.name for s in ARRAYS if s.name not in arrays and s.name != DOSAGE]
    absent += [f"{DOSAGE} shard {i}" for i in range(layout.num_shards) if i not in shards]
    if absent:
        raise StoreError(f"the store cannot be finished, these are not written: {absent[:5]}")


def _differences(previous: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Which parts of the study changed since a store was begun, for a message."""
    before = previous.get("settings", {})
    inputs = before.get("inputs", {}), settings.get("inputs", {})
    files = [f"the {name} file" for name in inputs[1] if inputs[0].get(name) != inputs[1][name]]
    named = [name for name in settings if name != "inputs" and before.get(name) != settings[name]]
    return f" (what changed: {', '.join(files + named)})" if before else ""
