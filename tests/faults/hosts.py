"""Hosts on one machine: network namespaces with names and addresses of their own, joined by a
switch from which each can be unplugged. They share its processors and its file systems.

``python tests/faults/hosts.py`` shows what they see of each other; it takes root.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

NETWORK = ipaddress.ip_network("10.77.0.0/24")
DEVICE = "eth0"
"""Of every host, on the switch's side named as the host."""
_AS_HOST = 'echo "$0" >/proc/sys/kernel/hostname && exec "$@"'
_ENDING_SECONDS = 30
_ETC = Path("/etc/netns")


class Hosts:
    """Hosts that can reach each other by name, and nothing else; they are gone after the block.

    Parameters
    ----------
    names : sequence of str
    environment : dict, optional
        Laid over this process's own for all that runs on them.

    Raises
    ------
    RuntimeError
        If this machine does not let us make them.
    """

    def __init__(self, names: Sequence[str], environment: dict[str, str] | None = None) -> None:
        addresses = map(str, NETWORK.hosts())
        self.addresses = dict(zip(names, addresses, strict=False))
        self.environment = os.environ | (environment or {})
        self.started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Hosts:
        try:
            self._make()
            for host in self.addresses:
                self.run(host, "true")
        except (OSError, subprocess.CalledProcessError) as error:
            self._remove()
            raise RuntimeError(f"this machine makes no hosts: {error}") from None
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def start(
        self, host: str, *command: object, log: Path, **more: object
    ) -> subprocess.Popen[bytes]:
        """Start a command on a host; what it prints goes to a file."""
        environment = self.environment | {name: str(value) for name, value in more.items()}
        with log.open("wb") as handle:
            process = subprocess.Popen(
                self._on(host, command), env=environment, stdout=handle, stderr=handle
            )
        self.started.append(process)
        return process

    def run(self, host: str, *command: object) -> str:
        """What a command prints on a host; CalledProcessError if it fails."""
        done = subprocess.run(
            self._on(host, command), env=self.environment, stdout=subprocess.PIPE, check=True
        )
        return done.stdout.decode()

    def cut(self, host: str) -> None:
        """Unplug a host at the switch: neither side is told, packets just do not arrive."""
        _ip("-n", _namespace("switch"), "link", "set", host, "nomaster")

    def rejoin(self, host: str) -> None:
        """Plug a host in, again or for the first time."""
        _ip("-n", _namespace("switch"), "link", "set", host, "master", "switch", "up")

    def _on(self, host: str, command: Sequence[object]) -> list[str]:
        # each step replaces the one before, so that the process we hold is the command itself
        steps = ["ip", "netns", "exec", _namespace(host), "unshare", "--uts"]
        return [*steps, "sh", "-c", _AS_HOST, host, *map(str, command)]

    def _make(self) -> None:
        if missing := [name for name in ("ip", "unshare") if not shutil.which(name)]:
            raise OSError(f"it lacks the programs {missing}")
        # a switch in a namespace of its own: no address and no firewall of this machine is touched
        switch = _namespace("switch")
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", switch, "link", "set", "switch", "up")
        known = "".join(f"{address} {name}\n" for name, address in self.addresses.items())
        for host, address in self.addresses.items():
            space = _namespace(host)
            _ip("netns", "add", space)
            _etc(host).mkdir(parents=True)
            (_etc(host) / "hosts").write_text(f"127.0.0.1 localhost\n{known}")
            ends = [DEVICE, "netns", space, "type", "veth", "peer", "name", host, "netns", switch]
            _ip("link", "add", *ends)
            self.rejoin(host)
            _ip("-n", space, "address", "add", f"{address}/{NETWORK.prefixlen}", "dev", DEVICE)
            for device in ("lo", DEVICE):
                _ip("-n", space, "link", "set", device, "up")

    def _remove(self) -> None:
        """End all that runs on the hosts, and take them down, however far they were made."""
        there = _namespaces()
        for host in self.addresses:
            if _namespace(host) in there:
                self._end_all_on(host)
            shutil.rmtree(_etc(host), ignore_errors=True)
        for child in self.started:
            child.wait(_ENDING_SECONDS)
        for name in ("switch", *self.addresses):
            if _namespace(name) in there:
                _ip("netns", "delete", _namespace(name))
        with suppress(OSError):  # others may have theirs in it
            _ETC.rmdir()

    def _end_all_on(self, host: str) -> None:
        deadline = time.monotonic() + _ENDING_SECONDS
        # more than one look: what is killed may just have started others
        while pids := _ip("netns", "pids", _namespace(host)).split():
            assert time.monotonic() < deadline, f"on {host} still run {pids}"
            for pid in map(int, pids):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)


def _namespace(name: str) -> str:
    return f"mrscale-{os.getpid()}-{name}"


def _namespaces() -> set[str]:
    if not shutil.which("ip"):
        return set()
    return {line.split()[0] for line in _ip("netns", "list").splitlines()}


def _etc(host: str) -> Path:
    """What ``ip netns exec`` lays over ``/etc``."""
    return _ETC / _namespace(host)


def _ip(*words: Any) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    with Hosts(("head", "north", "south")) as hosts:
        for name, address in hosts.addresses.items():
            print(hosts.run(name, "sh", "-c", "hostname; ip -brief address; ip neigh"), address)
