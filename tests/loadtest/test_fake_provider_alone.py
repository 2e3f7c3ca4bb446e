"""The fake provider as a program."""

import asyncio
import json
import signal
import ssl
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.loadtest.wire import Wire, chat, request


@asynccontextmanager
async def program(*options: str) -> AsyncIterator[Process]:
    command = (sys.executable, "-m", "loadtest.fake_provider", "--port", "0", *options)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line(process: Process, start: str) -> str:
    """The rest of the next line that the program prints, which must start so."""
    printed = (await process.stdout.readline()).decode().rstrip("\n")
    assert printed.startswith(start)
    return printed.removeprefix(start)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_serves_until_it_is_told_to_stop(tmp_path: Path, number: signal.Signals) -> None:
    """It says where it listens, writes its journal, and ends cleanly with a call under way."""
    journal = tmp_path / "journal.jsonl"
    script = '{"prompt_tokens": 4, "completion_tokens": 2}'
    options = ("--no-requests", "--journal", str(journal), "--script", script)
    async with program(*options) as process:
        url = await line(process, "fake provider on ")
        assert url.startswith("http://127.0.0.1:")
        async with Wire(url) as wire, Wire(url) as hanging:
            await wire.ask(chat({"x-request-tag": "a"}))
            await wire.ask(chat({"x-request-tag": "b"}, stream=True))
            hanging.writer.write(chat({"x-fake-fault": "hang", "x-request-tag": "c"}))
            for _ in range(1_000):
                if len((await wire.ask(request("GET", "/_journal"))).json) == 3:
                    break
            process.send_signal(number)
            _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    entries = [json.loads(entry) for entry in journal.read_text().splitlines()]
    assert [(entry["tag"], entry["finished"]) for entry in entries] == [
        ("a", True),
        ("b", True),
        ("c", False),
    ]
    assert [entry["completion_tokens"] for entry in entries] == [2, 2, 0]


async def test_it_serves_tls() -> None:
    """A client that trusts the printed authority gets whole answers, slow readers included."""
    async with program("--tls", "--script", '{"prompt_tokens": 4}') as process:
        url = await line(process, "fake provider on ")
        assert url.startswith("https://127.0.0.1:")
        trust = ssl.create_default_context(cafile=await line(process, "ca file "))
        async with Wire(url, trust) as wire:
            assert (await wire.ask(chat())).json["usage"]["prompt_tokens"] == 4
            reply = await wire.ask(request("GET", "/v1/stream-bytes?n=3000000"))
            assert (reply.complete, len(reply.body)) == (True, 3_000_000)
            assert (await wire.ask(chat(stream=True))).events[-1] == "[DONE]"
        process.terminate()
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
