"""The command line, run in this process."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import pytest

with warnings.catch_warnings():
    # typer 0.24 uses what click 8.5 deprecates
    warnings.simplefilter("ignore", DeprecationWarning)
    from mrscale import cli


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command line: exit code, standard output, standard error."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mrscale", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capfd.readouterr()
        return int(end.value.code or 0), out, err

    return run
