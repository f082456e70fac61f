"""Tensors and their story in one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_STORY_KEY = "story"


def save(path: Path, tensors: dict[str, Tensor], story: dict[str, Any]) -> None:
    """Write tensors and JSON-able metadata; a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, partial, metadata={_STORY_KEY: json.dumps(story, sort_keys=True)})
    partial.replace(path)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save` wrote; no pickle is involved."""
    with safe_open(path, framework="pt") as handle:
        return {name: handle.get_tensor(name) for name in handle.keys()}, _story(handle)  # noqa: SIM118


def load_story(path: Path) -> dict[str, Any]:
    """The story alone, without reading the tensors."""
    with safe_open(path, framework="pt") as handle:
        return _story(handle)


def _story(handle: Any) -> dict[str, Any]:
    return dict(json.loads(handle.metadata()[_STORY_KEY]))
