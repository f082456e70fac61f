"""Reading tables: places, separators, compression, ids as text, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import http.server
import lzma
import threading
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mrscale import places
from mrscale.errors import InputError
from pipelines.tables import column_names, read_lines, read_table, require_columns

TABLE = pd.DataFrame({"person_id": ["007", "010"], "bmi": [21.5, 30.0], "note": ["a b", "c"]})
TEXT = TABLE.to_csv(sep="\t", index=False).encode()


def zstd(data):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def bgzip(data):
    """Two members, as bgzip and ``cat`` make them."""
    return gzip.compress(data[:20]) + gzip.compress(data[20:])


def check(path):
    found = read_table(path, text=["person_id"])
    assert found["person_id"].tolist() == ["007", "010"]
    assert found["bmi"].tolist() == [21.5, 30.0]
    assert found["note"].tolist() == ["a b", "c"]
    assert column_names(path) == ["person_id", "bmi", "note"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("sep", ["\t", ",", ";", " "])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_separators_and_leading_zeros(tmp_path, sep, end, mark):
    text = TABLE.to_csv(sep=sep, index=False, lineterminator=end)
    (tmp_path / "t.txt").write_bytes(mark + text.encode())
    check(tmp_path / "t.txt")


CODECS = {"gz": gzip.compress, "bgz": bgzip, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}


@pytest.mark.parametrize("name", ["t.tsv", "memory"])
@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_compression_is_recognised_whatever_the_name(tmp_path, codec, name):
    path = str(tmp_path / name) if name != "memory" else f"memory://{tmp_path.name}/t"
    places.write_bytes(path, codec(TEXT))
    check(path)


def test_parquet_is_recognised_whatever_the_name(tmp_path):
    TABLE.to_parquet(tmp_path / "t.dat")
    check(tmp_path / "t.dat")


def test_a_table_on_the_web(tmp_path):
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(TEXT))
    TABLE.to_parquet(tmp_path / "t.parquet")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        check(f"{address}/t.tsv.gz")
        check(f"{address}/t.parquet")
        with pytest.raises(InputError, match="no such file"):
            read_table(f"{address}/none.tsv")
        server.shutdown()


ID_COLUMNS = {
    "int64": pa.array([1001, 9007199254740993]),
    "missing": pa.array([1001, None]),
    "float": pa.array([1001.0, None]),
    "nan": pa.array([1001.0, np.nan]),
    "text": pa.array(["1001", None]),
    "decimal": pa.array([Decimal("1001.000"), None], type=pa.decimal128(38, 9)),
    "blank": pa.array([" 1001 ", " "]),
    "category": pa.array(["1001", "1002"]).dictionary_encode(),
}


@pytest.mark.parametrize("ids", ID_COLUMNS.values(), ids=ID_COLUMNS)
def test_parquet_ids_become_text(tmp_path, ids):
    pa.parquet.write_table(pa.table({"person_id": ids}), tmp_path / "t.parquet")
    found = read_table(tmp_path / "t.parquet", text=["person_id"])["person_id"]
    assert found[0] == "1001"
    assert pd.isna(found[1]) or found[1] in ("9007199254740993", "1002")


def test_categories_of_a_parquet_file_are_read_as_what_they_name(tmp_path):
    cells = {"note": ["a", "b"], "text": ["1.5", "NA"], "number": [3, 4], "id": [1001.0, 1002.0]}
    coded = {name: pa.array(values).dictionary_encode() for name, values in cells.items()}
    pa.parquet.write_table(pa.table(coded), tmp_path / "t.parquet")
    found = read_table(tmp_path / "t.parquet", text=["id"])
    assert found["note"].tolist() == ["a", "b"]
    assert found["text"].dtype == float
    assert found["text"][0] == 1.5
    assert found["number"].tolist() == [3, 4]
    assert found["id"].tolist() == ["1001", "1002"]


def test_ids_that_lost_digits_are_refused(tmp_path):
    pd.DataFrame({"person_id": [1e17, 2e17]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="floating-point numbers too large to be exact"):
        read_table(tmp_path / "t.parquet", text=["person_id"])


def test_only_wanted_columns_are_read(tmp_path):
    (tmp_path / "t.csv").write_text("id,x,x,y\n01,1,2,3\n")
    found = read_table(tmp_path / "t.csv", text=["id"], columns=["y", "id", "absent"])
    assert found.to_dict("list") == {"id": ["01"], "y": [3]}
    with pytest.raises(InputError, match=r"t\.csv has two columns of one name"):
        read_table(tmp_path / "t.csv")


def test_quoted_cells_may_hold_separators_marks_and_lines(tmp_path):
    (tmp_path / "t.csv").write_text('id,"a note"\n1,"x, ""y"""\n2,"two\nlines"\n')
    assert read_table(tmp_path / "t.csv")["a note"].tolist() == ['x, "y"', "two\nlines"]


