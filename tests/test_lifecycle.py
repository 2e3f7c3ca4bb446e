"""The way of a call on real sockets and a real store; doors are replaced only to fail."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.core.acts import Act
from gateway.core.budget import Dimension
from gateway.core.configuration import Rules
from gateway.core.errors import StoreError
from gateway.core.identity import Dialect
from gateway.core.match import CallMatch
from gateway.core.phases import WorkPhase
from gateway.core.policy import Match, PolicySet, ReserveKind, StopLossPolicy, StoreFailure
from gateway.core.prices import ModelPrice, PriceTable
from gateway.core.usage import UsageSource
from gateway.ports import Doors, Settled, StaleFacts
from gateway.store.keys import TenantKeys
from gateway.store.phases import mark_phase
from loadtest.fake_provider import FakeProvider, Script
from tests.e2e.in_process import ENFORCING, OBSERVING, Bench, OtherStore, bench, rules
from tests.server.client import PATIENCE_S, Reply
from tests.store.valkey_server import ValkeyServer, free_port

MESSAGES = [{"role": "user", "content": "hello"}]
WORST_CASE = replace(ENFORCING, enforce_from=None, reserve=ReserveKind.WORST_CASE)
HELD = ("tokens.H", "nano_usd.H", "calls.H", "inflight")

OpenBench = Callable[..., AbstractAsyncContextManager[Bench]]


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(default=Script(prompt_tokens=10, completion_tokens=5)) as provider:
        yield provider


@pytest.fixture
def open_bench(valkey: str, provider: FakeProvider, tenant: str) -> OpenBench:
    """Opens benches before the provider, on the session's store unless another is named."""

    def open_one(
        in_force: Rules | None = None, store_url: str = valkey, url: str = "", **options: Any
    ) -> AbstractAsyncContextManager[Bench]:
        return bench(store_url, url or provider.base_url, tenant, in_force, **options)

    return open_one


def chat(task: str = "T", *lines: str, **fields: Any) -> bytes:
    """Return a chat request of a task, in phase PLAN unless a line says otherwise."""
    body = json.dumps({"model": "m", "messages": MESSAGES, **fields}).encode()
    tags = [f"X-Task-Id: {task}"] if task else []
    if not any(line.startswith("X-Task-Phase") for line in lines):
        tags.append("X-Task-Phase: PLAN")
    head = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: t",
        *tags,
        *lines,
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


async def ask(serving: Bench, data: bytes) -> Reply:
    """Make one call on a connection of its own, and wait for its record."""
    calls = len(serving.told.calls)
    async with serving.client() as client:
        reply = await client.ask(data)
        await serving.recorded(calls + 1)
        return reply


def assert_nothing_held(serving: Bench, task: str = "T") -> None:
    fields = serving.task(task)
    assert {fields.get(name, "0") for name in HELD} == {"0"}


# The record ---------------------------------------------------------------------------------------


async def test_a_call_is_recorded_once_with_what_it_was(open_bench: OpenBench) -> None:
    """Who, where, how much, how long; after the client has its answer."""
    prices = PriceTable({"m": ModelPrice(1_000_000_000, 2_000_000_000, 0, 0)})
    async with open_bench(rules(prices=prices)) as serving:
        assert (await ask(serving, chat())).status == 200
        (record,) = serving.told.calls
        assert (record.task, record.phase, record.complexity, record.importance) == (
            "T",
            "PLAN",
            "Medium",
            "medium",
        )
        assert (record.method, record.path) == ("POST", "/v1/chat/completions")
        assert (record.upstream, record.dialect, record.model) == ("openai", "openai_chat", "m")
        assert (record.status, record.outcome, record.code) == (200, "allow", "")
        assert (record.tokens, record.source) == (15, "provider")
        assert (record.usage.input_total, record.usage.output_total) == (10, 5)
        assert record.nano_usd == 10 * 1_000 + 5 * 2_000
        assert record.held_tokens > 2_048
        assert 0 < record.first_byte_ms <= record.latency_ms
        assert not (record.stream or record.client_left or record.store_failed)
        assert serving.task("T")["nano_usd.S"] == "20000"


async def test_a_model_without_a_price_is_unpriced_not_free(open_bench: OpenBench) -> None:
    """Its cost is None in the record."""
    async with open_bench() as serving:
        await ask(serving, chat())
        assert serving.told.calls[0].nano_usd is None


