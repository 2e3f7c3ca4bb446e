"""Clients that leave, providers that fail: nothing stays held, nobody is kept from a free budget.

Each call has a task of its own, so that it can be compared with what the provider served; fifty
calls share an ancestor, whose budget reaches for all of them. So every refusal would be a phantom.
"""

import asyncio
import json
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

from loadtest.fake_provider import FakeProvider, Received, Script, Served
from tests.e2e.conftest import LINE, StartGateway
from tests.e2e.running_gateway import PATIENCE_S, Gateway, until
from tests.soak import Sizes

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.slow,
    pytest.mark.soak,
]

AT_ONCE = 40
CALLS_PER_ANCESTOR = 50
CEILING = 100
MESSAGES = [{"role": "user", "content": " ".join(f"Say {n}, then go on." for n in range(12))}]
NOTHING_HELD = (0, 0, 0, 0)

STAYS = "stays to the end"
LEAVES = ("leaves in its own head", "leaves at once", "leaves at the head", "leaves in the body")
PROVIDER_ERRORS = ("status:429", "status:500", "status:529")
FAULTS = (*PROVIDER_ERRORS, "missing_usage", "truncate", "cut", "error_event", "reset")


@dataclass
class Attempt:
    """One call with what is done to it from both sides, and what its client saw of it."""

    number: int
    leaves: str
    stream: bool
    asks_usage: bool
    script: Script
    bytes_read: int
    head: bytes = field(default=b"", repr=False)

    @property
    def task(self) -> str:
        return f"call-{self.number}"

    @property
    def ancestor(self) -> str:
        return f"work-{self.number // CALLS_PER_ANCESTOR}"

    @property
    def is_answered_by_an_error(self) -> bool:
        """Whether the provider says nothing else, and so bills nothing."""
        kind, number = self.script.broken
        return kind == "status" or (kind == "error_event" and (number == 0 or not self.stream))

    @property
    def hears_the_end(self) -> bool:
        """Whether the gateway reads the answer to its end: also if the client of a JSON call goes."""
        return self.leaves == STAYS or not self.stream

    def request(self) -> bytes:
        body: dict[str, object] = {
            "model": "gpt-4o-mini",
            "messages": MESSAGES,
            "max_tokens": CEILING,
            "stream": self.stream,
        }
        if self.asks_usage:
            body["stream_options"] = {"include_usage": True}
        return chat_request(self.task, self.ancestor, body, f"X-Request-Tag: {self.number}\r\n")

    async def run(self, url: str) -> None:
        """Send the request, and read until the end or until the client has had enough."""
        place = urlsplit(url)
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        try:
            async with asyncio.timeout(PATIENCE_S):
                with suppress(ConnectionResetError):  # a cut answer is cut for the client too
                    await self._talk(reader, writer)
        finally:
            writer.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = self.request()
        if self.leaves == "leaves in its own head":
            writer.write(request[: self.bytes_read % 150])
            return
        writer.write(request)
        if self.leaves == "leaves at once":
            await asyncio.sleep(self.bytes_read / 100_000)
            return
        self.head = await reader.readuntil(b"\r\n\r\n")
        if self.leaves == STAYS:
            await reader.read()
        elif self.leaves == "leaves in the body":
            await reader.read(self.bytes_read)


def chat_request(task: str, ancestor: str, body: dict[str, object], more: str = "") -> bytes:
    """Return a whole request."""
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nConnection: close\r\n"
        f"X-Task-Id: {task}\r\nX-Task-Parent: {ancestor}\r\nX-Task-Phase: THINK\r\n{more}"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def attempts(calls: int, seed: int) -> list[Attempt]:
    """Return calls of all kinds in an order that the seed fixes."""
    chance = random.Random(seed)

    def attempt(number: int) -> Attempt:
        fault = chance.choice(FAULTS) if chance.random() < 0.4 else ""
        if fault in ("cut", "error_event"):
            fault += f":{chance.choice((0, 1, 7, 30))}"
        stream = chance.random() < 0.5
        return Attempt(
            number=number,
            leaves=STAYS if chance.random() < 0.6 else chance.choice(LEAVES),
            stream=stream,
            asks_usage=stream and chance.random() < 0.3,
            script=Script(
                completion_tokens=chance.randint(1, 60),
                ttfb_ms=chance.choice((0, 0, 5, 30)),
                chunk_delay_ms=chance.choice((0, 0, 1, 3)),
                fault=fault,
            ),
            bytes_read=chance.randint(1, 6_000),
        )

    return [attempt(number) for number in range(calls)]


