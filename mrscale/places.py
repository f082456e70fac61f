"""Files and folders by path or URL: the few operations that stores and tables need.

Local paths and the URLs of object stores (``s3://``, ``gs://``) behave alike: a write is seen
whole or not at all. Locally that takes a rename; a PUT to an object store is so by itself.
"""

from __future__ import annotations

import errno
import io
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, BinaryIO, Concatenate, ParamSpec, TypeVar, cast

import fsspec

from mrscale.errors import (
    EngineError,
    InputError,
    MissingExtraError,
    MrscaleError,
    RunError,
    StoreError,
)

P = ParamSpec("P")
T = TypeVar("T")
_BUCKETS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_EXTRAS = _BUCKETS | {"http": "http", "https": "http"}
_CLIENTS = ("botocore", "aiobotocore", "gcsfs", "google", "aiohttp", "requests")
"""Packages that raise errors of their own for what an object store refuses."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REMOVALS = 1000
"""Attempts to remove a folder that others remove, or add files to, at the same time."""
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def is_url(path: str | Path) -> bool:
    """Whether a path names something that is not a local file."""
    return "://" in str(path)


def join(path: str | Path, *names: str) -> str:
    """A path below another."""
    return "/".join([str(path).rstrip("/"), *names])


@contextmanager
def reached(path: str | Path) -> Iterator[None]:
    """Say in one sentence that an object store cannot be reached (any more). Other errors pass.

    Raises
    ------
    EngineError
        If the connection to a URL's server is lost, or the server fails.
    """
    try:
        yield
    except MrscaleError:
        raise
    except Exception as error:
        lost = _is_clients(error) or isinstance(error, ConnectionError | TimeoutError)
        if not (lost and is_url(path)):
            raise
        raise EngineError(
            f"{path} cannot be reached: {_reason(error)}; mend the connection or the credentials, "
            "and run the same command again, it continues where it stopped"
        ) from None


def _looks(function: Callable[Concatenate[str | Path, P], T]) -> Callable[..., T]:
    """A function of a place, from which a lost connection is one sentence."""

    @wraps(function)
    def look(path: str | Path, *args: P.args, **kwargs: P.kwargs) -> T:
        with reached(path):
            return function(path, *args, **kwargs)

    return look


@_looks
def exists(path: str | Path) -> bool:
    """Whether there is a file or a folder."""
    fs, inner = _filesystem(path)
    return bool(fs.exists(inner))


@_looks
def is_file(path: str | Path) -> bool:
    """Whether there is a file."""
    fs, inner = _filesystem(path)
    return bool(fs.isfile(inner))


@_looks
def is_folder(path: str | Path) -> bool:
    """Whether there is a folder (or anything below a prefix)."""
    fs, inner = _filesystem(path)
    return bool(fs.isdir(inner))


@_looks
def names(path: str | Path) -> list[str]:
    """Names of the files and folders in a folder, sorted; none if it is absent."""
    fs, inner = _filesystem(path)
    try:
        listed = [str(name).rstrip("/") for name in fs.ls(inner, detail=False)]
    except FileNotFoundError:
        return []
    # a prefix may hold an object of its own name, as consoles make for a "folder"
    return sorted({name.rsplit("/", 1)[-1] for name in listed if name != inner.rstrip("/")})


@_looks
def expand(pattern: str | Path) -> list[str]:
    """Files and folders that a pattern with ``*`` names, sorted; one without names itself."""
    fs, inner = _filesystem(pattern)
    if fs.exists(inner):
        return [str(pattern)]
    found = sorted(str(path) for path in fs.glob(inner))
    if not is_url(pattern):
        return found
    protocol = str(pattern).split("://", 1)[0]  # s3a, say, which Spark reads, where s3fs says s3
    return [path if is_url(path) else f"{protocol}://{path}" for path in found]


@_looks
def files(path: str | Path) -> dict[str, int]:
    """Sizes in bytes of all files below a folder, by their path in it, sorted."""
    fs, inner = _filesystem(path)
    root = inner.rstrip("/") + "/"
    found = fs.find(inner, detail=True)
    sizes = {str(name).removeprefix(root): int(info["size"]) for name, info in found.items()}
    return dict(sorted(sizes.items()))


@_looks
def size(path: str | Path) -> int:
    """Size of a file in bytes; of a web server that does not tell it, the file is read."""
    fs, inner = _filesystem(path)
    told = fs.size(inner)
    return len(fs.cat_file(inner)) if told is None else int(told)


def open_binary(path: str | Path) -> BinaryIO:
    """Open a file for reading bytes; a context manager."""
    fs, inner = _filesystem(path)
    handle = fs.open(inner, "rb")
    if getattr(handle, "size", 0) is None:  # a web server did not tell it, nor would it go back
        with handle:
            return io.BytesIO(handle.read())
    return cast(BinaryIO, handle)


@_looks
def read_bytes(path: str | Path) -> bytes:
    """The whole content of a file."""
    fs, inner = _filesystem(path)
    return bytes(fs.cat_file(inner))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part of it."""
    with replacing(path) as handle:
        handle.write(data)


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for writing; at the end of the block, and only then, it replaces the old one."""
    if is_url(path):
        # gathered first: a file that is closed by an exception would be uploaded as it is
        buffer = io.BytesIO()
        yield buffer
        fs, inner = _filesystem(path)
        fs.pipe_file(inner, buffer.getvalue())
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(target)
    try:
        with partial.open("wb") as handle:
            yield handle
            _to_disk(handle)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def create_bytes(path: str | Path, data: bytes) -> bool:
    """Write a file only if there is none; of several processes that try, one succeeds.

    Returns
    -------
    bool
        Whether this call made the file.
    """
    try:
        if is_url(path):
            fs, inner = _filesystem(path)
            fs.pipe_file(inner, data, mode="create")
        else:
            _create_local(Path(path), data)
    except FileExistsError:
        return False
    return True


@_looks
def remove(path: str | Path) -> None:
    """Remove a file or a folder with all in it; nothing happens if it is absent.

    Other processes may be removing the same folder, or still be writing to it.
    """
    fs, inner = _filesystem(path)
    for last in [False] * _REMOVALS + [True]:
        if not fs.exists(inner):
            return
        try:
            fs.rm(inner, recursive=True)
        except OSError as error:
            others = isinstance(error, FileNotFoundError) or error.errno == errno.ENOTEMPTY
            if last or not others:
                raise


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Say in one sentence why a place cannot be written, whichever system refuses.

    Raises
    ------
    InputError
        If the place is read-only, not there, not permitted, or cannot be reached.
    StoreError
        If it is full: what is written stays, and a rerun continues.
    """
    with _explained(path, "written", "choose another place (--out, or store = in the study file)"):
        yield


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Say in one sentence why a place cannot be read: InputError, as for :func:`writing`."""
    with _explained(path, "read", "give another path or URL"):
        yield


@contextmanager
def _explained(path: str | Path, done: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except MrscaleError:
        raise
    except Exception as error:
        if not (_is_clients(error) or isinstance(error, OSError)):
            raise
        if _is_full(error):
            raise StoreError(_no_room(path)) from None
        raise InputError(
            f"{path} cannot be {done}: {_reason(error)}; mend that, or {remedy}"
        ) from None


@contextmanager
def room(run: Path) -> Iterator[None]:
    """Say in one sentence that the disk of a run folder is full: RunError. Other errors pass."""
    try:
        yield
    except MrscaleError:
        raise
    except Exception as error:
        if not _is_full(error):
            raise
        raise RunError(_no_room(run)) from None


def _is_clients(error: Exception) -> bool:
    return type(error).__module__.split(".", 1)[0] in _CLIENTS


def _is_full(error: Exception) -> bool:
    return getattr(error, "errno", None) in _FULL


def _no_room(path: str | Path) -> str:
    return (
        f"{path} cannot be written, the disk (or quota) is full; make room and run the same "
        "command again, it continues where it stopped"
    )


def require_writable(path: str | Path) -> None:
    """Refuse a place early, as far as can be told without writing.

    Raises
    ------
    InputError
        If a URL's bucket is not there, or the folder that would hold a local path is read-only.
    """
    protocol, _, inner = str(path).partition("://")
    if not is_url(path):
        with writing(path):
            there = next(p for p in (Path(path), *Path(path).absolute().parents) if p.exists())
            if not os.access(there, os.W_OK):
                raise PermissionError
    elif protocol in _BUCKETS:
        bucket = f"{protocol}://{inner.split('/', 1)[0]}"
        with writing(path):
            found = exists(bucket)
        if not found:
            raise InputError(
                f"there is no bucket {bucket}, or it may not be listed with these credentials; "
                "make the bucket first, or mend the URL or the credentials"
            )


def _reason(error: Exception) -> str:
    """Why a write was refused, in words of ours: servers quote requests in theirs."""
    if isinstance(error, PermissionError) or str(error).startswith("Forbidden"):
        return "permission is denied"
    if isinstance(error, FileNotFoundError):
        return "there is no such bucket or folder"
    if isinstance(error, NotADirectoryError | FileExistsError):
        return "a file is in the way of a folder"
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return "it is read-only"
    return f"{type(error).__name__}"


def _partial(target: Path) -> Path:
    """A name beside the target that no other writer, thread or process, uses."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")


def _create_local(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(target)
    try:
        with partial.open("xb") as handle:
            handle.write(data)
            _to_disk(handle)
        os.link(partial, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with target.open("xb") as handle:  # a file system without links: exclusive all the same
            handle.write(data)
            _to_disk(handle)
    finally:
        partial.unlink(missing_ok=True)


def _to_disk(handle: BinaryIO) -> None:
    """Keep a machine that loses its power from leaving a name without its content."""
    handle.flush()
    os.fsync(handle.fileno())


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
