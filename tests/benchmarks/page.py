"""Benchmarks, and faults, write their tables into a page, each between its own marks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

TITLE = "# Benchmarks\n\nRatios of one run on one machine; `make bench` makes them again.\n"


def insert(path: Path, name: str, text: str) -> None:
    """Put a benchmark's text in its place on the page, or at the end."""
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    page = path.read_text() if path.exists() else TITLE
    if start not in page:
        page += f"\n{start}{end}"
    before, rest = page.split(start)
    _, after = rest.split(end)
    path.write_text(f"{before}{start}{text}{end}{after}")


def markdown(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    head, *body = (f"| {' | '.join(line)} |" for line in [names, *rows])
    return "\n".join([head, "|---" * len(names) + "|", *body])
