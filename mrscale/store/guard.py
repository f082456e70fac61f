"""What a store claims of itself, checked before memory is taken or a path followed for it.

A store may come from anywhere. Its metadata must have the form that this package writes (no other
codec, no pickle), sizes must fit what the manifest says and the files that are there, and a chunk
must not decode to more than its shape.
"""

from __future__ import annotations

import json
import math
import re
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import RangeByteRequest
from zarr.codecs import BloscCodec
from zarr.codecs import VLenUTF8Codec as AnyVLenUTF8Codec
from zarr.registry import register_codec
from zarr.storage import WrapperStore

from mrscale import places
from mrscale.errors import StoreError
from mrscale.store.schema import DOSAGE, LARGEST_CHUNK_BYTES, SPECS, TEXT_BYTES, DosageCode, Layout

MOST_JSON_BYTES = 64 * 2**20
"""Of a manifest; a million shards need as much."""
MOST_CHUNKS = 1024
"""Of a shard."""
LARGEST_TEXT_CHUNK_BYTES = 8 * LARGEST_CHUNK_BYTES
_SPARE_BYTES = 2**16
"""What checksums, headers and what does not compress may add to a chunk."""
_BLOSC_HEADER = struct.Struct("<4xIII")
_CODECS = ("bytes", "vlen-utf8", "blosc", "crc32c", "sharding_indexed")
_INDEX_CODECS = ("bytes", "crc32c")
_CHUNK_FILE = re.compile(r"c((?:/\d{1,18})*)")
_opening = threading.Lock()


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object of bounded size.

    Raises
    ------
    StoreError
        If it is gone, larger, or no JSON object.
    """
    name = str(path).rsplit("/", 1)[-1]
    if not places.is_file(path):
        raise damaged(f"{name} is gone")
    if places.size(path) > MOST_JSON_BYTES:
        raise damaged(f"{name} is larger than {MOST_JSON_BYTES // 2**20} MiB")
    try:
        content = json.loads(places.read_bytes(path))
    except (ValueError, RecursionError):
        raise damaged(f"{name} is not JSON") from None
    if not isinstance(content, dict):
        raise damaged(f"{name} is not a JSON object")
    return content


def damaged(problem: str) -> StoreError:
    """The error of a store that is not what its manifest says."""
    return StoreError(
        f"the store is damaged: {problem}; restore it from a copy, or remove the store and "
        "extract it again"
    )


def require_inside(root: str | Path, path: str | Path) -> None:
    """Refuse local links that lead out of a store."""
    if places.is_url(root):
        return
    inside, top = Path(root).resolve(), Path(path)
    for found in (top, *top.rglob("*")):
        if (found == top or found.is_symlink()) and not _is_below(found, inside):
            raise damaged(f"{found.name} is a link that leads out of it")


def _is_below(link: Path, folder: Path) -> bool:
    try:
        return link.resolve().is_relative_to(folder)
    except (OSError, RuntimeError):  # links in a circle
        return False


def require_form(
    name: str, raw: Any, files: Mapping[str, int], layout: Layout, code: DosageCode
) -> None:
    """Refuse array metadata that this package would not write, or whose files are not there.

    Parameters
    ----------
    name : str
        Name in the schema.
    raw : object
        Content of the array's ``zarr.json``.
    files : mapping of str to int
        Files of the array by their path in it, with sizes in bytes.
    layout, code : Layout, DosageCode
        As the manifest says.

    Raises
    ------
    StoreError
        If anything differs, so that reading the array could take more memory than it holds.
    """
    try:
        outer, inner, codecs = _chunk_shapes(raw)
        shape, kind = tuple(raw["shape"]), raw["data_type"]
        plain = raw["node_type"] == "array" and raw["zarr_format"] == 3
        plain &= not raw.get("storage_transformers") and not isinstance(raw["fill_value"], list)
        plain &= raw["chunk_key_encoding"] == {
            "name": "default",
            "configuration": {"separator": "/"},
        }
        plain &= all(codec in _CODECS for codec in codecs)
    except (KeyError, TypeError, ValueError, IndexError):
        raise damaged(f"the metadata of {name} are not those of a Zarr array") from None
    if not plain:
        raise damaged(f"{name} is coded in a way that mrscale does not write")
    _require_shapes(name, shape, kind, outer, inner, layout, code)
    _require_files(name, shape, outer, files, sharded=inner != outer or "sharding" in codecs[0])


def _chunk_shapes(raw: Any) -> tuple[tuple[int, ...], tuple[int, ...], list[str]]:
    """Shapes of the unit of files and of chunks in it, and names of all codecs."""
    grid, codecs = raw["chunk_grid"], raw["codecs"]
    if grid["name"] != "regular":
        raise ValueError
    outer = inner = tuple(grid["configuration"]["chunk_shape"])
    names = [codec["name"] for codec in codecs]
    if names[0] == "sharding_indexed":
        settings = codecs[0]["configuration"]
        inner = tuple(settings["chunk_shape"])
        names += [codec["name"] for codec in settings["codecs"]]
        index = [codec["name"] for codec in settings["index_codecs"]]
        if len(codecs) > 1 or any(codec not in _INDEX_CODECS for codec in index):
            raise ValueError
    if names.count("sharding_indexed") > 1:
        raise ValueError
    return outer, inner, names


def _require_shapes(
    name: str,
    shape: tuple[int, ...],
    kind: Any,
    outer: tuple[int, ...],
    inner: tuple[int, ...],
    layout: Layout,
    code: DosageCode,
) -> None:
    spec = SPECS[name]
    known = {"samples": layout.num_samples, "variants": layout.num_variants, "alleles": 2}
    whole = all(type(n) is int and 0 <= n < 2**40 for n in (*shape, *outer, *inner))
    fits = whole and len(shape) == len(outer) == len(inner) == len(spec.dims)
    if not fits or any(n != known.get(dim, n) for n, dim in zip(shape, spec.dims, strict=True)):
        raise damaged(f"{name} has not the shape that the manifest says")
    dosage = name == DOSAGE
    wanted = code.dtype if dosage else "string" if spec.dtype == "str" else spec.dtype
    if kind != wanted:
        raise damaged(f"{name} has not the type {wanted!r}")
    width = max(1, layout.num_variants)
    if dosage and (outer, inner) != ((layout.shard_rows, width), (layout.chunk_rows, width)):
        raise damaged(f"{name} is not cut as the manifest says")
    item = TEXT_BYTES if wanted == "string" else int(re.sub(r"\D", "", wanted)) // 8
    if min(outer + inner) < 1 or item * math.prod(inner) > LARGEST_CHUNK_BYTES:
        raise damaged(f"the chunks of {name} are larger than {LARGEST_CHUNK_BYTES // 2**20} MiB")


def _require_files(
    name: str,
    shape: Sequence[int],
    outer: Sequence[int],
    files: Mapping[str, int],
    *,
    sharded: bool,
) -> None:
    """Refuse an array of which not every file is there: zarr reads a lost one as fill values."""
    grid = [-(-n // size) for n, size in zip(shape, outer, strict=True)]
    cells = (_cell(file) for file in files)
    found = sum(
        cell is not None
        and len(cell) == len(grid)
        and all(i < n for i, n in zip(cell, grid, strict=True))
        for cell in cells
    )
    expected = math.prod(grid)
    if found < expected:
        what = "shards" if sharded else "files"
        raise StoreError(
            f"the store is damaged: {expected - found} of {expected} {what} of {name} are gone; "
            "restore it from a copy, or extract it again"
        )
    most = MOST_CHUNKS * LARGEST_CHUNK_BYTES if sharded else LARGEST_TEXT_CHUNK_BYTES
    if max(files.values(), default=0) > most + _SPARE_BYTES:
        raise damaged(f"a file of {name} is larger than {most // 2**20} MiB")


def _cell(file: str) -> list[int] | None:
    match = _CHUNK_FILE.fullmatch(file)
    return [int(index) for index in match[1].split("/")[1:]] if match else None


class BoundedBlosc(BloscCodec):
    """Blosc that decodes to the size of the chunk or not at all: a frame names its own size."""

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        size = getattr(chunk_spec.dtype, "item_size", None)
        expected = None if size is None else size * math.prod(chunk_spec.shape)
        header = chunk_bytes[: _BLOSC_HEADER.size].to_bytes()
        if len(header) < _BLOSC_HEADER.size:
            raise ValueError("a chunk is cut off")
        decoded, _, encoded = _BLOSC_HEADER.unpack(header)
        if encoded != len(chunk_bytes):
            raise ValueError("a chunk has not the size that it says")
        most = LARGEST_TEXT_CHUNK_BYTES if expected is None else expected
        if decoded > most or expected not in (None, decoded):
            raise ValueError(f"a chunk decodes to {decoded:,} bytes, but must to {most:,}")
        return await super()._decode_single(chunk_bytes, chunk_spec)


class VLenUTF8Codec(AnyVLenUTF8Codec):
    """Text whose number of cells is that of the chunk: the bytes name a number themselves.

    Zarr knows the codec of text by this name.
    """

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        cells = int.from_bytes(chunk_bytes[:4].to_bytes(), "little")
        if cells != math.prod(chunk_spec.shape):
            raise ValueError(f"a chunk of text has {cells:,} cells")
        return await super()._decode_single(chunk_bytes, chunk_spec)


class BoundedReads(WrapperStore[Any]):
    """A Zarr store from which no more is read at once than a chunk may hold: the index of a shard
    names places in a file."""

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """As of any Zarr store."""
        if isinstance(byte_range, RangeByteRequest):
            size = byte_range.end - byte_range.start
            if not 0 <= size <= LARGEST_TEXT_CHUNK_BYTES + _SPARE_BYTES:
                raise ValueError(f"the index of a shard says that a chunk has {size:,} bytes")
        return await self._store.get(key, prototype, byte_range)


_BOUNDED = {"blosc": BoundedBlosc, "vlen-utf8": VLenUTF8Codec}
for _name, _codec in _BOUNDED.items():
    register_codec(_name, _codec)


@contextmanager
def bounded_codecs() -> Iterator[None]:
    """Let arrays that are opened in the block decode by codecs that check sizes."""
    chosen = {f"codecs.{name}": f"{c.__module__}.{c.__qualname__}" for name, c in _BOUNDED.items()}
    with _opening, zarr.config.set(chosen):
        yield
