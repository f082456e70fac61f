"""Genotype files by path, URL or glob, before any engine starts."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mrscale import places
from mrscale.disclosure import show_count
from mrscale.errors import InputError, without_secrets


@dataclass(frozen=True)
class Extent:
    """How much genotype files hold, as far as can be told without reading them.

    Attributes
    ----------
    num_people : int
    num_rows : int
        Rows of variants; one with several alternate alleles is one.
    exact : bool
        Whether ``num_rows`` is known, or judged from the beginning of the files.
    """

    num_people: int
    num_rows: int
    exact: bool = True


def expand(patterns: Iterable[str]) -> list[str]:
    """Files that paths, URLs and globs name, each once; refuse one that names nothing."""
    found: dict[str, None] = {}
    for pattern in patterns:
        files = places.expand(pattern)
        if not files:
            raise InputError(f"no such file: {pattern}")
        found |= dict.fromkeys(files)
    return list(found)


def name(path: str) -> str:
    """Last part of a path or URL, for messages."""
    return without_secrets(path).rstrip("/").rsplit("/", 1)[-1]


def hail_extent(path: str, metadata: str) -> Extent:
    """Extent of a MatrixTable, whose metadata count rows and columns by partition."""
    counts = []
    for part in ("rows", "cols"):
        found = places.read_bytes(places.join(path, part, metadata))
        content = json.loads(gzip.decompress(found))
        counts.append(sum(content["components"]["partition_counts"]["counts"]))
    return Extent(num_people=counts[1], num_rows=counts[0])


def require_same_people(
    headers: Sequence[object], files: Sequence[str], kind: str, how: str = ""
) -> None:
    """Refuse files whose headers differ from the first one's; ``how`` ends the advice."""
    other = [file for file, head in zip(files, headers, strict=True) if head != headers[0]]
    if other:
        raise InputError(
            f"all {kind} files must have the same people in the same order, but {len(other)} of "
            f"{len(files)} differ from {name(files[0])}, among them {name(other[0])}; "
            f"merge files of different people, or bring them to one order{how}"
        )


def require_distinct(ids: Sequence[bytes], file: str) -> None:
    """Refuse sample ids that occur twice; Hail would name them in its log."""
    repeated = sum(times - 1 for times in Counter(ids).values())
    if repeated:
        raise InputError(
            f"every person must have an id of their own, but {show_count(repeated)} ids of "
            f"{name(file)} repeat an earlier one; make the ids unique"
        )
