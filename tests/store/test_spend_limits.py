"""Spend limits in the store: one reserve holds in windows too, and the window of the reserve is posted
to, whatever becomes of the call. In virtual time.
"""

import asyncio
from datetime import datetime
from typing import Any

import pytest
import redis
from msgspec import structs

from gateway.core.acts import Act
from gateway.core.admission import Need, ScopeKind, Verdict
from gateway.core.budget import Dimension
from gateway.core.policy import ReserveKind
from gateway.core.spend_limits import LimitScope, SpendLimit
from gateway.core.velocity import RatePlan
from gateway.core.windows import Span
from gateway.ports import Background
from gateway.store.correction import Charge, correct_charge
from gateway.store.redis_store import RedisStore
from tests.store.agent import Agent, Look, settlement
from tests.store.books import LEASE_MS

TOKENS, USD, CALLS = Dimension.TOKENS, Dimension.NANO_USD, Dimension.CALLS
SMALL = Need(100, 100, 1_000, 50, 0, 20)  # holds 150 tokens and 2,000 nano-dollars


def ms(text: str) -> int:
    """A moment with its offset as milliseconds since the epoch."""
    return int(datetime.fromisoformat(text).timestamp() * 1000)


NOON = ms("2026-11-23T12:00+01:00")


def limit(**changes: Any) -> SpendLimit:
    """A key's 1,000 tokens a day in Berlin."""
    made = SpendLimit(
        "daily", LimitScope.KEY, "ab12cd34", Span.DAY, "Europe/Berlin", True, {}, {TOKENS: 1_000}
    )
    return structs.replace(made, **changes)


DAILY = limit()
TENANT = limit(policy="all", kind=LimitScope.TENANT, name="default", window=Span.LIFETIME, hard={})


@pytest.fixture
def caller(agent: Agent) -> Agent:
    """An agent whose own budgets are far away, at noon in Berlin."""
    agent.need = SMALL
    agent.at(NOON)
    return agent


class Windows:
    """What stands in the hashes of windows."""

    def __init__(self, look: Look) -> None:
        self.client, self.prefix = look.client, look.keys.window("", "", "")[: -len("::")]

    def read(self, name: str) -> dict[str, int]:
        """Return a window's amounts, but for those that are 0."""
        fields = self.client.hgetall(f"{self.prefix}{name}")
        amounts = {field: text for field, text in fields.items() if field != "told"}
        return {field: int(value) for field, value in amounts.items() if value != "0"}

    def ttl_ms(self, name: str) -> int:
        """Return how long it stays, -1 if for good."""
        return int(self.client.pttl(f"{self.prefix}{name}"))


@pytest.fixture
def windows(look: Look) -> Windows:
    """What stands in the hashes of the tenant's windows."""
    return Windows(look)


TODAY = "daily:key:ab12cd34@2026-11-23"
TOMORROW = "daily:key:ab12cd34@2026-11-24"
FOR_GOOD = "all:tenant:default"


async def test_a_call_holds_in_every_window_and_is_settled_there(
    caller: Agent, windows: Windows
) -> None:
    plan, receipt = await caller.reserve(spend=(DAILY, TENANT))
    assert receipt.verdict is Verdict.HELD
    held = {"tokens.H": 150, "nano_usd.H": 2_000, "calls.H": 1}
    assert windows.read(TODAY) == windows.read(FOR_GOOD) == held
    await caller.store.settle(settlement(plan, 90, 700))
    spent = {"tokens.S": 90, "nano_usd.S": 700, "calls.S": 1}
    assert windows.read(TODAY) == windows.read(FOR_GOOD) == spent
    assert (await caller.store.settle(settlement(plan, 90, 700))).duplicate
    assert windows.read(TODAY) == spent


async def test_the_receipt_tells_how_each_limit_stands(caller: Agent) -> None:
    plan, _ = await caller.reserve(spend=(DAILY, TENANT))
    await caller.store.settle(settlement(plan, 90, 700))
    await caller.reserve(spend=(DAILY,))
    _, receipt = await caller.reserve("PLAN", spend=(DAILY, TENANT))
    first, second = receipt.limits
    assert first.settled == second.settled == {TOKENS: 90, USD: 700, CALLS: 1}
    assert (first.held, second.held[TOKENS]) == ({TOKENS: 150, USD: 2_000, CALLS: 1}, 0)
    assert first.window.ends == "2026-11-24T00:00:00+01:00"
    assert [scope.kind for scope in receipt.scopes] == [ScopeKind.TASK, ScopeKind.PHASE]