def test_marks_inside_cells_of_many_lines_are_no_fault(tmp_path):
    (tmp_path / "t.csv").write_text('id,note\n1,"x,""y""\n""z"""\n2,""\n3,"a\nb"')
    found = read_table(tmp_path / "t.csv", text=["note"])["note"]
    assert found.fillna("").tolist() == ['x,"y"\n"z"', "", "a\nb"]


RAGGED = {
    "short": ("id,x,y\n1,2,3\n\nPLANTED,2\n", "line 4 of t.txt has 2 cells, but its header has 3"),
    "long": ("id\tx\n1\t2\nPLANTED\t2\t3\n", "line 3 of t.txt has 3 cells, but its header has 2"),
    "blanks": ("id x\n1  2\n\nPLANTED\n", "line 4 of t.txt has 1 cells, but its header has 2"),
    "open quote": ('id,x\n1,2\n3,"PLANTED\n4,5\n', "quotation mark that is never closed"),
    "open quotes": ('id\tx\n1\t"PLANTED\n2\t3\n4\t"5\n6\t7\n', "quotation mark that is never"),
    "open quotes at the end": ('id,x\n1,"PLANTED\n2,"3', "quotation mark that is never closed"),
    "open quote of the last line": ('id,x\n1,2\n3,"PLANTED\n4', "mark that is never closed"),
    "empty": ("", "t.txt is empty"),
    "utf-16": ("\ufeffid,x\n".encode("utf-16-le"), "UTF-16 text; save it as UTF-8"),
    "latin-1": ("id,x\nPLANTED,é\n".encode("latin-1"), "cannot be read as a table.*in UTF-8"),
    "carriage returns": ("id,x\rPLANTED,2\r", "end with carriage returns"),
    "cut off": (gzip.compress(TEXT)[:-9], r"cannot be read as a table: it is cut off"),
}


@pytest.mark.parametrize(("content", "message"), RAGGED.values(), ids=RAGGED)
def test_ragged_and_damaged_text_is_refused(tmp_path, content, message):
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "t.txt").write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_table(tmp_path / "t.txt")
    assert "PLANTED" not in str(caught.value)


def test_a_header_alone_is_a_table_without_rows(tmp_path):
    (tmp_path / "t.tsv").write_text("id\tx\n")
    assert read_table(tmp_path / "t.tsv").columns.tolist() == ["id", "x"]


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_table(tmp_path / "none.tsv")


def test_not_parquet(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"t\.parquet cannot be read as a table"):
        read_table(tmp_path / "t.parquet")


def test_lines_of_a_list(tmp_path):
    (tmp_path / "l.txt.gz").write_bytes(gzip.compress(b'\xef\xbb\xbf007\r\n\n "010"\n'))
    assert read_lines(tmp_path / "l.txt.gz").tolist() == ["007", "010"]


def test_an_absent_column_names_the_nearest():
    with pytest.raises(InputError, match=r"no column 'person'; did you mean 'person_id'\?"):
        require_columns(TABLE, ["bmi", "person"], file="t.tsv")


@pytest.mark.parametrize("header", [["personid_x", "21.5"], ["person_i1234567", "afr"]])
def test_a_header_that_may_be_data_is_not_quoted(header):
    with pytest.raises(InputError, match="no column 'person_id'") as caught:
        require_columns(header, ["person_id"], file="t.tsv")
    assert header[0] not in str(caught.value)


def test_a_ragged_row_that_is_no_utf8_is_refused_in_silence(tmp_path, capfd):
    file = tmp_path / "people.tsv"
    file.write_bytes(b"id\tldl\n1\t2\n2\t\xfc\xe4\t3\n")
    with pytest.raises(InputError, match=r"people\.tsv (cannot be read as a table|has)"):
        read_table(file)
    assert capfd.readouterr() == ("", "")
