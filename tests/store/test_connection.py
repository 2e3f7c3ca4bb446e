"""The connection: commands of one loop turn in one write, answers to those who asked, and no call
that waits for ever.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis
import trustme

from gateway.core.errors import InvalidConfigError, StoreError
from gateway.store import connection as connection_module
from gateway.store.address import StoreAddress, parse_store_url
from gateway.store.connection import StoreConnection
from gateway.store.redis_store import RedisStore
from gateway.store.scripts import NAMES, load_script
from tests.store.agent import Agent, Look, settlement
from tests.store.scripted_server import ScriptedServer, Session, silent, willing
from tests.store.valkey_server import PATIENCE_S, ValkeyServer

StartValkey = Callable[..., ValkeyServer]

# All that the data plane and the reaper need of a server that has access lists.
NEEDED = (
    "+evalsha +eval +script|load +auth +select +ping +time +get +set +del +exists +pexpire "
    "+hget +hmget +hset +hdel +hincrby +hexists +zadd +zrem +zscore +zrangebyscore +lrange +rpush "
    "+xadd"
)


async def eventually(condition: Callable[[], object]) -> None:
    """Return as soon as `condition` holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.002)


@asynccontextmanager
async def connected(url: str, timeout_ms: int = 0) -> AsyncIterator[StoreConnection]:
    """An open connection, closed afterwards."""
    made = StoreConnection(parse_store_url(url), timeout_ms)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


# Commands --------------------------------------------------------------------------------------


async def test_commands_of_one_loop_turn_are_one_write(
    connection: StoreConnection, redis_client: redis.Redis
) -> None:
    """Five hundred callers cost the server one read, not five hundred."""

    def reads() -> int:
        return int(redis_client.info("stats")["total_reads_processed"])

    before = reads()
    answers = await asyncio.gather(*(connection.execute("ECHO", n) for n in range(500)))
    assert answers == [str(n) for n in range(500)]
    assert reads() - before - 1 <= 2
    before = reads()
    for n in range(20):
        await connection.execute("ECHO", n)
    assert reads() - before - 1 == 20


async def test_every_caller_gets_its_own_answer(connection: StoreConnection, tenant: str) -> None:
    """Of any type, errors and large ones among them, in any mixture."""
    large = "x" * 1_000_000
    answers = await asyncio.gather(
        connection.execute("SET", f"tg:{{{tenant}}}:x", large),
        connection.execute("GET", f"tg:{{{tenant}}}:x"),
        connection.execute("NONSENSE"),
        connection.execute("GET", f"tg:{{{tenant}}}:none"),
        connection.execute("TIME"),
        connection.execute("INCR", f"tg:{{{tenant}}}:n"),
        return_exceptions=True,
    )
    assert answers[:2] == ["OK", large]
    assert isinstance(answers[2], StoreError)
    assert answers[3] is None
    assert len(answers[4]) == 2
    assert answers[5] == 1


async def test_an_error_reply_is_labelled_by_its_first_word(connection: StoreConnection) -> None:
    """The label is for metrics, the text for people."""
    with pytest.raises(StoreError, match="the store answered: ERR unknown command") as error:
        await connection.execute("NONSENSE")
    assert error.value.reason == "err"


async def test_bytes_that_are_no_text_survive(connection: StoreConnection) -> None:
    """A broken character in a reply does not break the connection."""
    answer = await connection.execute("ECHO", b"\xff\xfe ok")
    assert answer.encode("utf-8", "surrogateescape") == b"\xff\xfe ok"


async def test_a_caller_that_gives_up_shifts_nobody_s_answer(connection: StoreConnection) -> None:
    """Its answer is thrown away when it comes."""
    given_up = asyncio.ensure_future(connection.execute("ECHO", "mine"))
    await asyncio.sleep(0)
    other = asyncio.ensure_future(connection.execute("ECHO", "yours"))
    given_up.cancel()
    assert await other == "yours"
    assert given_up.cancelled()


async def test_answers_may_come_in_any_pieces(tmp_path: Path) -> None:
    """A byte at a time, several at once, or one and a half."""

    def in_pieces(session: Session, command: list[bytes]) -> None:
        session.commands.append(command)
        session.transport.write(b"$4\r")
        session.transport.write(b"\nab")
        session.transport.write(b"cd\r\n")

    async with (
        ScriptedServer(tmp_path, in_pieces) as server,
        connected(f"unix://{server.path}") as c,
    ):
        assert await asyncio.gather(*(c.execute("GET", n) for n in range(3))) == ["abcd"] * 3


# Scripts ---------------------------------------------------------------------------------------


async def test_scripts_are_there_after_opening(
    connection: StoreConnection, redis_client: redis.Redis
) -> None:
    """All of them; a call never has to load one."""
    assert all(redis_client.script_exists(*(load_script(name).sha for name in NAMES)))


