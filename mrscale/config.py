"""The study file: one typed, frozen description of everything a run depends on.

Each section is a pydantic model; unknown keys are refused with the nearest valid name.
"""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from mrscale.disclosure import Policy, PolicyName


class Section(BaseModel):
    """A part of the study file: immutable, and closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""Column names or files; one may be given without brackets."""
Build = Literal["GRCh37", "GRCh38"]
SOURCES = ("vcf", "mt", "vds", "plink", "bgen")
"""Kinds of genotype files, as keys of ``[genotypes]``."""


class Genotypes(Section):
    """``[genotypes]``: where the genotypes are; one of vcf, mt, vds, plink and bgen.

    Without any, the workbench's own variables (``WGS_ACAF_THRESHOLD_SPLIT_HAIL_PATH``, ...) name
    them.
    """

    vcf: Names = ()
    """Bgzipped VCF files (paths, URLs or globs) of the same people."""
    mt: str | None = None
    """Hail MatrixTable with a ``GT`` entry field, split or multi-allelic."""
    vds: str | None = None
    """Hail VariantDataset; only the sites of the list of instruments are made dense."""
    plink: str | None = None
    """PLINK 1 files: the path of the .bed, or without ending; .bim and .fam lie beside it."""
    bgen: Names = ()
    """BGEN files (paths, URLs or globs) of the same people."""
    bgen_sample: str | None = None
    """Sample ids of BGEN files that carry none: a .sample file."""
    hard_calls: bool = False
    """BGEN only: store the most likely genotype instead of the expected dosage."""
    reference_genome: Build | None = None
    """Build for Hail's checks; none for data on another build (NCBI36, simulated contigs)."""
    requester_pays: str | None = None
    """Project that pays for buckets where the reader pays; on the workbench GOOGLE_PROJECT."""
    missing: Literal["mean", "drop"] = "mean"
    """People without a call: give them their environment's mean dosage, or leave them out."""
    partitions: int | None = Field(default=None, ge=1)
    """Spark partitions to read and write with, but for a MatrixTable and a VDS, which are read in
    their own; by default one for each core in reading, and for each block of people in writing."""
    memory_gib: int | None = Field(default=None, ge=1)
    """Heap of Java in an extraction on this machine; by default half of the machine's memory,
    of which a container may have less. On a cluster Spark's own settings count."""

    @model_validator(mode="after")
    def _one_source(self) -> Genotypes:
        given = [name for name in SOURCES if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"give one of {', '.join(SOURCES)}, not {' and '.join(given)}")
        return self

    @property
    def source(self) -> str | None:
        """Which of :data:`SOURCES` is given."""
        return next((name for name in SOURCES if getattr(self, name)), None)


class People(Section):
    """``[people]``: one row per person, with environment, traits and covariates."""

    phenotypes: str = ""
    """Table of people (path or URL; .tsv, .csv or .parquet, may be compressed)."""
    sample_column: str = "person_id"
    """Column with the sample id of the genotype file; always read as text."""
    environment_column: Names = ("environment",)
    """Column with the environment (ancestry group, site, ...); several are crossed."""
    family_column: str | None = None
    """Column with a family id; relatives always share a fold. Without it everyone is unrelated."""
    cluster_column: str | None = None
    """Column with the unit of clustered errors (a site); by default the family."""
    missing_values: Names = ()
    """Cells that mean missing, besides empty ones and NA: for example "-9"."""
    ancestry: str | None = None
    """Table of genetic ancestry (``ancestry_preds.tsv``): adds the columns ``ancestry_pred`` and,
    from ``pca_features``, PC1, PC2, ... to the table of people."""
    exclude: Names = ()
    """Tables (or plain lists) of people to leave out, by id."""
    kinship: str | None = None
    """Table of pairs of relatives (``i.s``, ``j.s``, ``kin``): related people are one family."""
    kinship_min: float = Field(default=0.0884, ge=0, le=0.5)
    """Smallest kinship of relatives; 0.0884 lies between second and third degree."""