async def test_a_call_that_is_passed_through(open_bench: OpenBench) -> None:
    """It has no plan and no usage."""
    async with open_bench() as serving:
        await ask(serving, b"GET /v1/models?key=secret HTTP/1.1\r\nHost: t\r\n\r\n")
        (record,) = serving.told.calls
        assert (record.task, record.phase, record.model) == ("-", "-", "-")
        assert (record.path, record.source, record.outcome) == ("/v1/models", "none", "allow")


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/nowhere", 404, "unknown_route"),
        ("/u/nobody/v1/x", 404, "unknown_upstream"),
        ("/v1//x", 400, "invalid_target"),
    ],
)
async def test_a_call_that_goes_nowhere(
    open_bench: OpenBench, provider: FakeProvider, target: str, status: int, code: str
) -> None:
    """It is answered and recorded all the same."""
    async with open_bench() as serving:
        reply = await ask(serving, f"GET {target} HTTP/1.1\r\nHost: t\r\n\r\n".encode())
        assert (reply.status, reply.code) == (status, code)
        (record,) = serving.told.calls
        assert (record.status, record.code, record.outcome) == (status, code, "refuse")
        assert not provider.requests


async def test_a_failure_of_our_own(open_bench: OpenBench) -> None:
    """It is told, and the call is answered with a 500; the next one is not affected."""

    class Broken:
        async def count(self, model: str, texts: Sequence[str]) -> int:
            raise RuntimeError("boom")

        async def count_request(self, model: str, dialect: Dialect, body: bytes) -> int | None:
            raise RuntimeError("boom")

    def break_it(doors: Doors) -> Doors:
        return replace(doors, tokenizer=Broken())

    async with open_bench(rules(WORST_CASE), doors=break_it) as serving:
        data = chat(
            model="gpt-4o", max_tokens=10, messages=[{"role": "user", "content": "x" * 40_000}]
        )
        reply = await ask(serving, data)  # its bounds are far apart, so it has to be counted
        assert (reply.status, reply.code) == (500, "internal_error")
        assert "boom" in str(serving.events("internal_error"))
        assert_nothing_held(serving)
        assert (await ask(serving, chat(max_tokens=10))).status == 200


async def test_a_failure_after_the_answer(open_bench: OpenBench) -> None:
    """The client has what it got; the hold stays for the reaper to charge."""

    class Broken:
        async def count(self, model: str, texts: Sequence[str]) -> int:
            raise RuntimeError("boom")

        async def count_request(self, model: str, dialect: Dialect, body: bytes) -> int | None:
            raise RuntimeError("boom")

    async with open_bench(doors=lambda doors: replace(doors, tokenizer=Broken())) as serving:
        reply = await ask(serving, chat("T", "X-Fake-Fault: missing_usage"))
        assert (reply.status, reply.complete) == (200, True)
        assert serving.events("internal_error")
        assert serving.task("T")["calls.H"] == "1"
        assert serving.lifecycle.metering.open_calls == 0


# Plan and reserve ---------------------------------------------------------------------------------


async def test_counting_where_it_could_change_the_decision(open_bench: OpenBench) -> None:
    """A body whose bytes do not fit, but whose tokens do, is admitted; one too long is not."""
    async with open_bench(rules(WORST_CASE)) as serving:
        words = "the quick brown fox jumps over the lazy dog " * 1_000  # 44,000 bytes, 9,000 tokens
        long = [{"role": "user", "content": words}]
        assert (
            await ask(serving, chat(model="gpt-4o", messages=long, max_tokens=100))
        ).status == 200
        assert 8_000 < serving.told.calls[0].held_tokens < 12_000
        longer = [{"role": "user", "content": words * 4}]
        reply = await ask(serving, chat(model="gpt-4o", messages=longer, max_tokens=100))
        assert (reply.status, reply.code) == (400, "task_budget_exceeded")
        assert "this call needs" in reply.json["error"]["message"]
        assert_nothing_held(serving)


async def test_other_facts_than_the_tasks(open_bench: OpenBench) -> None:
    """A worker that has not seen the task plans anew with what the task is."""
    async with open_bench() as first, open_bench() as second:
        await ask(first, chat("T", "X-Task-Complexity: Large"))
        reply = await ask(second, chat("T", "X-Task-Complexity: Tiny"))
        assert reply.headers["x-budget-task-tokens-limit"] == "35100"
        assert second.told.calls[0].complexity == "Large"


