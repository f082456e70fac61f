"""Ask PyPI for known vulnerabilities of the versions in constraints.txt.

Fails if there is one. Where PyPI does not answer, it says what was not looked up, and goes on.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

VERSIONS = Path(__file__).parents[1] / "constraints.txt"


def judge(report: dict[str, Any]) -> tuple[int, str]:
    """The exit code and the words for what pip-audit reports."""
    packages = report["dependencies"]
    unknown = [package for package in packages if "skip_reason" in package]
    found = [
        f"{package['name']} {package['version']}: {one['id']}, mended in "
        f"{', '.join(one['fix_versions']) or 'no version yet'}"
        for package in packages
        for one in package.get("vulns", [])
    ]
    looked_up = f"audit: {len(packages) - len(unknown)} of {len(packages)} packages looked up"
    words = [*found, f"{looked_up}, {len(found)} known vulnerabilities"]
    if unknown:
        words.append(f"audit: NOT DONE for {len(unknown)}: {unknown[0]['skip_reason']}, ...")
    return int(bool(found)), "\n".join(words)


def main() -> None:
    words = ["--requirement", str(VERSIONS), "--no-deps", "--disable-pip", "--format", "json"]
    command = [sys.executable, "-m", "pip_audit", *words, "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.stdout:
        code, said = judge(json.loads(done.stdout))
    else:
        code, said = 0, f"audit: NOT DONE: {(done.stderr.splitlines() or ['no answer'])[-1]}"
    sys.stdout.write(f"{said}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
