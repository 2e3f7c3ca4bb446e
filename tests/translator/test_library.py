"""litellm with everything off: seen from a process of its own, as the translator is one."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from gateway.translator.library import close_stream
from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.running_gateway import environment

ROOT = Path(__file__).parents[2]

PROBE = """
import asyncio, json, sys

seen = {"names": [], "addresses": []}

def watch(event, arguments):
    if event == "socket.getaddrinfo":
        seen["names"].append(arguments[0])
    elif event == "socket.connect":
        seen["addresses"].append(arguments[1])

sys.addaudithook(watch)

from gateway.control import FarSide
from gateway.translator.library import Library

async def main(base_url):
    library, said = Library(), {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    for name in ("anthropic", "bedrock", "gemini", "openai"):
        ask = library.messages if name == "openai" else library.chat
        try:
            await ask(FarSide(name, base_url, 30.0), "key", {**said, "max_tokens": 5})
        except Exception as error:
            seen[name] = type(error).__name__
    await asyncio.sleep(0.5)

asyncio.run(main(sys.argv[1]))
print(json.dumps(seen))
"""


async def probe(provider: FakeProvider) -> dict[str, Any]:
    aws = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-c", PROBE, provider.base_url),
        cwd=ROOT,
        env=environment(aws),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, problem = await process.communicate()
    assert process.returncode == 0, problem.decode()
    lines = out.decode().splitlines()
    assert len(lines) == 1, "litellm printed something"
    found: dict[str, Any] = json.loads(lines[0])
    return found


async def test_nobody_is_contacted_but_the_provider_and_once() -> None:
    """From before the import to after the last call; an error is not tried again."""
    async with FakeProvider(default=Script(fault="status:500")) as provider:
        seen = await probe(provider)
        assert len(provider.journal) == 4
        port = int(provider.base_url.rpartition(":")[2])
    assert {tuple(address) for address in seen["addresses"]} == {("127.0.0.1", port)}
    assert set(seen["names"]) <= {"127.0.0.1"}
    assert "Error" in seen["anthropic"]


class Layer:
    """One of litellm's wrappers around a stream."""

    def __init__(self, closed: list[str], name: str, inner: object = None) -> None:
        self._closed, self._name = closed, name
        self.completion_stream = inner

    async def aclose(self) -> None:
        self._closed.append(self._name)
        if self._name == "inner":
            raise RuntimeError("closed already")


async def test_a_stream_is_closed_down_to_its_connection() -> None:
    """Innermost first, whatever a layer says to it."""
    closed: list[str] = []
    await close_stream(Layer(closed, "outer", Layer(closed, "inner")))
    assert closed == ["inner", "outer"]
    await close_stream(None)