async def test_policies_for_a_phase_hold_for_calls_that_name_none(open_bench: OpenBench) -> None:
    """They count in their task's current phase, whichever worker the task went on with (GW-9)."""
    in_verify = Match(calls=(CallMatch(phase=frozenset({WorkPhase.VERIFY})),))
    strict = replace(ENFORCING, name="strict", match=in_verify)
    policies = PolicySet((strict, OBSERVING), "policyhash", unpriced_model=())
    in_force = replace(rules(), policies=policies)
    spent = chat("T", "X-Task-Phase: VERIFY", "X-Fake-Prompt-Tokens: 90000")
    silent = chat("T").replace(b"X-Task-Phase: PLAN\r\n", b"")
    async with open_bench(in_force) as first, open_bench(in_force) as second:
        assert (await ask(first, silent)).headers["x-tollgate-decision"] == "allow"
        assert (await ask(first, spent)).status == 200
        for serving in (first, second, second):
            reply = await ask(serving, silent)
            assert (reply.status, reply.code) == (400, "runaway_task")
        reply = await ask(first, chat("T"))  # in PLAN, where calls are only watched
        assert (reply.status, reply.headers["x-tollgate-decision"]) == (200, "flag")
        reply = await ask(second, silent)
        assert (reply.status, reply.headers["x-tollgate-decision"]) == (200, "flag")


async def test_EC10_EC22_phases_beside_others_are_told_of_once(open_bench: OpenBench) -> None:
    """Whichever call it was; that they are counted is seen in the task."""
    async with open_bench() as serving:
        names, store = TenantKeys(serving.tenant), serving.store.connection
        await ask(serving, chat("T"))
        await mark_phase(store, names, "T", WorkPhase.THINK, "start", Act("phase.start", "ann", ""))
        serving.client_of_store.hset(names.task("T"), mapping={"inflight": 1, "THINK.inflight": 1})
        for _ in range(3):
            assert (await ask(serving, chat("T"))).status == 200
        (parallel,), (astray,) = map(serving.events, ("parallel_phases", "phase_mismatch"))
        about = {"task": "T", "phase": "PLAN"}
        assert parallel == {
            **{"event": "parallel_phases", "level": "critical", "other": "THINK"},
            **about,
        }
        assert astray == {
            **{"event": "phase_mismatch", "level": "warning", "begun": "THINK"},
            **about,
        }


async def test_EC8_a_latency_of_more_than_a_day_is_told(open_bench: OpenBench) -> None:
    async def settle(_: object) -> Settled:
        return Settled(duplicate=False, left_out_ms=86_400_001)

    def odd(doors: Doors) -> Doors:
        return replace(doors, store=OtherStore(doors.store, settle=settle))

    async with open_bench(doors=odd) as serving:
        await ask(serving, chat("T"))
        (event,) = serving.events("latency_invalid")
        assert (event["level"], event["task"], event["latency_ms"]) == ("error", "T", 86_400_001)


async def test_facts_that_never_fit(open_bench: OpenBench) -> None:
    """The call is answered as one that may be tried again."""

    async def reserve(_: object) -> None:
        raise StaleFacts

    def fickle(doors: Doors) -> Doors:
        return replace(doors, store=OtherStore(doors.store, reserve=reserve))

    async with open_bench(doors=fickle) as serving:
        reply = await ask(serving, chat())
        assert (reply.status, reply.code) == (503, "budget_store_unavailable")


async def test_ancestors(open_bench: OpenBench) -> None:
    """A child's calls count up the chain, at most four deep."""
    async with open_bench() as serving:
        await ask(serving, chat("t0"))
        for depth in range(1, 7):
            await ask(serving, chat(f"t{depth}", f"X-Task-Parent: t{depth - 1}"))
        totals = [int(serving.task(f"t{depth}")["calls.S"]) for depth in range(7)]
        assert totals == [5, 5, 5, 4, 3, 2, 1]


async def test_a_task_is_not_its_own_parent(open_bench: OpenBench) -> None:
    """Nor is one that nobody knows."""
    async with open_bench() as serving:
        await ask(serving, chat("T", "X-Task-Parent: T"))
        await ask(serving, chat("U", "X-Task-Parent: nobody"))
        assert serving.task("T")["facts"] == serving.task("U")["facts"]
        assert [event["parent"] for event in serving.events("unknown_parent")] == ["nobody"]


