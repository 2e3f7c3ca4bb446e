"""`settle` and `release`: actual usage replaces the hold, exactly once, whatever happened."""

from dataclasses import replace

import pytest
from msgspec import structs

from gateway.core.admission import Need
from gateway.core.budget import Dimension
from gateway.core.usage import Usage, UsageSource
from gateway.ports import Background, BackgroundCall, Settled
from gateway.store.redis_store import RedisStore
from tests.store.agent import (
    FACTS,
    LIMITS_WITH_MONEY,
    NOTHING_HELD,
    STRICT,
    Agent,
    Look,
    settlement,
)

MONEY = Dimension.NANO_USD
UP = replace(FACTS, parents=("up", "top"))
EVERYWHERE = (("T", ""), ("T", "PLAN."), ("up", ""), ("top", ""))


# Settle ----------------------------------------------------------------------------------------


async def test_actual_usage_replaces_the_hold_everywhere(agent: Agent, look: Look) -> None:
    """On the task, its phase and its ancestors: tokens, money and one call; nothing stays held."""
    plan, _ = await agent.reserve("PLAN", facts=UP)
    settled = await agent.store.settle(settlement(plan, 15_800, 4_200))
    assert settled == Settled(False, 0, 15_800, 23_400)
    for task, scope in EVERYWHERE:
        assert look.held(task, scope) == NOTHING_HELD
        assert look.settled(task, scope) == 15_800
        assert look.number(f"{scope}nano_usd.S", task) == 4_200
        assert look.number(f"{scope}calls.S", task) == 1
    assert look.leases() == {}


async def test_usage_above_the_hold_is_recorded_in_full(agent: Agent, look: Look) -> None:
    """The provider has billed it (TRK-6)."""
    plan, receipt = await agent.reserve("PLAN")
    await agent.store.settle(settlement(plan, 10 * receipt.held_tokens))
    assert look.settled() == 170_480
    assert look.held() == NOTHING_HELD


async def test_settling_twice_is_settling_once(agent: Agent, look: Look) -> None:
    """The second settlement changes nothing, not even a counter."""
    plan, _ = await agent.reserve("PLAN")
    await agent.store.settle(settlement(plan, 100))
    before = look.task()
    agent.at(1_000_900)
    again = await agent.store.settle(settlement(plan, 999, would_refuse=True))
    assert again == Settled(duplicate=True)
    assert look.task() == before


async def test_a_tombstone_is_left_for_an_hour(agent: Agent, look: Look) -> None:
    """It holds nothing but the end that the call came to."""
    plan, _ = await agent.reserve("PLAN")
    await agent.store.settle(settlement(plan))
    assert look.call(plan.call_id) == {"state": "settled"}
    assert 3_590_000 < look.client.pttl(look.keys.call(plan.call_id)) <= 3_600_000


async def test_an_unknown_call_is_charged(agent: Agent, look: Look) -> None:
    """Its reserve was lost on the way; nothing was held, so nothing is given back."""
    await agent.call("PLAN", tokens=10)
    settled = await agent.store.settle(settlement(agent.plan("PLAN"), 90))
    assert settled == Settled(False, 10, 100, 23_400)
    assert look.settled(scope="PLAN.") == 100
    assert look.held() == look.held(scope="PLAN.") == NOTHING_HELD
    assert look.number("x.PLAN.1.tokens") == 100


async def test_an_unknown_call_of_an_unknown_task_creates_it(agent: Agent, look: Look) -> None:
    """The settlement carries the whole plan; the next call finds a task that has spent."""
    settled = await agent.store.settle(settlement(agent.plan("PLAN", facts=UP), 31_600))
    assert settled == Settled(False, 0, 31_600, 23_400)
    fields = look.task()
    assert (fields["created"], fields["tokens.L"]) == ("1000000", "23400")
    assert fields["PLAN.exec"] == "1"
    assert "x.PLAN.1.started" not in fields  # nobody knows
    assert look.client.zscore(look.keys.tasks, "T") == 1_000_000
    assert look.settled("up") == look.settled("top") == 31_600
    _, receipt = await agent.reserve("VERIFY", facts=UP)
    assert receipt.stop_code == "task_budget_exceeded"


