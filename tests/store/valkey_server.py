"""A real valkey-server for tests, on a unix socket and, where asked for, a TCP port."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gateway.child import dies_with_parent
from gateway.store.embedded import find_server

PATIENCE_S = 30.0


def wait_until(condition: Callable[[], object], what: str = "condition") -> None:
    """Return as soon as `condition` holds; it never sleeps longer than it must."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {PATIENCE_S:.0f} s")
        time.sleep(0.002)


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that only waits to be collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def free_port() -> int:
    """Return a TCP port that nobody listens on now; a cluster node needs the one 10,000 above."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port + 10_000 < 2**16:
            return port


class ValkeyServer:
    """One server under `folder`, which must be short enough for a socket's path."""

    def __init__(self, folder: Path, *options: str, tcp: bool = False) -> None:
        self._folder = folder
        self._options = options
        self.socket_path = str(folder / "s")
        self.port = free_port() if tcp else 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of the unix socket."""
        return f"unix://{self.socket_path}"

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server, or start it again; returns when it serves."""
        self._folder.mkdir(parents=True, exist_ok=True)
        ends_with_us = {"preexec_fn": dies_with_parent()}
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    find_server(),
                    *("--port", str(self.port), "--bind", "127.0.0.1"),
                    *("--unixsocket", self.socket_path, "--dir", str(self._folder)),
                    *("--save", "", "--daemonize", "no", *self._options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **ends_with_us,
            )
        wait_until(self._serves, "the server")

    def _serves(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise AssertionError((self._folder / "log").read_text())
        try:
            with self.client() as client:
                client.ping()
        except redis.AuthenticationError:
            return True
        except redis.ConnectionError:
            return False
        return True

    def client(self) -> redis.Redis:
        """Return an independent client; close it."""
        once = Retry(NoBackoff(), 0)
        return redis.Redis(unix_socket_path=self.socket_path, decode_responses=True, retry=once)

    def freeze(self) -> None:
        """Let the server stand still, its connections open."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End the server without any notice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
