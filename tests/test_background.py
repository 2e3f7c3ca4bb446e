"""Answers in the background whose streams end early, or break: what is charged, and when for good."""

import asyncio
import json

import pytest

from gateway.relay import Relay
from tests.e2e.in_process import Bench, bench
from tests.upstream.scripted import PATIENCE_S, Peer, provider

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_USAGE = {"input_tokens": 10, "output_tokens": 5_000, "total_tokens": 5_010}
_RESPONSE = {"id": "resp_1", "background": True, "model": "m", "error": None, "usage": None}
_USED = 5_010
ASKS = {"model": "m", "input": "hi", "background": True, "max_output_tokens": 9_000}
RESUMES = b"GET /v1/responses/resp_1?stream=true HTTP/1.1\r\nHost: t\r\n\r\n"


def chunk(kind: str, **members: object) -> bytes:
    event = b"data: %b\n\n" % json.dumps({"type": kind, **members}).encode()
    return b"%x\r\n%b\r\n" % (len(event), event)


CREATED = chunk("response.created", response=_RESPONSE)
TEXT = chunk("response.output_text.delta", delta="word ")
ERROR = chunk("error", code="server_error", message="The stream broke.")
COMPLETED = chunk("response.completed", response={**_RESPONSE, "usage": _USAGE})
FAILED = chunk("response.failed", response={**_RESPONSE, "error": {"code": "server_error"}})
END = b"0\r\n\r\n"


def ask(**fields: object) -> bytes:
    body = json.dumps({**ASKS, **fields}).encode()
    head = f"POST /v1/responses HTTP/1.1\r\nHost: t\r\nX-Task-Id: T\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


def queued() -> bytes:
    body = json.dumps({**_RESPONSE, "status": "queued"}).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


class Plays:
    """A provider that answers with the next of its answers; a second half comes once `left`."""

    def __init__(self, left: asyncio.Event, *answers: tuple[bytes, bytes]) -> None:
        self._answers = list(answers)
        self._left = left

    async def __call__(self, peer: Peer) -> None:
        """Serve a connection."""
        while self._answers:
            await peer.request()
            now, later = self._answers.pop(0)
            peer.write(now)
            if later:
                await self._left.wait()
                peer.write(later)
        await peer.gone()


async def used(serving: Bench, tokens: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while int(serving.task("T").get("tokens.S", "0")) != tokens:
            await asyncio.sleep(0.002)


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Tells when the gateway has noticed that a client left."""
    event, client_left = asyncio.Event(), Relay.client_left

    def note(relay: Relay) -> None:
        client_left(relay)
        event.set()

    monkeypatch.setattr(Relay, "client_left", note)
    return event


async def leave(serving: Bench, data: bytes) -> None:
    """Ask, read the first text of the answer, and leave before its usage."""
    async with serving.client() as client:
        client.send(data)
        await client.reader.readuntil(b"word ")


@pytest.mark.parametrize("resumed", [False, True])
async def test_the_usage_is_waited_for_though_the_client_left(
    valkey: str, tenant: str, left: asyncio.Event, resumed: bool
) -> None:
    """A client that has all text and leaves before the usage stops nothing at the provider."""
    answer = _HEAD + CREATED + TEXT, COMPLETED + END
    plays = Plays(left, (queued(), b""), answer) if resumed else Plays(left, answer)
    async with provider(plays) as running, bench(valkey, running.url, tenant) as serving:
        if resumed:
            async with serving.client() as client:
                assert (await client.ask(ask())).status == 200
            await serving.recorded(1)
            await leave(serving, RESUMES)
        else:
            await leave(serving, ask(stream=True))
        await serving.recorded(1 + resumed)
        await used(serving, _USED)


@pytest.mark.parametrize("resumed", [False, True])
async def test_a_stream_that_breaks_says_nothing_of_its_response(
    valkey: str, tenant: str, left: asyncio.Event, resumed: bool
) -> None:
    """It may go on, and be billed: the estimate stays until a fetch tells the usage."""
    broken, whole = (_HEAD + CREATED + ERROR + END, b""), (_HEAD + COMPLETED + END, b"")
    first = (queued(), b"") if resumed else broken
    plays = Plays(left, *((first, broken, whole) if resumed else (first, whole)))
    async with provider(plays) as running, bench(valkey, running.url, tenant) as serving:
        async with serving.client() as client:
            await client.ask(ask(stream=not resumed))
            await serving.recorded(1)
            held = int(serving.task("T")["tokens.S"])
            assert held > 0
            if resumed:
                await client.ask(RESUMES)
                await serving.recorded(2)
                assert int(serving.task("T")["tokens.S"]) == held
            await client.ask(RESUMES)
        await used(serving, _USED)


async def test_a_response_that_failed_used_nothing(
    valkey: str, tenant: str, left: asyncio.Event
) -> None:
    plays = Plays(left, (queued(), b""), (_HEAD + CREATED + FAILED + END, b""))
    async with provider(plays) as running, bench(valkey, running.url, tenant) as serving:
        async with serving.client() as client:
            await client.ask(ask())
            await serving.recorded(1)
            assert int(serving.task("T")["tokens.S"]) > 0
            await client.ask(RESUMES)
        await used(serving, 0)
