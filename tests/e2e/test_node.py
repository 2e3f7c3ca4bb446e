"""Real npm clients: what they get, what is counted, how a refusal reads."""

import asyncio
import json
import os
import shutil
from typing import Any

import pytest

from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.running_gateway import PATIENCE_S, ROOT, Gateway, until
from tests.e2e.test_dialects import assert_exact

pytestmark = pytest.mark.asyncio(loop_scope="session")

FOLDER = ROOT / "tests/node"
OUTPUT = Script(completion_tokens=37, reasoning_tokens=5, cached_tokens=3)
TOOL = Script(completion_tokens=12, tool_call=True)
SPENT = Script(prompt_tokens=60_000)

every_client = pytest.mark.parametrize("name", ["openai", "@anthropic-ai/sdk"])


async def using(name: str, act: str, url: str, task: str) -> Any:
    """Do one thing with a client, in a node process of its own; return what it tells."""
    node = shutil.which("node")
    assert node and (FOLDER / "node_modules").exists(), "run `npm ci --prefix tests/node` first"
    process = await asyncio.create_subprocess_exec(
        *(node, str(FOLDER / "clients.mjs"), name, act, url, task),
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"]},
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    return json.loads(output)


@every_client
@pytest.mark.parametrize("act", ["call", "stream", "tool"])
async def test_a_client_gets_what_the_provider_says(
    gateway: Gateway, provider: FakeProvider, task: str, name: str, act: str
) -> None:
    """The same with and without the gateway, on the right task and phase, and exact totals."""
    provider.script(lambda _: TOOL if act == "tool" else OUTPUT)
    expected = await using(name, act, provider.base_url, task)
    assert expected["answer"]
    provider.reset()
    assert await using(name, act, gateway.url, task) == expected
    fields = await gateway.settled(task, 1)
    assert fields["phase"] == "VERIFY"
    assert_exact(fields, provider.totals())


@every_client
@pytest.mark.parametrize("act", ["call", "stream"])
async def test_a_refusal_is_read_and_not_tried_again(
    enforcing: Gateway, provider: FakeProvider, task: str, name: str, act: str
) -> None:
    """One request, one error of the client's own kind, our message in it."""
    provider.script(lambda _: SPENT)
    await using(name, "call", enforcing.url, task)
    await enforcing.settled(task, 1)
    told = await using(name, act, enforcing.url, task)
    assert told["requests"] == 1
    error = told["error"]
    assert f"Task {task} exceeded token budget" in error["message"]
    assert (error["kind"], error["status"]) == ("BadRequestError", 400)
    assert len(provider.journal) == 1
    await until(lambda: enforcing.log_events("call", task=task, status=400), "the log")
    assert len(enforcing.log_events("call", task=task, status=400)) == 1
