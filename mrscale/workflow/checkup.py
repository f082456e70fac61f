"""One thing that a study needs, as the doctor found it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing a study needs.

    Attributes
    ----------
    name : str
    ok : bool
    found : str
        What is there.
    fix : str
        What to do if it is not ok; empty if nothing needs doing.
    note : str
        What is worth knowing although it is ok; empty if nothing is.
    """

    name: str
    ok: bool
    found: str
    fix: str = ""
    note: str = ""
