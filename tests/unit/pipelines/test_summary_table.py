"""Summary tables as their programs write them."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from mrscale.errors import InputError
from pipelines.summary_table import read_summary_table

# each table has the same variant: G is the effect allele with frequency 0.3, A the other, p 1e-9
TABLES = {
    "GWAS-SSF": """chromosome base_pair_location effect_allele other_allele beta standard_error \
effect_allele_frequency p_value variant_id rsid
7 12345 G A 0.1 0.01 0.3 1e-9 7_12345_A_G rs1""",
    "GWAS-SSF, logarithm": """chromosome base_pair_location effect_allele other_allele beta \
standard_error effect_allele_frequency neg_log_10_p_value ref_allele
7 12345 G A 0.1 0.01 0.3 9 OA""",
    "GWAS Catalog, harmonised": """hm_variant_id hm_rsid hm_chrom hm_pos hm_other_allele \
hm_effect_allele hm_beta hm_effect_allele_frequency chromosome base_pair_location effect_allele \
other_allele effect_allele_frequency p_value
7_12345_A_G rs1 7 12345 A G 0.1 0.3 7 999 A G 0.7 1e-9""",
    "PLINK 1": """ CHR SNP BP A1 TEST NMISS BETA STAT P A2
 7 rs1 12345 G ADD 500 0.1 6 1e-9 A""",
    "PLINK 1, alleles in the name": """ CHR SNP BP A1 TEST NMISS BETA STAT P
 7 7:12345:G:A 12345 G ADD 500 0.1 6 1e-9""",
    "PLINK 2": """#CHROM\tPOS\tID\tREF\tALT\tPROVISIONAL_REF?\tA1\tOMITTED\tA1_FREQ\tTEST\tOBS_CT\
\tBETA\tSE\tT_STAT\tP\tERRCODE
7\t12345\trs1\tG\tA\tN\tG\tA\t0.3\tADD\t500\t0.1\t0.01\t6\t1e-9\t.""",
    "PLINK 2, reference counted": """#CHROM\tPOS\tID\tREF\tALT\tA1\tA1_FREQ\tTEST\tLOG10_P
7\t12345\trs1\tG\tA\tG\t0.3\tADD\t9""",
    "PLINK 2, multi-allelic": """#CHROM\tPOS\tID\tREF\tALT\tA1\tA1_FREQ\tTEST\tP
7\t12345\trs1\tA\tC,G\tG\t0.3\tADD\t1e-9""",
    "REGENIE": """CHROM GENPOS ID ALLELE0 ALLELE1 A1FREQ INFO N TEST BETA SE CHISQ LOG10P EXTRA
7 12345 rs1 A G 0.3 1 500 ADD 0.1 0.01 36 9 NA""",
    "SAIGE": """CHR\tPOS\tMarkerID\tAllele1\tAllele2\tAC_Allele2\tAF_Allele2\tBETA\tSE\tp.value
7\t12345\trs1\tA\tG\t300\t0.3\t0.1\t0.01\t1e-9""",
    "BOLT-LMM": """SNP\tCHR\tBP\tGENPOS\tALLELE1\tALLELE0\tA1FREQ\tBETA\tSE\tP_BOLT_LMM_INF\
\tP_BOLT_LMM
rs1\t7\t12345\t0.01\tG\tA\t0.3\t0.1\t0.01\t1e-8\t1e-9""",
    "METAL": """MarkerName\tAllele1\tAllele2\tFreq1\tFreqSE\tEffect\tStdErr\tP-value\tDirection
chr7:12345:A:G\tg\ta\t0.3\t0.01\t0.1\t0.01\t1e-9\t++""",
    "GCTA fastGWA": """CHR\tSNP\tPOS\tA1\tA2\tN\tAF1\tBETA\tSE\tP
7\trs1\t12345\tG\tA\t500\t0.3\t0.1\t0.01\t1e-9""",
    "FinnGen": """#chrom\tpos\tref\talt\trsids\tpval\tmlogp\tbeta\tsebeta\taf_alt
7\t12345\tA\tG\trs1\t1e-9\t9\t0.1\t0.01\t0.3""",
    "UK Biobank (Neale)": """variant\tminor_allele\tminor_AF\tbeta\tse\tpval\teaf
7:12345:A:G\tG\t0.3\t0.1\t0.01\t1e-9\t0.3""",
    "TwoSampleMR": """SNP,chr.exposure,pos.exposure,effect_allele.exposure,other_allele.exposure,\
eaf.exposure,effect_allele.outcome,pval.exposure,pval.outcome
rs1,7,12345,G,A,0.3,A,1e-9,0.5""",
    "GEMMA": """chr\trs\tps\tn_miss\tallele1\tallele0\taf\tbeta\tse\tp_wald
