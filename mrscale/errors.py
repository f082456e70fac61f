"""Errors made for people: each message says what was required, what was found and what to do.

No message carries a participant's id or value, counts of 1 to 20 people are written "<=20", and
URLs come without passwords and tokens.
"""

from __future__ import annotations

import re

_SECRET = re.compile(r"(\w+://)[^\s/@]*@|(?<=\S)\?[^\s?]*=[^\s,;)'\"]*")


def without_secrets(text: str) -> str:
    """Text, or a URL, without the user, password and query (``?token=...``) of URLs in it.

    Examples
    --------
    >>> without_secrets("https://me:secret@host/people.tsv?sig=abc cannot be read")
    'https://host/people.tsv cannot be read'
    """
    return _SECRET.sub(r"\1", text)


class MrscaleError(Exception):
    """Base class of every error that mrscale raises on purpose."""

    def __init__(self, message: str = "") -> None:
        super().__init__(without_secrets(message))


class InputError(MrscaleError, ValueError):
    """The input files, columns, settings or numbers do not allow what was asked."""


class StoreError(MrscaleError):
    """A genotype store is unfinished, damaged, or of another schema version."""


class RunError(MrscaleError):
    """A run folder does not fit the study, or a stage it needs has not been done."""


class EngineError(MrscaleError):
    """An engine (Java, Spark, Hail, Dask, torch) or an object store is missing or failed."""


class MissingExtraError(MrscaleError, ImportError):
    """An optional dependency is not installed.

    Parameters
    ----------
    package : str
        The package that could not be imported.
    extra : str
        The extra of mrscale that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {package!r}, which is not installed; "
            f"install it with: pip install 'mrscale[{extra}]'"
        )