class Traits(Section):
    """``[traits]``: columns of the table of people."""

    exposure: Names = ()
    """Exposure columns."""
    outcome: Names = ()
    """Outcome columns."""
    covariate: Names = ()
    """Covariate columns. Those named PC1, PC2, ... are taken as genetic principal components."""

    @model_validator(mode="after")
    def _one_role(self) -> Traits:
        roles = ("exposure", "outcome", "covariate")
        for role in roles:
            names = getattr(self, role)
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"{role} names the column {twice[0]!r} twice; drop one of them")
        for first, second in combinations(roles, 2):
            if both := set(getattr(self, first)) & set(getattr(self, second)):
                raise ValueError(
                    f"a column has one role, but {sorted(both)[0]!r} is {first} and {second}; drop "
                    "it from one of them"
                )
        return self


class Instruments(Section):
    """``[instruments]``: which variants are instruments, from a GWAS summary table."""

    file: str | None = None
    """GWAS-SSF table (path or URL). Without it every variant that passes QC is taken."""
    p_value: float | None = Field(default=None, gt=0, le=1)
    """Keep rows of the table with a p-value at most this; by default all rows."""
    build: Build | None = None
    """Genome build of the table; must be that of the genotypes unless ``liftover`` is given."""
    liftover: str | None = None
    """Chain file from the table's build to the genotypes' build."""
    palindromic: Literal["infer", "drop", "keep"] = "infer"
    """A/T and C/G variants: orient by allele frequency, drop, or believe the table's strand."""
    palindromic_maf: float = Field(default=0.42, gt=0, le=0.5)
    """Palindromic variants with a minor allele frequency above this cannot be oriented."""
    clump_r2: float | None = Field(default=None, gt=0, lt=1)
    """Drop variants whose r2 with a better one is above this, in any environment or over all."""
    clump_kb: float = Field(default=10_000, gt=0, allow_inf_nan=False)
    """Distance within which variants are clumped, in kilobases."""


class QC(Section):
    """``[qc]``: thresholds on variants."""

    call_rate: float = Field(default=0.95, ge=0, le=1)
    """Smallest share of people with a call, in every environment."""
    maf: float = Field(default=0.01, ge=0, le=0.5)
    """Smallest minor allele frequency, over everyone."""
    environment_maf: float = Field(default=0, ge=0, le=0.5)
    """Smallest minor allele frequency in every environment."""
    hwe_p: float = Field(default=1e-15, ge=0, le=1)
    """Smallest Hardy-Weinberg mid-p in any environment."""
    pedigree: str | None = None
    """PLINK .fam file with parents: variants are then tested for Mendelian errors."""
    mendel_errors: float = Field(default=0.05, ge=0, le=1)
    """Largest share of trios with a Mendelian error, where a pedigree is given."""


Method = Literal["linear", "kernel", "flow"]


