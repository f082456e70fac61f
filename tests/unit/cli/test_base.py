"""What every verb of the command line shares: flags over a file, and how a summary is shown."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest

with warnings.catch_warnings():
    # typer 0.24 uses what click 8.5 deprecates
    warnings.simplefilter("ignore", DeprecationWarning)
    from mrscale.cli.base import show, study_of


def test_a_flag_takes_the_place_of_the_genotypes_of_the_file(tmp_path):
    file = tmp_path / "study.toml"
    file.write_text('[genotypes]\nvcf = ["a.vcf.gz"]\nmissing = "drop"\n')
    found = study_of(file, genotypes={"vcf": None, "mt": "b.mt"}).genotypes
    assert (found.source, found.mt, found.missing) == ("mt", "b.mt", "drop")
    found = study_of(file, genotypes={"vcf": [], "mt": None}).genotypes
    assert found.vcf == (str(tmp_path / "a.vcf.gz"),)


def test_json_has_no_numbers_that_json_does_not_know(capsys):
    show({"f": math.nan, "ends": [-math.inf, 1.5], "rows": np.int64(3)}, "text", as_json=True)
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "f": None,
        "ends": ["-inf", 1.5],
        "rows": 3,
    }
