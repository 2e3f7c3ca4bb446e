"""Tasks read back: every figure as the scripts left it, at a given time."""

import pytest
import redis

from gateway.core.budget import Amounts, BreachStatus, Dimension
from gateway.core.errors import StoreError
from gateway.core.overrides import Override, OverrideKind
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.usage import Usage, UsageSource
from gateway.ports import TaskFacts
from gateway.store.address import StoreAddress
from gateway.store.connection import StoreConnection
from gateway.store.keys import TenantKeys, limit_fields
from gateway.store.limits import UnknownTask, apply_override
from gateway.store.redis_store import RedisStore
from gateway.store.task_view import (
    CallsAndTokens,
    Execution,
    Place,
    Standing,
    StopState,
    TaskSummary,
    TaskView,
    worst_status,
)
from gateway.store.tasks import list_tasks, read_task
from tests.store.agent import FACTS, LIMITS, LIMITS_WITH_MONEY, OBSERVE, Agent, settlement

START = 1_000_000
TOKENS, LATENCY, MONEY, CALLS = Dimension
PHASE = WorkPhase.IMPLEMENT


async def view(agent: Agent, now_ms: int = START) -> TaskView:
    keys = TenantKeys(agent.tenant)
    return await read_task(agent.store.connection, keys, agent.task, now_ms)


def override(kind: OverrideKind = OverrideKind.GRANT, **changes: object) -> Override:
    return Override(kind, "ada", "needed", START, **changes)  # type: ignore[arg-type]


async def put(agent: Agent, made: Override) -> None:
    await apply_override(agent.store.connection, TenantKeys(agent.tenant), agent.task, made)


# Figures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "reserved", "remaining", "percent", "status", "pressure"),
    [
        (0, 0, 120, 0, BreachStatus.WITHIN, 0),
        (59, 0, 61, 49, BreachStatus.WITHIN, 0),
        (60, 10, 50, 50, BreachStatus.WITHIN, 50),
        (96, 30, 0, 80, BreachStatus.WITHIN, 80),
        (120, 0, 0, 100, BreachStatus.WITHIN, 100),
        (121, 0, 0, 101, BreachStatus.WARNING, 100),
        (140, 0, 0, 117, BreachStatus.WARNING, 100),
        (141, 0, 0, 118, BreachStatus.EXCEEDED, 100),
    ],
)
def test_what_follows_from_a_standing(
    used: int, reserved: int, remaining: int, percent: int, status: BreachStatus, pressure: int
) -> None:
    """Grants count as room; what is held is not remaining; boundaries are exact (TRK-2)."""
    standing = Standing(100, 20, 140, 220, used, reserved)
    assert standing.remaining == remaining
    assert standing.percent == percent
    assert standing.status is status
    assert standing.pressure == pressure


def test_without_a_limit_nothing_follows() -> None:
    """No comparison, no percentage, no status."""
    standing = Standing(None, 0, None, None, 7, 3)
    found = {standing.allowed, standing.remaining, standing.percent, standing.status}
    assert found == {None}
    assert standing.pressure is None
    assert worst_status([standing]) is BreachStatus.WITHIN


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


async def test_an_execution_whose_begin_is_not_known(agent: Agent) -> None:
    """It was opened by a settle whose reserve never arrived."""
    await agent.spend(500)
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
    await put(agent, override(amounts=Amounts(10_000)))
    stop = (await view(agent)).summary.stop_loss
    assert (stop.state, stop.code, stop.dimension, stop.since_ms) == (StopState.OK, "", None, None)
    assert (stop.episode, stop.remediation) == (1, "FIX-BUDGET-BREACH-T")


async def test_a_second_episode(agent: Agent) -> None:
    await trip(agent)
    await put(agent, override(OverrideKind.RESUME))
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
async def test_a_stop_by_an_operator(
    agent: Agent, redis_client: redis.Redis, state: str
) -> None:
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
        await put(agent, one)
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
    await put(agent, override(amounts=Amounts(5_000), expires_ms=1 << 50))
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
    await put(agent, limit)
    assert (await view(agent)).phases[WorkPhase.THINK].standings[MONEY].limit == 5
    think = (await view(agent, 1 << 50)).phases[WorkPhase.THINK]
    assert think.standings[MONEY] == Standing(None, 0, None, None, 0, 0)
    assert not think.absolute


# Many tasks ---------------------------------------------------------------------------------------


async def make_tasks(agent: Agent, *names: str, apart_ms: int = 1) -> None:
    for place, name in enumerate(names):
        agent.at(START + place * apart_ms)
        agent.task = name
        await agent.call("PLAN", 100)


async def pages(agent: Agent, limit: int) -> list[list[str]]:
    """Return the ids of all pages."""
    after: Place | None = None
    found = []
    while True:
        page = await list_tasks(
            agent.store.connection, TenantKeys(agent.tenant), limit, after
        )
        found.append([task.id for task in page.tasks])
        after = page.following
        if after is None:
            return found


async def test_no_tasks(agent: Agent) -> None:
    assert await pages(agent, 10) == [[]]


async def test_newest_first_in_pages(agent: Agent) -> None:
    await make_tasks(agent, "A", "B", "C", "D", "E")
    assert await pages(agent, 10) == [["E", "D", "C", "B", "A"]]
    assert await pages(agent, 5) == [["E", "D", "C", "B", "A"]]
    assert await pages(agent, 2) == [["E", "D"], ["C", "B"], ["A"]]
    assert await pages(agent, 1) == [["E"], ["D"], ["C"], ["B"], ["A"]]


