"""Every dialect through real sockets: totals are the provider's journal, whatever happens.

Calls and streams, whole, cut from either side, answered by errors; observing and enforcing.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest

from gateway.core.model_text import text_rule
from loadtest.fake_provider import FakeProvider, Script, Served, Totals
from loadtest.provider_journal import total
from tests.e2e.running_gateway import Gateway, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

SAY = "Say something about reading each call once, then something about budgets and their limits."
ASKED = [{"role": "user", "content": SAY}]
PARTS = {"contents": [{"role": "user", "parts": [{"text": SAY}]}]}
VERSION = {"anthropic-version": "2023-06-01"}


@dataclass(frozen=True)
class Way:
    """One way to call a model: where to, and with what; `streams` where the target says so.

    With a `file` the body goes as a form.
    """

    target: str
    body: dict[str, Any]
    is_stream: bool = False
    file: bytes = b""

    @property
    def knows_usage_early(self) -> bool:
        """Whether every chunk says what was used so far."""
        return "streamGenerateContent" in self.target

    @property
    def asks_for_usage(self) -> bool:
        """Whether the gateway has to ask for usage, and hides the event that brings it."""
        return self.is_stream and self.target.endswith("/completions")

    @property
    def is_countable(self) -> bool:
        """Whether an answer's text tells its length: that of pictures and recordings does not."""
        return "/images/" not in self.target and "/audio/" not in self.target

    @property
    def request(self) -> dict[str, Any]:
        """The body, as httpx takes it."""
        if not self.file:
            return {"json": self.body}
        return {"data": self.body, "files": {"file": ("a.bin", self.file)}}


MESSAGES = {"model": "claude-sonnet-4-5", "max_tokens": 300, "messages": ASKED}
RESPONSE = {"model": "gpt-5.6", "input": SAY, "max_output_tokens": 300}
COMPLETION = {"model": "gpt-3.5-turbo-instruct", "prompt": SAY, "max_tokens": 300}
CHAT = {"model": "gpt-4o-mini", "messages": ASKED}
# A model that no other test calls: what is held for it is not learned from their answers.
BACKGROUND = {**RESPONSE, "model": "gpt-4.1", "background": True}
IMAGE = {"model": "gpt-image-1", "prompt": SAY}
TRANSCRIPT = {"model": "gpt-4o-transcribe"}
SOUND = b"\xff\xfb\r\n--" * 4_000  # three seconds
LLAMA = {"model": "llama3.2", "messages": ASKED}
GENERATE = {"model": "llama3.2", "prompt": SAY}
GEMINI = "/v1beta/models/gemini-2.5-pro:"
STREAM = {"stream": True}
JSON_WAYS = {
    "messages": Way("/v1/messages", MESSAGES),
    "responses": Way("/v1/responses", RESPONSE),
    "compaction": Way("/v1/responses/compact", RESPONSE),
    "completions": Way("/v1/completions", COMPLETION),
    "gemini": Way(f"{GEMINI}generateContent", PARTS),
    "gemini as openai": Way("/v1beta/openai/chat/completions", CHAT),
    "azure": Way("/u/openai/openai/deployments/mine/chat/completions?api-version=1", CHAT),
    "azure responses": Way("/u/openai/openai/v1/responses", RESPONSE),
    "images": Way("/v1/images/generations", IMAGE),
    "image edits": Way("/v1/images/edits", IMAGE, file=SOUND),
    "transcriptions": Way("/v1/audio/transcriptions", TRANSCRIPT, file=SOUND),
    "ollama": Way("/u/openai/api/chat", {**LLAMA, "stream": False}),
    "ollama generate": Way("/u/openai/api/generate", {**GENERATE, "stream": False}),
}
STREAM_WAYS = {
    "messages": Way("/v1/messages", MESSAGES | STREAM, True),
    "responses": Way("/v1/responses", RESPONSE | STREAM, True),
    "completions": Way("/v1/completions", COMPLETION | STREAM, True),
    "gemini": Way(f"{GEMINI}streamGenerateContent?alt=sse", PARTS, True),
    "gemini as openai": Way("/v1beta/openai/chat/completions", CHAT | STREAM, True),
    "images": Way("/v1/images/generations", IMAGE | STREAM, True),
    "image edits": Way("/v1/images/edits", {**IMAGE, "stream": "true"}, True, SOUND),
    "transcriptions": Way(
        "/v1/audio/transcriptions", {**TRANSCRIPT, "stream": "true"}, True, SOUND
    ),
    "ollama": Way("/u/openai/api/chat", LLAMA, True),
    "ollama generate": Way("/u/openai/api/generate", GENERATE, True),
}
ARRAY = Way(f"{GEMINI}streamGenerateContent", PARTS)
WHOLE = {**JSON_WAYS, **{f"{name}, stream": way for name, way in STREAM_WAYS.items()}}
SAYING_ERRORS = dict(WHOLE)  # an array that breaks off with an error is no JSON
WHOLE["gemini, array"] = ARRAY
OUTPUT = Script(completion_tokens=37, reasoning_tokens=5, cached_tokens=3)
AT_ONCE = 6  # ways that are tried at the same time


