"""Counts from a process beside the worker, whatever becomes of it."""

import asyncio
import gc
import sys
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from gateway import tokenizer
from gateway.core.identity import Dialect
from gateway.tokenizer import TiktokenCounter

BODY = b'{"messages":[{"role":"user","content":"hello world"}]}'
CHAT = Dialect.OPENAI_CHAT
# Reads one question whole, then does as it is told.
_READ = (
    "import os, sys, time\n"
    "n = int.from_bytes(os.read(0, 4), 'big')\n"
    "while n > 0: n -= len(os.read(0, n))\n"
)


@asynccontextmanager
async def counting(
    command: Sequence[str] | None = None, deadline_s: float = 60.0, close_wait_s: float = 60.0
) -> AsyncIterator[TiktokenCounter]:
    counter = TiktokenCounter(
        command or tokenizer._COMMAND, deadline_s=deadline_s, close_wait_s=close_wait_s
    )
    try:
        yield counter
    finally:
        await counter.close()


def program(then: str) -> tuple[str, ...]:
    return (sys.executable, "-c", _READ + then)


async def test_it_counts_in_a_process_of_its_own() -> None:
    """Which starts with the first question and serves all that follow, in their order."""
    async with counting() as counter:
        assert counter._process is None
        assert await counter.count("gpt-4o", ["hello", " world"]) == 2
        process = counter._process
        assert process is not None
        found = await asyncio.gather(
            counter.count_request("gpt-4o", CHAT, BODY),
            counter.count("gpt-4o", ["\ud800"]),
            counter.count("gpt-4o", ["x " * 100_000]),
            counter.count_request("gpt-4o", Dialect.UNMETERED, BODY),
        )
        assert found == [10, 1, 100_004, None]
        assert counter._process is process
    assert process.exit_code == 0


async def test_no_text_needs_no_process() -> None:
    """It has no tokens."""
    async with counting(("/nonexistent",)) as counter:
        assert await counter.count("gpt-4o", [""]) == 0


async def test_a_process_that_ended_is_replaced() -> None:
    """Killed, or idle for long: the question that finds it gone goes to a new one."""
    async with counting() as counter:
        assert await counter.count("gpt-4o", ["hello"]) == 1
        first = counter._process
        assert first is not None
        first.kill()
        await first.wait()
        assert await counter.count("gpt-4o", ["hello world"]) == 2
        assert counter._process is not first


@pytest.mark.parametrize(
    "command", [("/nonexistent",), program("os.write(1, b'four')"), (sys.executable, "-c", "")]
)
async def test_without_an_answer_it_estimates(command: Sequence[str]) -> None:
    """A text; a request has better bounds than a guess."""
    async with counting(command) as counter:
        assert await counter.count("gpt-4o", ["hello world"]) == 3
        assert await counter.count_request("gpt-4o", CHAT, BODY) is None


async def test_an_answer_that_does_not_come_is_not_waited_for() -> None:
    """The process is killed, so that no later question gets an earlier answer."""
    async with counting(program("time.sleep(60)"), deadline_s=0.2) as counter:
        assert await counter.count("gpt-4o", ["hello world"]) == 3
        assert counter._process is None


async def test_a_process_that_does_not_end_is_killed() -> None:
    """A worker's end does not wait for it."""
    stubborn = program("os.write(1, (7).to_bytes(8, 'big'))\ntime.sleep(60)")
    async with counting(stubborn, close_wait_s=0.1) as counter:
        assert await counter.count("gpt-4o", ["hello world"]) == 7
        process = counter._process
        assert process is not None
    assert process.exit_code == -9


async def asked(counter: TiktokenCounter) -> asyncio.Task[int]:
    """Return a long question that has just been put to a new process."""
    waiting = asyncio.ensure_future(counter.count("gpt-4o", ["x " * 1_000_000]))
    async with asyncio.timeout(60.0):
        while counter._process is None:
            await asyncio.sleep(0)
    return waiting


@pytest.mark.parametrize("turns", range(4))
async def test_who_stops_waiting_takes_nobody_elses_answer(turns: int) -> None:
    """The next question is put to a new process; nothing of the old one is left."""
    async with counting() as counter:
        waiting = await asked(counter)
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await counter.count("gpt-4o", ["hello world"]) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gc.collect()


@pytest.mark.parametrize("close_wait_s", [60.0, 0.0])
async def test_the_end_of_counting(close_wait_s: float) -> None:
    """Who was asking has an answer or an estimate; who asks afterwards starts no process."""
    async with counting(close_wait_s=close_wait_s) as counter:
        waiting = await asked(counter)
        await counter.close()
        assert await waiting in (1_000_001, 500_000)
        assert await counter.count("gpt-4o", ["hello world"]) == 3
        assert counter._process is None
