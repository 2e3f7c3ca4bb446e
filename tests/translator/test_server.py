"""The translator's server before a far side that answers as told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from aiohttp import ClientConnectionError
from aiohttp.test_utils import TestClient, TestServer

from gateway.control import FarSide
from gateway.translator.chat import Json
from gateway.translator.server import Translator

FAR = {
    "a": FarSide("anthropic", "http://far", 1.0),
    "o": FarSide("openai", "http://far", 1.0),
    "b": FarSide("bedrock", "http://far", 1.0),
}
CHAT: Json = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
MESSAGE: Json = {**CHAT, "max_tokens": 5}
KEY = {"authorization": "Bearer secret-key-1"}
CHATS, MESSAGES = "/u/a/v1/chat/completions", "/u/o/v1/messages"


class Model:
    """One of litellm's answers."""

    def __init__(self, **said: Any) -> None:
        self._said = said

    def model_dump(self, *, exclude_none: bool) -> Json:
        assert exclude_none
        return self._said


class Scripted:
    """Calls that end as told: by an answer, chunks or an exception."""

    def __init__(self) -> None:
        self.answer: Any = None
        self.asked: list[tuple[FarSide, str, Json]] = []
        self.closed = asyncio.Event()

    async def chat(self, far: FarSide, key: str, said: Json) -> Any:
        self.asked.append((far, key, said))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.chunks(self.answer) if isinstance(self.answer, list) else self.answer

    messages = chat

    async def chunks(self, chunks: list[Any]) -> AsyncIterator[Any]:
        try:
            for chunk in chunks:
                if isinstance(chunk, Exception):
                    raise chunk
                if chunk is ...:
                    await asyncio.Event().wait()
                yield chunk
        finally:
            self.closed.set()


@pytest.fixture
def calls() -> Scripted:
    return Scripted()


@pytest.fixture
def reported() -> list[tuple[str, str]]:
    return []


Client = TestClient[Any, Any]


@pytest.fixture
async def client(
    calls: Scripted,
    reported: list[tuple[str, str]],
    aiohttp_client: Callable[[TestServer], Awaitable[Client]],
) -> Client:
    translator = Translator(FAR, calls, lambda *said: reported.append(said), 10_000)
    server = TestServer(translator.app)
    await server.start_server()  # cancels handlers, as ours does
    return await aiohttp_client(server)


async def test_an_answer(client: Client, calls: Scripted) -> None:
    calls.answer = Model(id="x", choices=[{"message": {"content": "Hi"}, "finish_reason": "stop"}])
    answer = await client.post(CHATS, json=CHAT, headers=KEY)
    assert answer.status == 200
    assert answer.content_type == "application/json"
    assert (await answer.json())["choices"][0]["message"]["content"] == "Hi"
    assert calls.asked == [(FAR["a"], "secret-key-1", CHAT)]


async def test_a_message(client: Client, calls: Scripted) -> None:
    calls.answer = {"type": "message"}
    answer = await client.post(MESSAGES, json=MESSAGE, headers={"x-api-key": "k"})
    assert await answer.json() == {"type": "message"}
    assert calls.asked == [(FAR["o"], "k", MESSAGE)]


async def test_a_stream(client: Client, calls: Scripted) -> None:
    """Its first event is waited for before the head goes out; then it is closed."""
    calls.answer = [Model(choices=[{"delta": {"content": "a"}}]), Model(choices=[])]
    answer = await client.post(CHATS, json={**CHAT, "stream": True}, headers=KEY)
    assert answer.headers["content-type"].startswith("text/event-stream")
    text = await answer.text()
    assert text.startswith('data: {"choices":[{"index":0,"delta":{"content":"a"}')
    assert text.endswith("data: [DONE]\n\n")
    assert calls.closed.is_set()


async def test_an_empty_stream(client: Client, calls: Scripted) -> None:
    calls.answer = []
    answer = await client.post(CHATS, json={**CHAT, "stream": True}, headers=KEY)
    assert await answer.text() == "data: [DONE]\n\n"


async def test_a_message_stream(client: Client, calls: Scripted) -> None:
    """Events pass as they are, but for an error's text."""
    calls.answer = [
        b"event: ping\ndata: {}\n\n",
        "event: more\ndata: {}\n\n",
        b'event: error\ndata: {"error":{"message":"litellm.APIError: gone secret-key-1"}}\n\n',
        b"event: error\ndata: odd\n\n",
    ]
    answer = await client.post(MESSAGES, json={**MESSAGE, "stream": True}, headers=KEY)
    assert await answer.text() == (
        "event: ping\ndata: {}\n\n"
        "event: more\ndata: {}\n\n"
        "event: error\n"
        'data: {"type":"error","error":{"type":"api_error","message":"gone ***"}}\n\n'
        "event: error\n"
        'data: {"type":"error","error":{"type":"api_error","message":"odd"}}\n\n'
    )


