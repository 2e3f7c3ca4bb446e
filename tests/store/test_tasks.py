"""Tasks read back: every figure as the scripts left it, at a given time."""

import pytest
import redis

from gateway.core.budget import Amounts, BreachStatus, Dimension
from gateway.core.errors import StoreError
from gateway.core.overrides import Override, OverrideKind, limits_in_force
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.usage import Usage, UsageSource
from gateway.ports import TaskFacts
from gateway.store.address import StoreAddress
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys, limit_fields
from gateway.store.limits import UnknownTask
from gateway.store.redis_store import RedisStore
from gateway.store.task_view import (
    CallsAndTokens,
    Execution,
    Standing,
    StopState,
    TaskView,
)
from gateway.store.tasks import read_task
from tests.store.agent import FACTS, LIMITS, LIMITS_WITH_MONEY, OBSERVE, Agent, settlement

START = 1_000_000
TOKENS, LATENCY, MONEY, CALLS = Dimension
PHASE = WorkPhase.IMPLEMENT


async def view(agent: Agent, now_ms: int = START) -> TaskView:
    keys = TenantKeys(agent.tenant)
    return await read_task(agent.store.connection, keys, agent.task, now_ms)


def override(kind: OverrideKind = OverrideKind.GRANT, **changes: object) -> Override:
    return Override(kind, "ada", "needed", START, **changes)  # type: ignore[arg-type]


# One task -----------------------------------------------------------------------------------------


async def test_an_unknown_task(agent: Agent) -> None:
    with pytest.raises(UnknownTask):
        await view(agent)


async def test_the_bucket_of_untagged_calls_is_no_task(agent: Agent) -> None:
    """It has no snapshot."""
    agent.task, agent.limits = "-anonymous", None
    await agent.call()
    with pytest.raises(UnknownTask):
        await view(agent)


async def test_a_task_after_its_first_call(agent: Agent) -> None:
    """Limits and lines are those of the snapshot, totals those of the call."""
    _plan, receipt = await agent.reserve("IMPLEMENT")
    assert receipt.held_tokens == 17_048
    agent.at(START + 500)
    await agent.store.settle(settlement(_plan))
    seen = await view(agent, START + 900)
    task = seen.summary
    assert (task.id, task.created_ms, task.last_ms) == ("T", START, START)
    assert task.facts == FACTS
    assert task.current_phase is PHASE
    assert task.open_calls == 0
    assert task.totals[TOKENS] == Standing(23_400, 0, 28_080, 46_800, 15_800, 0)
    assert task.totals[LATENCY] == Standing(573_000, 0, 687_600, 1_146_000, 500, 0)
    assert task.totals[MONEY] == Standing(None, 0, None, None, 0, 0)
    assert task.totals[CALLS] == Standing(None, 0, None, None, 1, 0)
    assert task.status is BreachStatus.WITHIN
    assert task.stop_loss.state is StopState.OK
    assert seen.snapshot == LIMITS
    assert seen.overrides == ()
    assert seen.refused == 0


async def test_all_nine_phases_in_order(agent: Agent) -> None:
    """Also those that were never worked on."""
    await agent.call("IMPLEMENT")
    phases = (await view(agent)).phases
    assert list(phases) == list(WorkPhase)
    implement = phases[PHASE]
    assert implement.standings[TOKENS] == Standing(3_500, 0, 5_250, 5_250, 15_800, 0)
    assert implement.status is BreachStatus.EXCEEDED
    assert implement.budget == LIMITS.budgets[PHASE]
    untouched = phases[WorkPhase.PR]
    assert untouched.executions == ()
    assert untouched.standings[TOKENS] == Standing(900, 0, 1_350, 1_350, 0, 0)
    assert not untouched.absolute


async def test_an_open_call_shows(agent: Agent) -> None:
    """Its hold, and its time so far: in the task, its phase and its execution."""
    await agent.call("IMPLEMENT")
    agent.at(START + 1_000)
    await agent.reserve("IMPLEMENT")
    seen = await view(agent, START + 3_500)
    assert seen.summary.open_calls == 1
    assert seen.summary.totals[TOKENS].reserved == 17_048
    assert seen.summary.totals[CALLS].reserved == 1
    assert seen.summary.totals[LATENCY].used == 2_500
    implement = seen.phases[PHASE]
    assert implement.standings[LATENCY].used == 2_500
    assert implement.standings[TOKENS].reserved == 17_048
    assert implement.executions == (Execution(1, START, None, 15_800, 2_500),)
    before = await view(agent, START)
    assert before.summary.totals[LATENCY].used == 0, "time does not run back"


