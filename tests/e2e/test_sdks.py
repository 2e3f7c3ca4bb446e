"""Real clients of every dialect: what they get, what is counted, how a refusal reads."""

import asyncio
import json
from typing import Any

import anthropic
import httpx
import openai
import pytest
from google import genai
from google.genai import errors, types

from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.running_gateway import Gateway, until
from tests.e2e.test_dialects import assert_exact

pytestmark = pytest.mark.asyncio(loop_scope="session")

SAY = "What is the weather in Paris, and why?"
OUTPUT = Script(completion_tokens=37, reasoning_tokens=5, cached_tokens=3)
TOOL = Script(completion_tokens=12, tool_call=True)
SPENT = Script(prompt_tokens=60_000)
NAMES = ("Chat", "Messages", "Responses", "Gemini")

every_client = pytest.mark.parametrize("name", NAMES)


class Messages:
    """The anthropic SDK."""

    refusals = anthropic.BadRequestError

    def __init__(self, url: str, task: str) -> None:
        self._client = anthropic.Anthropic(
            base_url=url,
            api_key="sk-ant-test",
            default_headers={"x-task-id": task},
            http_client=anthropic.DefaultHttpxClient(trust_env=False),
        )
        self._asked: dict[str, Any] = {
            "model": "claude-opus-5-5",
            "max_tokens": 300,
            "messages": [{"role": "user", "content": SAY}],
        }

    def call(self) -> str:
        return self._client.messages.create(**self._asked).content[0].text

    def stream(self) -> str:
        with self._client.messages.stream(**self._asked) as stream:
            return stream.get_final_text()

    def call_tool(self) -> object:
        return self._client.messages.create(**self._asked).content[0].input

    def close(self) -> None:
        self._client.close()


class Chat:
    """The openai SDK's chat completions."""

    refusals = openai.BadRequestError

    def __init__(self, url: str, task: str) -> None:
        self._client = openai.OpenAI(
            base_url=f"{url}/v1",
            api_key="sk-test",
            default_headers={"x-task-id": task},
            http_client=httpx.Client(trust_env=False),
        )
        self._asked: dict[str, Any] = {
            "model": "gpt-4o",
            "messages": [{"role": "user", "content": SAY}],
        }

    def call(self) -> str:
        return self._client.chat.completions.create(**self._asked).choices[0].message.content or ""

    def stream(self) -> str:
        chunks = self._client.chat.completions.create(**self._asked, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    def call_tool(self) -> object:
        message = self._client.chat.completions.create(**self._asked).choices[0].message
        return json.loads(message.tool_calls[0].function.arguments)

    def close(self) -> None:
        self._client.close()


class Responses:
    """The openai SDK's responses."""

    refusals = openai.BadRequestError

    def __init__(self, url: str, task: str) -> None:
        self._client = openai.OpenAI(
            base_url=f"{url}/v1",
            api_key="sk-test",
            default_headers={"x-task-id": task},
            http_client=httpx.Client(trust_env=False),
        )
        self._asked: dict[str, Any] = {"model": "gpt-5.6", "input": SAY}

    def call(self) -> str:
        return self._client.responses.create(**self._asked).output_text

    def stream(self) -> str:
        events = list(self._client.responses.create(**self._asked, stream=True))
        assert events[-1].type == "response.completed"
        return "".join(e.delta for e in events if e.type == "response.output_text.delta")

    def call_tool(self) -> object:
        return json.loads(self._client.responses.create(**self._asked).output[0].arguments)

    def close(self) -> None:
        self._client.close()


class Gemini:
    """The google-genai SDK."""

    refusals = errors.ClientError

    def __init__(self, url: str, task: str) -> None:
        self._client = genai.Client(
            api_key="test",
            http_options=types.HttpOptions(
                base_url=url,
                headers={"x-task-id": task},
                client_args={"trust_env": False},
            ),
        )
        self._asked: dict[str, Any] = {"model": "gemini-2.5-pro", "contents": SAY}

    def call(self) -> str:
        return self._client.models.generate_content(**self._asked).text or ""

    def stream(self) -> str:
        chunks = self._client.models.generate_content_stream(**self._asked)
        return "".join(chunk.text or "" for chunk in chunks)

    def call_tool(self) -> object:
        return self._client.models.generate_content(**self._asked).function_calls[0].args

    def close(self) -> None:
        self._client.close()


CLIENTS = {"Chat": Chat, "Messages": Messages, "Responses": Responses, "Gemini": Gemini}


async def using(name: str, act: str, url: str, task: str) -> Any:
    """Do one thing with a new client, in a thread."""

    def do() -> Any:
        client = CLIENTS[name](url, task)
        try:
            return getattr(client, act)()
        finally:
            client.close()

    return await asyncio.to_thread(do)


@every_client
@pytest.mark.parametrize("act", ["call", "stream", "call_tool"])
async def test_a_client_gets_what_the_provider_says(
    gateway: Gateway, provider: FakeProvider, task: str, name: str, act: str
) -> None:
    """The same with and without the gateway, and exact totals."""
    provider.script(lambda _: TOOL if act == "call_tool" else OUTPUT)
    expected = await using(name, act, provider.base_url, task)
    assert expected
    provider.reset()
    assert await using(name, act, gateway.url, task) == expected
    assert_exact(await gateway.settled(task, 1), provider.totals())


@every_client
async def test_a_refusal_is_read_and_not_tried_again(
    enforcing: Gateway, provider: FakeProvider, task: str, name: str
) -> None:
    """One request, one error of the client's own kind, our message in it."""
    provider.script(lambda _: SPENT)
    await using(name, "call", enforcing.url, task)
    await enforcing.settled(task, 1)
    with pytest.raises(CLIENTS[name].refusals) as caught:
        await using(name, "call", enforcing.url, task)
    assert f"Task {task} exceeded token budget" in str(caught.value)
    assert len(provider.journal) == 1
    await until(lambda: enforcing.log_events("call", task=task, status=400), "the log")
    assert len(enforcing.log_events("call", task=task, status=400)) == 1