async def test_a_script_that_the_server_forgot_is_sent_whole(agent: Agent, look: Look) -> None:
    """After SCRIPT FLUSH, or a failover: the call notices nothing, and the next one neither."""
    look.client.script_flush()
    plan, _ = await agent.reserve("PLAN")
    assert look.held()[2] == 1
    before = look.client.info("commandstats").get("cmdstat_eval", {"calls": 0})["calls"]
    await agent.reserve("PLAN")
    assert look.client.info("commandstats")["cmdstat_eval"]["calls"] == before
    await agent.store.settle(settlement(plan))
    assert look.held()[2] == 1


async def test_a_script_that_fails_is_an_error_of_the_store(agent: Agent, look: Look) -> None:
    """Somebody else's type under our key."""
    look.client.set(look.keys.leases, "not a sorted set")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        await agent.reserve("PLAN")


# Where it connects -----------------------------------------------------------------------------


async def test_over_tcp_into_a_database(start_valkey: StartValkey) -> None:
    """host:port/db."""
    server = start_valkey(tcp=True)
    async with connected(f"redis://127.0.0.1:{server.port}/3") as connection:
        assert " db=3 " in await connection.execute("CLIENT", "INFO")
        assert connection.is_connected


async def test_with_a_password(start_valkey: StartValkey) -> None:
    """Of the default user; without it nothing can be asked."""
    server = start_valkey("--requirepass", "pa:ss@word")
    async with connected(f"unix://:pa%3Ass%40word@{server.socket_path}?db=1") as connection:
        assert await connection.execute("PING") == "PONG"
    with pytest.raises(StoreError) as error:
        await StoreConnection(parse_store_url(server.url)).open()
    assert error.value.reason == "noauth"


async def test_as_an_acl_user_with_no_more_than_it_needs(start_valkey: StartValkey) -> None:
    """The whole life of calls works with these commands on our keys only."""
    server = start_valkey()
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "gateway", "on", ">pw", "~tg:*", *NEEDED.split())
    async with connected(f"unix://gateway:pw@{server.socket_path}") as connection:
        with pytest.raises(StoreError, match="NOPERM"):
            await connection.execute("SET", "other", 1)
        agent = Agent(RedisStore(connection, lease_ms=0), "default")
        await agent.call("PLAN")
        plan, _ = await agent.reserve("PLAN")
        await agent.store.heartbeat("default", [(plan, 99_999, 9)])
        assert await agent.store.expire_due("default") == [plan.call_id]
        await agent.store.release(plan)
        assert await agent.store.read_facts("default", "T") is not None


@pytest.mark.parametrize("options", [("--requirepass", "right"), ()])
async def test_a_wrong_password_is_not_repeated(
    start_valkey: StartValkey, options: tuple[str, ...]
) -> None:
    """Neither in the error nor in the text of anything that reaches a log."""
    server = start_valkey(*options)
    connection = StoreConnection(parse_store_url(f"unix://:hunter2@{server.socket_path}"))
    with pytest.raises(StoreError) as error:
        await connection.open()
    assert error.value.reason in ("wrongpass", "err")
    assert "hunter2" not in str(error.value)
    assert not connection.is_connected
    await connection.close()


async def test_over_tls_to_whom_the_certificate_names(tmp_path: Path) -> None:
    """By the authority of `ca_file` it connects; to anybody else it says nothing."""
    ca, stranger = trustme.CA(), trustme.CA()
    pem = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(pem))
    for issuer, trusted in ((ca, True), (stranger, False)):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        issuer.issue_cert("localhost").configure_cert(context)
        async with ScriptedServer(tmp_path, willing, context) as server:
            url = f"rediss://:secret@localhost:{server.port}?ca_file={pem}"
            connection = StoreConnection(parse_store_url(url))
            if trusted:
                await connection.open()
                assert server.sessions[0].commands[0] == [b"AUTH", b"secret"]
            else:
                with pytest.raises(StoreError, match="certificate verify failed") as error:
                    await connection.open()
                assert error.value.reason == "unreachable"
                assert not any(session.commands for session in server.sessions)
            await connection.close()


@pytest.mark.parametrize("url", ["unix://{}/nobody", "redis://127.0.0.1:1"])
async def test_nobody_there(tmp_path: Path, url: str) -> None:
    """Opening fails, and so does any command, at once."""
    connection = StoreConnection(parse_store_url(url.format(tmp_path)))
    with pytest.raises(StoreError, match="cannot connect to the store") as error:
        await connection.open()
    assert error.value.reason == "unreachable"
    with pytest.raises(StoreError, match="no connection to the store"):
        await connection.execute("PING")
    await connection.close()


