"""Another upstream when one fails: on real sockets and a real store, with two fake providers."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio
from msgspec import structs

from gateway.call import read_call
from gateway.core.budget import Amounts
from gateway.core.configuration import Rules, UpstreamSettings
from gateway.core.errors import UpstreamError
from gateway.core.identity import identify
from gateway.core.keys import GatewayKey
from gateway.core.loops import LoopPolicy
from gateway.core.policy import Mode, PolicySet, ReserveKind
from gateway.core.prices import ModelPrice, PriceTable
from gateway.core.routing import Routing
from gateway.core.spend_limits import SpendLimitPolicy
from gateway.core.velocity import RatePolicy
from gateway.fallback import Gate, attempts
from gateway.ports import Request
from gateway.rule_files.budgets import DEFAULT_PHASE_BUDGETS
from gateway.store.keys import TenantKeys
from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.in_process import ENFORCING, Bench, bench, rules
from tests.server.client import Reply
from tests.store.valkey_server import free_port
from tests.test_relay import ANSWER, JSON, Line

SERVES = Script(prompt_tokens=10, completion_tokens=5)
HELD = ("tokens.H", "nano_usd.H", "calls.H", "inflight")
PRICES = PriceTable(
    {
        "m": ModelPrice(1_000_000_000, 2_000_000_000, 0, 0),
        "dear/m": ModelPrice(10_000_000_000, 20_000_000_000, 0, 0),
    }
)

OpenBench = Callable[..., AbstractAsyncContextManager[Bench]]


@pytest_asyncio.fixture
async def first() -> AsyncIterator[FakeProvider]:
    """The provider that a call goes to."""
    async with FakeProvider(default=SERVES) as provider:
        yield provider


@pytest_asyncio.fixture
async def second() -> AsyncIterator[FakeProvider]:
    """The one that stands in for it."""
    async with FakeProvider(default=SERVES) as provider:
        yield provider


@pytest.fixture
def open_bench(valkey: str, first: FakeProvider, second: FakeProvider, tenant: str) -> OpenBench:
    """Opens benches with `openai`, then `azure`, then `last`, which cannot be reached."""

    def open_one(
        in_force: Rules | None = None, url: str = "", provider: str = "dear", **upstream: Any
    ) -> AbstractAsyncContextManager[Bench]:
        others = {
            "azure": UpstreamSettings(
                second.base_url, provider, api_key="sk-azure", auth_header="api-key"
            ),
            "last": UpstreamSettings(f"http://127.0.0.1:{free_port()}", api_key="none"),
        }
        return bench(
            valkey,
            url or first.base_url,
            tenant,
            in_force or rules(prices=PRICES),
            upstream={"fallback": ("azure",), **upstream},
            others=others,
        )

    return open_one


def fails(fault: str) -> Callable[[Any], Script]:
    """Return a hook that breaks every answer so."""
    return lambda _: replace(SERVES, fault=fault)


def chat(task: str = "T", **fields: Any) -> bytes:
    body = json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "hello"}], **fields}
    ).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer sk-client\r\n"
        f"X-Task-Id: {task}\r\nX-Task-Phase: PLAN\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def ask(serving: Bench, data: bytes) -> Reply:
    calls = len(serving.told.calls)
    async with serving.client() as client:
        reply = await client.ask(data)
        await serving.recorded(calls + 1)
        return reply


def assert_nothing_held(serving: Bench, task: str = "T") -> None:
    fields = serving.task(task)
    assert {fields.get(name, "0") for name in HELD} == {"0"}


def first_id(call_id: str) -> str:
    return call_id.rpartition(".")[0]


def ledger_rows(serving: Bench) -> list[list[Any]]:
    """Return the words of each entry about a call, with what the ledger is told of it behind."""
    entries: Any = serving.client_of_store.xrange(TenantKeys(serving.tenant).ledger)
    return [
        [*fields["e"].split(), json.loads(fields["a"])] for _, fields in entries if "a" in fields
    ]


@pytest.mark.parametrize("stream", [False, True], ids=["JSON", "stream"])
@pytest.mark.parametrize("fault", ["status:429", "status:500", "status:529"])
async def test_an_error_is_passed_over(
    open_bench: OpenBench, first: FakeProvider, second: FakeProvider, fault: str, stream: bool
) -> None:
    """The client has one good answer, the task one call at the prices of who served it."""
    first.script(fails(fault))
    async with open_bench() as serving:
        reply = await ask(serving, chat(stream=stream))
        assert reply.status == 200
        assert b"error" not in reply.body
        assert reply.headers["x-tollgate-upstream"] == "azure"
        reason = fault.removeprefix("status:")
        assert reply.headers["x-tollgate-fallback"] == f"openai={reason}"
        (record,) = serving.told.calls
        assert (record.upstream, record.status) == ("azure", 200)
        assert record.passed_over == (f"openai={reason}",)
        assert reply.headers["x-tollgate-call-id"] == record.call_id
        assert record.call_id.endswith(".2")
        task = serving.task("T")
        assert (task["tokens.S"], task["calls.S"]) == ("15", "1")
        assert task["nano_usd.S"] == str(10 * 10_000 + 5 * 20_000)
        assert_nothing_held(serving)
        rows = ledger_rows(serving)
        assert [(row[0], row[3], row[-1][1]) for row in rows] == [
            ("released", first_id(record.call_id), "openai"),
            ("settled", record.call_id, "azure"),
        ]
        (event,) = serving.events("upstream_passed_over")
        assert (event["upstream"], event["reason"]) == ("openai", reason)
        assert f"{event['call_id']}.2" == record.call_id
        assert (len(first.requests), len(second.requests)) == (1, 1)
        assert first.requests[0].body == second.requests[0].body


async def test_whose_key_goes_where(
    open_bench: OpenBench, first: FakeProvider, second: FakeProvider
) -> None:
    """The client's goes to the provider that it is for, and to no other."""
    first.script(fails("status:503"))
    async with open_bench() as serving:
        await ask(serving, chat())
        assert first.requests[0].header(b"authorization") == b"Bearer sk-client"
        assert second.requests[0].header(b"authorization") is None
        assert second.requests[0].header(b"api-key") == b"sk-azure"
        assert not any(b"sk-client" in value for _, value in second.requests[0].headers)


