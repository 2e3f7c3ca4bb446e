"""The relay between a provider that pushes and a client that may be slow, or gone."""

import asyncio
import json
from typing import Any

import pytest

from gateway.core.budget_comment import BudgetComment
from gateway.core.configuration import UpstreamSettings
from gateway.core.dialects.ollama import OLLAMA
from gateway.core.dialects.openai_chat import OPENAI_CHAT
from gateway.core.dialects.openai_other import OPENAI_EMBEDDINGS
from gateway.core.dialects.wire_format import ModelRequest, WireFormat
from gateway.core.disconnect import Disconnect
from gateway.core.errors import UpstreamError
from gateway.core.headers import Headers
from gateway.ports import Answer, Flow
from gateway.relay import Drains, Relay

JSON = [(b"Content-Type", b"application/json")]
SSE = [(b"content-type", b"Text/Event-Stream; charset=utf-8")]
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
ANSWER = json.dumps({"choices": [{"message": {"content": "hi"}}], "usage": USAGE}).encode()
TEXT_EVENT = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'
USAGE_EVENT = b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n"
DONE = b"data: [DONE]\n\n"
BROKEN = UpstreamError("upstream_broken", "gone", sent=True)


class Client:
    """ports.Downstream that writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []
        self.flow: Flow | None = None
        self.is_open = True

    def start(self, status: int, headers: Headers, budget_lines: str, length: int | None) -> None:
        self.heard.append(("start", status, headers, budget_lines, length))

    def write(self, data: bytes) -> None:
        self.heard.append(("write", data))

    def finish(self) -> None:
        self.heard.append(("finish",))

    def send(self, answer: Answer, budget_lines: str) -> None:
        raise AssertionError("a relay has no answer of its own")

    def abort(self) -> None:
        self.heard.append(("abort",))

    def attach(self, flow: Flow) -> None:
        self.flow = flow

    @property
    def body(self) -> bytes:
        return b"".join(
            entry[1] for entry in self.heard if entry[0] == "write" and isinstance(entry[1], bytes)
        )

    @property
    def kinds(self) -> list[object]:
        return [entry[0] for entry in self.heard]


class Provider:
    """ports.Exchange that writes down what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def send(self, method: bytes, target: bytes, headers: Headers, body: bytes) -> None:
        self.asked.append("send")

    def pause(self) -> None:
        self.asked.append("pause")

    def resume(self) -> None:
        self.asked.append("resume")

    def cancel(self) -> None:
        self.asked.append("cancel")


class Line:
    """A relay with its two ends."""

    def __init__(
        self,
        *,
        metered: bool = True,
        stream: bool = False,
        hide_usage: bool = False,
        drains: Drains | None = None,
        wire: WireFormat = OPENAI_CHAT,
        comment: BudgetComment | None = None,
        **upstream: Any,
    ) -> None:
        self.client, self.provider = Client(), Provider()
        self.drains = drains or Drains(UpstreamSettings("https://a.example", **upstream))
        self.relay = Relay(
            self.client,
            lambda: 7.0,
            wire=wire if metered else None,
            asked=ModelRequest("m", stream=stream) if metered else None,
            hide_usage=hide_usage,
            head_lines="x-budget: 1\r\n",
            drains=self.drains,
        )
        self.relay.comment = comment

    def follow(self) -> None:
        self.relay.sent = True
        self.relay.follow(self.provider)


async def test_a_json_answer() -> None:
    """Head, body, end go on as they come; the usage is read at the end."""
    line = Line()
    line.follow()
    assert line.client.flow is line.relay
    line.relay.on_head(200, [*JSON, (b"Connection", b"x-odd"), (b"X-Odd", b"1")], len(ANSWER))
    assert line.client.heard == [("start", 200, JSON, "x-budget: 1\r\n", len(ANSWER))]
    assert (line.relay.first_byte_at, line.relay.answered) == (7.0, True)
    line.relay.on_body(ANSWER[:10])
    line.relay.on_body(ANSWER[10:])
    assert not line.relay.done.done()
    line.relay.on_end()
    assert line.client.body == ANSWER
    assert line.client.kinds[-1] == "finish"
    assert (line.relay.complete, line.relay.done.done()) == (True, True)
    usage = line.relay.seen.reported_usage()
    assert usage is not None
    assert usage.total == 5


