"""The worked example of the budget arithmetic, row by row, through two workers.

A Medium/medium task: L = 23,400, C = 28,080 (cumulative), 46,800 (runaway). Calls of 15,000 tokens
in and 800 out, enforced, `reserve: expected`.
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from loadtest.fake_provider import FakeProvider
from tests.e2e.conftest import StartGateway
from tests.e2e.running_gateway import Gateway, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

BODY_BYTES = 60_000  # four bytes a token: the estimate is what the provider will say
HELD = 17_048
HELD_NANO_USD = 15_000 * 2_500 + 2_048 * 10_000  # gpt-4o: $2.50 and $10 a million


@dataclass
class Agent:
    """The SDK at work on one task. `sent` counts what it really sends."""

    gateway: Gateway
    task: str
    sent: list[httpx.Request] = field(default_factory=list)
    answers: list[httpx.Response] = field(default_factory=list)
    scripted: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        async def sends(request: httpx.Request) -> None:
            self.sent.append(request)

        async def hears(response: httpx.Response) -> None:
            self.answers.append(response)

        self.sdk = openai.AsyncOpenAI(
            base_url=f"{self.gateway.url}/v1",
            api_key="sk-test",
            http_client=httpx.AsyncClient(
                trust_env=False, timeout=60, event_hooks={"request": [sends], "response": [hears]}
            ),
        )

    async def call(self, phase: str = "VERIFY", **fields: Any) -> Any:
        """Make one call; its body has exactly the size that the example needs."""
        # A model that nobody else calls: nothing is learned of its output beforehand. Its price is
        # that of the name without the date.
        year = 2100 + int(self.task.removeprefix("T-"))
        body = {"model": f"gpt-4o-{year}-01-01", "max_tokens": 128_000, **fields}
        empty = {**body, "messages": [{"role": "user", "content": ""}]}
        size = len(json.dumps(empty, separators=(",", ":")))
        headers = {
            "X-Task-Id": self.task,
            "X-Task-Phase": phase,
            "X-Fake-Prompt-Tokens": "15000",
            "X-Fake-Completion-Tokens": "800",
            **self.scripted,
        }
        answer = await self.sdk.chat.completions.create(
            **body,
            messages=[{"role": "user", "content": "x" * (BODY_BYTES - size)}],
            extra_headers=headers,
        )
        assert int(self.sent[-1].headers["content-length"]) == BODY_BYTES
        return answer

    async def calls(self, count: int, phase: str = "VERIFY") -> dict[str, str]:
        """Make calls one after another, each settled before the next; return the task's hash."""
        before = self.gateway.number(self.task, "calls.S")
        fields: dict[str, str] = {}
        for number in range(1, count + 1):
            await self.call(phase)
            fields = await self.gateway.settled(self.task, before + number)
        return fields

    async def is_refused(self, phase: str = "VERIFY") -> dict[str, Any]:
        """Make a call that must be refused after one request; return the error's body."""
        sent = len(self.sent)
        with pytest.raises(openai.BadRequestError) as error:
            await self.call(phase)
        assert len(self.sent) == sent + 1
        assert self.sent[-1].headers["x-stainless-retry-count"] == "0"
        response = error.value.response
        assert response.headers["x-should-retry"] == "false"
        assert response.headers["x-tollgate-decision"] == "refuse"
        assert "retry-after" not in response.headers
        body: dict[str, Any] = response.json()["error"]
        assert body["type"] == "billing_error"
        return body


@pytest_asyncio.fixture(loop_scope="session")
async def agent(enforcing: Gateway, provider: FakeProvider, task: str) -> AsyncIterator[Agent]:
    working = Agent(enforcing, task)
    yield working
    await working.sdk.close()


async def test_the_first_call_is_admitted_whatever_it_asks_for(
    agent: Agent, provider: FakeProvider
) -> None:
    """max_tokens of 128,000 with nothing learned: 17,048 are held."""
    agent.scripted = {"X-Fake-Ttfb-Ms": "500"}
    calling = asyncio.ensure_future(agent.call("IMPLEMENT"))
    await until(lambda: agent.gateway.held(agent.task)[2], "the hold")
    assert agent.gateway.held(agent.task) == (HELD, HELD_NANO_USD, 1, 1)
    assert agent.gateway.held(agent.task, "IMPLEMENT.") == (HELD, HELD_NANO_USD, 1, 1)
    await calling
    headers = agent.answers[0].headers
    assert headers["x-tollgate-decision"] == "allow"
    assert headers["x-budget-task-tokens-limit"] == "23400"
    assert headers["x-budget-task-tokens-used"] == "0"
    assert headers["x-budget-task-tokens-remaining"] == str(23_400 - HELD)
    assert headers["x-budget-phase-tokens-limit"] == "3500"
    assert headers["x-budget-phase-tokens-remaining"] == "0"
    fields = await agent.gateway.settled(agent.task, 1)
    assert (fields["tokens.S"], fields["tokens.H"]) == ("15800", "0")


