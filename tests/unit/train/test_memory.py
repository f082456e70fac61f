"""Too little memory ends with what to lower; every other error as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrscale.errors import EngineError
from mrscale.train.memory import memory_suffices


@pytest.mark.parametrize(
    "fill",
    [lambda: np.empty(2**55), lambda: torch.empty(2**60), lambda: torch.empty(2**60).zero_()],
)
def test_a_machine_that_is_too_small_names_what_to_lower(fill):
    with (
        pytest.raises(EngineError, match=r"machine's memory is too small .* lower \[encoder\]"),
        memory_suffices(),
    ):
        fill()


def test_a_gpu_that_is_too_small_names_what_to_lower():
    with (
        pytest.raises(EngineError, match=r"GPU's memory is too small .* batch_size or restarts"),
        memory_suffices(),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), memory_suffices():
        torch.ones(2, 3) @ torch.ones(2, 3)