@pytest.fixture(params=["observing", "enforcing"])
def running(request: pytest.FixtureRequest, gateway: Gateway, enforcing: Gateway) -> Gateway:
    """The gateway in either mode."""
    return gateway if request.param == "observing" else enforcing


@dataclass(frozen=True)
class Case:
    """One way, tried for a task of its own beside others; the journal is read by its tag."""

    gateway: Gateway
    provider: FakeProvider
    task: str
    way: Way

    @property
    def headers(self) -> dict[str, str]:
        """What tells the task to the gateway and to the provider."""
        return {"x-task-id": self.task, "x-request-tag": self.task, **VERSION}

    @property
    def journal(self) -> list[Served]:
        """What the provider served of it."""
        return [entry for entry in self.provider.journal if entry.tag == self.task]

    @property
    def truth(self) -> Totals:
        """What the provider bills for it."""
        return total(self.journal)

    @property
    def sent(self) -> bytes:
        """The body that the provider got first."""
        tag = self.task.encode()
        found = (r for r in self.provider.requests if r.header(b"x-request-tag") == tag)
        return next(found).body

    async def ask(self) -> httpx.Response:
        """Call, and read the answer."""
        async with self.gateway.client() as client:
            return await client.post(self.way.target, headers=self.headers, **self.way.request)

    async def settled(self) -> dict[str, str]:
        """Wait for the end of its one call; nothing stays held."""
        fields = await self.gateway.settled(self.task, 1)
        assert fields["tokens.H"] == "0"
        return fields

    def assert_estimated(self, fields: dict[str, str]) -> None:
        """The charge says that it is an estimate, and is within a quarter of the truth.

        Times what the model's tokenizer makes of it: the fake provider counts alike for every
        model. What has no text to count is charged its hold.
        """
        truth = self.truth
        tokens = truth.prompt_tokens + truth.completion_tokens
        assert fields["estimated.calls"] == "1"
        if not self.way.is_countable:
            assert used(fields) >= tokens
            return
        scaled = text_rule(self.way.body.get("model", "")).scaled(tokens)
        assert used(fields) == pytest.approx(scaled, rel=0.25)


@dataclass(frozen=True)
class Matrix:
    """Tries many ways at the same time."""

    gateway: Gateway
    provider: FakeProvider
    task: str

    async def each(
        self, ways: dict[str, Way], act: Callable[[Case], Awaitable[None]], at_once: int = AT_ONCE
    ) -> None:
        """Do the same with every way; what fails says which it was."""
        free = asyncio.Semaphore(at_once)

        async def one(number: int, name: str, way: Way) -> None:
            async with free:
                try:
                    await act(Case(self.gateway, self.provider, f"{self.task}-{number}", way))
                except Exception as error:
                    error.add_note(f"the way: {name}")
                    raise

        async with asyncio.TaskGroup() as group:
            for number, (name, way) in enumerate(ways.items()):
                group.create_task(one(number, name, way))


@pytest.fixture
def matrix(running: Gateway, provider: FakeProvider, task: str) -> Matrix:
    """All ways through the gateway in either mode."""
    return Matrix(running, provider, task)


async def ask(gateway: Gateway, way: Way, task: str) -> httpx.Response:
    async with gateway.client() as client:
        headers = {"x-task-id": task, **VERSION}
        return await client.post(way.target, headers=headers, **way.request)


def used(fields: dict[str, str]) -> int:
    return int(fields["tokens.S"])


def assert_exact(fields: dict[str, str], truth: Totals) -> None:
    """The task's totals are what the provider says it served, to the token."""
    expected = {
        "tokens.S": truth.prompt_tokens + truth.completion_tokens,
        "calls.S": truth.calls,
        "raw.input": truth.prompt_tokens - truth.cached_tokens,
        "raw.cached_read": truth.cached_tokens,
        "raw.output": truth.completion_tokens,
        "raw.reasoning": truth.reasoning_tokens,
        "tokens.H": 0,
        "estimated.calls": 0,
    }
    assert {name: int(fields.get(name) or 0) for name in expected} == expected


