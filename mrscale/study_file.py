"""A study from its file or from a mapping, with messages in words of the file."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mrscale import places
from mrscale.config import SOURCES, Section, Study
from mrscale.errors import InputError
from mrscale.study_errors import explain


def load_study(path: str | Path) -> Study:
    """Read and check a study file.

    Parameters
    ----------
    path : str or Path
        A TOML file. Relative paths in it are relative to the file's folder.

    Returns
    -------
    Study

    Raises
    ------
    InputError
        If the file is absent, is not TOML, or has a key or value that is not allowed.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a study file, such as {path / 'study.toml'}")
    if not path.is_file():
        raise InputError(f"no study file at {path}; write one, or try: mrscale demo")
    try:
        with places.reading(path):
            raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError(
            f"{path.name} is not a study file: it is no text; give a study.toml, and name "
            "genotypes in it"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(
            f"{path.name} is not valid TOML: {error}; text stands in quotes, names of sections in "
            "square brackets"
        ) from None
    except RecursionError:
        raise InputError(f"{path.name} is not a study file: it is nested too deeply") from None
    return _anchored(parse_study(raw), path.parent.resolve())


StudyLike = Study | str | Path | Mapping[str, Any]


def as_study(study: StudyLike) -> Study:
    """A study however it is given: read from its file, or checked if it is a nested mapping.

    Raises
    ------
    InputError
        As :func:`load_study` and :func:`parse_study`.
    """
    if isinstance(study, Study):
        return study
    return parse_study(dict(study)) if isinstance(study, Mapping) else load_study(study)


def parse_study(raw: dict[str, Any]) -> Study:
    """Check a study given as nested dictionaries; raises InputError with one clear sentence."""
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        raise InputError(explain(error, Study)) from None
    return _placed(study, os.path.expanduser)


_PATHS = {
    None: ("run", "store"),
    "genotypes": (*SOURCES, "bgen_sample"),
    "people": ("phenotypes", "ancestry", "exclude", "kinship"),
    "instruments": ("file", "liftover"),
    "qc": ("pedigree",),
    "simulation": ("truth",),
    "disclosure": ("earlier",),
}


def _anchored(study: Study, folder: Path) -> Study:
    """The same study with relative local paths made absolute from the study file's folder."""
    return _placed(study, lambda path: path if "://" in path else str(folder / path))


def _placed(study: Study, place: Callable[[str], str]) -> Study:
    """The same study with every path and URL in another place."""

    def anchor(section: Section, names: tuple[str, ...]) -> dict[str, Any]:
        values = {name: getattr(section, name) for name in names}
        return {
            name: place(value) if isinstance(value, str) else tuple(map(place, value))
            for name, value in values.items()
            if value
        }

    changes: dict[str, Any] = {}
    for section_name, names in _PATHS.items():
        if section_name is None:
            changes |= anchor(study, names)
        elif (section := getattr(study, section_name)) is not None:
            changes[section_name] = section.model_copy(update=anchor(section, names))
    return study.model_copy(update=changes)
