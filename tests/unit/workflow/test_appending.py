"""Traits are appended with a record of where they came from, without where that lies."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from mrscale.config import People, Traits
from mrscale.provenance import fingerprint
from mrscale.store.reader import open_store
from mrscale.workflow.appending import append


def test_inputs_are_recorded_by_digest_without_paths(small, changed_store, tmp_path):
    store = str(changed_store())
    people, ancestry = tmp_path / "secret" / "people.tsv", tmp_path / "secret" / "ancestry.tsv"
    people.parent.mkdir()
    ids, values = small.array("sample_id"), np.arange(small.num_samples) % 7
    pd.DataFrame({"person_id": ids, "bmi": values}).to_csv(people, sep="\t", index=False)
    features = [f"[0.1, {value}]" for value in values]
    table = pd.DataFrame({"research_id": ids, "pca_features": features})
    table.to_csv(ancestry, sep="\t", index=False)
    given = People(phenotypes=str(people), ancestry=str(ancestry))
    append(store, given, Traits(exposure=["bmi"], covariate=["PC2"]), quiet=True)
    (entry,) = open_store(store).manifest["appended"]
    told = entry["provenance"]
    assert (told["people"], told["ancestry"]) == (fingerprint(people), fingerprint(ancestry))
    assert "secret" not in json.dumps(told)
