"""What a study stands on, and how it fails: a disk, an object store, a Dask cluster, a network."""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec
import psutil

Cluster = runpy.run_path(str(Path(__file__).parents[1] / "trainings.py"))["Cluster"]
free_ports = runpy.run_path(str(Path(__file__).parents[2] / "machine.py"))["free_ports"]
LOOPBACK = "127.0.0.1"
BUCKET = "faults"
KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[None]:
    """A disk of so many bytes in place of a folder."""
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    subprocess.run(words, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def make_room(place: Path) -> None:
    """Let the disk of a folder be large."""
    subprocess.run(["mount", "-o", f"remount,size={2**30}", str(place)], check=True)


@contextmanager
def dask_cluster(folder: Path) -> Iterator[tuple[str, list[psutil.Process]]]:
    """A Dask scheduler and two workers; the address, and the processes."""
    with Cluster(folder, 2) as cluster:
        processes = (cluster.scheduler, *cluster.workers)
        yield cluster.address, [psutil.Process(process.pid) for process in processes]


@contextmanager
def object_store() -> Iterator[int]:
    """A server that speaks S3, with a bucket; its port. This process can write to it."""
    (port,) = free_ports(1)
    log = subprocess.DEVNULL
    command = [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_for(port)
        os.environ |= KEYS | endpoint(port)
        fsspec.config.conf["s3"] = {"endpoint_url": _url(port)}
        fsspec.filesystem("s3").mkdir(BUCKET)
        yield port
    finally:
        server.kill()
        server.wait()


def endpoint(port: int) -> dict[str, str]:
    """The environment of a process that finds S3 at a port of this machine."""
    return {"FSSPEC_S3_ENDPOINT_URL": _url(port)}


class Line:
    """A network connection that can be cut: forwards a port of its own to another.

    Parameters
    ----------
    port : int
        The one that answers.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._whole = True
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Close every connection, and each new one at once."""
        with self._lock:
            self._whole = False
            for end in self._open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def mend(self) -> None:
        """Let new connections through."""
        self._whole = True

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                near, _ = self._listener.accept()
                with self._lock:
                    if not self._whole:
                        near.close()
                        continue
                    far = socket.create_connection((LOOPBACK, self._to))
                    self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=_forward, args=pair, daemon=True).start()


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(2**16):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _url(port: int) -> str:
    return f"http://{LOOPBACK}:{port}"


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((LOOPBACK, port)):
            return
        time.sleep(0.1)
    raise SystemExit("the S3 server does not answer")
