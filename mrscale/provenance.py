"""Digests and versions: what every artefact says of how it came to be."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mrscale import places
from mrscale.errors import InputError

_WHOLE_FILE_LIMIT = 256 * 2**20
_SOFTWARE = ("mrscale", "numpy", "scipy", "zarr", "dask", "torch", "hail", "pyspark")


def digest(value: Any) -> str:
    """SHA-256 (hex) of a JSON-able value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


_LISTS_OF_IDS = ("exclude", "kinship", "pedigree")


def without_people(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an extraction as they may leave.

    Digests of lists of ids are left out: those in a short one could be found by trying. The text of
    a query, which may name people, is replaced by its digest.
    """
    found = dict(settings)
    if "inputs" in found:
        inputs = found["inputs"].items()
        found["inputs"] = {name: known for name, known in inputs if name not in _LISTS_OF_IDS}
    if "query" in found:
        found["query"] = found["query"] | {"sql": digest(found["query"]["sql"])}
    return found


def fingerprint(path: str | Path) -> str:
    """SHA-256 (hex) that tells whether an input changed, the same for equal local and remote ones.

    Files up to 256 MiB are hashed whole; larger ones by their size, first and last MiB, since
    reading terabytes twice helps nobody. A folder (MatrixTable) is hashed by the names and sizes
    of its files and the content of its metadata.

    Raises
    ------
    InputError
        If there is nothing at the path or URL, or it may not be read.
    """
    sha = hashlib.sha256()
    with places.reading(path):
        if places.is_file(path):
            _hash_file(path, sha)
        elif found := places.files(path):
            for name, size in found.items():
                sha.update(f"{name}:{size};".encode())
                if name.rsplit("/", 1)[-1] == "metadata.json.gz":
                    sha.update(places.read_bytes(places.join(path, name)))
        elif not places.is_folder(path):
            raise InputError(f"there is no file or folder at {path}; correct the path or URL")
    return sha.hexdigest()


def _hash_file(path: str | Path, sha: hashlib._Hash) -> None:
    size = places.size(path)
    with places.open_binary(path) as handle:
        if size <= _WHOLE_FILE_LIMIT:
            while block := handle.read(2**20):
                sha.update(block)
        else:
            sha.update(f"{size};".encode() + handle.read(2**20))
            handle.seek(-(2**20), os.SEEK_END)
            sha.update(handle.read())


def software_versions() -> dict[str, str]:
    """Versions of mrscale, of Python and of the packages whose numbers it reports."""
    found = {"python": platform.python_version()}
    for package in _SOFTWARE:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


class Clock:
    """Wall time, memory, machine and date of a stage: what differs between equal runs and is not
    digested."""

    def __init__(self) -> None:
        _forget_peak()
        self._start = time.perf_counter()
        self._date = datetime.now(UTC).isoformat(timespec="seconds")

    def record(self) -> dict[str, Any]:
        """Seconds since the clock was made, with date and type of machine, and the most memory
        (resident, MiB) of this process since then (where the system cannot forget an earlier
        peak, since it began) and of any one process that it has started."""
        return {
            "started": self._date,
            "seconds": round(time.perf_counter() - self._start, 3),
            "peak_memory_mib": _peak("self"),
            "largest_child_mib": max(_ended_peak(), *map(_peak, _children()), 0),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        }


def _forget_peak() -> None:
    """Start the record of this process's memory anew; Linux only."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak(pid: int | str) -> int:
    """Most memory of a process, in MiB; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.split("VmHWM:", 1)[1].split(None, 1)[0]) // 1024
    except (OSError, IndexError):
        return _in_mib(resource.RUSAGE_SELF) if pid == "self" else 0


def _ended_peak() -> int:
    return _in_mib(resource.RUSAGE_CHILDREN)


def _in_mib(who: int) -> int:
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(who).ru_maxrss // unit


def _children() -> list[int]:
    import psutil  # Spark's Python workers import this module and ask for no children

    return [child.pid for child in psutil.Process().children(recursive=True)]


def write_text(path: str | Path, text: str) -> None:
    """Write text so that a reader sees the old file or the new one, never a part of it."""
    places.write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON with sorted keys by :func:`write_text`; NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")
