"""The fake provider as a server: framing, routes, scripts, the journal."""

import asyncio
import json

import pytest

from loadtest.fake_provider import FakeProvider, Received, Script, ScriptError
from tests.loadtest.wire import CHAT, HELLO, Wire, chat, request


async def test_a_connection_is_kept_for_many_calls(provider: FakeProvider) -> None:
    """Three calls of different kinds go over one connection."""
    async with Wire(provider.base_url) as wire:
        assert (await wire.ask(chat())).status == 200
        assert (await wire.ask(chat(stream=True))).events[-1] == "[DONE]"
        assert (await wire.ask(request("GET", "/v1/models"))).status == 200
        assert provider.connections_open == 1
    assert provider.connections_accepted == 1
    await provider.until(lambda: provider.connections_open == 0)


async def test_pipelined_requests_are_answered_in_order(provider: FakeProvider) -> None:
    """A slow answer holds back those behind it, however many came with it."""
    tags = [str(number) for number in range(100)]
    sent = [chat({"x-request-tag": tag}, model=tag) for tag in tags]
    sent[0] = chat({"x-request-tag": "0", "x-fake-ttfb-ms": "20"}, model="0", stream=True)
    async with Wire(provider.base_url) as wire:
        wire.writer.write(b"".join(sent))
        assert (await wire.reply()).chunks[0]["model"] == "0"
        assert [(await wire.reply()).json["model"] for _ in tags[1:]] == tags[1:]
    assert [entry.tag for entry in provider.journal] == tags
    assert [entry.number for entry in provider.journal] == list(range(1, 101))


async def test_a_request_may_come_byte_by_byte(provider: FakeProvider) -> None:
    """Where the client cuts its bytes makes no difference."""
    async with Wire(provider.base_url) as wire:
        for byte in chat({"x-request-tag": "slow"}):
            wire.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await wire.reply()).status == 200
    assert provider.requests[0].target == CHAT
    assert json.loads(provider.requests[0].body) == HELLO
    assert provider.journal[0].tag == "slow"


async def test_echo_gives_back_a_chunked_body_and_notes_headers_as_they_came(
    provider: FakeProvider,
) -> None:
    """Any bytes survive; header names keep their case; trailers are not headers."""
    chunked = {"Transfer-Encoding": "chunked", "X-MiXed": "A b", "content-type": "image/x"}
    body = b"3\r\n\x00\xff\n\r\n18\r\n" + b"\0" * 24 + b"\r\n0\r\nx-trailer: t\r\n\r\n"
    async with Wire(provider.base_url) as wire:
        reply = await wire.ask(request("POST", "/v1/echo?a=%2F", headers=chunked) + body)
    assert reply.body == b"\x00\xff\n" + b"\0" * 24
    assert reply.headers["content-type"] == "image/x"
    received = provider.requests[0]
    assert (received.method, received.target, received.body) == (
        "POST",
        "/v1/echo?a=%2F",
        reply.body,
    )
    assert (b"X-MiXed", b"A b") in received.headers
    assert received.header(b"x-trailer") is None
    assert received.trailers == [(b"x-trailer", b"t")]


async def test_expect_is_answered_before_the_body_is_sent(provider: FakeProvider) -> None:
    """A client that waits for 100 Continue gets it, then the answer."""
    head = request("POST", "/v1/echo", headers={"Expect": "100-continue", "content-length": "2"})
    async with Wire(provider.base_url) as wire:
        assert (await wire.ask(head)).status == 100
        assert (await wire.ask(b"ok")).body == b"ok"


async def test_connection_close_is_honoured(provider: FakeProvider) -> None:
    """The answer says that it is the last, and it is."""
    async with Wire(provider.base_url) as wire:
        reply = await wire.ask(chat({"Connection": "close"}))
        assert reply.headers["connection"] == "close"
        assert await wire.is_closed()
    assert provider.journal[0].finished