class Encoder(Section):
    """``[encoder]``: the learned instruments."""

    methods: tuple[Method, ...] = ("linear", "flow")
    """Encoders to train."""
    factors: Literal["auto"] | Annotated[int, Field(ge=2)] = "auto"
    """Principal components kept in front of the encoder; auto: eigenvalues above noise."""
    latent_dim: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Dimension of the latent instrument; auto: held-out likelihood of flow encoders, or, without
    them, the permutation test on the linear encoder."""
    restarts: int = Field(default=2, ge=1)
    """Encoders trained side by side in each fold; the best on people held out is kept."""
    steps: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Optimiser steps; auto: 1000 (kernel: 800, or 2000 from 20,000 people in a fold on)."""
    batch_size: Literal["auto"] | Annotated[int, Field(ge=2)] = "auto"
    """People per step, rounded up to a multiple of the number of environments; auto: 256, from
    10,000 people in a fold on 512, from 40,000 on 1024 (kernel: 1000)."""
    ranks: int = Field(default=1, ge=1)
    """Training processes on this machine; they share every batch and compute what one would."""
    first_layer: Literal["fixed", "trained"] = "fixed"
    """Of kernel encoders: the principal components, or a layer that starts there and is trained on
    the dosages themselves."""
    input: Literal["auto", "resident", "streamed"] = "auto"
    """Streamed: batches of dosages are read from the store while encoders train. Resident: from
    memory, which takes 4 bytes for each person and factor, or where the first layer is trained 1
    (imputed: 4) for each person and variant. Auto: resident, but for dosages that would take over
    a quarter of the memory of the machine or the GPU."""
    prefetch_mib: float = Field(default=512, gt=0, allow_inf_nan=False)
    """Bound on the decoded chunks that each training process holds while it streams, in MiB, where
    those of one batch are not more."""
    device: str = "auto"
    """As torch names it (cpu, cuda, mps); auto: a GPU for each rank if there is one."""
    tensorboard: bool = False
    """Write metrics for TensorBoard as well; needs the package tensorboard."""


class Simulation(Section):
    """``[simulation]``: only for simulated data; adds the oracle and the truth to the report."""

    truth: str
    """The ``truth.json`` that ``mrscale simulate`` wrote."""


class Disclosure(Section):
    """``[disclosure]``: which counts of people may leave, see ``docs/disclosure.md``."""

    policy: PolicyName = "all-of-us"
    """Hides counts of 1 to 20 people, and those from which such a count would follow."""
    limit: int = Field(default=Policy.limit, ge=0)
    """Counts of 1 to this many people are hidden; may be raised."""
    below_policy: bool = False
    """Allow a limit that is smaller than the policy's."""
    earlier: tuple[str, ...] = ()
    """Folders of earlier runs about these people: a count is hidden, too, where it differs by
    little from one that they have shown."""

    @model_validator(mode="after")
    def _check_limit(self) -> Disclosure:
        self.as_policy()
        return self

    def as_policy(self) -> Policy:
        """As :func:`mrscale.disclosure.enforce` takes it."""
        return Policy(self.policy, self.limit, self.below_policy)


class Study(Section):
    """A whole study; see :func:`mrscale.study_file.load_study` for the file form."""

    name: str = "study"
    """Title of the report."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Everything random derives from it."""
    run: str = "run"
    """The run folder, on a disk of this machine."""
    store: str | None = None
    """Genotype store; by default ``store.zarr`` in the run folder."""
    folds: int = Field(default=4, ge=2, le=100)
    """Disjoint blocks of people; an encoder is trained on each and applied to the others."""
    scheduler: str | None = None
    """Address of a Dask scheduler; by default threads of this process."""
    memory_gib: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """What blocks of people may take while encoders are prepared and applied and effects estimated:
    as many threads of this machine work at once as fit. The moments of all variants come on top. On
    a cluster the threads of its workers count."""
    genotypes: Genotypes = Genotypes()
    people: People = People()
    traits: Traits = Traits()
    instruments: Instruments = Instruments()
    qc: QC = QC()
    encoder: Encoder = Encoder()
    disclosure: Disclosure = Disclosure()
    simulation: Simulation | None = None

    @field_validator("run")
    @classmethod
    def _on_a_disk(cls, run: str) -> str:
        if "://" in run:
            raise ValueError(
                "must be a folder on a disk of this machine; a store may be a URL, and a finished "
                "run folder can be copied to one"
            )
        return run

    @property
    def store_path(self) -> str:
        """Where the genotype store is or will be: a folder or a URL."""
        return self.store or str(Path(self.run) / "store.zarr")


_PRINCIPAL_COMPONENT = re.compile(r"pc_?\d+", re.IGNORECASE)


def is_principal_component(covariate: str) -> bool:
    """Whether a covariate's name says that it is a genetic principal component (PC1, pc_2)."""
    return _PRINCIPAL_COMPONENT.fullmatch(covariate) is not None
