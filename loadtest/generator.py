"""A load generator for HTTP/1.1: prebuilt requests over keep-alive connections, one core's worth.

Open loop: a schedule made beforehand says when each request starts, and latency counts from that
moment, so that a server which stalls cannot make the generator wait with it. Closed loop: each
connection sends again as soon as it is answered; that finds the most calls per second. A request
that fails or does not end in time counts with the timeout as its latency.
"""

import asyncio
import gc
import itertools
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import cast

import httptools

from loadtest.ticker import Ticker

_LEAD_S = 0.02  # between making up a plan and its first moment


@dataclass(slots=True)
class Sample:
    """One request. Times are of `time.monotonic`, 0 for what never came; `problem` is "" if none.

    `first_byte_at` is that of the body; `events` are those of a stream.
    """

    intended_at: float
    sent_at: float = 0.0
    first_byte_at: float = 0.0
    ended_at: float = 0.0
    status: int = 0
    events: int = 0
    problem: str = ""


@dataclass
class Run:
    """What came of one run. `gaps_s` lie between two reads of one stream that brought events."""

    timeout_s: float
    offered_per_s: float = 0.0
    seconds: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    gaps_s: "array[float]" = field(default_factory=lambda: array("d"))

    @property
    def achieved_per_s(self) -> float:
        """Answered requests per second, from the first start to the last end."""
        return len(self.answered) / self.seconds if self.seconds else 0.0

    @property
    def answered(self) -> list[Sample]:
        """The requests that got a whole answer, of whatever status."""
        return [sample for sample in self.samples if not sample.problem]

    @property
    def events(self) -> int:
        """Events of all streams."""
        return sum(sample.events for sample in self.samples)

    def problems(self, expected_status: int = 200) -> list[str]:
        """What went wrong, a line for each request that was lost or answered otherwise."""
        return [
            sample.problem or f"status {sample.status}"
            for sample in self.samples
            if sample.problem or sample.status != expected_status
        ]

    def latencies_s(self) -> list[float]:
        """From intended start to end."""
        return [self._since(sample, sample.ended_at) for sample in self.samples]

    def first_bytes_s(self) -> list[float]:
        """From intended start to the first byte of the body."""
        return [self._since(sample, sample.first_byte_at) for sample in self.samples]

    def lags_s(self) -> list[float]:
        """How late the generator itself was."""
        return [sample.sent_at - sample.intended_at for sample in self.samples if sample.sent_at]

    def _since(self, sample: Sample, moment: float) -> float:
        return self.timeout_s if sample.problem or not moment else moment - sample.intended_at


# Schedules: seconds from the start of a run ---------------------------------------------------


def constant(rate: float, seconds: float) -> list[float]:
    """Starts at even distances."""
    return [index / rate for index in range(round(rate * seconds))]


def poisson(rate: float, seconds: float, rng: Random) -> list[float]:
    """Starts as independent callers make them: exponential distances."""
    starts: list[float] = []
    moment = rng.expovariate(rate)
    while moment < seconds:
        starts.append(moment)
        moment += rng.expovariate(rate)
    return starts


# The generator ----------------------------------------------------------------------------------