async def test_what_is_no_http_gets_400_and_a_journal_entry(provider: FakeProvider) -> None:
    """A gateway that sends broken framing is found out."""
    async with Wire(provider.base_url) as wire:
        reply = await wire.ask(b"GET / HTTP/1.1\r\nbad header\r\n\r\n")
        assert reply.status == 400
        assert await wire.is_closed()
    assert [entry.status for entry in provider.journal] == [400]


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/v1/models", 200),
        ("HEAD", "/v1/models", 200),
        ("HEAD", "/v1/stream-bytes?n=9", 200),
        ("GET", "/v1/no-content", 204),
        ("HEAD", "/v1/no-content", 204),
        ("GET", CHAT, 404),
        ("POST", "/v1/videos", 404),
        ("HEAD", "/v1/nothing", 404),
    ],
)
async def test_routes(provider: FakeProvider, method: str, target: str, status: int) -> None:
    """Each route has its status, HEAD never has a body, and the connection stays in step."""
    async with Wire(provider.base_url) as wire:
        for _ in range(2):
            assert (await wire.ask(request(method, target))).status == status
    assert provider.totals().calls == 0


async def test_errors_have_the_shape_of_openai(provider: FakeProvider) -> None:
    """404, 401 and 400 carry an error object."""
    async with Wire(provider.base_url) as wire:
        unknown = await wire.ask(request("GET", "/v1/nothing"))
        bad_key = await wire.ask(chat({"Authorization": "Bearer bad-key"}))
        bad_body = await wire.ask(request("POST", CHAT, b"{"))
        no_messages = await wire.ask(request("POST", CHAT, b'{"model":"m"}'))
    assert unknown.json["error"]["type"] == "invalid_request_error"
    assert (bad_key.status, bad_key.json["error"]["code"]) == (401, "invalid_api_key")
    assert (bad_body.status, no_messages.status) == (400, 400)
    assert provider.totals().calls == 0


async def test_bytes_are_streamed_to_their_number(provider: FakeProvider) -> None:
    """Chunked with an end that can be seen, or until the connection closes."""
    async with Wire(provider.base_url) as wire:
        chunked = await wire.ask(request("GET", "/v1/stream-bytes?n=100001"))
        assert (chunked.complete, len(chunked.body)) == (True, 100_001)
        unsized = await wire.ask(request("GET", "/v1/until-close?n=40000"))
        assert "content-length" not in unsized.headers
        assert len(unsized.body) == 40_000
    assert all(entry.finished for entry in provider.journal)


async def test_a_reader_who_stops_stops_the_sender(provider: FakeProvider) -> None:
    """A gigabyte is not made for a client that does not read it."""
    async with Wire(provider.base_url) as wire:
        wire.writer.write(request("GET", "/v1/stream-bytes?n=1000000000"))
        await wire.head()
    await provider.until(lambda: provider.connections_open == 0)
    assert (provider.journal[0].finished, provider.journal[0].aborted) == (False, True)


class Reads(asyncio.Protocol):
    """Keeps what each read gave."""

    def __init__(self) -> None:
        self.reads: list[bytes] = []
        self.ended = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.reads.append(data)
        if b"".join(self.reads).endswith(b"\r\n0\r\n\r\n"):
            self.ended.set()


async def test_the_sizes_of_the_writes_can_be_prescribed(provider: FakeProvider) -> None:
    """A reader gets the bytes in just these pieces; an id that is cut in two is still whole."""
    writes = Script(completion_tokens=3, pieces=(1, 30), slice_bytes=7)
    provider.script(lambda _: writes)
    host, port = provider.base_url.removeprefix("http://").split(":")
    transport, client = await asyncio.get_running_loop().create_connection(Reads, host, int(port))
    transport.write(chat(stream=True))
    await client.ended.wait()
    transport.abort()
    sizes = [len(read) for read in client.reads]
    assert sizes[:2] == [1, 30]
    assert set(sizes[2:-1]) == {7}
    assert b"\0" not in b"".join(client.reads)
    await provider.until(lambda: provider.connections_open == 0)
    assert provider.journal[0].finished


