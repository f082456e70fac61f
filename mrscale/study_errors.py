"""What is wrong with a study file, in words of the file and not of the library that checks it."""

from __future__ import annotations

import difflib
import reprlib
from typing import Any

from pydantic import BaseModel, ValidationError

_RULES = {
    "tuple_type": 'Input should be a list, as in ["a", "b"]',
    "model_type": "Input should be a section of keys",
    "int_parsing": "Input should be a whole number",
    "int_from_float": "Input should be a whole number",
}
"""What pydantic says in words of Python, in words of the study file."""


def explain(error: ValidationError, study: type[BaseModel]) -> str:
    """One sentence; a misspelt key first, for it may be why another is missing.

    Parameters
    ----------
    error : pydantic.ValidationError
    study : type of BaseModel
        The model of the whole file.
    """
    problems = error.errors(include_url=False)
    first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    sections, key = _place(study, [str(part) for part in first["loc"]])
    where = f"[{'.'.join(sections)}] of the study file" if sections else "the study file"
    if first["type"] == "missing":
        return f"{where} needs the key {key!r}"
    if first["type"] != "extra_forbidden":
        # every rule that this key's alternatives break, said once
        here = [p for p in problems if p["loc"][: len(sections) + 1] == (*sections, key)]
        rules = dict.fromkeys(_RULES.get(p["type"], p["msg"]) for p in here)
        required = " or ".join(rules).replace(" or Input should be", " or")
        required = required.removeprefix("Value error, ")
        if first["type"] == "value_error" and isinstance(first["input"], dict):
            return f"[{'.'.join([*sections, key])}] of the study file: {required}"
        return f"{key!r} in {where}: {required} (found {reprlib.repr(first['input'])})"
    valid = sorted(_model(study, sections).model_fields)
    near = difflib.get_close_matches(key, valid, n=1, cutoff=0.0)[0]
    return f"unknown key {key!r} in {where}; did you mean {near!r}? Valid keys: {', '.join(valid)}"


def _place(study: type[BaseModel], location: list[str]) -> tuple[list[str], str]:
    """Sections and key of a problem, without the alternative or the list item that pydantic adds
    behind the key."""
    sections: list[str] = []
    for name in location[:-1]:
        field = _model(study, sections).model_fields.get(name)
        if field is None or _section(field.annotation) is None:
            return sections, name
        sections.append(name)
    return sections, location[-1]


def _model(study: type[BaseModel], sections: list[str]) -> type[BaseModel]:
    model = study
    for name in sections:
        model = _section(model.model_fields[name].annotation) or model
    return model


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model of a section's annotation, which may be optional; None for a plain key."""
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    models = (c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return next(models, None)