async def test_executions_of_a_phase(agent: Agent) -> None:
    """A phase that is taken up again gets another number."""
    await agent.call("PLAN", 100)
    agent.at(START + 10_000)
    await agent.call("IMPLEMENT", 200)
    agent.at(START + 70_000)
    await agent.call("PLAN", 300)
    phases = (await view(agent, START + 80_000)).phases
    assert phases[WorkPhase.PLAN].executions == (
        Execution(1, START, START, 100, 0),
        Execution(2, START + 70_000, START + 70_000, 300, 0),
    )
    assert phases[WorkPhase.PLAN].standings[TOKENS].used == 400
    assert [execution.number for execution in phases[PHASE].executions] == [1]


async def test_an_execution_whose_begin_is_not_known(
    agent: Agent, redis_client: redis.Redis
) -> None:
    await agent.spend(500)
    redis_client.hdel(TenantKeys(agent.tenant).task("T"), "x.IMPLEMENT.1.started")
    (execution,) = (await view(agent)).phases[PHASE].executions
    assert execution == Execution(1, None, START, 500, 0)


async def test_facts_and_parents(agent: Agent) -> None:
    parent = Agent(agent.store, agent.tenant, task="P")
    await parent.call("PLAN", 100)
    agent.facts = TaskFacts(Complexity.LARGE, ImportanceTier.CRITICAL, ("P",))
    await agent.call("PLAN", 200)
    assert (await view(agent)).summary.facts == agent.facts
    assert (await view(parent)).summary.totals[TOKENS].used == 300


async def test_money(agent: Agent) -> None:
    """It is compared where every phase has a limit."""
    agent.limits = LIMITS_WITH_MONEY
    await agent.call("PLAN", 100, nano_usd=100_000_000)
    seen = await view(agent)
    money = seen.summary.totals[MONEY]
    assert (money.limit, money.line, money.used) == (92_000_000, 110_400_000, 100_000_000)
    assert money.status is seen.summary.status is BreachStatus.WARNING
    assert seen.phases[WorkPhase.PLAN].status is BreachStatus.EXCEEDED


async def test_late_tasks_are_not_over_budget(agent: Agent) -> None:
    """Latency counts for a phase (TRK-2), but it is no reason to call a task exceeded (SL-2)."""
    plan, _ = await agent.reserve("PLAN")
    agent.at(START + 800_000)
    await agent.store.settle(settlement(plan, 10))
    seen = await view(agent)
    assert seen.summary.totals[LATENCY].status is BreachStatus.EXCEEDED
    assert seen.summary.status is BreachStatus.WITHIN
    assert seen.phases[WorkPhase.PLAN].status is BreachStatus.EXCEEDED


async def test_counters(agent: Agent) -> None:
    """What was estimated, would have been refused, expired; raw counts beside weighted ones."""
    agent.effects = OBSERVE
    plan, _ = await agent.reserve("VERIFY")
    usage = Usage(700, 100, 200, 300, 50)
    estimated = settlement(plan, 1_000, usage=usage, source=UsageSource.ESTIMATED)
    await agent.store.settle(estimated)
    await agent.store.settle(settlement(agent.plan("VERIFY"), 40_000, would_refuse=True))
    await agent.reserve("VERIFY")
    agent.at(START + 60_000)
    assert len(await agent.store.expire_due(agent.tenant)) == 1
    seen = await view(agent, START + 60_000)
    assert seen.estimated == CallsAndTokens(1, 1_000)
    assert seen.would_refuse == CallsAndTokens(1, 40_000)
    assert seen.expired == CallsAndTokens(1, 17_048)
    assert seen.raw_tokens == {
        "input": 400 + 39_200,
        "cached_read": 100,
        "cache_write": 200,
        "output": 300 + 800,
        "reasoning": 50,
    }


# Stop-loss ----------------------------------------------------------------------------------------


async def trip(agent: Agent) -> None:
    await agent.spend(31_600, "VERIFY")
    assert (await agent.call("VERIFY")).tripped_now


async def test_a_tripped_task(agent: Agent) -> None:
    await trip(agent)
    seen = await view(agent)
    stop = seen.summary.stop_loss
    assert stop.state is StopState.TRIPPED
    assert (stop.code, stop.dimension, stop.since_ms) == ("task_budget_exceeded", TOKENS, START)
    assert (stop.episode, stop.remediation) == (1, "FIX-BUDGET-BREACH-T")
    assert seen.summary.status is BreachStatus.EXCEEDED
    assert seen.refused == 1


