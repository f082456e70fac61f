"""Progress is for terminals: nothing is written elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import nbformat

from mrscale.progress import bar, silent

SHOW = """
from mrscale.progress import bar
with bar("Counting", 2, quiet={quiet}) as advance:
    advance(1, note="half")
    advance(1)
"""


def test_nothing_is_shown_where_there_is_no_terminal(capfd):
    with bar("Counting", 1) as advance:
        advance(0.5, note="half")
    assert advance is silent
    assert capfd.readouterr() == ("", "")


def on_a_terminal(code):
    """What a program writes to a terminal on its standard error."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=theirs, stdout=subprocess.PIPE, text=True
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.communicate()[0] == ""
    assert process.returncode == 0
    return shown.decode()


def test_a_terminal_shows_title_and_note():
    shown = on_a_terminal(SHOW.format(quiet=False))
    assert "Counting" in shown


def test_quiet_shows_nothing():
    assert on_a_terminal(SHOW.format(quiet=True)) == ""


def test_nothing_is_shown_in_a_notebook_that_cannot_draw_it(kernel):
    # by an empty entry of sys.modules Python takes ipywidgets for not installed
    code = "import sys; sys.modules['ipywidgets'] = None\n" + SHOW.format(quiet=False)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    kernel(notebook)
    assert notebook.cells[0].outputs == []