async def test_a_parent_that_cannot_be_read(open_bench: OpenBench) -> None:
    """The call is made without it."""

    async def read_facts(*_: object) -> None:
        raise StoreError("timeout", "no answer")

    def deaf(doors: Doors) -> Doors:
        return replace(doors, store=OtherStore(doors.store, read_facts=read_facts))

    async with open_bench(doors=deaf) as serving:
        assert (await ask(serving, chat("T", "X-Task-Parent: P"))).status == 200
        assert serving.events("unknown_parent")


async def test_an_untagged_call_has_no_phase_and_no_parent(open_bench: OpenBench) -> None:
    """It goes to the bucket."""
    async with open_bench(rules(ENFORCING)) as serving:
        reply = await ask(serving, chat("", "X-Task-Parent: P", "X-Fake-Prompt-Tokens: 90000"))
        assert (reply.status, reply.headers["x-tollgate-task"]) == (200, "-")
        reply = await ask(serving, chat(""))
        assert (reply.status, reply.headers["x-tollgate-decision"]) == (200, "allow")
        assert serving.task("-anonymous")["tokens.S"] == "90020"
        assert serving.told.calls[0].task == "-"


# Decide -------------------------------------------------------------------------------------------


async def test_the_trip_is_told_once(open_bench: OpenBench) -> None:
    """As a critical event that names the remediation task."""
    async with open_bench(rules(ENFORCING)) as serving:
        await ask(serving, chat("T", "X-Task-Phase: VERIFY", "X-Fake-Prompt-Tokens: 30000"))
        for _ in range(3):
            reply = await ask(serving, chat("T", "X-Task-Phase: VERIFY"))
            assert (reply.status, reply.code) == (400, "task_budget_exceeded")
        (event,) = serving.events("stop_loss_tripped")
        assert (event["level"], event["task"], event["episode"]) == ("critical", "T", 1)
        assert event["remediation"] == "FIX-BUDGET-BREACH-T"
        assert "30,005 / 23,400 (128%)" in str(event["message"])
        refused = serving.told.calls[-1]
        assert (refused.outcome, refused.code, refused.status) == (
            "refuse",
            "task_budget_exceeded",
            400,
        )
        assert refused.held_tokens == 0
        assert refused.breaches[0].dimension is Dimension.TOKENS


async def test_notice_levels_are_told_once_each(open_bench: OpenBench) -> None:
    """At 50, 80, 90 and 100 percent of the task's limit."""
    async with open_bench() as serving:
        for _ in range(6):
            await ask(serving, chat("T", "X-Fake-Prompt-Tokens: 5000"))
        levels = [event["percent"] for event in serving.events("budget_notice")]
        assert levels == [50, 80, 90, 100]


async def test_rules_change_between_calls(open_bench: OpenBench) -> None:
    """The next call is under the new ones, an open one under those that it began with."""
    async with open_bench() as serving, serving.client() as client:
        client.send(chat("T", "X-Fake-Ttfb-Ms: 200"))
        while not serving.lifecycle.metering.open_calls:
            await asyncio.sleep(0.002)
        newer = rules(ENFORCING)
        serving.lifecycle.metering.use_rules(
            replace(newer, policies=replace(newer.policies, policy_hash="new"))
        )
        assert (await client.reply()).headers["x-tollgate-policy"] == "policyhash"
        assert (await ask(serving, chat())).headers["x-tollgate-policy"] == "new"


# Forward and relay --------------------------------------------------------------------------------


async def test_a_provider_that_is_not_there(open_bench: OpenBench) -> None:
    """Nothing was sent: the hold is given back, and the headers do not count it any more."""
    async with open_bench(url=f"http://127.0.0.1:{free_port()}") as serving:
        reply = await ask(serving, chat())
        assert (reply.status, reply.code) == (502, "upstream_unreachable")
        assert reply.headers["x-budget-task-tokens-remaining"] == "23400"
        assert_nothing_held(serving)
        assert (serving.task("T")["calls.S"], serving.task("T")["tokens.S"]) == ("0", "0")
        assert serving.told.calls[0].source == UsageSource.NONE.value