7\trs1\t12345\t0\tG\tA\t0.3\t0.1\t0.01\t1e-9""",
}


def read(tmp_path, text, name="list.txt", **options):
    path = tmp_path / name
    path.write_text(text + "\n")
    return read_summary_table(str(path), **options)


@pytest.mark.parametrize("program", TABLES)
def test_the_effect_allele_is_the_one_that_the_program_means(tmp_path, program):
    table = read(tmp_path, TABLES[program], needs_p_value=True)
    row = table.rows.iloc[0]
    assert len(table.rows) == 1
    assert row[["contig", "effect_allele", "other_allele"]].tolist() == ["7", "G", "A"] or (
        row["contig"] == "chr7" and program == "METAL"
    )
    assert row["position"] == 12345
    if "in the name" not in program and "PLINK 1" not in program:
        assert row["frequency"] == 0.3
    np.testing.assert_allclose(row["p_value"], 1e-9)
    np.testing.assert_allclose(row["neg_log10_p"], 9)
    assert row["test"] in ("", "ADD")
    assert table.harmonised == (program == "GWAS Catalog, harmonised")


@pytest.mark.parametrize("sep", ["\t", ",", ";", " ", "   "])
def test_any_separator_and_gzip(tmp_path, sep):
    text = TABLES["GWAS-SSF"].replace(" ", sep)
    (tmp_path / "list.gz").write_bytes(gzip.compress(text.encode()))
    row = read_summary_table(str(tmp_path / "list.gz")).rows.iloc[0]
    assert row[["contig", "position", "effect_allele"]].tolist() == ["7", 12345, "G"]


def test_cells_that_say_nothing_are_missing(tmp_path):
    text = "chr pos ea oa eaf p\nX 1 a g 0.2 0.1\n1 NA NA T 1.2 -1\n. 7.5 C NA . 2"
    rows = read(tmp_path, text).rows
    assert rows["contig"].tolist()[:2] == ["X", "1"]
    assert rows["effect_allele"].tolist() == ["A", "", "C"]
    assert rows["other_allele"].tolist() == ["G", "T", ""]
    np.testing.assert_array_equal(rows["position"], [1, np.nan, 7.5])
    np.testing.assert_array_equal(rows["frequency"], [0.2, np.nan, np.nan])
    np.testing.assert_array_equal(rows["p_value"], [0.1, np.nan, np.nan])


def test_logarithms_keep_p_values_apart_that_are_zero_as_numbers(tmp_path):
    rows = read(tmp_path, "chr pos ea oa LOG10P\n1 1 A G 400\n1 2 A G 500\n1 3 A G -2").rows
    assert rows["p_value"].tolist()[:2] == [0, 0]
    np.testing.assert_array_equal(rows["neg_log10_p"], [400, 500, np.nan])
    assert np.isnan(rows["p_value"][2])


def test_names_of_variants_stand_in_for_columns_that_are_absent(tmp_path):
    names = ["1:5:A:G", "chr2_6_at_a_b37", "3-7-C-T", "4:8:C/T", "5:9", "rs1"]
    rows = read(tmp_path, "MarkerName\n" + "\n".join(names)).rows
    assert rows["contig"].tolist() == ["1", "chr2", "3", "4", "5", ""]
    np.testing.assert_array_equal(rows["position"], [5, 6, 7, 8, 9, np.nan])
    # the last allele is the effect allele
    assert rows["effect_allele"].tolist() == ["G", "A", "T", "T", "", ""]
    assert rows["other_allele"].tolist() == ["A", "AT", "C", "C", "", ""]


def test_an_effect_allele_that_is_none_of_the_pair_has_no_partner(tmp_path):
    rows = read(tmp_path, "chr pos ref alt a1\n1 1 A G T\n1 1 A G A\n1 1 A G G").rows
    assert rows["other_allele"].tolist() == ["", "G", "A"]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("snp ea oa p", "has no column 'chromosome'"),
        ("chr ea oa p", "has no column 'base_pair_location'"),
        ("chr pos oa p", "has no column 'effect_allele'"),
        ("chr pos ea p", "has no column 'other_allele'"),
        ("chr pos ea oa", "has no column 'p_value'"),
    ],
)
def test_a_missing_column_is_named(tmp_path, header, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, f"{header}\n{' '.join('1' * len(header.split()))}", needs_p_value=True)


def test_a_p_value_that_is_no_number_is_refused_with_its_line(tmp_path):
    message = (
        r"1 of the list of instruments .* are not, the first '0,001' in line 4; write a decimal"
    )
    with pytest.raises(InputError, match=message):
        read(tmp_path, "chr\tpos\tea\toa\tp\n1\t1\tA\tG\t0.1\n1\t2\tA\tG\t.\n1\t3\tA\tG\t0,001")
    rows = read(tmp_path, "chr\tpos\tea\toa\tp\n1\t1\tA\tG\t0.1\n1\t2\tA\tG\t.").rows
    np.testing.assert_array_equal(rows["p_value"], [0.1, np.nan])