async def test_calls_under_faults(
    start_gateway: StartGateway, provider: FakeProvider, worst_case: str, sizes: Sizes
) -> None:
    """H is 0, no phantom block; settled is the provider's journal wherever usage was delivered."""
    gateway = await start_gateway(
        workers=2,
        TOLLGATE_POLICIES__DIR=worst_case,
        TOLLGATE_LIMITS__MAX_LOOP_LAG_MS="20000",  # a busy machine is no overload
    )
    made = attempts(sizes.calls, seed=20_261_123)
    ancestors = list(dict.fromkeys(attempt.ancestor for attempt in made))
    await create(gateway, ancestors)
    provider.reset()

    def script_of(request: Received) -> Script | None:
        tag = request.header(b"x-request-tag")
        return made[int(tag)].script if tag is not None else None

    provider.script(script_of)
    turns = asyncio.Semaphore(AT_ONCE)

    async def run(attempt: Attempt) -> None:
        async with turns:
            await attempt.run(gateway.url)

    await asyncio.gather(*map(run, made))
    await until(lambda: gateway.store.zcard(gateway.keys.leases) == 0, "the end of all calls")

    def is_over(entry: Served) -> bool:
        return entry.finished or entry.aborted or bool(made[int(entry.tag)].script.fault)

    await provider.until(lambda: all(map(is_over, provider.journal)), 30)
    journal = {int(entry.tag): entry for entry in provider.journal}
    verdict = Verdict()
    for attempt in made:
        verdict.take(attempt, journal.get(attempt.number), gateway)
    verdict.check_ancestors(gateway, ancestors)
    verdict.check_that_all_occurred(sizes)
    await check_that_the_rest_is_free(gateway, provider, ancestors)
    failures = ("internal_error", "store_failed", "worker_died", "call_expired")
    assert not [event for name in failures for event in gateway.log_events(name)]
    print(f"{sizes.calls} calls: {dict(verdict.seen)}")


async def create(gateway: Gateway, tasks: list[str]) -> None:
    """Make one call for each: an ancestor has a budget once it is known."""
    async with gateway.client() as client:
        for task in tasks:
            body = {"model": "m", "messages": MESSAGES, "max_tokens": 1}
            answer = await client.post(
                "/v1/chat/completions", json=body, headers={"x-task-id": task}
            )
            assert answer.status_code == 200
            await gateway.settled(task, 1)


async def check_that_the_rest_is_free(
    gateway: Gateway, provider: FakeProvider, ancestors: list[str]
) -> None:
    """A call that wants everything gets all that was not used: no hold was forgotten."""
    provider.script(None)
    async with gateway.client() as client:
        for task in ancestors:
            spent = gateway.number(task, "tokens.S")
            answer = await client.post(
                "/v1/chat/completions",
                json={"model": "m", "messages": MESSAGES, "max_tokens": 500_000},
                headers={"x-task-id": f"rest-of-{task}", "x-task-parent": task},
            )
            assert answer.status_code == 200, answer.text
            body = provider.requests[-1].body
            granted = json.loads(body)["max_tokens"]
            assert LINE - spent - 2 * len(body) < granted < LINE - spent
            await gateway.settled(f"rest-of-{task}", 1)


class Verdict:
    """Compares what was settled with what the provider served."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.settled: Counter[str] = Counter()

    def take(self, attempt: Attempt, served: Served | None, gateway: Gateway) -> None:
        """Judge one call by its task's totals."""
        assert gateway.held(attempt.task) == NOTHING_HELD, attempt
        assert gateway.held(attempt.task, "THINK.") == NOTHING_HELD, attempt
        assert b"x-tollgate-decision: refuse" not in attempt.head, attempt
        fields = gateway.task(attempt.task)
        tokens, calls = int(fields.get("tokens.S", 0)), int(fields.get("calls.S", 0))
        is_estimate = fields.get("estimated.calls") == "1"
        self.settled[attempt.ancestor] += tokens
        if served is None and is_estimate:
            # Sent while the provider closed the connection: nobody can know, so the hold is charged.
            assert not attempt.head.startswith(b"HTTP/1.1 200"), attempt
            self.seen["sent into the void"] += 1
            return
        if served is None:
            assert (tokens, calls) == (0, 0), attempt
            self.seen["never sent"] += 1
            return
        assert calls == 1, attempt
        truth = served.prompt_tokens + served.completion_tokens
        if is_estimate:
            assert fields["estimated.tokens"] == fields["tokens.S"]
            assert not (served.usage_sent and attempt.hears_the_end), (attempt, served)
            self.seen["estimated"] += 1
        elif attempt.is_answered_by_an_error:
            assert tokens == 0, (attempt, served)
            self.seen["provider's error, not charged"] += 1
        else:
            assert served.usage_sent, (attempt, served)
            assert tokens == truth, (attempt, served)
            self.seen["exactly the provider's"] += 1

    def check_ancestors(self, gateway: Gateway, ancestors: list[str]) -> None:
        """Nothing is held of them; what was settled is the sum of all calls, and their own one."""
        for name in ancestors:
            assert gateway.held(name) == NOTHING_HELD
            fields = gateway.task(name)
            own = int(fields["raw.input"]) + int(fields["raw.output"])
            assert int(fields["tokens.S"]) == self.settled[name] + own
            assert "refused" not in fields

    def check_that_all_occurred(self, sizes: Sizes) -> None:
        """Every kind of ending is there often enough to mean something."""
        assert self.seen["exactly the provider's"] > sizes.calls / 4, self.seen
        assert self.seen["estimated"] > sizes.calls / 20, self.seen
        assert self.seen["provider's error, not charged"] > sizes.calls / 20, self.seen
        assert self.seen["never sent"] > sizes.calls / 40, self.seen
        assert self.seen["sent into the void"] < sizes.calls / 20, self.seen