async def test_no_connection(open_bench: OpenBench, second: FakeProvider) -> None:
    """Nothing was sent, so nothing can be billed twice."""
    async with open_bench(url=f"http://127.0.0.1:{free_port()}") as serving:
        reply = await ask(serving, chat())
        assert reply.status == 200
        assert reply.headers["x-tollgate-fallback"] == "openai=upstream_unreachable"
        assert len(second.requests) == 1
        assert serving.task("T")["calls.S"] == "1"
        assert_nothing_held(serving)


@pytest.mark.parametrize("fault", ["reset", "cut:0"])
async def test_a_connection_that_breaks_behind_the_request(
    open_bench: OpenBench, first: FakeProvider, second: FakeProvider, fault: str
) -> None:
    """The answer may have been made and billed: nobody is asked for a second one."""
    first.script(fails(fault))
    async with open_bench() as serving:
        async with serving.client() as client:
            client.send(chat())
            await serving.recorded(1)
        assert not second.requests
        assert serving.told.calls[0].upstream == "openai"
        assert serving.told.calls[0].passed_over == ()
        assert serving.told.calls[0].tokens > 0
        assert_nothing_held(serving)


@pytest.mark.parametrize(
    ("fault", "fallback_on", "status"),
    [
        ("status:400", ("connect", "429", "5xx"), 400),
        ("status:429", ("connect", "5xx"), 429),
        ("status:500", ("connect", "503"), 500),
    ],
)
async def test_other_failures_are_the_client_s_to_know(
    open_bench: OpenBench,
    first: FakeProvider,
    second: FakeProvider,
    fault: str,
    fallback_on: tuple[str, ...],
    status: int,
) -> None:
    first.script(fails(fault))
    async with open_bench(fallback_on=fallback_on) as serving:
        reply = await ask(serving, chat())
        assert (reply.status, reply.headers["x-tollgate-upstream"]) == (status, "openai")
        assert "x-tollgate-fallback" not in reply.headers
        assert not second.requests