async def test_a_client_that_leaves_while_its_call_waits_for_a_connection(
    open_bench: OpenBench, provider: FakeProvider
) -> None:
    """Nothing is sent for it, nothing stays held."""
    options = {"upstream": {"max_connections": 1}}
    async with open_bench(**options) as serving, serving.client() as first:
        first.send(chat("T", "X-Fake-Ttfb-Ms: 300"))
        await provider.until(lambda: len(provider.requests) == 1, PATIENCE_S)
        async with serving.client() as second:
            second.send(chat("U"))
            while not serving.task("U"):
                await asyncio.sleep(0.002)
        assert (await first.reply()).status == 200
        await serving.recorded(2)
        assert len(provider.requests) == 1
        assert_nothing_held(serving, "U")
        assert serving.task("U")["calls.S"] == "0"
        (record,) = [record for record in serving.told.calls if record.task == "U"]
        assert record.client_left


async def test_a_header_that_cannot_be_sent(open_bench: OpenBench, provider: FakeProvider) -> None:
    """What our parser takes and the provider's could misread is not sent; nothing stays held."""
    async with open_bench() as serving:
        reply = await ask(serving, chat("T", "X-Odd: a\xa0b"))
        assert reply.status == 200  # obs-text is legal, and goes on as it is
        assert provider.requests[0].header(b"x-odd") == b"a\xc2\xa0b"


# The store fails ----------------------------------------------------------------------------------


@pytest.fixture
def shaky_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A server that a test may freeze and kill."""
    folder: Path = tmp_path_factory.mktemp("shaky")
    server = ValkeyServer(folder)
    server.start()
    yield server
    server.kill()


def failing(kind: StoreFailure, **policy: Any) -> Rules:
    return rules(replace(ENFORCING, store_failure=kind, **policy))


async def test_SL8_a_store_that_fails_open(
    open_bench: OpenBench, shaky_store: ValkeyServer
) -> None:
    """Calls pass, flagged; they are charged as soon as the store is back."""
    in_force = failing(StoreFailure.OPEN)
    async with open_bench(in_force, shaky_store.url, store_timeout_ms=100) as serving:
        shaky_store.freeze()
        async with serving.client() as client:
            reply = await client.ask(chat())
        assert (reply.status, reply.headers["x-tollgate-decision"]) == (200, "flag")
        assert reply.headers["x-tollgate-store"] == "unavailable"
        while len(serving.events("store_failed")) < 3:  # the reserve, and attempts to settle
            await asyncio.sleep(0.01)
        shaky_store.thaw()
        await serving.recorded(1)
        fields = serving.task("T")
        assert (fields["tokens.S"], fields["calls.S"]) == ("15", "1")
        assert_nothing_held(serving)
        assert serving.told.calls[0].store_failed


async def test_a_store_that_fails_closed(
    open_bench: OpenBench, shaky_store: ValkeyServer, provider: FakeProvider
) -> None:
    """The call is told to come back; a reserve that arrived late holds nothing."""
    in_force = failing(StoreFailure.CLOSED)
    async with open_bench(in_force, shaky_store.url, store_timeout_ms=100) as serving:
        shaky_store.freeze()
        async with serving.client() as client:
            reply = await client.ask(chat())
        assert (reply.status, reply.code) == (503, "budget_store_unavailable")
        assert (reply.headers["retry-after"], reply.headers["x-should-retry"]) == ("2", "true")
        shaky_store.thaw()
        await serving.recorded(1)
        assert_nothing_held(serving)
        assert not provider.requests
        assert (await ask(serving, chat())).status == 200


async def test_a_store_that_fails_with_an_allowance(
    open_bench: OpenBench, shaky_store: ValkeyServer
) -> None:
    """A task may go on for a bit, not for ever; what it may is its own again afterwards."""
    in_force = failing(StoreFailure.ALLOWANCE, allowance_tokens=3_000)
    async with open_bench(in_force, shaky_store.url, store_timeout_ms=100) as serving:
        shaky_store.freeze()
        statuses = []
        for _ in range(2):
            async with serving.client() as client:
                statuses.append((await client.ask(chat())).status)
        assert statuses == [200, 503]
        shaky_store.thaw()
        await serving.recorded(2)
        assert (await ask(serving, chat())).status == 200
        assert serving.task("T")["calls.S"] == "2"


async def test_observing_a_store_that_fails(
    open_bench: OpenBench, shaky_store: ValkeyServer
) -> None:
    """Who only observes refuses nobody, whatever the policy says of a broken store."""
    watching = rules(StopLossPolicy(store_failure=StoreFailure.CLOSED))
    async with open_bench(watching, shaky_store.url, store_timeout_ms=100) as serving:
        shaky_store.freeze()
        async with serving.client() as client:
            assert (await client.ask(chat())).status == 200
        shaky_store.thaw()
        await serving.recorded(1)


# Settle -------------------------------------------------------------------------------------------


async def test_output_is_learned(open_bench: OpenBench) -> None:
    """After twenty calls what is held is what such calls put out."""
    async with open_bench() as serving:
        for _ in range(21):
            await ask(serving, chat())
        held = [record.held_tokens for record in serving.told.calls]
        assert held[0] > 2_048
        assert held[20] == serving.told.calls[20].tokens


async def test_estimates_teach_nothing(open_bench: OpenBench) -> None:
    """Only what a provider reported is learned."""
    async with open_bench() as serving:
        for _ in range(21):
            await ask(serving, chat("T", "X-Fake-Fault: missing_usage"))
        held = {record.held_tokens for record in serving.told.calls}
        assert len(held) == 1
        assert len(serving.events("usage_missing")) == 1


async def test_usage_that_cannot_be_true_is_said_and_charged_its_hold(
    open_bench: OpenBench, provider: FakeProvider
) -> None:
    """Nobody spends less than nothing."""
    provider.script(lambda _: Script(prompt_tokens=-5_000))
    async with open_bench() as serving:
        await ask(serving, chat("T", max_tokens=100))
        (record,) = serving.told.calls
        assert (record.tokens, record.source) == (record.held_tokens, "estimated")
        assert [event["task"] for event in serving.events("usage_doubtful")] == ["T"]


async def test_a_warning_that_was_long_ago_is_given_again(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was warned about is remembered, but not for ever."""
    monkeypatch.setattr("gateway.oddities._TOLD_REMEMBERED", 2)
    async with open_bench() as serving:
        for task in ("a", "b", "b", "c", "a"):
            await ask(serving, chat(task, "X-Fake-Fault: missing_usage"))
        warned = [event["task"] for event in serving.events("usage_missing")]
        assert warned == ["a", "b", "c", "a"]