@pytest.mark.parametrize("hide", [True, False])
async def test_a_stream(hide: bool) -> None:
    """The usage event is left out only where nobody asked; then the length is not known."""
    line = Line(stream=True, hide_usage=hide)
    line.follow()
    body = TEXT_EVENT + USAGE_EVENT + DONE
    line.relay.on_head(200, SSE, len(body))
    assert line.client.heard[0][-1] == (None if hide else len(body))
    line.relay.on_body(body)
    line.relay.on_end()
    assert line.client.body == (TEXT_EVENT + DONE if hide else body)
    assert line.relay.is_stream
    assert line.relay.seen.reported_usage() is not None


async def test_an_unfinished_event_is_passed_at_the_end() -> None:
    """What was held back to be read is never lost, whether the answer is whole or broken."""
    for is_whole in (True, False):
        line = Line(stream=True, hide_usage=True)
        line.follow()
        line.relay.on_head(200, SSE, None)
        line.relay.on_body(TEXT_EVENT + b'data: {"cho')
        assert line.client.body == TEXT_EVENT
        if is_whole:
            line.relay.on_end()
        else:
            line.relay.on_broken(BROKEN)
        assert line.client.body == TEXT_EVENT + b'data: {"cho'
        assert line.client.kinds[-1] == ("finish" if is_whole else "abort")


async def test_a_stream_that_is_answered_with_json() -> None:
    """An error, mostly: the head decides how the body is read."""
    line = Line(stream=True, hide_usage=True)
    line.follow()
    line.relay.on_head(400, JSON, 20)
    assert line.client.heard[0][-1] == 20
    assert not line.relay.is_stream
    line.relay.on_body(b'{"error":{"code":1}}')
    line.relay.on_end()
    assert line.relay.seen.error_seen


async def test_what_is_not_metered_is_not_read() -> None:
    """Not even if it looks like an answer."""
    line = Line(metered=False)
    line.follow()
    line.relay.on_head(200, [], None)
    assert not line.relay.is_stream
    line.relay.on_body(ANSWER)
    line.relay.on_end()
    assert line.client.body == ANSWER
    assert line.relay.seen.usage is None


async def test_broken_before_the_head() -> None:
    """The client has heard nothing yet: it can still be told."""
    line = Line()
    line.follow()
    line.relay.on_broken(BROKEN)
    assert line.client.heard == []
    assert (line.relay.error, line.relay.complete) == (BROKEN, False)
    assert line.relay.done.done()


async def test_a_slow_client_slows_the_provider() -> None:
    """And lets it go on."""
    line = Line()
    line.relay.client_is_slow()  # before there is a provider
    line.relay.client_caught_up()
    line.follow()
    line.relay.client_is_slow()
    line.relay.client_caught_up()
    assert line.provider.asked == ["pause", "resume"]


@pytest.mark.parametrize("has_head", [True, False])
async def test_a_client_that_leaves_a_stream_stops_it(has_head: bool) -> None:
    """Nobody bills more after that."""
    line = Line(stream=True, hide_usage=True)
    line.follow()
    if has_head:
        line.relay.on_head(200, SSE, None)
        line.relay.on_body(TEXT_EVENT)
    line.relay.client_left()
    assert line.provider.asked == ["cancel"]
    assert line.relay.done.done()
    assert line.relay.client_left_early
    assert line.relay.seen.chars == (2 if has_head else 0)
    line.relay.client_left()  # a second time changes nothing
    assert line.provider.asked == ["cancel"]


async def test_a_client_that_leaves_a_json_call_does_not_stop_it() -> None:
    """It is billed in full: it is read to its end, though nobody gets it."""
    line = Line()
    line.follow()
    line.relay.client_is_slow()
    line.relay.client_left()
    assert line.provider.asked == ["pause", "resume"]
    assert not line.relay.done.done()
    line.relay.on_head(200, JSON, len(ANSWER))
    line.relay.on_body(ANSWER)
    line.relay.on_end()
    assert line.client.heard == []
    assert line.relay.done.done()
    assert line.relay.seen.reported_usage() is not None


async def test_reading_on_has_an_end() -> None:
    """A provider that does not finish in time is given up."""
    line = Line(drain_ms=10)
    line.follow()
    line.relay.client_left()
    assert line.drains.open == 1
    await asyncio.wait_for(line.relay.done, 30)
    assert line.provider.asked == ["resume", "cancel"]
    assert not line.relay.complete
    assert (line.relay.drain_cut, line.drains.open) == ("time", 0)


