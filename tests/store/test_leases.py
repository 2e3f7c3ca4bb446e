"""`heartbeat` and `expire`: who is alive keeps its holds, who is not is charged for them."""

from dataclasses import replace

import pytest

from gateway.core.admission import Need, Verdict
from gateway.store.redis_store import RedisStore
from tests.store.agent import FACTS, NOTHING_HELD, OBSERVE, Agent, Look, settlement

UP = replace(FACTS, parents=("up", "top"))
EVERYWHERE = (("T", ""), ("T", "PLAN."), ("up", ""), ("top", ""))


# Heartbeat -------------------------------------------------------------------------------------


async def test_a_heartbeat_renews_leases(agent: Agent, look: Look) -> None:
    """From now on; of open calls only."""
    open_call, _ = await agent.reserve("PLAN")
    ended, _ = await agent.reserve("PLAN")
    await agent.store.settle(settlement(ended))
    never = agent.plan("PLAN")
    agent.at(1_010_000)
    over = await agent.store.heartbeat(
        agent.tenant, [(plan, 0, 0) for plan in (open_call, ended, never)]
    )
    assert over == {}
    assert look.leases() == {open_call.call_id: 1_040_000}
    agent.at(1_039_999)
    assert await agent.store.expire_due(agent.tenant) == []


async def test_a_heartbeat_raises_holds_that_a_call_outgrew(agent: Agent, look: Look) -> None:
    """On task, phase and ancestors, to what was seen; it never lowers one."""
    plan, _ = await agent.reserve("PLAN", facts=UP, need=Need(100, 100, 900, 50, 0, 2))
    for tokens, nano_usd, held in (
        (149, 0, (150, 1_000, 1, 1)),
        (151, 0, (151, 1_000, 1, 1)),
        (151, 1_234, (151, 1_234, 1, 1)),
        (20, 20, (151, 1_234, 1, 1)),
    ):
        await agent.store.heartbeat(agent.tenant, [(plan, tokens, nano_usd)])
        for task, scope in EVERYWHERE:
            assert look.held(task, scope) == held
    await agent.store.settle(settlement(plan, 140))
    for task, scope in EVERYWHERE:
        assert look.held(task, scope) == NOTHING_HELD
        assert look.settled(task, scope) == 140


async def test_a_call_without_a_phase_is_raised_too(agent: Agent, look: Look) -> None:
    """On the task alone."""
    plan, _ = await agent.reserve()
    await agent.store.heartbeat(agent.tenant, [(plan, 20_000, 0)])
    assert look.held() == (20_000, 0, 1, 1)


async def test_a_raised_hold_may_put_off_others(agent: Agent) -> None:
    """Nobody may be admitted on what an open call has used already."""
    plan, _ = await agent.reserve("VERIFY")
    await agent.store.heartbeat(agent.tenant, [(plan, 28_081, 0)])
    _, receipt = await agent.reserve("VERIFY")
    assert receipt.verdict is Verdict.IN_FLIGHT


async def test_a_heartbeat_never_wakes_the_dead(agent: Agent, look: Look) -> None:
    """A call that expired or ended stays as it is, whatever was seen of it."""
    plan, _ = await agent.reserve("PLAN")
    agent.at(1_030_000)
    await agent.store.expire_due(agent.tenant)
    await agent.store.heartbeat(agent.tenant, [(plan, 99_999, 99)])
    assert look.leases() == {}
    assert look.held() == NOTHING_HELD
    assert look.settled() == 17_048


async def test_a_heartbeat_tells_which_calls_are_over(agent: Agent, look: Look) -> None:
    """Their task would be refused by now, or an ancestor would."""
    calm = replace(agent, task="calm")
    dead = replace(agent, task="dead")
    child = replace(agent, task="child", facts=replace(FACTS, parents=("mid", "dead")))
    plans = [(await one.reserve("IMPLEMENT"))[0] for one in (agent, calm, dead, child)]
    beats = [(plan, 0, 0) for plan in plans]
    assert await agent.store.heartbeat(agent.tenant, beats) == {}
    await agent.spend(50_000)
    await agent.call("IMPLEMENT")
    look.client.hset(look.keys.task("dead"), "state", "killed")
    over = await agent.store.heartbeat(agent.tenant, beats)
    assert over == {
        plans[0].call_id: "runaway_task",
        plans[2].call_id: "task_killed",
        plans[3].call_id: "task_killed",
    }


async def test_many_calls_are_renewed_in_several_scripts(agent: Agent, look: Look) -> None:
    """A hundred at a time: no script keeps the server from others for long."""
    plans = [(await agent.reserve("PLAN", need=Need(1, 1, 0, 1, 0, 0)))[0] for _ in range(201)]
    agent.at(1_005_000)
    before = look.client.info("commandstats")["cmdstat_evalsha"]["calls"]
    await agent.store.heartbeat(agent.tenant, [(plan, 0, 0) for plan in plans])
    assert look.client.info("commandstats")["cmdstat_evalsha"]["calls"] - before == 3
    assert set(look.leases().values()) == {1_035_000}


# Expire ----------------------------------------------------------------------------------------


async def test_expiry_charges_the_raised_hold(agent: Agent, look: Look) -> None:
    """What was seen of a call is charged at least."""
    plan, _ = await agent.reserve("PLAN", facts=UP)
    await agent.store.heartbeat(agent.tenant, [(plan, 19_000, 700)])
    agent.at(1_030_000)
    assert await agent.store.expire_due(agent.tenant) == [plan.call_id]
    for task, scope in EVERYWHERE:
        assert look.settled(task, scope) == 19_000
        assert look.number(f"{scope}nano_usd.S", task) == 700
        assert look.number(f"{scope}calls.S", task) == 1
        assert look.number(f"{scope}latency_ms.S", task) == 30_000
        assert look.held(task, scope) == NOTHING_HELD