async def test_an_unknown_call_without_a_task_or_phase_is_counted(agent: Agent, look: Look) -> None:
    """In the bucket of its key; it is no task."""
    untagged = replace(agent, task="-key1", limits=None)
    assert await untagged.spend(50, phase="") == Settled(False, 0, 50, 0)
    assert look.settled("-key1") == 50
    assert look.client.zcard(look.keys.tasks) == 0


async def test_raw_counts_and_their_source_are_kept(agent: Agent, look: Look) -> None:
    """Unweighted, by kind; estimates and what would have been refused are counted apart."""
    usage = Usage(input_total=100, cached_read=30, cache_write=20, output_total=40, reasoning=8)
    for source, would_refuse in ((UsageSource.PROVIDER, False), (UsageSource.ESTIMATED, True)):
        plan, _ = await agent.reserve("PLAN")
        await agent.store.settle(
            settlement(plan, 140, usage=usage, source=source, would_refuse=would_refuse)
        )
    names = ("input", "cached_read", "cache_write", "output", "reasoning")
    assert [look.number(f"raw.{name}") for name in names] == [100, 60, 40, 80, 16]
    assert (look.number("estimated.calls"), look.number("estimated.tokens")) == (1, 140)
    assert (look.number("would_refuse.calls"), look.number("would_refuse.tokens")) == (1, 140)


async def test_amounts_no_provider_means_are_capped(agent: Agent, look: Look) -> None:
    """A mangled usage cannot break a script half way, nor push a total out of the exact range."""
    usage = Usage(10**30, 10**30, 0, 10**30, 10**30)
    plan, _ = await agent.reserve("PLAN")
    settled = await agent.store.settle(settlement(plan, 10**30, 10**30, usage=usage))
    assert settled.tokens_after == look.settled() < 2**53
    assert look.number("nano_usd.S") < 2**53
    assert look.number("raw.output") < 2**53
    assert look.held() == NOTHING_HELD


async def test_a_settlement_tells_what_the_limit_is_with_grants(agent: Agent, look: Look) -> None:
    """Notice levels are told from it."""
    await agent.call("PLAN", tokens=1)
    look.client.hset(look.keys.task("T"), "tokens.G", 600)
    assert (await agent.spend(1)).limit == 24_000


# Release ---------------------------------------------------------------------------------------


async def test_a_release_gives_everything_back(agent: Agent, look: Look) -> None:
    """Nothing was sent: no tokens, no call."""
    plan, _ = await agent.reserve("PLAN", facts=UP)
    await agent.store.release(plan)
    for task, scope in EVERYWHERE:
        assert look.held(task, scope) == NOTHING_HELD
        assert look.settled(task, scope) == look.number(f"{scope}calls.S", task) == 0
    assert look.leases() == {}
    assert look.call(plan.call_id) == {"state": "released"}


async def test_releasing_twice_is_releasing_once(agent: Agent, look: Look) -> None:
    """Even beside another call that is held."""
    await agent.reserve("PLAN")
    plan, _ = await agent.reserve("PLAN")
    await agent.store.release(plan)
    await agent.store.release(plan)
    assert look.held() == look.held(scope="PLAN.") == (17_048, 0, 1, 1)


async def test_what_was_released_cannot_be_settled(agent: Agent, look: Look) -> None:
    """Nor the other way round: the first end of a call is its end."""
    plan, _ = await agent.reserve("PLAN")
    await agent.store.release(plan)
    assert (await agent.store.settle(settlement(plan))).duplicate
    assert look.settled() == 0
    plan, _ = await agent.reserve("PLAN")
    await agent.store.settle(settlement(plan, 7))
    await agent.store.release(plan)
    assert (look.settled(), look.number("calls.S")) == (7, 1)


async def test_releasing_an_unknown_call_leaves_its_tombstone(agent: Agent, look: Look) -> None:
    """And creates nothing else."""
    plan = agent.plan("PLAN")
    await agent.store.release(plan)
    assert look.call(plan.call_id) == {"state": "released"}
    assert look.task() == {}


# A call that expired ---------------------------------------------------------------------------