async def test_above_its_line_a_limit_refuses_while_the_task_has_room(
    caller: Agent, windows: Windows
) -> None:
    """GW-11. At the line is within."""
    plan, _ = await caller.reserve(spend=(DAILY,))
    await caller.store.settle(settlement(plan, 1_000))
    plan, receipt = await caller.reserve("PLAN", spend=(TENANT, DAILY))
    assert receipt.verdict is Verdict.HELD
    await caller.store.settle(settlement(plan, 1))
    _, receipt = await caller.reserve("PLAN", spend=(TENANT, DAILY))
    assert (receipt.verdict, receipt.stop_code) == (Verdict.REFUSED, "spend_limit_exceeded")
    assert (receipt.stop_dimension, receipt.tripped_now) == (TOKENS, False)
    assert receipt.stop_scope is not None
    assert (receipt.stop_scope.kind, receipt.stop_limit) == (ScopeKind.KEY, receipt.limits[1])
    assert receipt.stop_scope.name == "ab12cd34@2026-11-23"
    assert windows.read(FOR_GOOD) == {"tokens.S": 1, "calls.S": 1}, "nothing is held anywhere"


async def test_an_observed_limit_refuses_nothing(caller: Agent) -> None:
    observed = limit(enforced=False, hard={TOKENS: 10})
    for _ in range(2):
        plan, receipt = await caller.reserve(spend=(observed,))
        assert receipt.verdict is Verdict.HELD
        await caller.store.settle(settlement(plan, 500))
    assert receipt.limits[0].settled[TOKENS] == 500


async def test_an_untagged_call_is_held_to_its_key(caller: Agent) -> None:
    untagged = {"task": "-ab12cd34", "limits": None}
    plan, _ = await caller.reserve(spend=(DAILY,), **untagged)
    await caller.store.settle(settlement(plan, 1_001))
    _, receipt = await caller.reserve(spend=(DAILY,), **untagged)
    assert receipt.stop_code == "spend_limit_exceeded"


async def test_parallel_calls_never_overshoot_by_more_than_one(caller: Agent) -> None:
    """As with a task's budget: what open calls hold is in flight, and may be asked for again."""
    receipts = await asyncio.gather(*(caller.reserve(spend=(DAILY,)) for _ in range(20)))
    verdicts = [receipt.verdict for _, receipt in receipts]
    assert verdicts.count(Verdict.HELD) == 7, "six times 150 are within 1,000"
    assert verdicts.count(Verdict.IN_FLIGHT) == 13
    assert receipts[-1][1].stop_limit is not None


async def test_the_worst_case_fits_into_what_a_limit_leaves(
    caller: Agent, windows: Windows
) -> None:
    plan, _ = await caller.reserve(spend=(DAILY,))
    await caller.store.settle(settlement(plan, 880))
    worst = {"kind": ReserveKind.WORST_CASE, "spend": (DAILY,)}
    plan, receipt = await caller.reserve(**worst)
    assert (receipt.verdict, receipt.output, receipt.held_tokens) == (Verdict.HELD, 20, 120)
    _, receipt = await caller.reserve(**worst)
    assert receipt.verdict is Verdict.IN_FLIGHT
    await caller.store.settle(settlement(plan, 100))
    _, receipt = await caller.reserve(**worst)
    assert (receipt.verdict, receipt.stop_code) == (Verdict.SHORT, "spend_limit_exceeded")
    assert windows.read(TODAY) == {"tokens.S": 980, "calls.S": 2}


# windows


@pytest.mark.parametrize(
    ("span", "last", "first", "names"),
    [
        (Span.HOUR, "2026-11-23T12:59:59.999+01:00", "2026-11-23T13:00+01:00",
         ("2026-11-23T1100Z", "2026-11-23T1200Z")),
        (Span.DAY, "2026-10-25T23:59:59.999+01:00", "2026-10-26T00:00+01:00",
         ("2026-10-25", "2026-10-26")),
        (Span.WEEK, "2026-11-22T23:59:59.999+01:00", "2026-11-23T00:00+01:00",
         ("2026-W47", "2026-W48")),
        (Span.MONTH, "2026-03-31T23:59:59.999+02:00", "2026-04-01T00:00+02:00",
         ("2026-03", "2026-04")),
    ],
)  # fmt: skip
async def test_a_window_turns_over_at_the_right_instant(
    caller: Agent, windows: Windows, span: Span, last: str, first: str, names: tuple[str, str]
) -> None:
    """In the zone's calendar, through a change of the clocks as well."""
    here = limit(window=span)
    caller.at(ms(last))
    plan, _ = await caller.reserve(spend=(here,))
    await caller.store.settle(settlement(plan, 1_001))
    _, receipt = await caller.reserve(spend=(here,))
    assert receipt.verdict is Verdict.REFUSED
    caller.at(ms(first))
    _, receipt = await caller.reserve(spend=(here,))
    assert receipt.verdict is Verdict.HELD
    before, after = (windows.read(f"daily:key:ab12cd34@{name}") for name in names)
    assert (before["tokens.S"], after) == (
        1_001,
        {"tokens.H": 150, "nano_usd.H": 2_000, "calls.H": 1},
    )