async def test_an_expired_call_is_charged_once(agent: Agent, look: Look) -> None:
    """However many sweeps see it."""
    await agent.reserve("PLAN")
    agent.at(1_030_000)
    assert len(await agent.store.expire_due(agent.tenant)) == 1
    assert await agent.store.expire_due(agent.tenant) == []
    assert look.settled() == 17_048
    assert look.number("expired.calls") == 1


async def test_an_expired_call_keeps_what_it_was_charged(agent: Agent, look: Look) -> None:
    """As long as a tombstone: a late settlement needs it."""
    plan, _ = await agent.reserve("PLAN")
    agent.at(1_030_000)
    await agent.store.expire_due(agent.tenant)
    call = look.call(plan.call_id)
    assert (call["state"], call["tokens"]) == ("expired", "17048")
    assert 0 < look.client.pttl(look.keys.call(plan.call_id)) <= 3_600_000


async def test_a_lease_renewed_meanwhile_is_left_alone(agent: Agent, look: Look) -> None:
    """Who is due is asked again inside the script."""
    plan, _ = await agent.reserve("PLAN")
    late = RedisStore(agent.store.connection, now_ms="1035000")
    look.client.zadd(look.keys.leases, {plan.call_id: 1_036_000})
    assert await late.expire_due(agent.tenant) == []
    assert look.held()[2] == 1


async def test_leases_of_calls_that_are_gone_are_cleared_away(agent: Agent, look: Look) -> None:
    """A call whose hash is gone, or has ended, is due to nobody."""
    plan, _ = await agent.reserve("PLAN")
    look.client.hset(look.keys.call(plan.call_id), "state", "settled")
    look.client.zadd(look.keys.leases, {"nobody": 5})
    agent.at(1_030_000)
    assert await agent.store.expire_due(agent.tenant) == []
    assert look.leases() == {}
    assert look.held()[2] == 1


async def test_no_more_than_asked_for_expire_at_once(agent: Agent) -> None:
    """The earliest first."""
    agent, plans = replace(agent, effects=OBSERVE), []
    for at in range(5):
        agent.at(1_000_000 + at)
        plans.append((await agent.reserve("PLAN"))[0].call_id)
    agent.at(1_100_000)
    assert await agent.store.expire_due(agent.tenant, 2) == plans[:2]
    assert await agent.store.expire_due(agent.tenant, 9) == plans[2:]


async def test_the_length_of_a_lease_is_a_setting(agent: Agent, look: Look) -> None:
    """`lease_ms`; by the server's clock a lease of no time at all is over at once."""
    agent = replace(agent, store=RedisStore(agent.store.connection, lease_ms=0))
    plan, _ = await agent.reserve("PLAN")
    assert await agent.store.expire_due(agent.tenant) == [plan.call_id]
    assert look.held() == NOTHING_HELD


@pytest.mark.parametrize(
    ("phase", "settled", "seen", "code"),
    [
        ("VERIFY", 28_080, 0, None),
        ("VERIFY", 28_000, 80, None),
        ("VERIFY", 28_000, 81, "task_budget_exceeded"),
        ("VERIFY", 28_081, 0, "task_budget_exceeded"),
        ("IMPLEMENT", 46_800, 0, None),
        ("IMPLEMENT", 46_000, 801, "runaway_task"),
        ("VERIFY", 46_801, 0, "runaway_task"),
        ("", 28_081, 0, "task_budget_exceeded"),
    ],
)
async def test_GW16_a_call_is_over_when_its_task_is_above_its_line(
    agent: Agent, phase: str, settled: int, seen: int, code: str | None
) -> None:
    """As a new call would be refused; what was seen of the open one counts, holds do not."""
    plan, _ = await agent.reserve(phase, need=Need(1, 1, 0, 1, 0, 0))
    await agent.reserve(phase, need=Need(40_000, 40_000, 0, 1, 0, 0))
    await agent.spend(settled)
    over = await agent.store.heartbeat(agent.tenant, [(plan, seen, 0)])
    assert over.get(plan.call_id) == code


async def test_GW16_nothing_is_over_where_lines_only_flag(agent: Agent, look: Look) -> None:
    """While the stop-loss observes; but a killed task is."""
    plan, _ = await agent.reserve("VERIFY", effects=OBSERVE)
    await agent.spend(99_999)
    assert await agent.store.heartbeat(agent.tenant, [(plan, 0, 0)]) == {}
    look.client.hset(look.keys.task(agent.task), "state", "killed")
    over = await agent.store.heartbeat(agent.tenant, [(plan, 0, 0)])
    assert over == {plan.call_id: "task_killed"}


async def test_GW16_a_task_that_is_let_through_to_its_end_is_not_over(
    agent: Agent, look: Look
) -> None:
    """It is held to the runaway line, as at its calls; other phases are not let through."""
    plan, _ = await agent.reserve("PR", need=Need(1, 1, 0, 1, 0, 0))
    look.client.hset(look.keys.task(agent.task), "completion", "1")
    other, _ = await agent.reserve("REVIEW", need=Need(1, 1, 0, 1, 0, 0))
    await agent.spend(30_000)
    over = await agent.store.heartbeat(agent.tenant, [(plan, 0, 0), (other, 0, 0)])
    assert over == {other.call_id: "task_budget_exceeded"}
