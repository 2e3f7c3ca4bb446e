"""Step 7, relay: bytes back as they come. The provider's connection pushes, the client's is written
in the same callback; there is no task, await or queue per chunk.
"""

import asyncio
from typing import Protocol

from gateway.core.budget_comment import BudgetComment
from gateway.core.configuration import UpstreamSettings
from gateway.core.dialects.stream_end import Cut
from gateway.core.dialects.wire_format import ModelRequest, WireFormat
from gateway.core.disconnect import Disconnect
from gateway.core.errors import UpstreamError
from gateway.core.headers import RULES, Headers, response_headers
from gateway.core.meter import JsonMeter, Meter, Observation, PlainMeter, StreamMeter
from gateway.ports import Clock, Downstream, Exchange


class Carried(Protocol):
    """What is known of one answer on its way, whatever carries it: what a call is charged by.

    `sent` tells that the request may have reached the provider, `complete` that its answer ended as
    it should, `error` why it did not; `drain_cut` names the cap that ended an answer that was read
    on without its client.
    """

    sent: bool
    status: int
    error: UpstreamError | None
    complete: bool
    client_left_early: bool
    drain_cut: str
    first_byte_at: float

    @property
    def seen(self) -> Observation:
        """Return what was read of the answer so far."""

    @property
    def is_stream(self) -> bool:
        """Return whether the answer comes in events."""

    @property
    def answered(self) -> bool:
        """Return whether any of the answer went to the client."""


_EVENT_STREAM = b"text/event-stream"
_LINES = b"application/x-ndjson"
_OK = 200
_SOUND = b"audio/"  # holds no report, and is not worth a copy


class Drains:
    """The answers of one provider that are read on without their clients. One a worker."""

    def __init__(self, upstream: UpstreamSettings) -> None:
        self.most_s = upstream.drain_ms / 1000
        self.most_bytes = upstream.drain_max_bytes
        self.open = 0
        self._most = upstream.max_draining
        self._takes_streams = upstream.disconnect is Disconnect.DRAIN

    def takes(self, *, stream: bool) -> bool:
        """Return whether it is worth reading on: what is no stream is billed in full."""
        return self._takes_streams or not stream

    def enter(self) -> bool:
        """Take one more, if there is room for it; then it must `leave`."""
        if self.open >= self._most:
            return False
        self.open += 1
        return True

    def leave(self) -> None:
        """Take note that one has ended."""
        self.open -= 1