async def test_a_freed_task_remembers_its_episode(agent: Agent) -> None:
    await trip(agent)
    await agent.override(override(amounts=Amounts(10_000)))
    stop = (await view(agent)).summary.stop_loss
    assert (stop.state, stop.code, stop.dimension, stop.since_ms) == (StopState.OK, "", None, None)
    assert (stop.episode, stop.remediation) == (1, "FIX-BUDGET-BREACH-T")


async def test_a_second_episode(agent: Agent) -> None:
    await trip(agent)
    await agent.override(override(OverrideKind.RESUME))
    assert (await view(agent)).summary.stop_loss.state is StopState.OK
    assert (await agent.call("VERIFY")).tripped_now
    stop = (await view(agent)).summary.stop_loss
    assert (stop.episode, stop.remediation) == (2, "FIX-BUDGET-BREACH-T-2")


async def test_a_trip_whose_total_is_within_again(agent: Agent, redis_client: redis.Redis) -> None:
    """The flag alone stops nothing (`core.admission.Scope.tripped`)."""
    await trip(agent)
    redis_client.hset(TenantKeys(agent.tenant).task("T"), "tokens.S", 28_080)
    assert (await view(agent)).summary.stop_loss.state is StopState.OK


@pytest.mark.parametrize("state", ["killed", "blocked"])
async def test_a_stop_by_an_operator(agent: Agent, redis_client: redis.Redis, state: str) -> None:
    await trip(agent)
    redis_client.hset(TenantKeys(agent.tenant).task("T"), "state", state)
    stop = (await view(agent)).summary.stop_loss
    assert stop.state is StopState(state)
    assert stop.code == f"task_{state}"


async def test_an_open_task(agent: Agent, redis_client: redis.Redis) -> None:
    await agent.call("PLAN")
    redis_client.hset(TenantKeys(agent.tenant).task("T"), "state", "open")
    assert (await view(agent)).summary.stop_loss.state is StopState.OK


# Overrides ----------------------------------------------------------------------------------------


async def test_overrides_and_what_they_change(agent: Agent) -> None:
    await agent.call("PLAN")
    made = [
        override(amounts=Amounts(5_000)),
        override(OverrideKind.PHASE_LIMIT, phase=WorkPhase.THINK, amounts=Amounts(10_000)),
    ]
    for one in made:
        await agent.override(one)
    seen = await view(agent)
    assert list(seen.overrides) == made
    assert seen.summary.totals[TOKENS] == Standing(27_400, 5_000, 37_880, 59_800, 15_800, 0)
    assert seen.phases[WorkPhase.THINK].standings[TOKENS].limit == 10_000
    assert seen.phases[WorkPhase.THINK].absolute
    assert not seen.phases[PHASE].absolute


async def test_an_override_that_has_run_out(
    agent: Agent, store: RedisStore, redis_client: redis.Redis
) -> None:
    """The reader sees the limits that the next call will be held to, and changes nothing."""
    await agent.call("PLAN")
    keys = TenantKeys(agent.tenant)
    await agent.override(override(amounts=Amounts(5_000), expires_ms=1 << 50))
    assert (await view(agent, (1 << 50) - 1)).summary.totals[TOKENS].granted == 5_000
    before = redis_client.hgetall(keys.task("T"))
    seen = await view(agent, 1 << 50)
    assert seen.summary.totals[TOKENS] == Standing(23_400, 0, 28_080, 46_800, 15_800, 0)
    assert redis_client.hgetall(keys.task("T")) == before
    assert before["tokens.G"] == "5000"
    assert len(seen.overrides) == 1


async def test_a_limit_that_only_an_override_gave(agent: Agent, redis_client: redis.Redis) -> None:
    """It is gone with the override."""
    await agent.call("PLAN")
    limit = override(
        OverrideKind.PHASE_LIMIT,
        phase=WorkPhase.THINK,
        amounts=Amounts(nano_usd=5),
        expires_ms=1 << 50,
    )
    await agent.override(limit)
    assert (await view(agent)).phases[WorkPhase.THINK].standings[MONEY].limit == 5
    think = (await view(agent, 1 << 50)).phases[WorkPhase.THINK]
    assert think.standings[MONEY] == Standing(None, 0, None, None, 0, 0)
    assert not think.absolute


async def test_no_store() -> None:
    connection = StoreConnection(StoreAddress(path="/nowhere"))
    with pytest.raises(StoreError):
        await read_task(connection, TenantKeys("x"), "T")


def test_no_other_field_ends_like_a_limit() -> None:
    """What has run out is dropped by suffix: nothing but limits may have one."""
    names = limit_fields(limits_in_force(LIMITS, (), 0))[::2]
    assert {name.rpartition(".")[2] for name in names} == {"L", "G", "C", "R", "A"}
