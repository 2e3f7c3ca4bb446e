"""Workers as the supervisor sees them: real processes, their reports and their ends."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest_asyncio

from gateway.app import TaskGroup
from gateway.control import Start
from gateway.telemetry import names
from gateway.telemetry.counters import Counters
from gateway.worker_process import WorkerPlace, WorkerProcess
from loadtest.fake_provider import FakeProvider
from tests.e2e.in_process import ENFORCING, data_plane, listening, rules
from tests.e2e.running_gateway import until
from tests.server.client import PATIENCE_S, Client

BODY = b'{"model":"m","messages":[]}'
CALL = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nX-Task-Id: T\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)


class Shop:
    """What worker processes are made of, and all that were made."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.listener: socket.socket = listening()
        self.port: int = self.listener.getsockname()[1]
        self.counters = Counters()
        self.tasks = TaskGroup()
        self.made: list[WorkerProcess] = []

    def make(self) -> WorkerProcess:
        process = WorkerProcess(self.start, self.listener, self.counters)
        self.made.append(process)
        return process

    def run(self) -> WorkerProcess:
        process = self.make()
        self.tasks.spawn(process.run())
        return process

    def break_start(self) -> None:
        """Let every process that is made from now on fail at its start."""
        upstream = {"ca_file": "/nowhere/ca.pem"}
        plane = data_plane("unix:///s", "https://a.example", "t", upstream=upstream)
        self.start = Start(plane, rules())

    async def policy(self) -> str:
        """Return the hash of the policies that a call is under."""
        async with Client(self.port) as client:
            return (await client.ask(CALL)).headers["x-tollgate-policy"]

    def calls(self) -> int:
        return sum(count for _, count in self.counters.of(names.CALLS.name))

    async def close(self) -> None:
        for process in self.made:
            process.kill()
        await self.tasks.finish(PATIENCE_S)
        self.listener.close()


@pytest_asyncio.fixture
async def shop(valkey: str, tenant: str, tmp_path: Path) -> AsyncIterator[Shop]:
    async with FakeProvider() as provider:
        plane = data_plane(valkey, provider.base_url, tenant, journal_dir=str(tmp_path / "journal"))
        opened = Shop(Start(plane, rules()))
        yield opened
        await opened.close()


async def within_patience(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), PATIENCE_S)


def pid_of(process: WorkerProcess) -> int:
    assert process._process is not None
    return process._process.pid


# One process --------------------------------------------------------------------------------------


async def test_a_process_serves_reports_and_ends(shop: Shop) -> None:
    """Ready once it accepts calls; what it counted is added up; it ends in an orderly way."""
    process = shop.run()
    await within_patience(process.ready)
    assert process.ready_or_ended.is_set()
    await shop.policy()
    await until(lambda: shop.calls() == 1, "the report")
    await process.stop(PATIENCE_S)
    assert (process.exit_code, process.ended.is_set(), process.ready.is_set()) == (0, True, False)


async def test_open_calls_are_known(shop: Shop) -> None:
    """While they last, and no longer than their process."""
    process = shop.run()
    await within_patience(process.ready)
    async with Client(shop.port) as client:
        client.send(CALL.replace(b"Host: t", b"Host: t\r\nX-Fake-Fault: hang"))
        await until(lambda: process.open_calls == 1, "the report")
        process.kill()
        await within_patience(process.ended)
        assert process.open_calls == 0
        await client.rest()


async def test_a_process_that_is_killed(shop: Shop) -> None:
    """Its end is noticed, and told with its code."""
    process = shop.run()
    await within_patience(process.ready)
    os.kill(pid_of(process), signal.SIGKILL)
    await within_patience(process.ended)
    assert process.exit_code == -signal.SIGKILL
    process.kill()  # later ends change nothing
    await process.stop(0)


