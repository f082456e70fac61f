"""Fixtures of the tests of pipelines."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="session")
def pack():
    """Words of one variant's codes, as Hail's fold over 64-bit integers makes them."""

    def words(packing, codes):
        found = []
        for start in range(0, len(codes), packing.per_word):
            word = 0
            for code in codes[start : start + packing.per_word]:
                word = (word << packing.bits) + code
            found.append(word)
        return np.array([found], dtype=np.uint64).view(np.int64)

    return words