@pytest.mark.parametrize("actual", [0, 1, 17_048, 20_000])
async def test_a_late_settlement_corrects_what_expiry_charged(
    agent: Agent, look: Look, actual: int
) -> None:
    """Up or down, everywhere; afterwards everything is as if it had come in time."""
    need = Need(15_000, 15_000, 900, 2_048, 0, 1)
    plan, _ = await agent.reserve("PLAN", facts=UP, need=need)
    agent.at(1_030_000)
    await agent.store.expire_due(agent.tenant)
    assert look.number("nano_usd.S") == 2_948
    settled = await agent.store.settle(settlement(plan, actual, 33))
    assert settled == Settled(False, 17_048, actual, 23_400)
    for task, scope in EVERYWHERE:
        assert look.settled(task, scope) == actual
        assert look.number(f"{scope}nano_usd.S", task) == 33
        assert look.number(f"{scope}calls.S", task) == 1
        assert look.held(task, scope) == NOTHING_HELD
    assert look.number("x.PLAN.1.tokens") == actual
    assert (await agent.store.settle(settlement(plan, actual))).duplicate


async def test_a_late_release_takes_back_what_expiry_charged(agent: Agent, look: Look) -> None:
    """A worker that was frozen finds out that nothing had been sent: nothing is charged."""
    plan, _ = await agent.reserve("PLAN", facts=UP, need=Need(10, 10, 900, 5, 0, 1))
    agent.at(1_030_000)
    await agent.store.expire_due(agent.tenant)
    for _ in range(2):
        await agent.store.release(plan)
        for task, scope in EVERYWHERE:
            for total in ("tokens.S", "nano_usd.S", "calls.S"):
                assert look.number(scope + total, task) == 0
            assert look.held(task, scope) == NOTHING_HELD
    assert look.call(plan.call_id) == {"state": "released"}


async def test_a_correction_frees_a_task_that_it_tripped(agent: Agent, look: Look) -> None:
    """Also an ancestor; the next breach is episode 2."""
    plan, _ = await agent.reserve("VERIFY", facts=UP)
    await agent.reserve("VERIFY", facts=UP)
    agent.at(1_030_000)
    await agent.store.expire_due(agent.tenant)
    assert (await agent.reserve("VERIFY", facts=UP))[1].tripped_now
    look.client.hset(look.keys.task("up"), mapping={"trip": "tokens", "tokens.C": "28080"})
    await agent.store.settle(settlement(plan, 100))
    assert "trip" not in look.task()
    assert "trip" not in look.task("up")
    await agent.spend(20_000)
    _, receipt = await agent.reserve("VERIFY", facts=UP)
    assert (receipt.tripped_now, receipt.episode) == (True, 2)


async def test_a_settlement_that_frees_nothing_leaves_the_trip(agent: Agent, look: Look) -> None:
    """A call that was open when the task tripped goes on and ends; the task stays stopped."""
    plan, _ = await agent.reserve("IMPLEMENT")
    await agent.spend(31_600)
    await agent.call("VERIFY")
    await agent.store.settle(settlement(plan))
    assert look.task()["trip"] == "tokens"


async def test_a_trip_on_latency_holds_while_a_call_is_open(agent: Agent, look: Look) -> None:
    """The open interval counts when asked whether the task is freed, as it did when it tripped."""
    strict = replace(agent, effects=STRICT)
    one, _ = await strict.reserve("PR")
    two, _ = await strict.reserve("PR")
    agent.at(1_700_000)
    assert (await strict.call("PR")).tripped_now
    await agent.store.settle(settlement(one, 1))
    assert look.task()["trip"] == "latency_ms"
    again = await strict.call("PR")
    assert (again.tripped_now, again.episode) == (False, 1)
    await agent.store.settle(settlement(two, 1))
    assert look.task()["trip"] == "latency_ms"


# Calls and latency -----------------------------------------------------------------------------


async def test_overlapping_calls_take_as_long_as_their_union(agent: Agent, look: Look) -> None:
    """0-100 and 50-250 and 300-310 are 260 ms, of the task, of its phase, of its ancestors."""
    one, _ = await agent.reserve("PLAN", facts=UP)
    agent.at(1_000_050)
    two, _ = await agent.reserve("PLAN", facts=UP)
    agent.at(1_000_100)
    await agent.store.settle(settlement(one))
    agent.at(1_000_250)
    await agent.store.release(two)
    agent.at(1_000_300)
    three, _ = await agent.reserve("PLAN", facts=UP)
    agent.at(1_000_310)
    await agent.store.settle(settlement(three))
    for task, scope in EVERYWHERE:
        assert look.number(f"{scope}latency_ms.S", task) == 260
    assert look.number("x.PLAN.1.latency_ms") == 260