class Generator:
    """Sends `requests`, again and again in turn, to one address. Must be closed.

    Use as an async context manager. One run at a time.
    """

    def __init__(
        self, host: str, port: int, requests: Sequence[bytes], timeout_s: float = 10.0
    ) -> None:
        self._host, self._port = host, port
        self._requests: Iterator[bytes] = itertools.cycle(requests)
        self._timeout_s = timeout_s
        self._run = Run(timeout_s)
        self._connections: set[Connection] = set()
        self._idle: list[Connection] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self._last_start = 0.0
        self._send_again_until = 0.0
        self._all_ended = asyncio.Event()

    async def __aenter__(self) -> "Generator":
        """Nothing is opened yet."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all connections."""
        for task in list(self._connecting):
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)

    async def open(self, connections: int) -> None:
        """Have so many connections ready. Raises OSError."""
        while len(self._connections) < connections:
            self._idle.append(await self._connect())

    async def open_loop(self, schedule: Sequence[float]) -> Run:
        """Start requests at the moments of `schedule`, whatever becomes of those before."""
        seconds = schedule[-1] if schedule else 0.0
        run = self._begin(len(schedule) / seconds if seconds else 0.0)
        with _without_garbage_collection(), Ticker() as ticker:
            begin = time.monotonic() + _LEAD_S
            for offset in schedule:
                await ticker.until(begin + offset)
                self._start(Sample(begin + offset))
            await self._finish(begin)
        return run

    async def closed_loop(self, concurrency: int, seconds: float, stagger_s: float = 0.0) -> Run:
        """Keep `concurrency` requests under way for so long; begin them spread over `stagger_s`."""
        await self.open(concurrency)
        run = self._begin(0.0)
        with _without_garbage_collection(), Ticker() as ticker:
            begin = time.monotonic() + _LEAD_S
            self._send_again_until = begin + seconds
            for index in range(concurrency):
                moment = begin + stagger_s * index / concurrency
                await ticker.until(moment)
                self._start(Sample(moment))
            await ticker.until(self._send_again_until)
            await self._finish(begin)
        return run

    def _begin(self, offered_per_s: float) -> Run:
        self._run = Run(self._timeout_s, offered_per_s)
        return self._run

    async def _finish(self, begin: float) -> None:
        """Wait for what is under way, but no longer than the timeout of the last start."""
        self._send_again_until = 0.0
        self._all_ended.clear()
        if self._under_way:
            left_s = self._last_start + self._timeout_s - time.monotonic()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._all_ended.wait(), max(0.0, left_s))
        for connection in list(self._connections):
            connection.give_up()
        for sample in self._run.samples:
            if not sample.problem and sample.ended_at > sample.intended_at + self._timeout_s:
                sample.problem = "timeout"
        last = max((sample.ended_at for sample in self._run.samples), default=begin)
        self._run.seconds = last - begin

    # One request...

    def _start(self, sample: Sample) -> None:
        self._run.samples.append(sample)
        self._under_way += 1
        self._last_start = sample.intended_at
        if self._idle:
            self._idle.pop().send(next(self._requests), sample)
            return
        task = asyncio.get_running_loop().create_task(self._connect_and_send(sample))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect_and_send(self, sample: Sample) -> None:
        try:
            connection = await self._connect()
        except OSError as error:
            sample.problem = f"no connection: {error}"
            self._ended()
        else:
            connection.send(next(self._requests), sample)

    async def _connect(self) -> "Connection":
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: Connection(self), self._host, self._port
        )
        self._connections.add(connection)
        return connection

    def answered(self, connection: "Connection", *, keep_alive: bool) -> None:
        """Take back a connection whose answer is whole; in a closed loop another request starts."""
        if keep_alive:
            self._idle.append(connection)
        else:
            connection.abort()
        self._ended()
        now = time.monotonic()
        if now < self._send_again_until:
            self._start(Sample(now))

    def lost(self, connection: "Connection", *, had_request: bool) -> None:
        """Forget a connection that is gone."""
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if had_request:
            self._ended()

    def gap(self, seconds: float) -> None:
        """Note the time between two reads of a stream."""
        self._run.gaps_s.append(seconds)

    def _ended(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._all_ended.set()


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._parser = httptools.HttpResponseParser(self)
        self._sample: Sample | None = None
        self._now = self._last_event_at = 0.0
        self._ends_with_newline = False

    def send(self, request: bytes, sample: Sample) -> None:
        """Send a request; what comes of it is written into `sample`."""
        self._sample = sample
        self._last_event_at = 0.0
        self._transport.write(request)
        sample.sent_at = time.monotonic()

    def abort(self) -> None:
        """Drop the connection."""
        self._transport.abort()

    def give_up(self) -> None:
        """Drop the connection if its request is still under way."""
        if self._sample is not None:
            self._sample.problem = "timeout"
            self.abort()

    # asyncio.Protocol...

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own, no subclass

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._now = time.monotonic()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if self._sample is not None:
                self._sample.problem = f"not HTTP: {error}"
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the request under way as lost."""
        sample, self._sample = self._sample, None
        if sample is not None and not sample.problem:
            sample.problem = f"connection lost: {exc}" if exc else "connection closed"
        self._generator.lost(self, had_request=sample is not None)

    # httptools...

    def on_body(self, body: bytes) -> None:
        """Count the events, which end with an empty line; it may come in two reads."""
        sample = self._sample
        if sample is None:
            return
        if not sample.first_byte_at:
            sample.first_byte_at = self._now
            self._ends_with_newline = False
        events = body.count(b"\n\n") + (self._ends_with_newline and body.startswith(b"\n"))
        self._ends_with_newline = body.endswith(b"\n")
        if events:
            sample.events += events
            if self._last_event_at and self._now > self._last_event_at:
                self._generator.gap(self._now - self._last_event_at)
            self._last_event_at = self._now

    def on_message_complete(self) -> None:
        """End the request."""
        sample = self._sample
        if sample is None:
            return
        sample.ended_at = self._now
        sample.status = self._parser.get_status_code()
        self._sample = None
        self._generator.answered(self, keep_alive=self._parser.should_keep_alive())


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Keep the generator's own pauses out of the figures."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