async def test_sequential_in_verify(agent: Agent, provider: FakeProvider) -> None:
    """Two pass; the third is refused after exactly one request, and trips the task."""
    fields = await agent.calls(2)
    assert fields["tokens.S"] == "31600"
    served = len(provider.journal)
    error = await agent.is_refused()
    assert error["code"] == "task_budget_exceeded"
    assert error["message"].startswith(
        f"Task {agent.task} exceeded token budget: 31,600 / 23,400 (135%). Phase: VERIFY"
    )
    assert len(provider.journal) == served
    headers = agent.answers[-1].headers
    assert headers["x-budget-status"] == "exceeded"
    assert headers["x-budget-pressure"] == "135"
    assert headers["x-budget-task-tokens-remaining"] == "0"
    fields = agent.gateway.task(agent.task)
    assert (fields["trip"], fields["trip_code"], fields["episode"], fields["refused"]) == (
        "tokens",
        "task_budget_exceeded",
        "1",
        "1",
    )
    assert agent.gateway.held(agent.task) == (0, 0, 0, 0)


async def test_it_stays_refused(agent: Agent, provider: FakeProvider) -> None:
    """Ten more attempts: ten requests, none of which reaches the provider; one episode."""
    await agent.calls(2)
    served = len(provider.journal)
    for _ in range(11):
        await agent.is_refused()
    assert len(provider.journal) == served
    fields = agent.gateway.task(agent.task)
    assert (fields["refused"], fields["episode"]) == ("11", "1")
    trips = await until(
        lambda: agent.gateway.log_events("stop_loss_tripped", task=agent.task), "the log"
    )
    assert [trip["remediation"] for trip in trips] == [f"FIX-BUDGET-BREACH-{agent.task}"]


async def test_sequential_in_implement(agent: Agent) -> None:
    """Three pass, up to 47,400; the fourth is a runaway task."""
    fields = await agent.calls(3, "IMPLEMENT")
    assert fields["tokens.S"] == "47400"
    error = await agent.is_refused("IMPLEMENT")
    assert error["code"] == "runaway_task"
    assert "47,400 / 23,400 (203%)" in error["message"]


async def test_eight_at_once(agent: Agent, provider: FakeProvider) -> None:
    """Three are admitted, five told to ask again; later those are refused, or would pass."""
    agent.scripted = {"X-Fake-Ttfb-Ms": "4000"}
    agent.sdk = agent.sdk.with_options(max_retries=0)
    started = [asyncio.ensure_future(agent.call("IMPLEMENT")) for _ in range(8)]
    await until(lambda: len(agent.answers) == 5, "five answers")
    assert agent.gateway.held(agent.task) == (3 * HELD, 3 * HELD_NANO_USD, 3, 3)
    results = await asyncio.gather(*started, return_exceptions=True)
    waiting = [result for result in results if isinstance(result, openai.RateLimitError)]
    assert len(waiting) == 5
    for error in waiting:
        assert error.code == "budget_in_flight"
        assert error.response.headers["retry-after"] == "2"
        assert error.response.headers["x-should-retry"] == "true"
    assert sum(not isinstance(result, BaseException) for result in results) == 3
    fields = await agent.gateway.settled(agent.task, 3)
    assert fields["tokens.S"] == "47400"
    assert "trip" not in fields
    agent.scripted = {}
    assert (await agent.is_refused("IMPLEMENT"))["code"] == "runaway_task"
    assert len(provider.journal) == 3


async def test_the_sdk_asks_again_by_itself(agent: Agent) -> None:
    """`budget_in_flight` is no refusal: what was held and not used is there the next time."""
    agent.scripted = {"X-Fake-Ttfb-Ms": "1000", "X-Fake-Prompt-Tokens": "100"}
    answers = await asyncio.gather(*(agent.call("IMPLEMENT") for _ in range(4)))
    assert len(answers) == 4
    assert any(r.headers["x-stainless-retry-count"] != "0" for r in agent.sent)
    assert (await agent.gateway.settled(agent.task, 4))["tokens.S"] == "3600"


async def test_no_escape_by_another_phase(agent: Agent) -> None:
    """Tripped in VERIFY at 31,600, the agent sends IMPLEMENT: refused."""
    await agent.calls(2)
    await agent.is_refused()
    error = await agent.is_refused("IMPLEMENT")
    assert error["code"] == "task_budget_exceeded"
    assert "31,600 / 23,400 (135%)" in error["message"]


async def test_a_grant_frees(agent: Agent) -> None:
    """10,000 more make C = 38,080: the next call passes, on whichever worker."""
    await agent.calls(2)
    await agent.is_refused()
    answer = await agent.gateway.override(agent.task, kind="grant", tokens=10_000)
    assert answer.status_code == 201, answer.text
    fields = await agent.calls(1)
    assert fields["tokens.C"] == "38080"
    assert agent.answers[-1].headers["x-budget-task-tokens-limit"] == "33400"
    assert agent.answers[-1].status_code == 200
    error = await agent.is_refused()
    assert "47,400 / 33,400 (142%)" in error["message"]
    assert agent.gateway.task(agent.task)["episode"] == "2"