async def test_slices_change_no_byte(provider: FakeProvider) -> None:
    """Sliced by one byte or not, the answer is the same, streamed or not."""
    async with Wire(provider.base_url) as wire:
        for stream in (False, True):
            whole = await wire.ask(chat(stream=stream))
            sliced = await wire.ask(chat({"x-fake-slice-bytes": "1"}, stream=stream))
            ident = whole.headers["x-request-id"][4:].encode()
            other = sliced.headers["x-request-id"][4:].encode()
            assert whole.body == sliced.body.replace(other, ident)


async def test_headers_go_over_the_hook_and_the_hook_over_the_default() -> None:
    """Three places say what an answer is like; the nearest to the request wins."""

    def hook(received: Received) -> Script | None:
        return Script(prompt_tokens=2, completion_tokens=2) if b"hook" in received.body else None

    async with FakeProvider(default=Script(prompt_tokens=1, completion_tokens=1)) as provider:
        provider.script(hook)
        async with Wire(provider.base_url) as wire:
            await wire.ask(chat())
            await wire.ask(chat(model="hook"))
            await wire.ask(chat({"X-Fake-Completion-Tokens": "3"}, model="hook"))
        amounts = [(entry.prompt_tokens, entry.completion_tokens) for entry in provider.journal]
    assert amounts == [(1, 1), (2, 2), (2, 3)]


async def test_a_script_that_cannot_be_played_is_an_error(provider: FakeProvider) -> None:
    """A misspelt header is a 400, a misspelt fault raises: no test passes by a typing error."""
    wrong = {"x-fake-fault": "cut", "x-fake-tokens": "1", "x-fake-line-end": "nl"}
    wrong["x-fake-ttfb-ms"] = "-1"
    async with Wire(provider.base_url) as wire:
        for name, value in wrong.items():
            assert (await wire.ask(chat({name: value}))).status == 400
    for fields in ({"fault": "status:x"}, {"line_end": "|"}, {"slice_bytes": -1}):
        with pytest.raises(ScriptError):
            Script(**fields)  # type: ignore[arg-type]


async def test_the_journal_can_be_read_and_reset_from_outside(provider: FakeProvider) -> None:
    """What is asked about the journal is not in it."""
    async with Wire(provider.base_url) as wire:
        await wire.ask(chat({"x-request-tag": "t", "x-fake-prompt-tokens": "5"}))
        listed = (await wire.ask(request("GET", "/_journal"))).json
        sums = (await wire.ask(request("GET", "/_totals"))).json
        assert (await wire.ask(request("DELETE", "/_journal"))).status == 204
        assert (await wire.ask(request("GET", "/_nothing"))).status == 404
    assert [(entry["tag"], entry["completion_tokens"]) for entry in listed] == [("t", 20)]
    assert (sums["calls"], sums["prompt_tokens"], sums["completion_tokens"]) == (1, 5, 20)
    assert (provider.journal, provider.requests) == ([], [])


async def test_requests_need_not_be_kept() -> None:
    """Under load only the journal grows; each final entry is reported once."""
    reported = []
    async with FakeProvider(keep_requests=False, on_served=reported.append) as provider:
        async with Wire(provider.base_url) as wire:
            await wire.ask(chat())
        assert provider.requests == []
        assert reported == provider.journal


async def test_stop_ends_what_is_under_way(provider: FakeProvider) -> None:
    """A hanging answer does not hold up the end; waiting for what never comes times out."""
    async with Wire(provider.base_url) as wire:
        wire.writer.write(chat({"x-fake-fault": "hang"}))
        await provider.until(lambda: bool(provider.journal))
        with pytest.raises(TimeoutError):
            await provider.until(lambda: provider.journal[0].finished, timeout_s=0.01)
        await provider.stop()
        assert await wire.is_closed()
    assert provider.journal[0].aborted
