"""A real PostgreSQL for tests: a cluster of its own in a temporary folder, on a free port."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from gateway.child import dies_with_parent
from tests.store.valkey_server import free_port, wait_until

_OWN_USER = "postgres"  # the server refuses to run as root


def _binary(name: str) -> str:
    """The newest installed one, also where the distribution keeps it off the PATH."""
    packaged = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = str(packaged[-1]) if packaged else shutil.which(name)
    assert found, f"{name} is missing. Remedy: install the package postgresql (make test does)"
    return found


class PostgresServer:
    """One cluster; its databases are made by `database`."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self._user = _OWN_USER if os.getuid() == 0 else None
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        if self._user:
            os.chown(self._folder, pwd.getpwnam(_OWN_USER).pw_uid, -1)
        self._run(
            "initdb", "--auth", "trust", "--no-sync", "--username", _OWN_USER, "-D", self.data
        )

    @property
    def data(self) -> str:
        """Where the cluster is."""
        return str(self._folder / "data")

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [_binary(name), *arguments],
            check=True,
            user=self._user,
            cwd="/",
            stdout=subprocess.DEVNULL,
        )

    def start(self) -> None:
        """Start it, or start it again; returns when it serves."""
        ends_with_us = {"preexec_fn": dies_with_parent()}
        # Its processes are killed in tests, the machine never is: nothing needs to reach the disk.
        options = (
            *("unix_socket_directories=", "shared_buffers=32MB", "max_connections=50"),
            *("fsync=off", "max_wal_size=4GB"),
        )
        with (self._folder.parent / f"{self._folder.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(_binary("postgres"), "-D", self.data, "-h", "127.0.0.1"),
                    *("-p", str(self.port), *(word for o in options for word in ("-c", o))),
                ],
                user=self._user,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **ends_with_us,
            )
        wait_until(self._serves, "PostgreSQL")

    def _serves(self) -> bool:
        try:
            psycopg.connect(self._url("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    def _url(self, database: str) -> str:
        return f"postgresql://{_OWN_USER}@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """Return the URL of a new, empty database."""
        self._databases += 1
        name = f"ledger{self._databases}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self._url(name)

    def kill(self) -> None:
        """End it without any notice, children included, as when its machine fails."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # immediate shutdown: recovery at next start
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """End it and delete everything."""
        self.kill()
        shutil.rmtree(self._folder)
        (self._folder.parent / f"{self._folder.name}.log").unlink()


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A running server."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()