async def test_totals_are_the_journals(matrix: Matrix) -> None:
    """What is sent is what the client said; usage that only we asked for is hidden."""
    matrix.provider.script(lambda _: OUTPUT)

    async def act(case: Case) -> None:
        answer = await case.ask()
        assert answer.status_code == 200
        assert_exact(await case.settled(), case.truth)
        assert case.truth.calls == 1
        if case.way.asks_for_usage:
            sent = json.loads(case.sent)
            assert {**case.way.body, "stream_options": 0} == {**sent, "stream_options": 0}
            assert b'"usage":{' not in answer.content
        else:
            assert case.sent == answer.request.read()

    await matrix.each(WHOLE, act)


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_an_error_costs_nothing(matrix: Matrix, status: int) -> None:
    """It passes as it is."""
    matrix.provider.script(lambda _: Script(fault=f"status:{status}"))

    async def act(case: Case) -> None:
        assert (await case.ask()).status_code == status
        assert used(await case.settled()) == 0

    await matrix.each(WHOLE, act)


async def test_an_error_inside_200_costs_nothing(matrix: Matrix) -> None:
    """Nothing was generated; what a message says of its input before it is reported input."""
    matrix.provider.script(lambda _: Script(fault="error_event:0"))

    async def act(case: Case) -> None:
        with suppress(httpx.RemoteProtocolError):
            await case.ask()
        knows_input = case.way.is_stream and case.way.target == "/v1/messages"
        expected = case.truth.prompt_tokens + 1 if knows_input else 0
        assert used(await case.settled()) == expected

    await matrix.each(SAYING_ERRORS, act)


async def test_an_answer_without_usage_is_estimated(matrix: Matrix) -> None:
    """From its text; what has none, by what was held for it."""
    matrix.provider.script(lambda _: Script(completion_tokens=60, fault="missing_usage"))

    async def act(case: Case) -> None:
        await case.ask()
        case.assert_estimated(await case.settled())

    await matrix.each(JSON_WAYS, act)


async def test_a_stream_that_the_provider_cuts_is_estimated(matrix: Matrix) -> None:
    """By what was seen; where every chunk reports usage, the last is exact."""
    matrix.provider.script(lambda _: Script(completion_tokens=100, fault="cut:60"))

    async def act(case: Case) -> None:
        with suppress(httpx.RemoteProtocolError):
            await case.ask()
        fields, truth = await case.settled(), case.truth
        tokens = truth.prompt_tokens + truth.completion_tokens
        if case.way.knows_usage_early:
            assert used(fields) == tokens
        elif case.way.is_countable:
            assert used(fields) == pytest.approx(tokens, rel=0.25)
        else:
            assert used(fields) >= tokens
        assert fields.get("estimated.calls", "0") == ("0" if case.way.knows_usage_early else "1")

    await matrix.each(STREAM_WAYS, act)


async def test_a_stream_that_the_client_leaves_is_charged(matrix: Matrix) -> None:
    """What was seen where the provider stops then, everything where it goes on."""
    matrix.provider.script(lambda _: Script(completion_tokens=200, chunk_delay_ms=5))

    async def act(case: Case) -> None:
        request = {"headers": case.headers, **case.way.request}
        async with case.gateway.client() as client:
            async with client.stream("POST", case.way.target, **request) as answer:
                async for _ in answer.aiter_bytes():
                    if case.journal[0].completion_tokens >= 40:
                        break
        fields = await case.settled()
        await until(lambda: case.journal[0].aborted or case.journal[0].finished)
        truth = case.truth
        tokens = truth.prompt_tokens + truth.completion_tokens
        scaled = text_rule(case.way.body.get("model", "")).scaled(tokens)
        if case.way.is_countable:
            assert used(fields) == pytest.approx(scaled, rel=0.25)
        else:
            assert used(fields) >= tokens

    await matrix.each(STREAM_WAYS, act, at_once=2)  # what the provider notices late, it generates


async def test_an_answer_that_the_client_leaves_is_charged_in_full(matrix: Matrix) -> None:
    """It is read to its end, for it is billed in full."""
    matrix.provider.script(lambda _: Script(completion_tokens=37, ttfb_ms=300))

    async def act(case: Case) -> None:
        calling = asyncio.ensure_future(case.ask())
        await until(lambda: case.journal)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await until(lambda: case.journal[0].finished)
        assert_exact(await case.settled(), case.truth)

    await matrix.each(JSON_WAYS, act)


async def test_nothing_passes_a_spent_budget(
    enforcing: Gateway, provider: FakeProvider, task: str
) -> None:
    """Whatever dialect spent it, each refuses in the shape that its clients read."""
    provider.script(lambda _: Script(prompt_tokens=60_000))

    async def act(case: Case) -> None:
        await case.ask()
        await case.settled()
        answer = await case.ask()
        assert answer.status_code == 400
        assert answer.headers["x-should-retry"] == "false"
        error = answer.json()["error"]
        if case.way.target.startswith(GEMINI):
            assert error["status"] == "FAILED_PRECONDITION"
            assert error["details"][0]["reason"] == "runaway_task"
        else:
            assert (error["type"], error["code"]) == ("billing_error", "runaway_task")
        assert len(case.journal) == 1

    await Matrix(enforcing, provider, task).each(WHOLE, act)


