"""Clients that are slow, many or large: each is cut at its deadline, and others do not notice."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from gateway.core.configuration import DataPlane
from gateway.ports import Request
from gateway.server.http1 import ClientAnswer
from gateway.server.limits import BodyRoom, Shared
from tests.server.client import PATIENCE_S, Client, Reply, Serving, echo, open_call, serving
from tests.soak import FULL, SHORT, Sizes

GET = b"GET /v1/models HTTP/1.1\r\nHost: t\r\n\r\n"
HEAD = b"POST /v1/x HTTP/1.1\r\nHost: t\r\n"
EVENTS = ("clients_cut", "connections_refused", "overload_began", "overload_ended")


def events(server: Serving) -> list[object]:
    return [event["event"] for event in server.told.events if event["event"] in EVENTS]


def sized(size: int) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n" % size


def block_loop() -> None:
    time.sleep(0.3)


async def drip(client: Client, data: bytes, wait_s: float) -> None:
    """Send byte by byte until the server has had enough."""
    for place in range(len(data)):
        client.send(data[place : place + 1])
        await asyncio.sleep(wait_s)


# Deadlines ----------------------------------------------------------------------------------------


async def test_idle_and_slow_clients_do_not_stop_others(sizes: Sizes) -> None:
    """Idle connections and slow heads: calls are served, and each is cut in time."""
    limits = (
        {"header_timeout_ms": 5_000, "idle_timeout_ms": 7_500}
        if sizes is FULL
        else {"header_timeout_ms": 1_500, "idle_timeout_ms": 2_500}
    )
    async with (
        serving(max_connections_per_address=5_000, **limits) as server,
        AsyncExitStack() as stack,
    ):
        began = time.monotonic()
        idle = [await stack.enter_async_context(server.client()) for _ in range(sizes.idle_clients)]
        slow = [await stack.enter_async_context(server.client()) for _ in range(sizes.slow_clients)]
        dripping = [asyncio.ensure_future(drip(client, GET[:-2] * 9, 0.2)) for client in slow]
        took_s = []
        async with server.client() as client:
            for _ in range(50 if sizes is SHORT else 1_000):
                asked = time.monotonic()
                assert (await client.ask(GET)).status == 200
                took_s.append(time.monotonic() - asked)
        print(
            f"{len(idle)} idle, {len(slow)} slow: p99 of a call {sorted(took_s)[len(took_s) * 99 // 100] * 1000:.2f} ms"
        )
        replies = await asyncio.gather(*(client.reply() for client in slow))
        assert {(reply.status, reply.code) for reply in replies} == {(408, "request_timeout")}
        header_s, idle_s = limits["header_timeout_ms"] / 1000, limits["idle_timeout_ms"] / 1000
        assert header_s - 0.1 < time.monotonic() - began < header_s + 6.5
        assert await asyncio.gather(*(client.rest() for client in idle)) == [b""] * len(idle)
        assert time.monotonic() - began > idle_s - 0.1
        for task in dripping:
            task.cancel()
        assert "clients_cut" in events(server)


async def test_line_ends_do_not_keep_an_idle_connection() -> None:
    """What comes before a request is not a request."""
    async with serving(idle_timeout_ms=1_000) as server, server.client() as client:
        dripping = asyncio.ensure_future(drip(client, b"\r\n" * 50, 0.1))
        assert await client.rest() == b""
        dripping.cancel()


async def test_a_client_that_goes_on_asking_is_kept() -> None:
    """Each answer begins a new idle time; an open call has none."""
    limits = {"header_timeout_ms": 1_000, "idle_timeout_ms": 1_000}
    async with serving(**limits) as server, server.client() as client:
        for _ in range(3):
            await client.ask(GET)
            await asyncio.sleep(0.7)
        server.calls.act = open_call
        client.send(GET)
        answer = await server.calls.number(4)
        await asyncio.sleep(2.5)
        echo(server.calls.requests[-1], answer)
        assert (await client.reply()).status == 200


async def test_a_body_that_comes_too_slowly() -> None:
    """The rate is taken over the grace period, again and again."""
    limits = {"body_grace_ms": 1_000, "min_body_bytes_per_s": 200}
    async with serving(**limits) as server, server.client() as slow, server.client() as steady:
        slow.send(sized(5_000) + b"a" * 4_000)
        steady.send(sized(1_500))
        dripping = asyncio.ensure_future(drip(slow, b"a" * 100, 0.1))
        refusal = asyncio.ensure_future(slow.reply())
        for _ in range(15):
            steady.send(b"a" * 100)
            await asyncio.sleep(0.2)
        assert (await steady.reply()).body == b"a" * 1_500
        reply = await refusal
        assert (reply.status, reply.code) == (408, "request_timeout")
        assert server.server.body_bytes_in_flight == 0
        dripping.cancel()


async def test_a_client_that_does_not_read_its_answer() -> None:
    """It is cut, and its call hears of it; one that reads slowly is not cut."""

    def act(_: Request, answer: ClientAnswer) -> None:
        answer.start(200, [], "", None)
        for _ in range(200):
            answer.write(b"x" * 65_536)

    async with serving(write_stall_ms=1_500) as server:
        server.calls.act = act
        async with (
            server.client(receive_buffer=4_096) as deaf,
            server.client(receive_buffer=4_096) as slow,
        ):
            slow.send(GET)
            deaf.send(GET)
            first, second = await server.calls.number(1), await server.calls.number(2)
            for _ in range(60):
                await slow.reader.read(60_000)
                await asyncio.sleep(0.1)
            assert {first.is_open, second.is_open} == {True, False}
            assert events(server) == ["clients_cut"]
            assert server.server.open_connections == 1


# Caps ---------------------------------------------------------------------------------------------


async def overloaded(client: Client) -> Reply:
    reply = await client.reply()
    assert (reply.status, reply.code) == (503, "gateway_overloaded")
    assert (reply.headers["retry-after"], reply.headers["x-should-retry"]) == ("2", "true")
    return reply


@pytest.mark.parametrize("cap", ["max_connections", "max_connections_per_address"])
async def test_connections_have_a_cap(cap: str) -> None:
    """One too many is told and closed; when one leaves, there is room again."""
    async with serving(**{cap: 3}) as server, AsyncExitStack() as stack:
        first = server.client()
        await first.__aenter__()
        rest = [await stack.enter_async_context(server.client()) for _ in range(2)]
        for client in (first, *rest):
            assert (await client.ask(GET)).status == 200
        async with server.client() as late:
            await overloaded(late)
            assert await late.rest() == b""
        await first.__aexit__()
        while server.server.open_connections > 2:
            await asyncio.sleep(0.01)
        async with server.client() as again:
            assert (await again.ask(GET)).status == 200
        await asyncio.sleep(1.1)
        assert events(server) == ["connections_refused"]


async def test_a_flood_of_connections_is_not_even_told() -> None:
    """Only so many that are turned away may stay to read why."""
    async with serving(max_connections=1) as server, AsyncExitStack() as stack:
        for _ in range(350):
            await stack.enter_async_context(server.client())
        await asyncio.sleep(0.1)
        assert server.server.open_connections < 300


async def test_bodies_wait_for_room_in_the_order_of_coming() -> None:
    """What is held by open calls bounds what is read; none is lost, the first come is first."""
    limits = {"max_bytes_in_flight": 100_000, "max_body_bytes": 100_000}
    async with serving(**limits) as server, AsyncExitStack() as stack:
        server.calls.act = open_call
        clients = [await stack.enter_async_context(server.client()) for _ in range(4)]
        for number, client in enumerate(clients, start=1):
            client.send(sized(60_000) + b"%d" % number * 40_000)
            await asyncio.sleep(0.05)
        for number, client in enumerate(clients, start=1):
            client.send(b"%d" % number * 20_000)
        await server.calls.number(3)
        await asyncio.sleep(0.1)
        assert len(server.calls.requests) == 3
        assert server.server.body_bytes_in_flight == 220_000
        for number in range(1, 5):
            answer = await server.calls.number(number)
            echo(server.calls.requests[number - 1], answer)
        for client in clients:
            assert (await client.reply()).status == 200
        assert server.calls.requests[3].body == b"4" * 60_000
        assert server.server.body_bytes_in_flight == 0


async def test_unfinished_bodies_cannot_block_each_other() -> None:
    """When no call is there to make room, one of those that wait goes on."""
    limits = {"max_bytes_in_flight": 50_000, "max_body_bytes": 50_000}
    async with serving(**limits) as server, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(server.client()) for _ in range(3)]
        for client in clients:
            client.send(sized(40_000) + b"a" * 20_000)
        await asyncio.sleep(0.1)
        for client in clients:
            client.send(b"a" * 20_000)
        for client in clients:
            assert len((await client.reply()).body) == 40_000
        assert server.server.body_bytes_in_flight == 0


async def test_a_body_that_finds_no_room_in_time() -> None:
    """It is told to come again; one that leaves while it waits is forgotten."""
    limits = {"max_bytes_in_flight": 50_000, "max_body_bytes": 50_000, "body_grace_ms": 1_000}
    async with serving(**limits) as server, server.client() as first, server.client() as late:
        server.calls.act = open_call
        first.send(sized(50_000) + b"a" * 50_000)
        answer = await server.calls.number(1)
        late.send(sized(20_000) + b"a" * 10_000)
        async with server.client() as leaver:
            leaver.send(sized(20_000) + b"a" * 10_000)
            await asyncio.sleep(0.1)
        await overloaded(late)
        async with asyncio.timeout(PATIENCE_S):
            while server.server.body_bytes_in_flight != 50_000:  # the leaver's time runs out, too
                await asyncio.sleep(0.01)
        answer.start(200, [], "", 0)
        answer.finish()
        assert (await first.reply()).status == 200
        assert server.server.body_bytes_in_flight == 0


class Reader:
    """A body that waits."""

    def __init__(self, body_left: int = 0) -> None:
        self.body_left = body_left
        self.went_on = 0

    def go_on(self) -> None:
        self.went_on += 1


def test_the_room_wakes_as_many_as_fit() -> None:
    """In order; those for whose rest there is no room go on waiting."""
    room, readers = BodyRoom(100, 50), [Reader(60), Reader(60), Reader(60)]
    room.used = 100
    room.complete(Reader(), 100)
    for reader in readers:
        room.wait(reader)
    assert [reader.went_on for reader in readers] == [0, 0, 0]
    room.give_back(0, 100)
    assert [reader.went_on for reader in readers] == [1, 1, 0]
    room.forget(readers[2])
    assert room.used == 0
    assert not room.is_full


def test_one_reader_goes_on_regardless() -> None:
    """Only one, until its body is whole or dropped."""
    room, first, second = BodyRoom(100, 50), Reader(10), Reader(10)
    room.used = 100
    room.wait(first)
    room.wait(second)
    assert (first.went_on, second.went_on) == (1, 0)
    assert room.exempts(first)
    room.used += 50
    assert room.is_overrun
    room.forget(first)
    assert second.went_on == 1


def test_connections_are_counted_by_address() -> None:
    """A client without an address, on a Unix socket, has no cap of its own."""
    shared = Shared(DataPlane("u", max_connections=5, max_connections_per_address=2))
    guests = [object() for _ in range(9)]
    problems = [
        shared.admit(guest, address) for guest, address in zip(guests, "aaabb", strict=False)
    ]  # type: ignore[arg-type]
    assert [bool(problem) for problem in problems] == [False, False, True, False, False]
    assert not shared.admit(guests[5], "")  # type: ignore[arg-type]
    assert "as many" in shared.admit(guests[6], "c")  # type: ignore[arg-type]
    shared.leave(guests[0], "a")  # type: ignore[arg-type]
    assert not shared.admit(guests[7], "")  # type: ignore[arg-type]


# Overload -----------------------------------------------------------------------------------------


async def test_an_overloaded_loop_sheds_new_calls_and_keeps_open_ones() -> None:
    """503 with Retry-After, on a connection that stays; once the loop has caught up, 200."""
    async with (
        serving(max_loop_lag_ms=50) as server,
        server.client() as old,
        server.client() as new,
    ):
        server.calls.act = open_call
        old.send(GET)
        answer = await server.calls.number(1)
        server.calls.act = echo
        new.send(GET)
        assert (await new.reply()).status == 200
        while "overload_began" not in events(server):
            block_loop()
            await asyncio.sleep(0.001)
        new.send(GET + GET)
        await overloaded(new)
        await overloaded(new)
        assert answer.is_open
        while "overload_ended" not in events(server):
            await asyncio.sleep(0.05)
        assert (await new.ask(GET)).status == 200
        echo(server.calls.requests[0], answer)
        assert (await old.reply()).status == 200
        assert len(server.calls.requests) == 3


async def test_one_long_pause_is_no_overload() -> None:
    """Twice in a row is."""
    async with serving(max_loop_lag_ms=50) as server, server.client() as client:
        await asyncio.sleep(0.15)
        block_loop()
        await asyncio.sleep(0)
        assert (await client.ask(GET)).status == 200
        await asyncio.sleep(0.25)
        assert events(server) == []