async def test_a_grant_that_is_too_small(agent: Agent) -> None:
    """It answers 422 with the room still missing, and changes nothing."""
    await agent.calls(2)
    await agent.is_refused()
    answer = await agent.gateway.override(agent.task, kind="grant", tokens=3_000)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["code"] == "not_enough_room"
    assert "520" in error["message"]
    await agent.is_refused()
    assert agent.gateway.task(agent.task)["tokens.C"] == "28080"
    answer = await agent.gateway.override(agent.task, kind="grant", tokens=3_520)
    assert answer.status_code == 201
    await agent.calls(1)


async def test_backtrack(start_gateway: StartGateway, task: str) -> None:
    """PLAN after REVIEW is PLAN's second execution; usage adds up, the limit does not grow."""
    gateway = await start_gateway(
        workers=2, mode="enforce", TOLLGATE_TASKS__PHASE_IDLE_CLOSE_MS="50"
    )
    agent = Agent(gateway, task)
    agent.scripted = {"X-Fake-Prompt-Tokens": "700"}
    fields: dict[str, str] = {}
    for phase in ("PLAN", "REVIEW", "PLAN"):
        fields = await agent.calls(1, phase)
        await asyncio.sleep(0.1)
    await agent.sdk.close()
    assert (fields["PLAN.exec"], fields["REVIEW.exec"]) == ("2", "1")
    assert (fields["x.PLAN.1.tokens"], fields["x.PLAN.2.tokens"]) == ("1500", "1500")
    assert (fields["PLAN.tokens.S"], fields["PLAN.tokens.L"]) == ("3000", "2400")
    assert (fields["tokens.S"], fields["tokens.L"]) == ("4500", "23400")


async def test_kill_9_with_one_call_open(start_gateway: StartGateway, task: str) -> None:
    """When its lease is over, the call is charged at its hold, marked expired, and H is 0."""
    gateway = await start_gateway(
        workers=2,
        mode="enforce",
        TOLLGATE_STORE__LEASE_MS="4000",
        TOLLGATE_STORE__HEARTBEAT_MS="500",
        TOLLGATE_STORE__SWEEP_MS="200",
    )
    agent = Agent(gateway, task)
    agent.sdk = agent.sdk.with_options(max_retries=0)
    agent.scripted = {"X-Fake-Fault": "hang"}
    calling = asyncio.ensure_future(agent.call("IMPLEMENT"))
    await until(lambda: gateway.held(task)[2], "the hold")
    await asyncio.sleep(5)  # longer than a lease: heartbeats keep it
    assert gateway.held(task) == (HELD, HELD_NANO_USD, 1, 1)
    for pid in gateway.worker_pids():
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(openai.APIConnectionError):
        await calling
    fields = await gateway.settled(task, 1)
    assert (fields["tokens.S"], fields["IMPLEMENT.tokens.S"]) == (str(HELD), str(HELD))
    assert (fields["expired.calls"], fields["expired.tokens"]) == ("1", str(HELD))
    assert gateway.held(task, "IMPLEMENT.") == (0, 0, 0, 0)
    await until(lambda: gateway.log_events("call_expired"), "the event")
    await agent.sdk.close()


async def test_the_same_run_observed(start_gateway: StartGateway, task: str) -> None:
    """Nothing is refused: the calls are flagged, and what would have been refused is counted."""
    gateway = await start_gateway(workers=2, mode="observe")
    agent = Agent(gateway, task)
    fields = await agent.calls(5)
    assert fields["tokens.S"] == str(5 * 15_800)
    decisions = [answer.headers["x-tollgate-decision"] for answer in agent.answers]
    # The second crosses the line of VERIFY itself, which is flagged in any mode.
    assert decisions == ["allow", "flag", "flag", "flag", "flag"]
    assert (fields["would_refuse.calls"], fields["would_refuse.tokens"]) == ("3", str(3 * 15_800))
    assert not {"trip", "refused", "episode"} & set(fields)
    labels = {"phase": "VERIFY", "complexity": "Medium", "importance": "medium"}
    await gateway.until_metric(3, "tollgate_would_refuse_total", **labels)
    await gateway.until_metric(4, "tollgate_calls_total", outcome="flag", phase="VERIFY")
    await gateway.until_metric(1, "tollgate_calls_total", outcome="allow", phase="VERIFY")
    assert await gateway.metric("tollgate_calls_total", outcome="refuse") == 0
    agent.scripted = {"X-Fake-Ttfb-Ms": "300"}
    await asyncio.gather(*(agent.call("IMPLEMENT") for _ in range(8)))
    assert (await gateway.settled(task, 13))["calls.S"] == "13"
    await agent.sdk.close()
