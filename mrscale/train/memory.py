"""What to do where memory is too small for a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mrscale.errors import EngineError


@contextmanager
def memory_suffices() -> Iterator[None]:
    """Say which setting to lower where a GPU, or the machine, has too little memory.

    Raises
    ------
    EngineError
        In place of what numpy or torch raise.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise EngineError(
            "the GPU's memory is too small for this training; lower [encoder] batch_size or "
            'restarts, or keep dosages off it (input = "streamed")'
        ) from None
    except (MemoryError, RuntimeError) as error:
        # torch has no error of its own for the memory of the machine
        if isinstance(error, RuntimeError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise EngineError(
            "this machine's memory is too small for this training; lower [encoder] batch_size or "
            'restarts, or keep dosages out of it (input = "streamed", bounded by prefetch_mib)'
        ) from None
