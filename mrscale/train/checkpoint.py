"""Tensors and their story in one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors
from torch import Tensor

from mrscale import places
from mrscale.errors import RunError

_STORY_KEY = "story"
_LENGTH_BYTES = 8
"""A safetensors file is the length of its JSON header, the header, and the data."""


def save(path: str | Path, tensors: dict[str, Tensor], story: dict[str, Any]) -> None:
    """Write tensors and JSON-able metadata; a reader sees the old file or the new one."""
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    metadata = {_STORY_KEY: json.dumps(story, sort_keys=True)}
    places.write_bytes(path, safetensors.save(contiguous, metadata=metadata))


def load(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save` wrote; no pickle is involved.

    Raises
    ------
    RunError
        If the file is not there, something else, or damaged.
    """
    try:
        # read once: safetensors' own reader opens a file twice, and could get two versions of it
        content = places.read_bytes(path)
    except FileNotFoundError:
        raise RunError(
            f"there is no file {path}; run mrscale train study.toml, which makes what is missing, "
            "and then the same command again"
        ) from None
    with sound(path):
        tensors = safetensors.load(content)
        length = int.from_bytes(content[:_LENGTH_BYTES], "little")
        header = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length])
        return tensors, _story(header["__metadata__"])


def load_story(path: Path) -> dict[str, Any]:
    """The story alone, without reading the tensors; errors as of :func:`load`."""
    with sound(path), safe_open(path, framework="np") as handle:
        return _story(handle.metadata())


@contextmanager
def sound(path: str | Path) -> Iterator[None]:
    """Say of a file that has not what it must have that it is damaged: RunError."""
    try:
        yield
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, AttributeError):
        raise RunError(
            f"{path} is damaged, or no file of this version of mrscale; remove it and run the same "
            "command again: what is missing is made again"
        ) from None


def _story(metadata: dict[str, str]) -> dict[str, Any]:
    return dict(json.loads(metadata[_STORY_KEY]))