@pytest.mark.parametrize("has_head", [True, False])
async def test_a_stream_of_a_provider_that_bills_on_is_read_on(has_head: bool) -> None:
    """For its usage; its client hears no more of it, and an answer fully read leaves no trace."""
    line = Line(stream=True, hide_usage=True, disconnect=Disconnect.DRAIN)
    line.follow()
    if has_head:
        line.relay.on_head(200, SSE, None)
    line.relay.client_left()
    assert (line.provider.asked, line.drains.open) == (["resume"], 1)
    heard = len(line.client.heard)
    if not has_head:
        line.relay.on_head(200, SSE, None)
    line.relay.on_body(TEXT_EVENT + USAGE_EVENT)
    line.relay.on_body(DONE)
    line.relay.on_end()
    assert len(line.client.heard) == heard
    assert (line.relay.complete, line.relay.client_left_early) == (True, True)
    assert line.relay.seen.reported_usage() is not None
    assert (line.provider.asked, line.drains.open) == (["resume"], 0)


async def test_reading_on_is_capped_in_bytes() -> None:
    """Of body, from when the client left; what came before does not count, nor is it forgotten."""
    line = Line(stream=True, disconnect=Disconnect.DRAIN, drain_max_bytes=2 * len(TEXT_EVENT))
    line.follow()
    line.relay.on_head(200, SSE, None)
    for _ in range(3):
        line.relay.on_body(TEXT_EVENT)
    line.relay.client_left()
    for _ in range(2):
        line.relay.on_body(TEXT_EVENT)
    assert not line.relay.done.done()
    line.relay.on_body(TEXT_EVENT)
    assert (line.relay.drain_cut, line.drains.open) == ("bytes", 0)
    assert line.provider.asked == ["resume", "cancel"]
    assert line.relay.seen.chars == 12


async def test_reading_on_is_capped_in_number() -> None:
    """One more is cancelled; when one has ended there is room again."""
    drains = Drains(UpstreamSettings("https://a", disconnect=Disconnect.DRAIN, max_draining=1))
    first, second, third = (Line(stream=True, drains=drains) for _ in range(3))
    for line in (first, second, third):
        line.follow()
    first.relay.client_left()
    second.relay.client_left()
    assert (second.relay.drain_cut, second.provider.asked) == ("count", ["cancel"])
    assert (first.relay.drain_cut, drains.open) == ("", 1)
    first.relay.on_broken(BROKEN)
    third.relay.client_left()
    assert (third.provider.asked, drains.open) == (["resume"], 1)
    third.relay.on_broken(BROKEN)
    assert drains.open == 0


async def test_reading_on_until_it_breaks() -> None:
    """Then that was all; the deadline has no effect any more."""
    line = Line(drain_ms=10)
    line.follow()
    line.relay.on_head(200, JSON, None)
    line.relay.client_left()
    line.relay.on_broken(BROKEN)
    await asyncio.sleep(0.05)
    assert line.provider.asked == ["resume"]
    assert line.client.kinds == ["start"]


async def test_a_client_that_leaves_what_is_passed_through() -> None:
    """Nobody needs the rest."""
    line = Line(metered=False)
    line.follow()
    line.relay.on_head(200, [], None)
    line.relay.client_left()
    assert line.provider.asked == ["cancel"]


async def test_a_client_that_leaves_before_anything_was_sent() -> None:
    """There is no provider to tell; the lifecycle sees it."""
    line = Line()
    line.relay.client_left()
    assert not line.relay.done.done()
    line.relay.give_up_unsent()
    assert line.relay.done.done()
    assert (line.relay.client_left_early, line.relay.sent) == (True, False)


async def test_an_answer_that_ends_is_over() -> None:
    """A client that leaves afterwards changes nothing."""
    line = Line()
    line.follow()
    line.relay.on_head(200, JSON, 2)
    line.relay.on_body(b"{}")
    line.relay.on_end()
    line.relay.client_left()
    assert line.provider.asked == []
    assert not line.relay.client_left_early


# A stream that is stopped -------------------------------------------------------------------------


CUT = b'data: {"error":{"message":"M","type":"billing_error","param":null,"code":"C"}}\n\n' + DONE


def stream(*, hide_usage: bool = False, length: int | None = None, **line: Any) -> Line:
    """Return a line in the middle of a stream."""
    made = Line(stream=True, hide_usage=hide_usage, **line)
    made.follow()
    made.relay.on_head(200, SSE, length)
    return made


