"""Tables of people from BigQuery: a query's rows, kept as a Parquet file that says what it is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mrscale import places
from mrscale.disclosure import export_count, show_count, vague
from mrscale.errors import EngineError, InputError, MissingExtraError
from mrscale.store.schema import QUERY

_PATIENCE_SECONDS = 20
"""With a network that does not answer."""
_TELLING = ("Syntax error", "Unrecognized name", "Not found", "Access Denied")
"""Messages of BigQuery that quote the query and never a cell."""


@dataclass(frozen=True)
class Queried:
    """What a query brought.

    Attributes
    ----------
    path : str
        The Parquet file.
    rows : int
    columns : tuple of str
    """

    path: str
    rows: int
    columns: tuple[str, ...]

    def summary(self) -> str:
        """One sentence."""
        return (
            f"Wrote {self.path}: {show_count(vague(self.rows))} rows of "
            f"{', '.join(self.columns)}. Name it as phenotypes in [people] of the study"
        )

    def to_dict(self) -> dict[str, Any]:
        """For machines."""
        return {
            "path": self.path,
            "rows": export_count(vague(self.rows)),
            "columns": list(self.columns),
        }


def query(
    sql: str | Path,
    out: str | Path,
    *,
    project: str | None = None,
    dataset: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Queried:
    """Run a query on BigQuery and keep its rows as a Parquet file, for ``[people] phenotypes``.

    The file carries the text of the query, its dataset and the date, and a store that is extracted
    with it has them in its provenance. Nothing is read again until you ask: equal runs have equal
    people.

    Parameters
    ----------
    sql : str or Path
        A file with one query.
    out : str or Path
        The Parquet file to write, a path or URL.
    project : str, optional
        Who pays; by default GOOGLE_PROJECT, as a workbench sets it.
    dataset : str, optional
        ``"project.dataset"`` of tables that the query names without one; by default WORKSPACE_CDR.
    environ : mapping of str to str

    Raises
    ------
    MissingExtraError
        Without the package google-cloud-bigquery.
    InputError
        If there is no such file or no project, or BigQuery refuses the query.
    EngineError
        If BigQuery cannot be reached or fails.
    """
    text = _text(Path(sql))
    project = project or environ.get("GOOGLE_PROJECT")
    dataset = dataset or environ.get("WORKSPACE_CDR")
    if not project:
        raise InputError(
            "a query needs a project that pays for it; a workbench sets GOOGLE_PROJECT, elsewhere "
            "give --project"
        )
    # before the query is run and billed
    places.require_writable(out)
    if places.is_folder(out):
        raise InputError(
            f"{out} is a folder; give a file for the table, such as {out}/people.parquet"
        )
    table = _rows(text, project, dataset, environ)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    told = json.dumps({"sql": text, "dataset": dataset, "date": date})
    buffer = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({QUERY: told}), buffer)
    with places.writing(out):
        places.write_bytes(out, buffer.getvalue().to_pybytes())
    return Queried(str(out), table.num_rows, tuple(table.column_names))


def _text(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"there is no query at {path}; write the SQL into a file and name it")
    try:
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise InputError(f"{path} must be text in UTF-8; save it in this encoding") from None
    if not text:
        raise InputError(f"{path} must hold one SQL query and is empty")
    return text


def _rows(text: str, project: str, dataset: str | None, environ: Mapping[str, str]) -> pa.Table:
    try:
        from google.api_core.exceptions import ClientError
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import bigquery
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "google-cloud-bigquery", "bigquery") from None
    settings = bigquery.QueryJobConfig(**({"default_dataset": dataset} if dataset else {}))
    # an emulator, as Google's client knows it, asks for no credentials
    credentials = AnonymousCredentials() if environ.get("BIGQUERY_EMULATOR_HOST") else None
    try:
        with bigquery.Client(project=project, credentials=credentials) as client:
            retry = bigquery.DEFAULT_RETRY.with_timeout(_PATIENCE_SECONDS)
            job = client.query(text, job_config=settings, retry=retry, job_retry=None)
            rows = job.result(retry=retry, job_retry=None)
            return rows.to_arrow(create_bqstorage_client=False)
    except ClientError as error:
        # other messages may quote a cell
        telling = any(words in error.message for words in _TELLING)
        reason = error.message.splitlines()[0] if telling else type(error).__name__
        raise InputError(
            f"BigQuery refused the query ({reason}); try it in the BigQuery console, and correct "
            "the file"
        ) from None
    except Exception as error:  # of the network and of credentials, each has its own
        raise EngineError(
            f"BigQuery could not be asked ({type(error).__name__}); check the network, your "
            f"credentials and the project {project!r}"
        ) from None
