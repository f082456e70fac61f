"""The engine of a study's stages has no more threads than its memory has room for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mrscale.errors import EngineError
from mrscale.study_file import as_study
from mrscale.workflow.study_engine import study_engine

STORE: Any = SimpleNamespace(layout=SimpleNamespace(chunk_rows=4096), num_variants=1000)
"""A block of it is 31 MiB as float64."""


def test_memory_for_one_block_is_one_thread() -> None:
    with study_engine(as_study({"memory_gib": 0.3}), STORE) as client:
        assert sum(client.nthreads().values()) == 1


def test_memory_for_no_block_names_the_setting() -> None:
    with pytest.raises(EngineError, match=r"memory_gib = 0\.1; set at least that"):
        study_engine(as_study({"memory_gib": 0.1}), STORE)
