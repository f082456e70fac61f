"""Append: a table of people in, new traits of a finished store out."""

from __future__ import annotations

from mrscale import config
from mrscale.progress import bar
from mrscale.provenance import fingerprint, software_versions
from mrscale.store.append import Appended
from mrscale.store.append import append as append_traits
from pipelines.identity import people_settings
from pipelines.traits import read_traits


def append(
    store: str, people: config.People, traits: config.Traits, *, quiet: bool = False
) -> Appended:
    """Add columns of a table of people to a store; see :func:`mrscale.store.append.append`.

    Parameters
    ----------
    store : str
        Folder or URL of a finished store.
    people : mrscale.config.People
        The table, the column of ids, and what means missing.
    traits : mrscale.config.Traits
        Columns to add.
    quiet : bool, default False
        Show no progress even on a terminal.
    """
    with bar("Appending", quiet=quiet):
        table = read_traits(people, traits)
        provenance = {
            name: fingerprint(file)
            for name, file in (("people", people.phenotypes), ("ancestry", people.ancestry))
            if file
        } | {
            "settings": people_settings(people),
            "software": software_versions(),
        }
        return append_traits(store, table.sample_id, table.values, provenance=provenance)
