"""Phenotypes from BigQuery, by Google's own client from an emulator of it on this machine."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request

import pandas as pd
import pyarrow.parquet as pq
import pytest

from mrscale.errors import EngineError, InputError
from mrscale.provenance import without_people
from mrscale.study_file import parse_study
from mrscale.workflow.querying import query
from pipelines import identity, tables

pytest.importorskip("google.cloud.bigquery")
pytest.importorskip("crucible")

SQL = """
SELECT p.person_id, p.sex, m.value AS ldl
FROM person AS p JOIN measurement AS m ON m.person_id = p.person_id
ORDER BY p.person_id
"""


@pytest.fixture(scope="module")
def emulator():
    """Address of an emulator with a few people in ``test-project.cdr``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["crucible", "serve", "--dialect", "bigquery", "--port", str(port)]
    process = subprocess.Popen(
        [f"{sys.prefix}/bin/{command[0]}", *command[1:]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            urllib.request.urlopen(address, timeout=1).close()
            break
        except urllib.error.HTTPError:
            break  # it answers
        except OSError:
            time.sleep(0.1)
    yield address
    process.terminate()
    process.wait(10)


@pytest.fixture
def environ(emulator, monkeypatch):
    """As on a workbench, but for the emulator."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery

    found = {
        "GOOGLE_PROJECT": "test-project",
        "WORKSPACE_CDR": "test-project.cdr",
        "BIGQUERY_EMULATOR_HOST": emulator,
    }
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    client = bigquery.Client(project="test-project", credentials=AnonymousCredentials())
    client.create_dataset("cdr", exists_ok=True)
    for statement in (
        "CREATE OR REPLACE TABLE cdr.person AS SELECT * FROM UNNEST([STRUCT(7 AS person_id, "
        "1 AS sex), STRUCT(8, 0), STRUCT(9, 1)])",
        "CREATE OR REPLACE TABLE cdr.measurement AS SELECT * FROM UNNEST([STRUCT(7 AS person_id, "
        "3.5 AS value), STRUCT(8, 2.25), STRUCT(9, NULL)])",
    ):
        client.query(statement).result()
    client.close()
    return found


def written(tmp_path, text=SQL):
    file = tmp_path / "people.sql"
    file.write_text(text)
    return file


def test_rows_are_kept_with_the_query_that_made_them(environ, tmp_path):
    out = tmp_path / "people.parquet"
    found = query(written(tmp_path), out, environ=environ)
    assert (found.rows, found.columns) == (3, ("person_id", "sex", "ldl"))
    assert "<=20 rows of person_id, sex, ldl" in found.summary()
    table = tables.read_table(out, text=["person_id"])
    expected = pd.DataFrame(
        {"person_id": ["7", "8", "9"], "sex": [1, 0, 1], "ldl": [3.5, 2.25, None]}
    )
    pd.testing.assert_frame_equal(table, expected, check_dtype=False)
    told = tables.made_by(out)
    assert told["sql"] == SQL.strip()
    assert told["dataset"] == "test-project.cdr"
    study = parse_study({"people": {"phenotypes": str(out)}})
    settings = identity.settings(study, [])
    assert settings["query"] == told
    published = without_people(settings)
    assert published["query"].keys() == told.keys()
    assert SQL.strip() not in str(published), "a query may name people"
    assert {**published, "query": told, "inputs": settings["inputs"]} == settings
    assert tables.made_by(written(tmp_path)) is None


def test_the_verb_prints_for_machines(environ, tmp_path):
    command = ["query", str(written(tmp_path)), "--out", str(tmp_path / "p.parquet"), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "mrscale", *command], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["rows"] == "<=20"
    assert pq.read_table(tmp_path / "p.parquet").num_rows == 3


def test_a_query_that_is_refused_is_said_in_one_sentence(environ, tmp_path):
    with pytest.raises(InputError, match=r"refused the query .* correct the file") as caught:
        query(written(tmp_path, "SELECT nothing FROM nowhere"), tmp_path / "p", environ=environ)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "p").exists()


def test_what_is_missing_is_asked_for(tmp_path):
    with pytest.raises(InputError, match="is a folder; give a file for the table"):
        query(written(tmp_path), tmp_path, environ={"GOOGLE_PROJECT": "x", "WORKSPACE_CDR": "y.z"})
    with pytest.raises(InputError, match="GOOGLE_PROJECT, elsewhere give --project"):
        query(written(tmp_path), tmp_path / "p", environ={})
    with pytest.raises(InputError, match="there is no query at"):
        query(tmp_path / "none.sql", tmp_path / "p", environ={"GOOGLE_PROJECT": "x"})
    (tmp_path / "latin.sql").write_bytes("SELECT 'café'".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.sql must be text in UTF-8"):
        query(tmp_path / "latin.sql", tmp_path / "p", environ={"GOOGLE_PROJECT": "x"})
    with pytest.raises(InputError, match="must hold one SQL query and is empty"):
        query(written(tmp_path, " \n"), tmp_path / "p", environ={"GOOGLE_PROJECT": "x"})


def test_no_answer_is_said(tmp_path, monkeypatch):
    nobody = "http://127.0.0.1:9"
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", nobody)
    environ = {"GOOGLE_PROJECT": "x", "BIGQUERY_EMULATOR_HOST": nobody}
    with pytest.raises(EngineError, match=r"could not be asked .*; check the network"):
        query(written(tmp_path), tmp_path / "p", environ=environ)