async def test_connect_is_a_failure_only_where_it_is_listed(
    open_bench: OpenBench, second: FakeProvider
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with open_bench(url=url, fallback_on=("5xx",)) as serving:
        reply = await ask(serving, chat())
        assert (reply.status, reply.code) == (502, "upstream_unreachable")
        assert not second.requests
        assert_nothing_held(serving)


@pytest.mark.parametrize(
    ("names", "status", "passed_over"),
    [
        (("azure",), 429, "openai=500"),
        (("azure", "last"), 502, "openai=500, azure=429"),
        (("last", "azure"), 429, "openai=500, last=upstream_unreachable"),
    ],
)
async def test_the_last_one_s_answer_is_the_client_s(
    open_bench: OpenBench,
    first: FakeProvider,
    second: FakeProvider,
    names: tuple[str, ...],
    status: int,
    passed_over: str,
) -> None:
    """Each is asked once, in order."""
    first.script(fails("status:500"))
    second.script(fails("status:429"))
    async with open_bench(fallback=names) as serving:
        reply = await ask(serving, chat())
        assert reply.status == status
        assert reply.headers["x-tollgate-upstream"] == names[-1]
        assert reply.headers["x-tollgate-fallback"] == passed_over
        assert (len(first.requests), len(second.requests)) == (1, 1)
        assert serving.task("T")["tokens.S"] == "0"
        assert_nothing_held(serving)


async def test_the_budget_is_asked_again_at_the_other_s_prices(
    open_bench: OpenBench, first: FakeProvider, second: FakeProvider
) -> None:
    """What the first would have cost is within it, what the second would is not."""
    budgets = replace(
        DEFAULT_PHASE_BUDGETS,
        base_budgets={
            phase: replace(base, cost_usd=Decimal("0.00004"))
            for phase, base in DEFAULT_PHASE_BUDGETS.base_budgets.items()
        },
    )
    policy = replace(ENFORCING, enforce_from=None, reserve=ReserveKind.WORST_CASE)
    first.script(fails("status:429"))
    async with open_bench(rules(policy, prices=PRICES, budgets=budgets)) as serving:
        reply = await ask(serving, chat(max_tokens=30))
        assert (reply.status, reply.code) == (400, "task_budget_exceeded")
        assert reply.headers["x-tollgate-fallback"] == "openai=429"
        assert (len(first.requests), len(second.requests)) == (1, 0)
        assert_nothing_held(serving)


async def test_two_upstreams_are_one_call_for_every_policy(
    open_bench: OpenBench, first: FakeProvider, second: FakeProvider
) -> None:
    """One execution, one of a burst, one repetition, one of the window's calls."""
    few = Amounts(calls=2)
    policies = PolicySet(
        (ENFORCING,),
        "h",
        unpriced_model=(),
        loop=(LoopPolicy(mode=Mode.ENFORCE, calls=4),),
        rate=(RatePolicy(mode=Mode.ENFORCE, limits=few),),
        spend_limit=(SpendLimitPolicy(mode=Mode.ENFORCE, hard=few),),
    )
    first.script(fails("status:429"))
    async with open_bench(rules(policies=policies)) as serving:
        for _ in range(3):
            assert (await ask(serving, chat())).status == 200
        assert (await ask(serving, chat())).status == 400
        task = serving.task("T")
    assert (task["PLAN.exec"], task["calls.S"]) == ("1", "3")
    assert (len(first.requests), len(second.requests)) == (3, 3)


async def test_a_call_that_is_not_metered_stays(
    open_bench: OpenBench, first: FakeProvider, second: FakeProvider
) -> None:
    """It may speak of what only one account has."""
    first.script(fails("status:500"))
    async with open_bench() as serving:
        await ask(serving, b"GET /v1/files/file-1 HTTP/1.1\r\nHost: t\r\n\r\n")
        assert not second.requests


# The gate by itself -------------------------------------------------------------------------------


def gate_of(line: Line, *fallback_on: str) -> Gate:
    line.follow()
    return Gate(line.relay, fallback_on)


async def test_what_is_not_passed_over_goes_through() -> None:
    line = Line()
    gate = gate_of(line, "5xx")
    gate.on_head(200, JSON, len(ANSWER))
    gate.on_body(ANSWER)
    gate.on_end()
    assert line.client.body == ANSWER
    assert line.relay.complete
    assert not line.relay.passed_over


async def test_a_short_error_is_read_to_its_end() -> None:
    """So that its connection is kept; the client hears nothing."""
    line = Line()
    gate = gate_of(line, "429")
    gate.on_head(429, JSON, None)
    assert line.relay.done.done()
    assert (line.relay.passed_over, line.relay.sent) == ("429", False)
    gate.on_body(b"x" * 65_536)
    gate.on_end()
    assert (line.client.heard, line.provider.asked) == ([], [])


async def test_a_long_error_is_cancelled() -> None:
    line = Line()
    gate = gate_of(line, "429")
    gate.on_head(429, JSON, None)
    gate.on_body(b"x" * 65_537)
    assert line.provider.asked == ["cancel"]


async def test_a_slow_error_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.fallback._REST_S", 0.0)
    line = Line()
    gate_of(line, "429").on_head(429, JSON, None)
    async with asyncio.timeout(30):
        while not line.provider.asked:
            await asyncio.sleep(0)
    assert line.provider.asked == ["cancel"]


async def test_an_error_that_breaks_off_is_nobody_s_concern() -> None:
    line = Line()
    gate = gate_of(line, "429")
    gate.on_head(429, JSON, None)
    gate.on_broken(UpstreamError("upstream_broken", "cut", sent=True))
    assert line.relay.error is None


@pytest.mark.parametrize(
    ("sent", "fallback_on", "is_passed_over"),
    [(False, "connect", True), (True, "connect", False), (False, "5xx", False)],
)
async def test_what_was_never_sent_is_passed_over(
    sent: bool, fallback_on: str, is_passed_over: bool
) -> None:
    line = Line()
    error = UpstreamError("upstream_broken", "cut", sent=sent)
    gate_of(line, fallback_on).on_broken(error)
    assert bool(line.relay.passed_over) is is_passed_over
    assert (line.relay.error is None) is is_passed_over


async def test_a_client_that_has_left_needs_no_other_answer() -> None:
    """Its answer is read on for what it costs, if it costs anything."""
    line = Line()
    gate = gate_of(line, "5xx")
    line.relay.client_left()
    gate.on_head(500, JSON, 2)
    assert not line.relay.passed_over


# Who is tried -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allowed", "upstreams"),
    [((), ["openai", "azure", "last"]), (("openai", "last"), ["openai", "last"])],
)
def test_a_key_s_upstreams_bound_who_is_tried(
    allowed: tuple[str, ...], upstreams: list[str]
) -> None:
    """The last one's answer is not passed over; each attempt has an id of its own."""
    routing = Routing(
        {
            "openai": UpstreamSettings("https://a.example", fallback=("azure", "last")),
            "azure": UpstreamSettings("https://b.example", api_key="k"),
            "last": UpstreamSettings("https://c.example", api_key="none"),
        }
    )
    tags, route = identify(b"/v1/chat/completions", [])
    call = read_call(
        "c", Request(b"POST", b"/v1/chat/completions", [], b'{"model": "m"}', 0.0), tags, route
    )
    key = GatewayKey("abcd1234", "", "an agent", upstreams=allowed)
    tried = attempts(structs.replace(call, key=key), routing)
    assert [each.call.route.upstream for each in tried] == upstreams
    assert [each.call.call_id for each in tried] == ["c", "c.2", "c.3"][: len(upstreams)]
    assert [bool(each.fallback_on) for each in tried] == [True] * (len(upstreams) - 1) + [False]
