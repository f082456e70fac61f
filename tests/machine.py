"""What tests ask of the machine: ports that nobody has, and how much of a disk files take.

Test files of several folders load it by path (``runpy``).
"""

from __future__ import annotations

import socket
from pathlib import Path

PAGE = 4096
"""Bytes; what a file takes of a disk in memory is whole pages."""


def free_ports(number: int) -> list[int]:
    """Different ports of this machine on which nobody listens."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def pages(folder: Path) -> int:
    """Pages that the files in a folder take."""
    return sum(-(-file.stat().st_size // PAGE) for file in folder.rglob("*") if file.is_file())