async def test_tasks_of_the_same_moment(agent: Agent) -> None:
    """Their ids put them in order, so none is missing and none stands twice."""
    await make_tasks(agent, "b", "A", "c", "a", "T.1", apart_ms=0)
    assert await pages(agent, 2) == [["c", "b"], ["a", "T.1"], ["A"]]


async def test_a_task_that_comes_between_two_pages(agent: Agent) -> None:
    """It belongs to the first page, which is over."""
    await make_tasks(agent, "A", "B", "C")
    keys = TenantKeys(agent.tenant)
    first = await list_tasks(agent.store.connection, keys, 2)
    await make_tasks(agent, "D", apart_ms=100)
    second = await list_tasks(agent.store.connection, keys, 2, first.following)
    assert [task.id for task in (*first.tasks, *second.tasks)] == ["C", "B", "A"]


async def test_a_place_whose_task_is_gone(agent: Agent) -> None:
    """A cursor names a place, not a task."""
    await make_tasks(agent, "A", "B", "C", "D")
    keys = TenantKeys(agent.tenant)
    page = await list_tasks(agent.store.connection, keys, 2, Place(START + 2, "CC"))
    assert [task.id for task in page.tasks] == ["C", "B"]


async def test_a_task_whose_hash_is_gone(agent: Agent, redis_client: redis.Redis) -> None:
    await make_tasks(agent, "A", "B", "C")
    redis_client.delete(TenantKeys(agent.tenant).task("B"))
    assert await pages(agent, 10) == [["C", "A"]]


async def test_a_summary_is_that_of_the_full_view(agent: Agent) -> None:
    """Both ways to read a task agree, while a call is open, too."""
    await trip(agent)
    await agent.spend(100, "PLAN")
    agent.effects = OBSERVE
    await agent.reserve("PLAN")
    page = await list_tasks(agent.store.connection, TenantKeys(agent.tenant), 1)
    (listed,) = page.tasks
    alone = (await view(agent)).summary
    assert listed.stop_loss == alone.stop_loss
    assert listed.totals[TOKENS] == alone.totals[TOKENS]
    assert listed.facts == alone.facts


async def test_a_summary_after_an_override_ran_out(
    agent: Agent, redis_client: redis.Redis
) -> None:
    await agent.call("PLAN")
    await put(agent, override(amounts=Amounts(5_000), expires_ms=1 << 50))
    keys = TenantKeys(agent.tenant)
    redis_client.hset(keys.task("T"), "expires", 1)
    (key,) = [redis_client.lindex(keys.overrides("T"), 0)]
    redis_client.lset(keys.overrides("T"), 0, key.replace(str(1 << 50), "1"))
    page = await list_tasks(agent.store.connection, keys, 1)
    assert page.tasks[0].totals[TOKENS].granted == 0


async def test_only_wanted_tasks(agent: Agent) -> None:
    """A page is filled with what passes; the last page is known to be the last."""
    await make_tasks(agent, *(f"T-{number}" for number in range(7)))
    keys = TenantKeys(agent.tenant)

    def even(task: TaskSummary) -> bool:
        return int(task.id[2:]) % 2 == 0

    first = await list_tasks(agent.store.connection, keys, 3, wanted=even)
    assert [task.id for task in first.tasks] == ["T-6", "T-4", "T-2"]
    second = await list_tasks(agent.store.connection, keys, 3, first.following, even)
    assert [task.id for task in second.tasks] == ["T-0"]
    assert second.following is None


async def test_a_filter_that_matches_nothing_stops_after_a_while(
    agent: Agent, redis_client: redis.Redis
) -> None:
    """Then the page is empty, but there is a next one."""
    await agent.call("PLAN", 100)
    keys = TenantKeys(agent.tenant)
    template = redis_client.dump(keys.task("T")) if False else redis_client.hgetall(keys.task("T"))
    with redis_client.pipeline() as pipe:
        for number in range(1_250):
            pipe.hset(keys.task(f"N-{number}"), mapping=template)
            pipe.zadd(keys.tasks, {f"N-{number}": START + 1 + number})
        pipe.execute()

    def first_one(task: TaskSummary) -> bool:
        return task.id == "T"

    page = await list_tasks(agent.store.connection, keys, 10, wanted=first_one)
    assert page.tasks == ()
    assert page.following == Place(START + 251, "N-250")
    page = await list_tasks(agent.store.connection, keys, 10, page.following, first_one)
    assert [task.id for task in page.tasks] == ["T"]
    assert page.following is None


async def test_no_store() -> None:
    connection = StoreConnection(StoreAddress(path="/nowhere"))
    with pytest.raises(StoreError):
        await read_task(connection, TenantKeys("x"), "T")
    with pytest.raises(StoreError):
        await list_tasks(connection, TenantKeys("x"), 1)


def test_no_other_field_ends_like_a_limit() -> None:
    """What has run out is dropped by suffix: nothing but limits may have one."""
    names = limit_fields(override_free())[::2]
    assert all(name.rpartition(".")[2] in {"L", "G", "C", "R"} for name in names)


def override_free():  # type: ignore[no-untyped-def]
    from gateway.core.overrides import limits_in_force

    return limits_in_force(LIMITS, (), 0)
