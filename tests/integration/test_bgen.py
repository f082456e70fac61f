"""BGEN files on the real engine: imputed dosages, hard calls, and files that Hail cannot read."""

from __future__ import annotations

import runpy
import struct
from pathlib import Path

import numpy as np
import pytest

from mrscale.config import Genotypes
from mrscale.errors import InputError
from mrscale.store.schema import DOSAGES

pytest.importorskip("hail")
pytest.importorskip("pysam")

from pipelines.sources import find_files, measure

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("hail")]

files = runpy.run_path(str(Path(__file__).with_name("genotype_files.py")))
bgen_bytes, read = files["bgen_bytes"], files["read"]


@pytest.fixture(scope="module")
def imputed():
    """Probabilities in 255ths, shape (variants, people, 3), and whether a call is missing."""
    rng = np.random.default_rng(8)
    cuts = np.sort(rng.integers(0, 256, (6, 30, 2)), axis=2)
    cuts[:, :8] = [
        [230, 255],
        [229, 255],
        [0, 255],
        [0, 230],
        [0, 0],
        [255, 255],
        [26, 255],
        [0, 3],
    ]
    probability_MN3 = np.diff(cuts, axis=2, prepend=0, append=255)
    missing_MN = rng.random((6, 30)) < 0.1
    probability_MN3[missing_MN] = 0
    return probability_MN3, missing_MN


@pytest.mark.parametrize("zipped", [True, False])
def test_imputed_dosages_and_hard_calls(imputed, zipped, tmp_path):
    """Two files and a .sample file, in a folder that cannot be written."""
    probability_MN3, missing_MN = imputed
    for number, rows in enumerate((slice(4), slice(4, 6))):
        data = bgen_bytes(probability_MN3[rows], missing_MN[rows], zipped=zipped)
        if number:  # the second file's positions follow those of the first
            data = data.replace(struct.pack("<I", 100) + b"\2\0", struct.pack("<I", 104) + b"\2\0")
            data = data.replace(struct.pack("<I", 101) + b"\2\0", struct.pack("<I", 105) + b"\2\0")
        (tmp_path / f"chr1-{number}.bgen").write_bytes(data)
    ids = [f"00{i}" for i in range(30)]
    lines = ["ID_1 ID_2 missing sex", "0 0 0 D", *(f"{i} {i} 0 1" for i in ids)]
    (tmp_path / "p.sample").write_text("\n".join(lines) + "\n")
    tmp_path.chmod(0o555)
    given = {"bgen": str(tmp_path / "*.bgen"), "bgen_sample": str(tmp_path / "p.sample")}
    genotypes = Genotypes(**given)
    extent = measure(genotypes, find_files(genotypes))
    assert (extent.num_people, extent.num_rows, extent.exact) == (30, 6, True)
    found, source, _ = read(**given)
    assert source.imputed
    assert found.columns.tolist() == ids
    assert found.index.tolist() == [f"1:{100 + row}:A:C" for row in range(6)]
    dosage_MN = (probability_MN3[..., 1] + 2 * probability_MN3[..., 2]) / 255
    codes_MN = np.where(missing_MN, -1, np.rint(DOSAGES.per_allele * dosage_MN))
    np.testing.assert_array_equal(found, codes_MN)
    called, hard, _ = read(**given, hard_calls=True)
    certain = ~missing_MN & (probability_MN3.max(2) >= 0.9 * 255)
    np.testing.assert_array_equal(called, np.where(certain, probability_MN3.argmax(2), -1))
    assert not hard.imputed
    tmp_path.chmod(0o755)
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".bgen", ".bgen", ".sample"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"alleles": ("A", "C", "G")}, r"3 alleles instead of 2; .*plink2"),
        ({"bits": 16}, "16 bits a probability instead of 8"),
        ({"ids": None}, "holds no sample ids; give the .sample file"),
        ({"ids": ["planted", "planted"]}, "<=20 ids of g.bgen repeat an earlier one"),
        ({"zipped": 2}, "has another compression"),
    ],
)
def test_a_bgen_that_hail_cannot_read_is_refused_before_it_tries(damage, message, tmp_path):
    data = bgen_bytes(
        np.full((1, 2, 3), 85), np.zeros((1, 2), bool), **{"ids": ["a", "b"]} | damage
    )
    (tmp_path / "g.bgen").write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        find_files(Genotypes(bgen=str(tmp_path / "g.bgen")))
    assert "planted" not in str(caught.value)


def test_a_bgen_with_a_later_variant_of_three_alleles_is_refused(tmp_path):
    given = np.full((1, 2, 3), 85), np.zeros((1, 2), bool)
    data = bytearray(bgen_bytes(*given, ids=["a", "b"]))
    other = bgen_bytes(*given, ids=["a", "b"], alleles=("A", "C", "G"))
    data[8:12] = struct.pack("<I", 2)
    (tmp_path / "g.bgen").write_bytes(data + other[4 + struct.unpack("<I", other[:4])[0] :])
    with pytest.raises(InputError, match=r"two alleles only, but a file has one with more"):
        read(bgen=str(tmp_path / "g.bgen"))
