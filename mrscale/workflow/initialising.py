"""A first study file, with what is known filled in and what is not explained."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mrscale import places
from mrscale.errors import InputError
from mrscale.provenance import write_text

_GENOTYPES = (
    "WGS_VDS_PATH",
    "WGS_ACAF_THRESHOLD_SPLIT_HAIL_PATH",
    "WGS_EXOME_SPLIT_HAIL_PATH",
    "WGS_CLINVAR_SPLIT_HAIL_PATH",
)
_COMMON = """
[traits]
exposure = ["ldl"]                    # columns of the table of people; every exposure is
outcome = ["chd"]                     # estimated on every outcome
covariate = ["age", "sex"{components}]              # numbers: sex as 0 and 1

[instruments]
file = "instruments.tsv"              # summary table of a GWAS of other people: chromosome,
p_value = 5e-8                        # position, alleles, p-value under any common names
clump_r2 = 0.01                       # leave out variants linked to a better one
{build}
[encoder]
methods = ["linear", "flow"]          # encoders to train; [] for the adjusted estimates alone
# steps = 200                         # with restarts = 1, a first look in minutes: not for results
# restarts = 1
"""
_OWN = """# A study of mrscale. Correct this, then: mrscale run {name}
# All keys and their defaults: docs/study-file.md
name = "my study"
run = "run"                           # folder for everything that is computed
seed = 0

[genotypes]
vcf = "genotypes.vcf.bgz"             # or mt, vds, plink, bgen: paths or URLs

[people]
phenotypes = "phenotypes.tsv"         # one row per person: .tsv, .csv or .parquet
sample_column = "person_id"           # ids as in the genotype file
environment_column = "ancestry"       # ancestry group, site or period; best five or more groups
# family_column = "family_id"         # relatives share a fold
# missing_values = ["-9"]             # cells that mean missing, besides empty ones and NA
"""
_WORKBENCH = """# A study of mrscale on a workbench. Correct this, then: mrscale run {name}
# All keys and their defaults: docs/study-file.md
name = "my study"
run = "run"                           # on this machine's disk; results and encoders
store = "{bucket}/mrscale/store.zarr"
seed = 0

[genotypes]
# Taken from the workbench: {genotypes}
# The VDS is read at the listed instruments only; requester pays: {payer}

[people]
phenotypes = "{bucket}/phenotypes.parquet"  # mrscale query people.sql --out ...
sample_column = "person_id"
environment_column = "ancestry_pred"  # of the release's ancestry table, which is found by itself,
                                      # as are relatives and people flagged in quality control
"""


def initialise(
    path: str | Path, *, all_of_us: bool = False, environ: Mapping[str, str] = os.environ
) -> Path:
    """Write a study file with comments, to be corrected.

    Parameters
    ----------
    path : str or Path
    all_of_us : bool, default False
        For the workbench of All of Us, from its environment variables.
    environ : mapping of str to str

    Raises
    ------
    InputError
        If there is a file already, or the workbench's variables are not set.
    """
    path = Path(path)
    if path.exists():
        raise InputError(f"{path} is there already; nothing was touched; choose another name")
    if not all_of_us:
        text = _OWN + _COMMON.format(components="", build="")
    else:
        text = _of_workbench(environ) + _COMMON.format(
            components=', "PC1", "PC2", "PC3"', build='build = "GRCh38"\n'
        )
    with places.writing(path):
        write_text(path, text.replace("{name}", str(path)))
    return path


def _of_workbench(environ: Mapping[str, str]) -> str:
    found = [name for name in _GENOTYPES if environ.get(name)]
    bucket = environ.get("WORKSPACE_BUCKET")
    lacking = [] if bucket else ["WORKSPACE_BUCKET"]
    lacking += [] if found else [" or ".join(_GENOTYPES)]
    if lacking:
        raise InputError(
            f"a workbench sets {' and '.join(lacking)}; found nothing there; run this in a "
            "notebook's terminal, or leave --all-of-us out and name your own files"
        )
    payer = environ.get("GOOGLE_PROJECT", "nobody (GOOGLE_PROJECT is not set)")
    filled = {"bucket": bucket, "genotypes": ", ".join(found), "payer": payer}
    text = _WORKBENCH
    for name, value in filled.items():
        text = text.replace(f"{{{name}}}", str(value))
    return text
