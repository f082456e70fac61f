"""The audit of dependencies: what it makes of the reports of pip-audit; and their licences."""

from __future__ import annotations

import re
import runpy
import tomllib
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[2]
judge = runpy.run_path(str(ROOT / ".ci" / "audit.py"))["judge"]

SOUND = {"name": "zarr", "version": "3.1.6", "vulns": []}
UNKNOWN = {"name": "torch", "skip_reason": "not found on PyPI"}
KNOWN = {
    "name": "jinja2",
    "version": "3.1.5",
    "vulns": [{"id": "PYSEC-2025-1", "fix_versions": ["3.1.6"]}, {"id": "X-1", "fix_versions": []}],
}


def test_a_known_vulnerability_fails() -> None:
    code, said = judge({"dependencies": [SOUND, KNOWN, UNKNOWN]})
    assert code == 1
    assert "jinja2 3.1.5: PYSEC-2025-1, mended in 3.1.6\n" in said
    assert "jinja2 3.1.5: X-1, mended in no version yet\n" in said
    assert "2 of 3 packages looked up, 2 known vulnerabilities\n" in said


def test_what_was_not_looked_up_is_said() -> None:
    code, said = judge({"dependencies": [SOUND, UNKNOWN]})
    assert code == 0
    assert "NOT DONE for 1: not found on PyPI" in said
    assert "NOT DONE" not in judge({"dependencies": [SOUND]})[1]


def test_every_package_that_we_ask_for_has_its_licence_on_the_page() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = chain(project["dependencies"], *project["optional-dependencies"].values())
    names = {re.split(r"[\[>=<,]", one)[0].lower() for one in asked}
    page = (ROOT / "docs" / "licences.md").read_text()
    listed = {name.lower() for name in re.findall(r"^\| ([\w-]+) +\| ", page, re.M)} - {"name"}
    assert listed == names
