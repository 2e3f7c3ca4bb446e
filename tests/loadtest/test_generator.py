"""The load generator: each request is accounted for, latency counts from its intended start."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import SystemRandom

import pytest

from loadtest.fake_provider import FakeProvider, Received, Script
from loadtest.generator import Generator, constant, poisson
from tests.loadtest.wire import chat, request

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="its timer is Linux's")

SCRIPT = Script(prompt_tokens=5, completion_tokens=6)


@asynccontextmanager
async def serving(
    *requests: bytes, timeout_s: float = 5.0, script: Script = SCRIPT
) -> AsyncIterator[tuple[Generator, FakeProvider]]:
    async with FakeProvider(default=script) as provider:
        port = int(provider.base_url.rpartition(":")[2])
        async with Generator("127.0.0.1", port, requests or [chat()], timeout_s) as generator:
            yield generator, provider


async def test_closed_loop_keeps_so_many_under_way() -> None:
    """Every request is answered, on no more connections than asked for, and none is made up."""
    async with serving() as (generator, provider):
        while len((run := await generator.closed_loop(3, 0.05)).samples) <= 3:
            provider.reset()  # a machine this busy did not get to a second round
        assert run.problems() == []
        assert len(run.answered) == len(run.samples) == provider.totals().calls
        assert provider.connections_accepted == 3
        assert run.achieved_per_s == pytest.approx(len(run.samples) / run.seconds)


async def test_requests_are_sent_in_turn() -> None:
    """The prebuilt requests follow each other, and begin anew after the last."""
    requests = [chat({"x-request-tag": tag}) for tag in "abc"]
    async with serving(*requests) as (generator, provider):
        await generator.open_loop([0.0, 0.01, 0.02, 0.03])
        assert [entry.tag for entry in provider.journal] == ["a", "b", "c", "a"]


async def test_open_loop_starts_whatever_became_of_those_before() -> None:
    """A stalled answer delays nobody else, and its wait counts from the intended start."""

    def slow_at_first(received: Received) -> Script | None:
        return Script(prompt_tokens=5, ttfb_ms=800) if received.number == 1 else None

    async with serving() as (generator, provider):
        provider.script(slow_at_first)
        run = await generator.open_loop(constant(100, 0.1))
        first, *others = run.latencies_s()
        assert first >= 0.8
        assert max(others) < 0.8
        assert provider.connections_accepted >= 2
        assert run.offered_per_s == pytest.approx(111, rel=0.01)  # 10 starts within 90 ms


async def test_a_server_that_stalls_makes_all_intended_starts_late() -> None:
    """Latency is from intended start to end: requests held up behind a stall show the stall."""
    async with serving() as (generator, _):
        await generator.open(4)
        begun = asyncio.ensure_future(generator.open_loop(constant(200, 0.1)))
        await asyncio.sleep(0.05)
        loop = asyncio.get_running_loop()
        until = loop.time() + 0.2
        while loop.time() < until:  # provider and generator stand still, as they share this loop
            pass
        run = await begun
        assert len(run.answered) == 20
        assert max(run.latencies_s()) > 0.1
        assert max(run.lags_s()) > 0.1


async def test_an_answer_that_does_not_come_counts_with_the_timeout() -> None:
    """A hanging request is a problem, and no better than the timeout in the latencies."""
    async with serving(chat({"x-fake-fault": "hang"}), chat(), timeout_s=0.5) as (generator, _):
        run = await generator.open_loop([0.0, 0.05])
        assert run.problems() == ["timeout"]
        assert run.latencies_s()[0] == 0.5
        assert run.latencies_s()[1] < 0.5


async def test_a_late_answer_counts_with_the_timeout() -> None:
    """An answer after the timeout is a problem, even if others are waited for anyway."""
    late = chat({"x-fake-ttfb-ms": "600"})
    async with serving(late, chat(), timeout_s=0.4) as (generator, _):
        run = await generator.open_loop([0.0, 0.8])
        assert run.problems() == ["timeout"]
        assert run.latencies_s()[0] == 0.4


@pytest.mark.parametrize(
    ("fault", "problem"),
    [("reset", "connection"), ("cut:9", "connection"), ("status:503", "status 503")],
)
async def test_lost_and_wrong_answers_are_told(fault: str, problem: str) -> None:
    """A connection that breaks and a status that was not expected are problems; others go on."""
    async with serving(chat({"x-fake-fault": fault}), chat()) as (generator, _):
        run = await generator.open_loop(constant(50, 0.08))
        assert len(run.samples) == 4
        assert [text.startswith(problem) for text in run.problems()] == [True, True]


async def test_an_expected_status_is_no_problem() -> None:
    """Refusals can be measured: 503 is what is waited for here."""
    async with serving(chat({"x-fake-fault": "status:503"})) as (generator, _):
        run = await generator.open_loop(constant(50, 0.08))
        assert run.problems(503) == []
        assert len(run.problems(200)) == 4


async def test_nobody_listens() -> None:
    """A connection that cannot be made is a problem of that request."""
    async with FakeProvider() as provider:
        port = int(provider.base_url.rpartition(":")[2])
    async with Generator("127.0.0.1", port, [chat()]) as generator:
        run = await generator.open_loop([0.0])
        assert [text.partition(":")[0] for text in run.problems()] == ["no connection"]


async def test_an_answer_that_is_no_http() -> None:
    """What cannot be parsed is a problem, and its connection is not used again."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HELLO\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, Generator(*server.sockets[0].getsockname(), [chat()]) as generator:
        run = await generator.open_loop([0.0, 0.02])
        assert [text.startswith("not HTTP") for text in run.problems()] == [True, True]


