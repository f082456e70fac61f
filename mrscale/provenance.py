"""Digests and versions: what every artefact says of how it came to be."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mrscale import places

_WHOLE_FILE_LIMIT = 256 * 2**20
_SOFTWARE = ("mrscale", "numpy", "scipy", "zarr", "dask", "torch", "hail", "pyspark")


def digest(value: Any) -> str:
    """SHA-256 (hex) of a JSON-able value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(path: str | Path) -> str:
    """SHA-256 (hex) that tells whether an input changed.

    Files up to 256 MiB are hashed whole; larger ones by their size, first and last MiB, since
    reading terabytes twice helps nobody. A folder (MatrixTable) is hashed by the names and sizes
    of its files and the content of its metadata. A URL or glob that is no local path is hashed
    by its text.
    """
    path = Path(path)
    sha = hashlib.sha256()
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            sha.update(f"{file.relative_to(path)}:{file.stat().st_size};".encode())
            if file.name == "metadata.json.gz":
                sha.update(file.read_bytes())
    elif path.is_file():
        size = path.stat().st_size
        with path.open("rb") as handle:
            if size <= _WHOLE_FILE_LIMIT:
                while block := handle.read(2**20):
                    sha.update(block)
            else:
                sha.update(f"{size};".encode() + handle.read(2**20))
                handle.seek(-(2**20), os.SEEK_END)
                sha.update(handle.read())
    else:
        sha.update(str(path).encode())
    return sha.hexdigest()


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
    """Wall time, host and date of a stage: what differs between equal runs and is not digested."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._date = datetime.now(UTC).isoformat(timespec="seconds")

    def record(self) -> dict[str, Any]:
        """Seconds since the clock was made, with date and type of machine."""
        return {
            "started": self._date,
            "seconds": round(time.perf_counter() - self._start, 3),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        }


def write_text(path: str | Path, text: str) -> None:
    """Write text so that a reader sees the old file or the new one, never a part of it."""
    places.write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON with sorted keys by :func:`write_text`; NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")