def assert_stopped(line: Line, body: bytes) -> None:
    assert line.client.body == body
    assert line.client.kinds[-1] == "finish"
    assert line.provider.asked == ["cancel"]
    assert line.relay.done.done()
    assert (line.relay.stopped, line.relay.complete, line.relay.error) == ("C", False, None)


@pytest.mark.parametrize("hide", [True, False])
async def test_a_stream_ends_behind_its_last_whole_event(*, hide: bool) -> None:
    """At once where the client has whole events only; nothing more is read from the provider."""
    line = stream(hide_usage=hide)
    line.relay.on_body(TEXT_EVENT)
    assert line.relay.stop("C", "M")
    assert not line.relay.stop("C", "M")
    assert_stopped(line, TEXT_EVENT + CUT)
    assert line.relay.seen.chars == 2


@pytest.mark.parametrize("at", range(1, len(TEXT_EVENT)))
async def test_an_event_is_never_cut(at: int) -> None:
    """Wherever the bytes are cut; what comes behind the event is dropped."""
    line = stream()
    line.relay.on_body(TEXT_EVENT + TEXT_EVENT[:at])
    assert line.relay.stop("C", "M")
    assert not line.relay.done.done()
    line.relay.on_body(TEXT_EVENT[at : at + 1])
    if at + 1 < len(TEXT_EVENT):
        line.relay.on_body(TEXT_EVENT[at + 1 :] + TEXT_EVENT[:9])
    assert_stopped(line, TEXT_EVENT * 2 + CUT)


async def test_a_part_that_is_held_back_is_dropped() -> None:
    """The client has none of it."""
    line = stream(hide_usage=True)
    line.relay.on_body(TEXT_EVENT + TEXT_EVENT[:20])
    assert line.relay.stop("C", "M")
    assert_stopped(line, TEXT_EVENT + CUT)


async def test_a_long_event_is_awaited() -> None:
    """Part of it has passed, though usage is hidden."""
    line = stream(hide_usage=True)
    long = b"data: " + b"x" * 20_000
    line.relay.on_body(long)
    assert line.relay.stop("C", "M")
    line.relay.on_body(b"y")
    assert not line.relay.done.done()
    line.relay.on_body(b"\n\n" + TEXT_EVENT)
    assert_stopped(line, long + b"y\n\n" + TEXT_EVENT + CUT)


async def test_a_line_is_never_cut() -> None:
    """Ollama's streams are lines of JSON."""
    line = Line(stream=True, wire=OLLAMA)
    line.follow()
    line.relay.on_head(200, [(b"Content-Type", b"application/x-ndjson")], None)
    line.relay.on_body(b'{"response":"a"}\n{"resp')
    assert line.relay.stop("C", "M")
    line.relay.on_body(b'onse":"b"}\n{"re')
    assert_stopped(line, b'{"response":"a"}\n{"response":"b"}\n{"error":"M (C)"}\n')
    assert line.relay.seen.text == ["ab"]


async def test_a_stream_that_ends_by_itself_first_is_whole() -> None:
    """Or is broken, or left: then that is what became of it."""
    for end, is_whole in ((Relay.on_end, True), (Relay.client_left, False), (_break, False)):
        line = stream()
        line.relay.on_body(TEXT_EVENT + b"data: {")
        assert line.relay.stop("C", "M")
        end(line.relay)
        assert (line.relay.stopped, line.relay.complete) == ("", is_whole)
        assert line.client.body == TEXT_EVENT + b"data: {"
        assert not line.relay.stop("C", "M")


def _break(relay: Relay) -> None:
    relay.on_broken(BROKEN)


async def test_what_is_never_stopped() -> None:
    """JSON answers, what has a length, errors, what is not metered, what has not begun."""
    json_answer = Line(stream=True)
    json_answer.follow()
    json_answer.relay.on_head(200, JSON, None)
    failed = Line(stream=True)
    failed.follow()
    failed.relay.on_head(429, SSE, None)
    unmetered = Line(metered=False, stream=True)
    unmetered.follow()
    unmetered.relay.on_head(200, SSE, None)
    unbegun = Line(stream=True)
    unbegun.follow()
    no_end = stream(wire=OPENAI_EMBEDDINGS)
    for line in (json_answer, failed, unmetered, unbegun, no_end, stream(length=900)):
        assert not line.relay.stop("C", "M")
        line.relay.on_body(TEXT_EVENT)
        assert not line.relay.done.done()
        assert line.client.body == TEXT_EVENT