class Relay:
    """One answer on its way back: a ResponseSink for the provider, a Flow for the client."""

    def __init__(
        self,
        downstream: Downstream,
        clock: Clock,
        *,
        wire: WireFormat | None,
        asked: ModelRequest | None,
        hide_usage: bool,
        head_lines: str,
        drains: Drains,
    ) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.status = 0
        self.error: UpstreamError | None = None
        self.sent = False
        self.complete = False
        self.client_left_early = False
        self.drain_cut = ""
        self.passed_over = ""
        self.first_byte_at = 0.0
        self.stopped = ""
        self._stop_message = ""
        self._may_grow = False
        self._downstream = downstream
        self._clock = clock
        self._wire = wire
        self.hides_usage = hide_usage
        self._streaming = asked is not None and asked.stream
        self._is_made_elsewhere = asked.is_background if asked is not None else wire is not None
        self._head_lines = head_lines
        self._drains = drains
        self.comment: BudgetComment | None = None
        self._drains_now = False
        self._drained_bytes = 0
        self._meter: Meter = PlainMeter()
        self._exchange: Exchange | None = None
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def seen(self) -> Observation:
        """Return what the meter has read so far."""
        return self._meter.seen

    @property
    def is_stream(self) -> bool:
        """Return whether the answer is one, or was asked to be."""
        return self._streaming

    @property
    def answered(self) -> bool:
        """Return whether the provider's head went to the client: no other answer may follow."""
        return self.status != 0

    def follow(self, exchange: Exchange) -> None:
        """Take the connection whose reading is paused, resumed and cancelled from here."""
        self._exchange = exchange
        self._downstream.attach(self)

    # From the provider --------------------------------------------------------------------------

    def on_head(self, status: int, headers: Headers, length: int | None) -> None:
        """Send the head on, and choose how the body is read."""
        self.status = status
        self.first_byte_at = self._clock()
        kind = _content_type(headers)
        is_events = kind.startswith(_EVENT_STREAM)
        self._streaming = is_events or kind.startswith(_LINES)
        if self._wire is not None and not kind.startswith(_SOUND):
            self._meter = (
                StreamMeter(self._wire, hide_usage=self.hides_usage)
                if is_events
                else JsonMeter(self._wire)
            )
        hides = self._streaming and self.hides_usage
        self._may_grow = hides or length is None
        if self.comment is not None and not self._takes_comment(headers, is_events=is_events):
            self.comment = None
        if not self.client_left_early:
            self._downstream.start(
                status, response_headers(headers), self._head_lines, None if hides else length
            )

    def _takes_comment(self, headers: Headers, *, is_events: bool) -> bool:
        """Return whether a comment may stand behind the events of this answer."""
        return (
            self._wire is not None
            and self._wire.takes_comments
            and is_events
            and self._may_grow
            and self.status == _OK
            and _value(headers, b"content-encoding") in (b"", b"identity")
        )

    def on_body(self, data: bytes) -> None:
        """Send bytes on, as far as the meter does not hold them back."""
        passing = self._meter.feed(data)
        if self.stopped:
            self._stop_behind_event(passing)
        elif self.client_left_early:
            self._count_drained(len(data))
        elif passing:
            self._downstream.write(passing)

    def on_end(self) -> None:
        """End the client's answer."""
        unfinished = self._meter.unfinished if self.comment is not None else 0
        rest = self._meter.end()
        self.complete, self.stopped = True, ""
        if not self.client_left_early:
            if rest:
                self._downstream.write(rest)
            if self.comment is not None and not unfinished and not rest:
                self._downstream.write(self.comment.line(self.seen.reported_usage()))
            self._downstream.finish()
        self._finish()

    def on_broken(self, error: UpstreamError) -> None:
        """Cut the client's answer, if it has begun: it must not look whole."""
        self.error, self.stopped = error, ""
        rest = self._meter.end()
        if self.answered and not self.client_left_early:
            if rest:
                self._downstream.write(rest)
            self._downstream.abort()
        self._finish()

    # From the task ------------------------------------------------------------------------------

    def stop(self, code: str, message: str) -> bool:
        """End an open stream behind its last whole event, and tell why; False if it is none.

        Of the answer nothing more is read. JSON answers, streams that were announced with their
        length and those without a client go on.
        """
        wire = self._wire
        if (
            wire is None
            or wire.stream_end is None
            or self.stopped
            or self.done.done()
            or self.client_left_early
            or not (self._streaming and self._may_grow and self.status == _OK)
            or isinstance(self._meter, StreamMeter) is wire.streams_lines
        ):
            return False
        self.stopped, self._stop_message = code, message
        if not self._meter.unfinished:
            self._stop_now()
        return True

    def _stop_behind_event(self, passing: bytes) -> None:
        """Send on what belongs to whole events, and end there if any has become whole."""
        whole = len(passing) - self._meter.unfinished
        if whole > 0:
            self._downstream.write(passing[:whole])
            self._stop_now()
        elif passing:
            self._downstream.write(passing)

    def _stop_now(self) -> None:
        seen, meter = self._meter.seen, self._meter
        number = meter.next_number if isinstance(meter, StreamMeter) else 0
        cut = Cut(self.stopped, self._stop_message, seen.answer_id, seen.model, number)
        if self._wire is not None and self._wire.stream_end is not None:
            self._downstream.write(self._wire.stream_end(cut))
        self._downstream.finish()
        self._give_up()

    # From the client ----------------------------------------------------------------------------

    def client_is_slow(self) -> None:
        """Stop reading from the provider."""
        if self._exchange is not None:
            self._exchange.pause()

    def client_caught_up(self) -> None:
        """Go on reading from the provider."""
        if self._exchange is not None:
            self._exchange.resume()

    def client_left(self) -> None:
        """Read on for the usage, within caps, what the provider bills on; stop everything else.

        Source: `docs/wire.md`, what a provider bills after a disconnect. What is read on is kept
        by nobody but the meter. No disconnect stops an answer in the background.
        """
        if self.done.done() or self._exchange is None:
            return
        self.client_left_early, self.stopped = True, ""
        can_stop = self._streaming and not self._is_made_elsewhere
        if self._wire is None or not self._drains.takes(stream=can_stop):
            self._give_up()
        elif self._drains.enter():
            self._drains_now = True
            self._exchange.resume()
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(self._drains.most_s, self._cut_drain, "time")
        else:
            self._cut_drain("count")

    def give_up_unsent(self) -> None:
        """End without an answer: the client left before anything was sent."""
        self.client_left_early = True
        self._finish()

    def pass_over(self, reason: str) -> None:
        """End without an answer: another upstream is to give one (`fallback.py`)."""
        self.passed_over = reason
        self.sent = False
        self._finish()

    def cancel_rest(self) -> None:
        """Stop reading an answer that was passed over."""
        if self._exchange is not None:
            self._exchange.cancel()

    def _count_drained(self, size: int) -> None:
        self._drained_bytes += size
        if self._drained_bytes > self._drains.most_bytes:
            self._cut_drain("bytes")

    def _cut_drain(self, cap: str) -> None:
        """Stop what would be read on, for the cap that it has hit: `time`, `bytes` or `count`."""
        self.drain_cut = cap
        self._give_up()

    def _give_up(self) -> None:
        if self._exchange is not None and not self.done.done():
            self._exchange.cancel()
            self._meter.end()
            self._finish()

    def _finish(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self._drains_now:
            self._drains_now = False
            self._drains.leave()
        if not self.done.done():
            self.done.set_result(None)


def _content_type(headers: Headers) -> bytes:
    return _value(headers, b"content-type")


def _value(headers: Headers, wanted: bytes) -> bytes:
    for name, value in headers:
        if RULES[name].lower == wanted:
            return value.lower()
    return b""
