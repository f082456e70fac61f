"""Docstrings as this project writes them, for mkdocstrings: Sphinx roles, and types in words.

mkdocstrings reads ``array-like, shape (N, M)`` as a Python expression and knows no roles.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`~?([\w.]+)`")
_ENTRY = re.compile(r"(?:(?P<names>\w+(?:, \w+)*) : )?(?P<type>\S.*)")
_DEFAULT = re.compile(r", (?:optional|default .*)$")
_TYPED = {"Parameters": "parameters", "Attributes": "attributes", "Returns": "returns"}


class Numpydoc(griffe.Extension):
    """Links for roles where the object has a page here; types and defaults as they are."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is None:
            return
        written = _written_types(obj.docstring.value)
        home = obj if obj.is_class else obj.parent
        obj.docstring.value = _ROLE.sub(lambda role: _link(role[1], home), obj.docstring.value)
        for section in obj.docstring.parsed:
            types = written.get(section.kind.value)
            for entry in section.value if types else ():
                entry.annotation = types.get(entry.name, entry.annotation)
                if obj.is_function and entry.name in obj.parameters:
                    entry.value = obj.parameters[entry.name].default
                    entry.annotation = types.get(entry.name, obj.parameters[entry.name].annotation)


def _link(name: str, home: griffe.Object | None) -> str:
    path = name if name.startswith("mrscale.") or home is None else f"{home.path}.{name}"
    return f'<autoref identifier="{path}" optional><code>{name}</code></autoref>'


def _written_types(text: str) -> dict[str, dict[str, str]]:
    """Types by section and name, as the docstring has them; "" names what has no name."""
    found: dict[str, dict[str, str]] = {kind: {} for kind in _TYPED.values()}
    title, lines = "", text.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        entry = _ENTRY.fullmatch(line)
        if following and set(following) == {"-"}:
            title = line
        elif title in _TYPED and entry and not line.startswith("-"):
            names, written = entry["names"], _DEFAULT.sub("", _ROLE.sub(r"\1", entry["type"]))
            if names or title == "Returns":
                names = names or ""
                found[_TYPED[title]] |= dict.fromkeys([names, *names.split(", ")], written)
    return found
