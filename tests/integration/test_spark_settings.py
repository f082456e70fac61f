"""Spark takes what its own configuration says of security, shows no page by default, has the heap
that is asked for, and leaves no temporary file of Hail."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.spark

ASK = """
import json, sys
from pipelines.spark import import_hail, start_hail
start_hail(log_dir=sys.argv[1], memory_gib=1)
hl = import_hail()
context = hl.spark_context()
conf = dict(context.getConf().getAll())
heap = context._jvm.java.lang.Runtime.getRuntime().maxMemory()
temporary = hl.utils.new_temp_file("kept")
hl.utils.range_table(2).write(temporary)
total = context.parallelize([1, 2], 2).sum()
print(json.dumps([conf, context.uiWebUrl, total, heap, temporary]))
"""
OWN = {
    "spark.authenticate": "true",
    "spark.authenticate.secret": "hunter2",
    "spark.network.crypto.enabled": "true",
}


def test_authentication_and_encryption_of_spark_pass_through(tmp_path):
    pytest.importorskip("hail")
    lines = "".join(f"{key} {value}\n" for key, value in OWN.items())
    (tmp_path / "spark-defaults.conf").write_text(lines)
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(tmp_path / "logs")],
        env=os.environ | {"SPARK_CONF_DIR": str(tmp_path), "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    conf, page, total, heap, temporary = json.loads(done.stdout)
    assert conf.items() >= OWN.items()
    assert (page, total) == (None, 3)
    assert 0.8 * 2**30 < heap <= 2**30
    assert temporary.startswith(f"file://{tmp_path}/tmp/mrscale-hail-")
    assert not list((tmp_path / "tmp").glob("mrscale-*"))
    for log in (tmp_path / "logs").iterdir():
        assert "hunter2" not in log.read_text(), log.name
