"""However an answer is cut on its way: the same bytes for the client, the same usage for us."""

import json
from urllib.parse import urlsplit

import httpx
import pytest

from gateway.core.dialects.openai_chat import OPENAI_CHAT
from gateway.core.meter import JsonMeter, Meter, Observation, StreamMeter
from loadtest.fake_provider import FakeProvider, Received, Script
from tests.e2e.running_gateway import Gateway
from tests.server.client import Client

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCRIPTS = {
    "text": Script(prompt_tokens=11, completion_tokens=3),
    "unicode": Script(prompt_tokens=11, completion_tokens=2, content="naïve 😀\u2028\u0085 \\n"),
    "tools": Script(prompt_tokens=11, completion_tokens=3, tool_call=True),
    "hidden": Script(prompt_tokens=11, completion_tokens=5, reasoning_tokens=3, cached_tokens=4),
    "CRLF": Script(prompt_tokens=11, completion_tokens=2, line_end="\r\n"),
    "CR": Script(prompt_tokens=11, completion_tokens=2, line_end="\r"),
    "no usage": Script(prompt_tokens=11, completion_tokens=3, fault="missing_usage"),
    "error": Script(prompt_tokens=11, completion_tokens=2, fault="error_event:1"),
}
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**BODY, "stream": True, "stream_options": {"include_usage": True}}
every_kind = pytest.mark.parametrize(
    "fields",
    [BODY, {**BODY, "stream": True}, STREAM],
    ids=["JSON", "stream, usage hidden", "stream, usage wanted"],
)


async def served(provider: FakeProvider, script: Script, body: object) -> bytes:
    """Return the body of an answer, straight from the provider."""
    provider.script(lambda _: script)
    async with httpx.AsyncClient(base_url=provider.base_url, trust_env=False, timeout=60) as client:
        return (await client.post("/v1/chat/completions", json=body)).content


def metered(meter: Meter, pieces: list[bytes]) -> tuple[bytes, Observation]:
    """Return what a meter let pass, and what it saw."""
    passed = b"".join([*map(meter.feed, pieces), meter.end()])
    seen = meter.seen
    return passed, Observation(
        seen.usage,
        seen.model,
        ["".join(seen.text)],
        seen.chars,
        seen.error_seen,
        seen.outdated,
    )


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
@pytest.mark.parametrize("kind", ["JSON", "stream", "stream, usage hidden"])
async def test_every_cut_in_two_and_byte_by_byte(
    provider: FakeProvider, script: Script, kind: str
) -> None:
    """The meter sees the same and passes the same on."""
    body = await served(provider, script, BODY if kind == "JSON" else STREAM)

    def meter() -> Meter:
        return (
            JsonMeter(OPENAI_CHAT)
            if kind == "JSON"
            else StreamMeter(OPENAI_CHAT, hide_usage="hidden" in kind)
        )

    whole = metered(meter(), [body])
    if "hidden" not in kind:
        assert whole[0] == body
    assert metered(meter(), [body[at : at + 1] for at in range(len(body))]) == whole
    for cut in range(len(body) + 1):
        assert metered(meter(), [body[:cut], body[cut:]]) == whole, cut


async def test_the_hidden_event_is_the_only_difference(provider: FakeProvider) -> None:
    """In all line ends."""
    for name in ("text", "CRLF", "CR"):
        body = await served(provider, SCRIPTS[name], STREAM)
        blank = SCRIPTS[name].line_end.encode() * 2
        events = [event + blank for event in body.split(blank)[:-1]]
        assert b'"choices":[],"usage":{' in events[-2]
        passed, _ = metered(StreamMeter(OPENAI_CHAT, hide_usage=True), [body])
        assert passed == b"".join(events[:-2] + events[-1:])


# Through the gateway ------------------------------------------------------------------------------


def request(body: object, task: str, **headers: object) -> bytes:
    data = json.dumps(body).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: t",
        f"X-Task-Id: {task}",
        f"Content-Length: {len(data)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + data


def anonymous(body: bytes) -> bytes:
    """Return an answer without its ids, which tell the number of the request."""
    start = body.index(b"chatcmpl-") + len(b"chatcmpl-")
    return body.replace(body[start : start + 24], b"")


@pytest.mark.parametrize("script", ["text", "unicode", "tools", "hidden", "CRLF", "CR"])
@every_kind
async def test_byte_by_byte_through_the_gateway(
    gateway: Gateway, provider: FakeProvider, task: str, script: str, fields: dict[str, object]
) -> None:
    """The provider sends every byte of head and body by itself."""
    provider.script(lambda _: SCRIPTS[script])
    async with Client(urlsplit(gateway.url).port or 0) as client:
        whole = await client.ask(request(fields, task))
        sliced = await client.ask(request(fields, task, **{"X-Fake-Slice-Bytes": 1}))
    assert anonymous(sliced.body) == anonymous(whole.body)
    fields_settled = await gateway.settled(task, 2)
    truth = provider.totals()
    assert int(fields_settled["tokens.S"]) == truth.prompt_tokens + truth.completion_tokens
    assert "estimated.calls" not in fields_settled


@pytest.mark.slow
@every_kind
async def test_every_cut_through_the_gateway(
    gateway: Gateway, provider: FakeProvider, task: str, fields: dict[str, object]
) -> None:
    """One call for each byte of head and body, cut right there into two writes."""

    def cut(received: Received) -> Script:
        place = received.header(b"x-request-tag")
        pieces = (int(place),) if place else ()
        return Script(prompt_tokens=11, completion_tokens=2, content="ä😀", pieces=pieces)

    provider.script(cut)
    async with Client(urlsplit(gateway.url).port or 0) as client:
        whole = await client.ask(request(fields, task))
        size = await _size(provider, fields)
        for place in range(1, size + 1):
            reply = await client.ask(request(fields, task, **{"X-Request-Tag": place}))
            assert anonymous(reply.body) == anonymous(whole.body), place
            assert reply.complete
    settled = await gateway.settled(task, size + 1)
    assert int(settled["tokens.S"]) == 13 * (size + 1)
    assert "estimated.calls" not in settled


async def _size(provider: FakeProvider, fields: dict[str, object]) -> int:
    """Return the size of an answer in bytes, with its head and framing."""
    async with Client(urlsplit(provider.base_url).port or 0) as client:
        asked = STREAM if fields.get("stream") else fields
        client.send(request(asked, "-").replace(b"Host: t", b"Host: t\r\nConnection: close"))
        return len(await client.rest())