async def test_the_store_s_clock_names_the_window(
    caller: Agent, windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway whose clock is years behind asks once more, and knows the time from then on."""
    store = caller.store
    monkeypatch.setattr(store, "now_ms", "")
    monthly = limit(window=Span.MONTH)
    monkeypatch.setattr("gateway.store.windows.time.time_ns", lambda: 0)
    for _ in range(2):
        before = windows.client.info("commandstats")["cmdstat_evalsha"]["calls"]
        _, receipt = await caller.reserve(spend=(monthly,))
        asked = windows.client.info("commandstats")["cmdstat_evalsha"]["calls"] - before
        assert receipt.verdict is Verdict.HELD
        assert receipt.limits[0].window.holds(receipt.now_ms)
    assert asked == 1


async def test_a_call_is_posted_to_the_window_of_its_reserve(
    caller: Agent, windows: Windows
) -> None:
    plans = [(await caller.reserve(spend=(DAILY,)))[0] for _ in range(2)]
    caller.at(ms("2026-11-24T00:00+01:00"))
    await caller.store.settle(settlement(plans[0], 90))
    await caller.store.release(plans[1])
    assert windows.read(TODAY) == {"tokens.S": 90, "calls.S": 1}
    assert windows.read(TOMORROW) == {}


async def test_a_window_is_kept_until_nothing_can_correct_it(
    caller: Agent, windows: Windows
) -> None:
    await caller.reserve(spend=(DAILY, TENANT))
    until_midnight = ms("2026-11-24T00:00+01:00") - NOON
    assert until_midnight < windows.ttl_ms(TODAY) <= until_midnight + 26 * 3_600_000
    assert windows.ttl_ms(FOR_GOOD) == -1


async def test_what_comes_for_a_window_that_is_gone_makes_none(
    caller: Agent, windows: Windows
) -> None:
    plan, _ = await caller.reserve(spend=(DAILY,))
    windows.client.delete(f"{windows.prefix}{TODAY}")
    await caller.store.heartbeat(caller.tenant, [(plan, 900, 0)])
    await caller.store.settle(settlement(plan, 90))
    assert windows.read(TODAY) == {}


# every end of a call


async def test_a_release_gives_back(caller: Agent, windows: Windows) -> None:
    plan, _ = await caller.reserve(spend=(DAILY,))
    for _ in range(2):
        await caller.store.release(plan)
        assert windows.read(TODAY) == {}


@pytest.mark.parametrize(
    ("late", "spent"),
    [
        (None, {"tokens.S": 150, "nano_usd.S": 2_000, "calls.S": 1}),
        ("settle", {"tokens.S": 90, "nano_usd.S": 700, "calls.S": 1}),
        ("release", {}),
    ],
)
async def test_an_expired_call_is_charged_and_corrected(
    caller: Agent, windows: Windows, late: str | None, spent: dict[str, int]
) -> None:
    plan, _ = await caller.reserve(spend=(DAILY,))
    caller.at(NOON + LEASE_MS)
    assert await caller.store.expire_due(caller.tenant) == [plan.call_id]
    if late == "settle":
        await caller.store.settle(settlement(plan, 90, 700))
    elif late == "release":
        await caller.store.release(plan)
    assert windows.read(TODAY) == spent


async def test_a_heartbeat_raises_what_is_held(caller: Agent, windows: Windows) -> None:
    plan, _ = await caller.reserve(spend=(DAILY,))
    await caller.store.heartbeat(caller.tenant, [(plan, 400, 0)])
    assert windows.read(TODAY)["tokens.H"] == 400
    await caller.store.settle(settlement(plan, 90))
    assert windows.read(TODAY) == {"tokens.S": 90, "calls.S": 1}


async def test_a_call_whose_reserve_never_arrived_counts_in_the_window_of_now(
    caller: Agent, windows: Windows, store: RedisStore
) -> None:
    plan = caller.plan(spend=(DAILY,))
    caller.at(ms("2026-11-24T08:00+01:00"))
    for _ in range(2):
        await store.settle(settlement(plan, 90))
        assert windows.read(TOMORROW) == {"tokens.S": 90, "calls.S": 1}
    assert windows.ttl_ms(TOMORROW) > 0


async def test_a_late_settle_asks_for_the_store_s_window(
    caller: Agent, windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that the store does not know, by a gateway whose clock is wrong."""
    plan = caller.plan(spend=(limit(window=Span.MONTH, hard={}),))
    monkeypatch.setattr(caller.store, "now_ms", "")
    monkeypatch.setattr("gateway.store.windows.time.time_ns", lambda: 0)
    await caller.store.settle(settlement(plan, 90))
    [key] = windows.client.keys(f"{windows.prefix}daily:key:*")
    assert windows.client.hget(key, "tokens.S") == "90"


async def test_a_provisional_charge_is_corrected_in_its_window(
    caller: Agent, windows: Windows
) -> None:
    plan, _ = await caller.reserve(spend=(DAILY,))
    queued = structs.replace(settlement(plan, 150), background=Background.QUEUED)
    await caller.store.settle(queued)
    caller.at(ms("2026-11-24T08:00+01:00"))
    await caller.store.settle(structs.replace(settlement(plan, 30), background=Background.DONE))
    assert windows.read(TODAY) == {"tokens.S": 30, "calls.S": 1}


async def test_a_charge_mended_by_hand_is_mended_in_its_window(
    caller: Agent, windows: Windows, look: Look
) -> None:
    plan, _ = await caller.reserve(spend=(DAILY,))
    await caller.store.settle(settlement(plan, 90, 700))
    charge = Charge(
        plan.call_id, "T", "settled", 2**53, "", 0, 90, 700, is_estimated=False, would_refuse=False
    )
    caller.at(ms("2026-11-24T08:00+01:00"))
    names, act = look.keys, Act("call.correct", "ann", "a reason")
    assert await correct_charge(
        caller.store.connection, names, charge, 40, 0, act, now_ms=caller.store.now_ms
    )
    assert windows.read(TODAY) == {"tokens.S": 40, "calls.S": 1}


# the ledger


async def test_the_ledger_is_told_whose_limit_refused(
    caller: Agent, redis_client: redis.Redis, look: Look
) -> None:
    plan, _ = await caller.reserve(spend=(DAILY,))
    await caller.store.settle(settlement(plan, 1_200))
    await caller.reserve(spend=(DAILY,))
    [(_, entry)] = redis_client.xrevrange(look.keys.ledger, count=1)
    assert entry["s"] == "spend_limit_exceeded 0 0 key ab12cd34@2026-11-23 tokens 1200 1000 1000"


# velocity

FAST = RatePlan("fast", 60_000, True, False, {TOKENS: 1_000, CALLS: 3})


async def test_a_task_that_spends_too_fast_is_refused_until_it_has_slowed_down(
    caller: Agent, redis_client: redis.Redis, look: Look
) -> None:
    """GW-13. Half a minute into the next minute, half of what was used in this one still counts."""
    plan, receipt = await caller.reserve(rate=FAST)
    assert receipt.rate is not None
    assert receipt.rate.used == {TOKENS: 0, USD: 0, CALLS: 0}
    await caller.store.settle(settlement(plan, 2_000, 7))
    _, receipt = await caller.reserve(rate=FAST)
    assert (receipt.verdict, receipt.stop_code) == (Verdict.REFUSED, "velocity_exceeded")
    assert (receipt.stop_dimension, receipt.tripped_now) == (TOKENS, False)
    assert receipt.rate is not None
    assert receipt.rate.used == {TOKENS: 2_000, USD: 7, CALLS: 1}
    [(_, entry)] = redis_client.xrevrange(look.keys.ledger, count=1)
    assert entry["s"] == f"velocity_exceeded 0 {NOON} rate fast tokens 2000 1000 1000"
    caller.at(NOON + 89_900)
    assert (await caller.reserve(rate=FAST))[1].verdict is Verdict.REFUSED
    caller.at(NOON + 90_000)
    plan, receipt = await caller.reserve(rate=FAST)
    assert receipt.verdict is Verdict.HELD
    assert receipt.rate is not None
    assert receipt.rate.used[TOKENS] == 1_000


async def test_calls_count_once_they_are_let_through(caller: Agent) -> None:
    """Open or not: a burst is seen while it happens."""
    verdicts = [(await caller.reserve(rate=FAST))[1].verdict for _ in range(6)]
    assert verdicts == [Verdict.HELD] * 4 + [Verdict.REFUSED] * 2


async def test_a_call_that_was_never_sent_is_none_of_a_burst(caller: Agent) -> None:
    """Another upstream is tried, or the client has left; given back in whatever span, and once."""
    for again in range(8):
        plan, receipt = await caller.reserve(rate=FAST)
        assert receipt.verdict is Verdict.HELD, again
        await caller.store.release(plan)
        await caller.store.release(plan)
    long_ago, _ = await caller.reserve(rate=FAST)
    await caller.reserve(rate=FAST)
    plan, _ = await caller.reserve(rate=FAST)
    for now_ms, given_back, calls in (
        (NOON + 60_000, plan, 2),  # of the span before
        (NOON + 120_000, long_ago, 1),  # of one that is forgotten
    ):
        caller.at(now_ms)
        await caller.store.release(given_back)
        _, receipt = await caller.reserve(rate=FAST)
        assert receipt.rate is not None
        assert receipt.rate.used[CALLS] == calls


async def test_a_velocity_that_only_flags_refuses_nothing(caller: Agent) -> None:
    flagging = structs.replace(FAST, refuses=False)
    for _ in range(6):
        _, receipt = await caller.reserve(rate=flagging)
        assert receipt.verdict is Verdict.HELD
    assert receipt.rate is not None
    assert receipt.rate.crossed is CALLS


async def test_velocity_is_the_task_s_own_and_forgotten_when_it_rests(
    caller: Agent, look: Look
) -> None:
    plan, _ = await caller.reserve(rate=FAST)
    caller.at(NOON + LEASE_MS)
    await caller.store.expire_due(caller.tenant)
    key = look.keys.task("T") + ":rate:60000"
    assert look.client.hget(key, "tokens") == "150", "an expired call was charged its hold"
    await caller.store.settle(settlement(plan, 100))
    assert look.client.hget(key, "tokens") == "100"
    assert 0 < look.client.pttl(key) <= 120_000
    _, other = await caller.reserve(task="other", rate=FAST)
    assert other.rate is not None
    assert other.rate.used[CALLS] == 0
    unknown = caller.plan(rate=FAST)
    await caller.store.settle(settlement(unknown, 50))
    assert look.client.hget(key, "tokens") == "150"
    caller.at(NOON + 180_000)
    _, receipt = await caller.reserve(rate=FAST)
    assert receipt.rate is not None
    assert receipt.rate.used == {TOKENS: 0, USD: 0, CALLS: 0}


# round trips


async def test_limits_and_velocity_cost_no_further_round_trip(
    caller: Agent, redis_client: redis.Redis
) -> None:
    """One command before a call and one after it, once the task is known."""
    await caller.reserve()
    limits = tuple(limit(policy=f"p{at}") for at in range(8))

    def commands() -> int:
        stats = redis_client.info("commandstats")
        return int(stats["cmdstat_evalsha"]["calls"])

    before = commands()
    plan, receipt = await caller.reserve(spend=limits, rate=FAST)
    assert receipt.verdict is Verdict.HELD
    assert commands() == before + 1
    await caller.store.settle(settlement(plan, 10))
    assert commands() == before + 2


# Heartbeats ---------------------------------------------------------------------------------------


async def test_a_heartbeat_tells_that_a_limit_is_crossed(caller: Agent, windows: Windows) -> None:
    """By what was seen of the call itself, or by others; one that only observes stops nothing."""
    watching = limit(enforced=False)
    plan, _ = await caller.reserve(spend=(DAILY, TENANT))
    other, _ = await caller.reserve(spend=(DAILY,))
    calm, _ = await caller.reserve(spend=(watching, TENANT))
    beats = [(plan, 1_000, 9), (other, 1, 0), (calm, 9_000, 0)]
    assert await caller.store.heartbeat(caller.tenant, beats) == {}
    over = await caller.store.heartbeat(caller.tenant, [(plan, 1_001, 9), (other, 1, 0)])
    assert over == {plan.call_id: "spend_limit_exceeded"}
    spent, _ = await caller.reserve(
        need=Need(1, 1, 0, 1, 0, 0), spend=(DAILY,), kind=ReserveKind.NONE
    )
    await caller.store.settle(settlement(spent, 1_001))
    over = await caller.store.heartbeat(caller.tenant, beats)
    assert over == dict.fromkeys((plan.call_id, other.call_id), "spend_limit_exceeded")


async def test_a_window_that_is_over_stops_no_stream(caller: Agent) -> None:
    """A call counts in the window in which it was let through; today's has room."""
    plan, _ = await caller.reserve(spend=(DAILY,))
    caller.at(NOON + 86_400_000)
    assert await caller.store.heartbeat(caller.tenant, [(plan, 5_000, 0)]) == {}
