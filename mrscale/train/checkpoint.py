"""Tensors and their story in one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors import torch as safetensors
from torch import Tensor

_STORY_KEY = "story"
_LENGTH_BYTES = 8
"""A safetensors file is the length of its JSON header, the header, and the data."""


def save(path: Path, tensors: dict[str, Tensor], story: dict[str, Any]) -> None:
    """Write tensors and JSON-able metadata; a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    metadata = {_STORY_KEY: json.dumps(story, sort_keys=True)}
    safetensors.save_file(contiguous, partial, metadata=metadata)
    partial.replace(path)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save` wrote; no pickle is involved."""
    # read once: safetensors' own reader opens a file twice, and could get two versions of it
    content = path.read_bytes()
    tensors = safetensors.load(content)
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length])
    return tensors, _story(header["__metadata__"])


def load_story(path: Path) -> dict[str, Any]:
    """The story alone, without reading the tensors."""
    with safe_open(path, framework="np") as handle:
        return _story(handle.metadata())


def _story(metadata: dict[str, str]) -> dict[str, Any]:
    return dict(json.loads(metadata[_STORY_KEY]))