async def test_other_rules(shop: Shop) -> None:
    """They reach a process that runs, and one that is only starting."""
    newer = rules(ENFORCING)
    newer = replace(newer, policies=replace(newer.policies, policy_hash="newer"))
    process = shop.run()
    await process.use_rules(newer)
    await within_patience(process.ready)
    assert await shop.policy() == "newer"
    newest = replace(newer, policies=replace(newer.policies, policy_hash="newest"))
    async with asyncio.timeout(PATIENCE_S):
        await process.use_rules(newest)
    assert await shop.policy() == "newest"


async def test_other_rules_for_a_process_that_hangs_and_ends(shop: Shop) -> None:
    """Nobody waits for it any longer than it lives."""
    process = shop.run()
    await within_patience(process.ready)
    os.kill(pid_of(process), signal.SIGSTOP)
    telling = asyncio.ensure_future(process.use_rules(rules(ENFORCING)))
    _, pending = await asyncio.wait([telling], timeout=0.1)
    assert pending
    process.kill()
    await asyncio.wait_for(telling, PATIENCE_S)


async def test_a_process_that_does_not_end(shop: Shop) -> None:
    """Is killed when the time is up."""
    process = shop.run()
    await within_patience(process.ready)
    os.kill(pid_of(process), signal.SIGSTOP)
    await process.stop(0.2)
    assert process.exit_code == -signal.SIGKILL


async def test_a_process_that_is_stopped_at_its_start(shop: Shop) -> None:
    """It never serves, or not for long."""
    process = shop.run()
    await asyncio.sleep(0)
    await asyncio.wait_for(process.stop(PATIENCE_S), PATIENCE_S)
    assert process.ended.is_set()


async def test_a_process_that_cannot_start(shop: Shop) -> None:
    """It ends without ever having been ready."""
    shop.break_start()
    process = shop.run()
    await within_patience(process.ready_or_ended)
    assert process.ended.is_set()
    assert process.exit_code not in (0, None)


# A place ------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def place_in(shop: Shop) -> AsyncIterator[tuple[WorkerPlace, Callable[[], Awaitable[None]]]]:
    """Yield a place that serves, and what waits for its process to end unexpectedly."""
    place = WorkerPlace(0, shop.make, shop.tasks.spawn)
    serving = asyncio.ensure_future(place.serve())
    await within_patience(place.was_ready)

    async def ended() -> None:
        await asyncio.wait_for(asyncio.shield(serving), PATIENCE_S)

    yield place, ended
    await place.stop(PATIENCE_S)
    await ended()


async def test_a_place_tells_when_its_process_died(shop: Shop) -> None:
    """So that another is started; the place was ready all the same."""
    async with place_in(shop) as (place, ended):
        assert place.is_ready
        os.kill(pid_of(shop.made[0]), signal.SIGKILL)
        await ended()
        assert (place.exit_code, place.is_ready, place.was_ready.is_set()) == (
            -signal.SIGKILL,
            False,
            True,
        )


async def test_a_process_is_replaced_without_a_gap(shop: Shop) -> None:
    """The successor serves before its predecessor drains; that one's end is no accident."""
    async with place_in(shop) as (place, _):
        predecessor = await place.replace()
        assert predecessor is shop.made[0]
        assert place.is_ready
        await predecessor.stop(PATIENCE_S)
        assert predecessor.exit_code == 0
        assert await shop.policy() == "policyhash"
        assert place.open_calls == 0


async def test_a_successor_that_cannot_start(shop: Shop) -> None:
    """All stays as it was."""
    async with place_in(shop) as (place, _):
        shop.break_start()
        assert await place.replace() is None
        assert place.is_ready
        assert await shop.policy() == "policyhash"


async def test_a_place_passes_on_to_all_its_processes(shop: Shop) -> None:
    """Rules, and the end."""
    async with place_in(shop) as (place, ended):
        newer = rules(ENFORCING)
        async with asyncio.timeout(PATIENCE_S):
            await place.use_rules(
                replace(newer, policies=replace(newer.policies, policy_hash="newer"))
            )
        assert await shop.policy() == "newer"
        place.kill()
        await ended()
        assert place.exit_code == -signal.SIGKILL