async def test_counting_tokens_is_free(enforcing: Gateway, provider: FakeProvider) -> None:
    """It is relayed and not metered."""
    answer = await ask(enforcing, Way("/v1/messages/count_tokens", MESSAGES), "counts")
    assert answer.json()["input_tokens"] > 10
    assert enforcing.task("counts") == {}


@pytest.mark.parametrize("end", ["retrieve", "cancel"])
async def test_a_response_in_the_background_is_settled_when_it_is_fetched(
    enforcing: Gateway, provider: FakeProvider, task: str, end: str
) -> None:
    """Charged its hold, then what it used: once, however often and through whichever worker."""
    tags = {"x-task-id": task}
    async with openai.AsyncOpenAI(
        base_url=f"{enforcing.url}/v1", api_key="sk-test", default_headers=tags, max_retries=0
    ) as client:
        queued = await client.responses.create(**BACKGROUND)
        assert queued.status == "queued"
        fields = await enforcing.settled(task, 1)
        assert used(fields) > 300
        assert fields["estimated.calls"] == "1"
    truth = provider.totals()
    tokens = truth.prompt_tokens + truth.completion_tokens
    for _ in range(4):  # each on a connection of its own: both workers take part
        async with openai.AsyncOpenAI(
            base_url=f"{enforcing.url}/v1", api_key="sk-test", max_retries=0
        ) as client:
            done = await getattr(client.responses, end)(queued.id)
        assert done.usage is not None
        assert done.usage.total_tokens == tokens
        await until(lambda: used(enforcing.task(task)) == tokens, "the true usage")
    fields = await enforcing.settled(task, 1)
    assert fields["raw.output"] == str(truth.completion_tokens)
    assert (fields["estimated.calls"], fields["estimated.tokens"]) == ("0", "0")
    assert (fields["tokens.H"], fields["calls.H"]) == ("0", "0")


async def test_a_response_in_the_background_whose_stream_is_resumed_is_settled_once(
    enforcing: Gateway, provider: FakeProvider, task: str
) -> None:
    """However often its last event is asked for."""
    queued = (await ask(enforcing, Way("/v1/responses", BACKGROUND), task)).json()
    await enforcing.settled(task, 1)
    truth = provider.totals()
    tokens = truth.prompt_tokens + truth.completion_tokens
    for _ in range(3):
        async with openai.AsyncOpenAI(
            base_url=f"{enforcing.url}/v1", api_key="sk-test", max_retries=0
        ) as client:
            events = await client.responses.retrieve(queued["id"], stream=True, starting_after=8)
            assert [event.type async for event in events] == ["response.completed"]
        await until(lambda: used(enforcing.task(task)) == tokens, "the true usage")
    fields = await enforcing.settled(task, 1)
    assert (fields["estimated.calls"], fields["tokens.H"]) == ("0", "0")


async def test_a_response_that_is_cancelled_while_it_runs_keeps_its_estimate(
    enforcing: Gateway, provider: FakeProvider, task: str
) -> None:
    """What it had used by then nobody says; where a later fetch tells, that is charged."""
    queued = (await ask(enforcing, Way("/v1/responses", BACKGROUND), task)).json()
    held = used(await enforcing.settled(task, 1))
    assert held > 300
    later = f"/v1/responses/{queued['id']}"
    async with enforcing.client() as client:
        answer = await client.post(f"{later}/cancel", headers={"x-fake-fault": "missing_usage"})
        assert (answer.json()["status"], answer.json()["usage"]) == ("cancelled", None)
        fields = await enforcing.settled(task, 1)
        assert (used(fields), fields["estimated.calls"]) == (held, "1")
        await client.get(later)
    truth = provider.totals()
    tokens = truth.prompt_tokens + truth.completion_tokens
    await until(lambda: used(enforcing.task(task)) == tokens, "the true usage")


async def test_a_response_that_nobody_asked_for_here_is_free(
    enforcing: Gateway, provider: FakeProvider
) -> None:
    """It is relayed as it is."""
    async with enforcing.client() as client:
        answer = await client.get("/v1/responses/resp_unknown", headers={"x-task-id": "fetches"})
    assert answer.status_code == 404
    assert enforcing.task("fetches") == {}


async def test_embeddings(gateway: Gateway, provider: FakeProvider, task: str) -> None:
    """Only their input counts."""
    body = {"model": "text-embedding-3-small", "input": ["One text.", "And another."]}
    await ask(gateway, Way("/v1/embeddings", body), task)
    fields = await gateway.settled(task, 1)
    assert_exact(fields, provider.totals())
    assert "raw.output" not in fields
