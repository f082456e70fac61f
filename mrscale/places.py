"""Files and folders by path or URL: the few operations that stores and tables need.

Local paths and the URLs of object stores (``s3://``, ``gs://``) behave alike: a write is seen
whole or not at all. Locally that takes a rename; a PUT to an object store is so by itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

from mrscale.errors import InputError, MissingExtraError

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


def is_url(path: str | Path) -> bool:
    """Whether a path names something that is not a local file."""
    return "://" in str(path)


def join(path: str | Path, *names: str) -> str:
    """A path below another."""
    return "/".join([str(path).rstrip("/"), *names])


def exists(path: str | Path) -> bool:
    """Whether there is a file or a folder."""
    fs, inner = _filesystem(path)
    return bool(fs.exists(inner))


def is_file(path: str | Path) -> bool:
    """Whether there is a file."""
    fs, inner = _filesystem(path)
    return bool(fs.isfile(inner))


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder (or anything below a prefix)."""
    fs, inner = _filesystem(path)
    return bool(fs.isdir(inner))


def names(path: str | Path) -> list[str]:
    """Names of the files and folders in a folder, sorted; none if it is absent."""
    fs, inner = _filesystem(path)
    try:
        listed = fs.ls(inner, detail=False)
    except FileNotFoundError:
        return []
    found = {str(name).rstrip("/").rsplit("/", 1)[-1] for name in listed}
    return sorted(found - {inner.rstrip("/").rsplit("/", 1)[-1]} if inner in listed else found)


def expand(pattern: str | Path) -> list[str]:
    """Files and folders that a pattern with ``*`` names, sorted; one without names itself."""
    fs, inner = _filesystem(pattern)
    if fs.exists(inner):
        return [str(pattern)]
    found = sorted(str(path) for path in fs.glob(inner))
    return [fs.unstrip_protocol(path) for path in found] if is_url(pattern) else found


def open_binary(path: str | Path) -> BinaryIO:
    """Open a file for reading bytes; a context manager."""
    fs, inner = _filesystem(path)
    return cast(BinaryIO, fs.open(inner, "rb"))


def read_bytes(path: str | Path) -> bytes:
    """The whole content of a file."""
    fs, inner = _filesystem(path)
    return bytes(fs.cat_file(inner))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part of it."""
    if is_url(path):
        fs, inner = _filesystem(path)
        fs.pipe_file(inner, data)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(target)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def create_bytes(path: str | Path, data: bytes) -> bool:
    """Write a file only if there is none; of several processes that try, one succeeds.

    Returns
    -------
    bool
        Whether this call made the file.
    """
    fs, inner = _filesystem(path)
    try:
        if is_url(path):
            fs.pipe_file(inner, data, mode="create")
            return True
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        partial.write_bytes(data)
        try:
            os.link(partial, target)
        finally:
            partial.unlink()
    except FileExistsError:
        return False
    return True


def remove(path: str | Path) -> None:
    """Remove a file or a folder with all in it; nothing happens if it is absent."""
    fs, inner = _filesystem(path)
    if fs.exists(inner):
        fs.rm(inner, recursive=True)


def _filesystem(path: str | Path) -> tuple[Any, str]:
    protocol = str(path).split("://", 1)[0] if is_url(path) else "file"
    try:
        fs, inner = fsspec.url_to_fs(str(path))
    except ImportError:
        raise MissingExtraError(protocol, _EXTRAS.get(protocol, protocol)) from None
    except ValueError:
        raise InputError(f"{path} is not a path or URL that can be read here") from None
    fs.invalidate_cache()
    return fs, inner