def test_a_cluster_is_not_supported_yet() -> None:
    """And says so."""
    with pytest.raises(InvalidConfigError, match="not supported"):
        parse_store_url("redis+cluster://a:1")


async def test_it_may_start_before_the_store(start_valkey: StartValkey) -> None:
    """`open_or_keep_trying` returns at once; the connection is there when the store is."""
    server = start_valkey()
    early = StoreConnection(parse_store_url(server.url))
    await early.open_or_keep_trying()
    assert early.is_connected
    server.kill()
    late = StoreConnection(parse_store_url(server.url))
    await late.open_or_keep_trying()
    assert not late.is_connected
    server.start()
    await eventually(lambda: early.is_connected and late.is_connected)
    assert await late.execute("PING") == "PONG"
    await early.close()
    await late.close()


# When the server goes away ---------------------------------------------------------------------


async def test_it_connects_anew_when_it_was_cut_off(start_valkey: StartValkey) -> None:
    """What was waiting fails; what comes meanwhile fails at once; then all is well."""
    server = start_valkey()
    async with connected(server.url) as connection:
        number = await connection.execute("CLIENT", "ID")
        waiting = connection.send("BLPOP", "nothing", 0)
        with server.client() as admin:
            admin.client_kill_filter(_id=number)
        with pytest.raises(StoreError) as error:
            await waiting
        assert error.value.reason == "connection_lost"
        assert not connection.is_connected
        with pytest.raises(StoreError) as error:
            connection.send("PING")
        assert error.value.reason == "unreachable"
        await eventually(lambda: connection.is_connected)
        assert await connection.execute("CLIENT", "ID") != number


async def test_it_connects_anew_when_the_server_starts_again(start_valkey: StartValkey) -> None:
    """However long it was gone; scripts are loaded into the new one."""
    server = start_valkey()
    async with connected(server.url) as connection:
        agent = Agent(RedisStore(connection), "default")
        await agent.call("PLAN")
        server.kill()
        await eventually(lambda: not connection.is_connected)
        with pytest.raises(StoreError):
            await agent.reserve("PLAN")
        server.start()
        await eventually(lambda: connection.is_connected)
        await agent.call("PLAN")
        with server.client() as look:
            assert look.info("commandstats")["cmdstat_script|load"]["calls"] == len(NAMES)


async def test_commands_of_the_turn_in_which_it_was_lost_are_not_sent_later(
    start_valkey: StartValkey,
) -> None:
    """They failed; the next connection must not carry them."""
    server = start_valkey()
    async with connected(server.url) as connection:
        await connection.execute("QUIT")
        late = [connection.send("INCR", "n") for _ in range(3)]
        for future in late:
            with pytest.raises(StoreError):
                await future
        await eventually(lambda: connection.is_connected)
        assert await connection.execute("GET", "n") is None


async def test_what_is_asked_while_it_closes_fails(start_valkey: StartValkey) -> None:
    """Nothing of it is written to a connection that is gone."""
    server = start_valkey()
    connection = StoreConnection(parse_store_url(server.url))
    await connection.open()

    async def ask() -> str | None:
        try:
            return str(await connection.send("INCR", "n"))
        except StoreError as error:
            return error.reason

    _, reason = await asyncio.gather(connection.close(), ask())
    assert reason == "connection_lost"
    with server.client() as client:
        assert client.get("n") is None


async def test_closing_ends_what_waits(start_valkey: StartValkey) -> None:
    """And nothing connects any more."""
    server = start_valkey()
    connection = StoreConnection(parse_store_url(server.url), 1_000)
    await connection.open()
    waiting = connection.send("BLPOP", "nothing", 0)
    await connection.close()
    with pytest.raises(StoreError) as error:
        await waiting
    assert error.value.reason == "connection_lost"
    assert not connection.is_connected
    await connection.close()


async def test_closing_ends_an_attempt_to_connect(tmp_path: Path) -> None:
    """Even one that waits for a greeting; its socket is closed."""

    def first_only(session: Session, command: list[bytes]) -> None:
        if session is server.sessions[0]:
            willing(session, command)

    server = ScriptedServer(tmp_path, first_only)
    async with server:
        connection = StoreConnection(StoreAddress(path=server.path))
        await connection.open()
        server.sessions[0].transport.abort()
        await eventually(lambda: len(server.sessions) == 2 and server.sessions[1].commands)
        await connection.close()
        await asyncio.wait_for(server.sessions[1].closed.wait(), PATIENCE_S)