@pytest.mark.parametrize(
    ("path", "body", "end"),
    [
        (CHATS, CHAT, 'data: {"error":{"message":"odd","type":"api_error","param":null,'),
        (MESSAGES, MESSAGE, 'event: error\ndata: {"type":"error","error":{"type":"api_error"'),
    ],
)
async def test_a_stream_that_breaks_off(
    client: Client, calls: Scripted, reported: list[Any], path: str, body: Json, end: str
) -> None:
    """Its last event says so."""
    first: Any = Model(choices=[{"delta": {"content": "a"}}]) if path == CHATS else b"x"
    calls.answer = [first, RuntimeError("odd")]
    answer = await client.post(path, json={**body, "stream": True}, headers=KEY)
    assert answer.status == 200
    text = await answer.text()
    assert end in text
    assert "[DONE]" not in text
    assert reported == [(path[3], "RuntimeError")]
    assert calls.closed.is_set()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_of_the_far_side(client: Client, calls: Scripted, stream: bool) -> None:
    """Also one that comes with a stream's first event."""
    request = httpx.Request("POST", "http://far")
    response = httpx.Response(
        429, text='{"message":"slow"}', headers={"retry-after": "3"}, request=request
    )
    error = httpx.HTTPStatusError("429", request=request, response=response)
    calls.answer = [error] if stream else error
    answer = await client.post(CHATS, json={**CHAT, "stream": stream}, headers=KEY)
    assert answer.status == 429
    assert answer.headers["retry-after"] == "3"
    assert (await answer.json())["error"]["message"] == "slow"


async def test_a_call_whose_fate_is_unknown_is_broken_off(
    client: Client, calls: Scripted, reported: list[Any]
) -> None:
    calls.answer = KeyError("usage")
    with pytest.raises(ClientConnectionError):
        await client.post(CHATS, json=CHAT, headers=KEY)
    assert reported == [("a", "KeyError")]


async def test_who_leaves_takes_the_far_call_along(client: Client, calls: Scripted) -> None:
    calls.answer = [Model(choices=[{"delta": {"content": "a"}}]), ...]
    answer = await client.post(CHATS, json={**CHAT, "stream": True}, headers=KEY)
    await answer.content.readany()
    answer.close()
    async with asyncio.timeout(30):
        await calls.closed.wait()


async def test_who_leaves_before_the_first_event_too(client: Client, calls: Scripted) -> None:
    calls.answer = [...]
    asking = asyncio.ensure_future(client.post(CHATS, json={**CHAT, "stream": True}, headers=KEY))
    async with asyncio.timeout(30):
        while not calls.asked:
            await asyncio.sleep(0.01)
        asking.cancel()
        await calls.closed.wait()


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (CHATS, {}, 401),
        ("/u/a/v1/embeddings", KEY, 404),
        ("/u/none/v1/chat/completions", KEY, 404),
        ("/v1/chat/completions", KEY, 404),
    ],
)
async def test_what_is_not_sent_on(
    client: Client, calls: Scripted, path: str, headers: dict[str, str], status: int
) -> None:
    answer = await client.post(path, json=CHAT, headers=headers)
    assert answer.status == status
    assert (await answer.json())["error"]["message"]
    assert calls.asked == []


async def test_errors_of_ours_are_in_the_callers_shape(client: Client) -> None:
    answer = await client.post(MESSAGES, json={**MESSAGE, "api_base": "x"}, headers=KEY)
    assert answer.status == 400
    assert (await answer.json())["type"] == "error"


async def test_only_openai_fetches_content_itself(client: Client, calls: Scripted) -> None:
    content = [{"type": "image_url", "image_url": {"url": "https://x/"}}]
    body = {**CHAT, "messages": [{"role": "user", "content": content}]}
    assert (await client.post(CHATS, json=body, headers=KEY)).status == 400
    calls.answer = Model()
    path = "/u/o/v1/chat/completions"
    assert (await client.post(path, json=body, headers=KEY)).status == 200


async def test_bedrock_needs_no_credential(client: Client, calls: Scripted) -> None:
    calls.answer = Model()
    assert (await client.post("/u/b/v1/chat/completions", json=CHAT)).status == 200


async def test_a_body_beyond_the_limit(client: Client) -> None:
    body = {**CHAT, "stop": "x" * 20_000}
    assert (await client.post(CHATS, json=body, headers=KEY)).status == 413