async def test_a_server_that_closes_gets_a_new_connection() -> None:
    """`Connection: close` ends the connection, not the closed loop."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    bare = request("GET", "/")
    async with server, Generator(*server.sockets[0].getsockname(), [bare]) as generator:
        run = await generator.closed_loop(2, 0.05)
        assert run.problems() == []
        assert len(run.samples) > 2


@pytest.mark.parametrize("slice_bytes", [0, 1, 7])
async def test_events_are_counted_however_they_are_cut(slice_bytes: int) -> None:
    """One event before the six tokens and two after them, in whatever reads they come."""
    headers = {"x-fake-slice-bytes": str(slice_bytes)} if slice_bytes else {}
    async with serving(chat(headers, stream=True)) as (generator, _):
        run = await generator.closed_loop(1, 0.02)
        assert {sample.events for sample in run.samples} == {9}
        assert run.events == 9 * len(run.samples)


async def test_time_to_first_chunk_and_gaps() -> None:
    """The first byte comes after the provider's wait, the others at its pace."""
    headers = {"x-fake-ttfb-ms": "30", "x-fake-chunk-delay-ms": "10"}
    async with serving(chat(headers, stream=True)) as (generator, _):
        run = await generator.closed_loop(1, 0)
        (first,) = run.first_bytes_s()
        (whole,) = run.latencies_s()
        assert 0.03 <= first < whole
        assert whole >= 0.08
        # Six tokens, in as many reads at most: what is before and after them comes with one.
        assert 1 <= len(run.gaps_s) <= 5
        assert 0 < sum(run.gaps_s) <= whole - first + 0.001


async def test_a_staggered_start_spreads_the_streams() -> None:
    """Begun one after the other, not all in one moment."""
    async with serving() as (generator, _):
        run = await generator.closed_loop(4, 0, stagger_s=0.08)
        starts = [sample.intended_at for sample in run.samples]
        assert [start - starts[0] for start in starts] == pytest.approx([0, 0.02, 0.04, 0.06])
        assert min(run.lags_s()) >= 0


def test_constant_schedule() -> None:
    """Even distances, as many starts as rate and time give."""
    assert constant(4, 1.5) == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]


def test_poisson_schedule() -> None:
    """In order, within the time, and about as many as the rate says."""
    starts = poisson(300, 10, SystemRandom())
    assert starts == sorted(starts)
    assert 0 < starts[0] <= starts[-1] < 10
    assert len(starts) == pytest.approx(3_000, rel=0.1)  # more than five standard deviations