async def test_each_scope_has_a_union_of_its_own(agent: Agent, look: Look) -> None:
    """Two phases side by side for 100 ms are 100 ms of the task; two tasks 100 ms of theirs."""
    other = replace(agent, task="U", facts=UP)
    plans = [
        (await agent.reserve("PLAN", facts=UP))[0],
        (await agent.reserve("THINK", facts=UP))[0],
        (await other.reserve("PLAN"))[0],
    ]
    agent.at(1_000_100)
    for plan in plans:
        await agent.store.settle(settlement(plan))
    for task, scope in (*EVERYWHERE, ("T", "THINK."), ("U", "")):
        assert look.number(f"{scope}latency_ms.S", task) == 100


async def test_a_call_that_was_never_reserved_takes_no_time(agent: Agent, look: Look) -> None:
    """Its beginning is not known; another open call is not cut short by it."""
    plan, _ = await agent.reserve("PLAN")
    agent.at(1_000_100)
    await agent.spend(5, phase="PLAN")
    agent.at(1_000_200)
    await agent.store.settle(settlement(plan))
    assert look.number("latency_ms.S") == look.number("PLAN.latency_ms.S") == 200


async def test_money_is_counted_where_nothing_limits_it(agent: Agent, look: Look) -> None:
    """No limit means no comparison; the total is kept all the same."""
    await agent.call("PLAN", nano_usd=77)
    assert look.number("nano_usd.S") == 77
    limited = replace(agent, task="U", limits=LIMITS_WITH_MONEY, effects=STRICT)
    await limited.spend(1, nano_usd=LIMITS_WITH_MONEY.task_lines[MONEY].cumulative + 1)
    receipt = await limited.call("VERIFY")
    assert (receipt.stop_dimension, receipt.stop_code) == (MONEY, "task_budget_exceeded")


async def test_how_long_tombstones_stay_is_a_setting(agent: Agent, look: Look) -> None:
    """`tombstone_ms`."""
    short = replace(agent, store=RedisStore(agent.store.connection, tombstone_ms=5_000))
    plan = short.plan("PLAN")
    await short.store.release(plan)
    assert look.client.pttl(look.keys.call(plan.call_id)) <= 5_000


# Answers in the background ---------------------------------------------------------------------


async def test_a_provisional_charge_is_corrected_once(agent: Agent, look: Look) -> None:
    """Everywhere, down as well as up; then nothing is counted as estimated any more."""
    plan, _ = await agent.reserve("PLAN", facts=UP)
    queued = structs.replace(
        settlement(plan, 2_048, 900),
        usage=Usage(input_total=48, output_total=2_000),
        source=UsageSource.ESTIMATED,
        background=Background.QUEUED,
    )
    await agent.store.settle(queued)
    assert (await agent.store.settle(queued)).duplicate
    assert (look.settled(), look.number("estimated.calls")) == (2_048, 1)
    done = structs.replace(
        settlement(plan, 60, 30),
        usage=Usage(input_total=50, output_total=10),
        background=Background.DONE,
    )
    for expected in (False, True, True):
        assert (await agent.store.settle(done)).duplicate is expected
    assert (await agent.store.settle(queued)).duplicate
    for task, scope in EVERYWHERE:
        assert look.settled(task, scope) == 60
        assert look.number(f"{scope}nano_usd.S", task) == 30
        assert look.number(f"{scope}calls.S", task) == 1
    assert (look.number("raw.input"), look.number("raw.output")) == (50, 10)
    assert (look.number("estimated.calls"), look.number("estimated.tokens")) == (0, 0)
    assert look.held() == NOTHING_HELD


async def test_a_response_leads_to_its_call(agent: Agent) -> None:
    """Whoever fetches it; an unknown one leads nowhere."""
    plan, _ = await agent.reserve("PLAN", facts=UP)
    background = BackgroundCall(plan, plan.phase)
    await agent.store.remember_response(agent.tenant, "resp_1", background)
    assert await agent.store.recall_response(agent.tenant, "resp_1") == background
    assert await agent.store.recall_response(agent.tenant, "resp_2") is None
