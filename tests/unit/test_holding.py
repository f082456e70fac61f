"""A setting of the process stays while any of its threads needs it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from mrscale.holding import Held


@pytest.fixture
def setting():
    return {"now": "before"}


@pytest.fixture
def held(setting):
    def hold():
        before, setting["now"] = setting["now"], "held"
        return lambda: setting.update(now=before)

    return Held(hold)


def test_the_last_to_leave_takes_it_back(held, setting):
    first_is_in, first_is_out = Barrier(2), Barrier(2)

    def first():
        with held:
            first_is_in.wait(10)
        first_is_out.wait(10)

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(first)
        with held:
            first_is_in.wait(10)
            first_is_out.wait(10)
            assert setting["now"] == "held"
        other.result()
    assert setting["now"] == "before"


def test_an_error_inside_takes_it_back(held, setting):
    def fail():
        with held:
            assert setting["now"] == "held"
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fail()
        assert setting["now"] == "before"
