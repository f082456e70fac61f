"""What a study on simulated data may know: its true effect and latents."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mrscale import places
from mrscale.config import Study
from mrscale.disclosure import show_count
from mrscale.errors import InputError
from mrscale.stats.moments import Floats
from mrscale.store.reader import GenotypeStore


@dataclass(frozen=True)
class Truth:
    """What the simulation knows: effect, latents file, names of the exogenous latents."""

    effect: float
    latents: Path
    exogenous: list[str]

    @classmethod
    def load(cls, file: str) -> Truth:
        """Read the ``truth.json`` of a simulation, beside which its latents must lie."""
        path = Path(file)
        if not path.is_file():
            raise InputError(
                f"[simulation] truth: no such file {path}; "
                "remove the section if the data are not simulated"
            )
        try:
            with places.reading(path):
                content = json.loads(path.read_text())
            latents = content["latents"]
            found = cls(content["effect"], path.parent / latents["file"], latents["exogenous"])
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"[simulation] truth must be a truth.json that mrscale simulate wrote; {path} is "
                "not one; name another, or remove the section if the data are not simulated"
            ) from None
        if not found.latents.is_file():
            raise InputError(
                f"[simulation] truth: {found.latents.name} must lie beside {path}; copy it there, "
                "or remove the section if the data are not simulated"
            )
        return found


def truth_of(study: Study) -> Truth | None:
    """What a study on simulated data names as its truth; InputError if that cannot be read."""
    return Truth.load(study.simulation.truth) if study.simulation else None


def true_latents(store: GenotypeStore, file: Path, columns: list[str]) -> Floats:
    """The simulated exogenous latents, shape (N, L), in the store's row order.

    Raises
    ------
    InputError
        If they are those of other people, or the file has no such columns.
    """
    try:
        with places.reading(file):
            table = pd.read_parquet(file, columns=["person_id", *columns])
    except ValueError:  # pyarrow's errors are
        raise InputError(
            "[simulation] truth must lie beside the latents that its simulation wrote, but "
            f"{file.name} has not the columns that it names; name the truth.json of this "
            "simulation, or remove the section"
        ) from None
    table = table.set_index("person_id").reindex(store.array("sample_id"))
    strangers = int(table[columns].isna().any(axis=1).sum())
    if strangers:
        raise InputError(
            "[simulation] truth must be that of the people in the store, but "
            f"{show_count(strangers)} of them are not in {file.name}; "
            "name the truth.json of this simulation, or remove the section"
        )
    return table[columns].to_numpy(dtype=np.float64)