@pytest.mark.parametrize("answered", [1, 1 + len(NAMES)])
async def test_a_server_that_breaks_off_the_greeting_is_not_connected_to(
    tmp_path: Path, answered: int
) -> None:
    """The break may come with the last answer. A wire that is gone must not be kept: it could be
    neither used nor lost again.
    """

    def break_off(session: Session, command: list[bytes]) -> None:
        willing(session, command)
        if len(session.commands) == answered:
            session.transport.write(b"?\r\n")

    async with ScriptedServer(tmp_path, break_off) as server:
        connection = StoreConnection(StoreAddress(path=server.path))
        try:
            await connection.open()
        except StoreError as error:
            assert error.reason == "connection_lost"
        else:
            await eventually(lambda: not connection.is_connected)
        await connection.close()


async def test_a_server_that_hangs_up_on_the_greeting(tmp_path: Path) -> None:
    """Is an error of the store."""
    async with ScriptedServer(tmp_path, lambda s, _: s.transport.abort()) as server:
        connection = StoreConnection(StoreAddress(path=server.path))
        with pytest.raises(StoreError) as error:
            await connection.open()
        assert error.value.reason == "connection_lost"


@pytest.mark.parametrize("noise", [b"?what\r\n", b"+OK\r\n+OK\r\n"], ids=["garbage", "too many"])
async def test_a_server_that_talks_nonsense_is_left(tmp_path: Path, noise: bytes) -> None:
    """No answer can be trusted after one that nobody asked for."""

    def talk(session: Session, command: list[bytes]) -> None:
        if command[0] == b"ECHO":
            session.transport.write(noise)
        else:
            willing(session, command)

    async with ScriptedServer(tmp_path, talk) as server:
        connection = StoreConnection(StoreAddress(path=server.path))
        await connection.open()
        echo = connection.send("ECHO", "a")
        await asyncio.wait_for(server.sessions[0].closed.wait(), PATIENCE_S)
        await asyncio.gather(echo, return_exceptions=True)
        await eventually(lambda: connection.is_connected)
        assert len(server.sessions) == 2
        await connection.close()


# When the server stands still ------------------------------------------------------------------


async def test_no_caller_waits_longer_than_the_timeout(start_valkey: StartValkey) -> None:
    """A server that stands still answers late: those answers go to nobody else."""
    server = start_valkey()
    async with connected(server.url, timeout_ms=60) as connection:
        server.freeze()
        began = time.monotonic()
        late = [connection.send("ECHO", word) for word in ("a", "b", "c")]
        answers = await asyncio.gather(*late, return_exceptions=True)
        assert 0.06 <= time.monotonic() - began < 1
        assert {error.reason for error in answers if isinstance(error, StoreError)} == {"timeout"}
        assert connection.is_connected
        later = asyncio.ensure_future(connection.execute("ECHO", "d"))
        await asyncio.sleep(0)
        server.thaw()
        assert await later == "d"
        assert await connection.execute("ECHO", "e") == "e"


async def test_those_who_asked_later_wait_their_own_time(start_valkey: StartValkey) -> None:
    """A timeout is each command's own."""
    server = start_valkey()
    async with connected(server.url, timeout_ms=400) as connection:
        server.freeze()
        first = connection.send("ECHO", "a")
        await asyncio.sleep(0.3)
        second = connection.send("ECHO", "b")
        with pytest.raises(StoreError):
            await first
        assert not second.done()
        server.thaw()
        assert await second == "b"


async def test_no_timeout_is_armed_while_nobody_waits(start_valkey: StartValkey) -> None:
    """An idle connection is quiet for as long as it likes, and works then."""
    server = start_valkey()
    async with connected(server.url, timeout_ms=30) as connection:
        assert await connection.execute("ECHO", "a") == "a"
        await asyncio.sleep(0.1)
        assert await connection.execute("ECHO", "b") == "b"


async def test_a_connection_that_is_silent_for_long_is_made_anew(
    start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that went away says nothing: TCP alone would wait for it for a quarter of an hour."""
    monkeypatch.setattr(connection_module, "_SILENT_S", 0.2)
    server = start_valkey()
    async with connected(server.url, timeout_ms=50) as connection:
        server.freeze()
        with pytest.raises(StoreError):
            await connection.execute("PING")
        await eventually(lambda: not connection.is_connected)
        server.thaw()
        await eventually(lambda: connection.is_connected)
        assert await connection.execute("ECHO", "a") == "a"


async def test_a_server_that_accepts_and_says_nothing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening has an end, and leaves no socket behind."""
    monkeypatch.setattr(connection_module, "_OPEN_WAIT_S", 0.1)
    async with ScriptedServer(tmp_path, silent) as server:
        connection = StoreConnection(StoreAddress(path=server.path))
        with pytest.raises(StoreError) as error:
            await connection.open()
        assert error.value.reason == "timeout"
        await asyncio.wait_for(server.sessions[0].closed.wait(), PATIENCE_S)
