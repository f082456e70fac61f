"""Signals that ask a process to end are heeded wherever they come."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import signal, sys, time, weakref
from mrscale import stopping

class Thing:
    pass

signal.signal(signal.SIGINT, signal.default_int_handler)

def clean_up(_):
    signal.raise_signal(getattr(signal, sys.argv[1]))

try:
    with stopping.heeded():
        thing = Thing()
        watched = weakref.ref(thing, clean_up)
        del thing
        time.sleep(60)
except KeyboardInterrupt as asked:
    print(type(asked).__name__, stopping.was_asked())
"""


@pytest.mark.parametrize(
    ("number", "said"), [("SIGTERM", "Stopped True\n"), ("SIGINT", "KeyboardInterrupt False\n")]
)
def test_one_that_comes_while_python_cleans_up_is_not_lost(number, said):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, number], capture_output=True, text=True, timeout=50
    )
    assert (done.stdout, done.stderr, done.returncode) == (said, "", 0)


def test_what_else_is_raised_there_is_told():
    script = SCRIPT.replace("signal.raise_signal(", "raise ValueError(").replace(
        "time.sleep(60)", ""
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "SIGTERM"], capture_output=True, text=True, timeout=50
    )
    assert "ValueError" in done.stderr
    assert (done.stdout, done.returncode) == ("", 0)
