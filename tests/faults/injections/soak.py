"""A study run many times in one long-lived process, as in a notebook: what is left behind?

    python tests/faults/injections/soak.py [--runs 50] [--folder DIR] [--write docs/faults.md]

Every run has a folder of its own and must give the results of the undisturbed one. Counted between
runs: child processes, open files, threads, listening ports, entries of /dev/shm, and what lies in
the folder for temporary files. Java stays, as Hail has it, fills its pools at first, and removes
files of the runs before when it comes to it; fails if the least of any count in the last quarter of
the runs is more than the most in the second.
"""

from __future__ import annotations

import argparse
import gc
import os
import runpy
import shutil
import sys
import tempfile
from pathlib import Path

import psutil
from undisturbed import Undisturbed, digest

import mrscale as mr

insert = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "page.py"))["insert"]


def census(temporary: Path) -> dict[str, int]:
    """What this process holds of the machine."""
    gc.collect()
    me = psutil.Process()
    return {
        "child processes": len(me.children(recursive=True)),
        "open files and sockets": me.num_fds(),
        "threads": me.num_threads(),
        "listening ports": sum(c.status == psutil.CONN_LISTEN for c in me.net_connections()),
        "entries of /dev/shm": len(list(Path("/dev/shm").iterdir())),
        "temporary files": sum(file.is_file() for file in temporary.rglob("*")),
        "memory, MiB": me.memory_info().rss // 2**20,
    }


def table(counts: list[dict[str, int]]) -> str:
    """The counts after a few of the runs, in Markdown."""
    shown = [1, len(counts) // 2, len(counts)]
    lines = [
        f"| {name} | {' | '.join(f'{counts[run - 1][name]:,}' for run in shown)} |"
        for name in counts[0]
    ]
    head = [f"| after run | {' | '.join(map(str, shown))} |", f"|---|{'---|' * len(shown)}"]
    return "\n".join([*head, *lines, ""])


def grown(counts: list[dict[str, int]]) -> list[str]:
    """What is always more in the last quarter of the runs than ever in the second."""
    quarter = max(len(counts) // 4, 1)
    second, last = counts[quarter : 2 * quarter], counts[-quarter:]
    return [
        name
        for name in counts[0]
        if name != "memory, MiB"
        and min(count[name] for count in last) > max(count[name] for count in second)
    ]


def main() -> None:
    """Run, count, and write the table; fails if anything was left behind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--folder", type=Path, default=Path("faults-run"))
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    study, place = Undisturbed(options.folder / "study"), options.folder / "soak"
    shutil.rmtree(place, ignore_errors=True)
    temporary = place / "tmp"
    temporary.mkdir(parents=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(temporary.absolute())
    counts = []
    for run in range(1, options.runs + 1):
        folder = place / f"run-{run}"
        study.lay(folder, "extract")
        mr.run(folder / "study.toml", quiet=True)
        if digest(folder) != study.digest:
            sys.exit(f"run {run} has other results than the first")
        shutil.rmtree(folder)
        counts.append(census(temporary))
        print(run, counts[-1], flush=True)
    text = table(counts)
    print(text)
    if options.write:
        insert(options.write, "soak", text)
    names = grown(counts)
    sys.exit(f"more and more: {', '.join(names)}" if names else 0)


if __name__ == "__main__":
    main()