async def test_the_price_is_that_of_the_model_that_answered(
    open_bench: OpenBench, provider: FakeProvider
) -> None:
    """An alias may be served by a dearer model; one that nobody prices costs what was asked for."""
    cheap, dear = ModelPrice(10**9, 10**9, 0, 0), ModelPrice(10**10, 10**10, 0, 0)
    async with open_bench(rules(prices=PriceTable({"m": cheap, "m-large": dear}))) as serving:
        await ask(serving, chat(model="m-large"))
        await ask(serving, chat())
        assert [record.nano_usd for record in serving.told.calls] == [150_000, 15_000]


# Heartbeat ----------------------------------------------------------------------------------------


async def test_a_heartbeat_renews_leases_and_raises_holds(
    open_bench: OpenBench, provider: FakeProvider
) -> None:
    """A stream that puts out more than was held holds more, so that a crash is charged for it."""
    endless = Script(prompt_tokens=10, completion_tokens=4_000, fault="hang:3000")
    provider.script(lambda _: endless)
    async with open_bench() as serving, serving.client() as client:
        await serving.lifecycle.metering.heartbeat()  # with nothing open it asks nobody
        client.send(chat(stream=True))
        await provider.until(lambda: len(provider.journal) == 1, PATIENCE_S)
        held, leases = int(serving.task("T")["tokens.H"]), serving.store.keys(serving.tenant).leases
        ((call_id, lease),) = serving.client_of_store.zrange(leases, 0, -1, withscores=True)
        assert call_id.startswith("call-")
        async with asyncio.timeout(PATIENCE_S):
            while int(serving.task("T")["tokens.H"]) <= held + 200:
                await serving.lifecycle.metering.heartbeat()
                await asyncio.sleep(0.01)
        assert serving.client_of_store.zscore(leases, call_id) > lease
        assert int(serving.task("T")["PLAN.tokens.H"]) == int(serving.task("T")["tokens.H"])
    await serving.recorded(1)
