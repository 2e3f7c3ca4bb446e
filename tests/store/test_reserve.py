"""What `reserve` does beside comparing: creating tasks, phases, executions, trips, the clock."""

import json
from dataclasses import replace

import pytest

from gateway.core.admission import Need, ScopeKind, Verdict
from gateway.core.budget import BreachStatus, Dimension, TokenWeights, breach_status
from gateway.core.errors import StoreError
from gateway.core.phases import Complexity, WorkPhase
from gateway.core.policy import ReserveKind
from gateway.ports import StaleFacts
from gateway.store.redis_store import RedisStore
from tests.store.agent import (
    FACTS,
    LIMITS_WITH_MONEY,
    NOTHING_HELD,
    OBSERVE,
    STRICT,
    Agent,
    Look,
    settlement,
)

TOKENS, LATENCY, MONEY, CALLS = Dimension


# A new task ------------------------------------------------------------------------------------


async def test_the_first_call_creates_the_task_once(agent: Agent, look: Look) -> None:
    """The snapshot, the limits and the index entry are written by the first reserve only."""
    await agent.reserve("PLAN")
    agent.at(1_000_500)
    await agent.reserve("PLAN", limits=LIMITS_WITH_MONEY)
    fields = look.task()
    assert fields["created"] == "1000000"
    assert fields["facts"] == "Medium|medium||1000,1000,1000,1000"
    assert json.loads(fields["snapshot"])["config_hash"] == ""
    assert "nano_usd.L" not in fields
    assert look.client.zrange(look.keys.tasks, 0, -1, withscores=True) == [("T", 1_000_000)]


async def test_what_is_known_of_a_task_is_remembered(agent: Agent) -> None:
    """The facts of a plan that the store accepted; another process can read them."""
    assert agent.store.facts_of(agent.tenant, "T") is None
    assert await agent.store.read_facts(agent.tenant, "T") is None
    await agent.reserve("PLAN")
    assert agent.store.facts_of(agent.tenant, "T") == FACTS
    other = RedisStore(agent.store.connection)
    assert await other.read_facts(agent.tenant, "T") == FACTS
    assert other.facts_of(agent.tenant, "T") == FACTS


async def test_a_plan_made_on_other_facts_is_sent_back(agent: Agent, look: Look) -> None:
    """Tiers, ancestors and weights of the snapshot hold; the right facts are known afterwards."""
    right = replace(FACTS, parents=("up", "top"), weights=TokenWeights(1000, 100, 1250, 5000))
    await agent.reserve("PLAN", facts=right)
    wrong = replace(FACTS, complexity=Complexity.LARGE)
    newcomer = RedisStore(agent.store.connection)
    plan = agent.plan("PLAN", facts=wrong)
    with pytest.raises(StaleFacts):
        await newcomer.reserve(plan)
    assert newcomer.facts_of(agent.tenant, "T") == right
    assert look.held()[2] == 1
    assert look.call(plan.call_id) == {}


async def test_of_too_many_facts_the_oldest_go(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process remembers a bounded number of tasks."""
    monkeypatch.setattr("gateway.store.redis_store._FACTS_REMEMBERED", 2)
    for task in ("one", "two", "three"):
        agent.store.remember(agent.tenant, task, FACTS)
    known = [agent.store.facts_of(agent.tenant, task) for task in ("one", "two", "three")]
    assert known == [None, FACTS, FACTS]


async def test_untagged_calls_are_counted_and_never_refused(agent: Agent, look: Look) -> None:
    """A bucket per key, without limits; it is no task."""
    untagged = replace(agent, task="-key1", limits=None)
    for _ in range(5):
        assert (await untagged.call(tokens=1_000_000)).verdict is Verdict.HELD
    fields = look.client.hgetall(f"tg:{{{agent.tenant}}}:untagged:key1")
    assert (fields["facts"], fields["tokens.S"], fields["calls.S"]) == ("untagged", "5000000", "5")
    assert look.client.zcard(look.keys.tasks) == 0
    assert await agent.store.read_facts(agent.tenant, "-key1") == FACTS


async def test_a_parent_s_budget_holds_for_untagged_calls_too(agent: Agent) -> None:
    """Task rules do not apply to a bucket, those of its ancestors do."""
    await replace(agent, task="up").spend(99_999)
    untagged = replace(agent, task="-key1", limits=None, facts=replace(FACTS, parents=("up",)))
    receipt = await untagged.call()
    assert (receipt.verdict, receipt.stop_code) == (Verdict.REFUSED, "runaway_task")


# Holds -----------------------------------------------------------------------------------------


async def test_a_hold_is_on_the_task_its_phase_and_its_ancestors(agent: Agent, look: Look) -> None:
    """In tokens, nano-dollars and calls; ancestors get no phases."""
    need = Need(100, 100, 5_000, 20, 0, 7, output_weight=1500)
    facts = replace(FACTS, parents=("up", "top"))
    plan, receipt = await agent.reserve("PLAN", need=need, facts=facts)
    assert (receipt.held_tokens, receipt.held_nano_usd) == (130, 5_140)
    for task, scope in (("T", ""), ("T", "PLAN."), ("up", ""), ("top", "")):
        assert look.held(task, scope) == (130, 5_140, 1, 1)
    assert not any(field.startswith("PLAN") for field in look.task("up"))
    call = look.call(plan.call_id)
    assert call["parents"].split() == [look.keys.task("up"), look.keys.task("top")]
    assert look.leases() == {plan.call_id: 1_030_000}


async def test_figures_of_a_receipt_are_those_before_the_call(agent: Agent) -> None:
    """Settled, held, spent money, and the execution that admits it."""
    limits = LIMITS_WITH_MONEY
    agent = replace(agent, limits=limits)
    await agent.call("PLAN", tokens=700, nano_usd=9_000)
    await agent.reserve("PLAN")
    _, receipt = await agent.reserve("PLAN")
    task, phase = receipt.scopes
    assert (task.kind, task.name, phase.kind, phase.name) == (
        ScopeKind.TASK,
        "T",
        ScopeKind.PHASE,
        "PLAN",
    )
    assert (task.balances[TOKENS].settled, task.balances[TOKENS].held) == (700, 17_048)
    assert (phase.balances[TOKENS].settled, phase.balances[TOKENS].line) == (700, 3_600)
    assert task.balances[MONEY].limit == limits.task_lines[MONEY].limit
    assert receipt.spent_nano_usd == 9_000
    assert CALLS not in task.balances
    assert (receipt.phase, receipt.execution, receipt.now_ms) == (WorkPhase.PLAN, 1, 1_000_000)


async def test_a_refused_call_leaves_nothing_behind(agent: Agent, look: Look) -> None:
    """No hold, no lease, no tombstone, no phase; it is counted."""
    await agent.spend(50_000)
    plan, receipt = await agent.reserve("VERIFY")
    assert receipt.verdict is Verdict.REFUSED
    assert (receipt.held_tokens, receipt.held_nano_usd, receipt.output) == (0, 0, 0)
    assert look.call(plan.call_id) == {}
    assert look.leases() == {}
    assert look.held() == NOTHING_HELD
    assert "phase" not in look.task()
    assert look.number("refused") == 1


async def test_what_a_call_needs_is_told_when_the_rest_is_too_short(agent: Agent) -> None:
    """Worst case: the input and the least useful output, and nothing trips."""
    await agent.spend(14_000)
    need = Need(15_000, 15_000, 0, 4_000, 1_024, 0)
    _, receipt = await agent.reserve("VERIFY", kind=ReserveKind.WORST_CASE, need=need)
    assert (receipt.verdict, receipt.stop_code) == (Verdict.SHORT, "task_budget_exceeded")
    assert (receipt.held_tokens, receipt.output) == (16_024, 0)
    assert not receipt.tripped_now


async def test_worst_case_never_goes_over(agent: Agent, look: Look) -> None:
    """What is held is exactly what was left."""
    await agent.spend(10_000)
    need = Need(15_000, 15_000, 0, 128_000, 1_024, 0)
    _, receipt = await agent.reserve("VERIFY", kind=ReserveKind.WORST_CASE, need=need)
    assert (receipt.verdict, receipt.output) == (Verdict.HELD, 3_080)
    assert look.settled() + look.held()[0] == 28_080


async def test_amounts_no_model_can_reach_are_capped(agent: Agent, look: Look) -> None:
    """An absurd output ceiling in a request cannot push a total beyond what a double counts."""
    loose = replace(agent, effects=OBSERVE, kind=ReserveKind.WORST_CASE)
    plan, receipt = await loose.reserve("PLAN", need=Need(1, 1, 0, 10**30, 1_024, 10**5))
    assert receipt.verdict is Verdict.HELD
    assert look.held()[0] < 2**53
    assert look.held()[1] < 2**53
    await loose.store.settle(settlement(plan, 10))
    assert look.held() == NOTHING_HELD
    assert look.settled() == 10


# Phases and executions -------------------------------------------------------------------------


async def test_a_call_without_a_phase_belongs_to_the_current_one(agent: Agent, look: Look) -> None:
    """The phase that was named last; before any was named there is none."""
    assert (await agent.call(tokens=10)).phase is None
    await agent.call("PLAN", tokens=10)
    assert (await agent.call(tokens=10)).phase is WorkPhase.PLAN
    assert look.settled(scope="PLAN.") == 20
    assert look.settled() == 30


async def test_a_task_that_never_named_a_phase_is_held_to_the_cumulative_line(
    agent: Agent,
) -> None:
    """Leaving the phase out must not buy the runaway line."""
    await agent.spend(28_081, phase="")
    assert (await agent.call()).stop_code == "task_budget_exceeded"


@pytest.mark.parametrize(
    ("enforce_from", "phase", "refused"),
    [
        (WorkPhase.VERIFY, "IMPLEMENT", False),
        (WorkPhase.VERIFY, "VERIFY", True),
        (WorkPhase.VERIFY, "MONITOR", True),
        (WorkPhase.STRATEGIZE, "STRATEGIZE", True),
        (None, "STRATEGIZE", True),
    ],
)
async def test_the_cumulative_line_holds_from_a_phase_on(
    agent: Agent, enforce_from: WorkPhase | None, phase: str, refused: bool
) -> None:
    """Before `enforce_from` only the runaway line does."""
    await agent.spend(28_081)
    _, receipt = await agent.reserve(phase, enforce_from=enforce_from)
    assert (receipt.verdict is Verdict.REFUSED) is refused


async def test_phases_may_be_open_side_by_side(agent: Agent) -> None:
    """Changing to and fro within a minute opens no new execution."""
    for at, phase in enumerate(("PLAN", "THINK") * 5):
        agent.at(1_000_000 + at * 59_999 // 2)
        assert (await agent.call(phase, tokens=1)).execution == 1


async def test_an_idle_phase_goes_on_while_no_other_is_worked_on(agent: Agent) -> None:
    """An agent that thinks for an hour is still in its execution."""
    await agent.call("PLAN", tokens=1)
    agent.at(5_000_000)
    assert (await agent.call("PLAN", tokens=1)).execution == 1


async def test_an_execution_with_an_open_call_stays_open(agent: Agent, look: Look) -> None:
    """However long the call takes; the execution that admitted it gets its usage."""
    plan, _ = await agent.reserve("PLAN")
    await agent.call("THINK", tokens=1)
    agent.at(2_000_000)
    assert (await agent.call("PLAN", tokens=1)).execution == 1
    await agent.store.settle(settlement(plan, 500))
    assert look.number("x.PLAN.1.tokens") == 501
    assert look.number("x.PLAN.1.ended") == 2_000_000


async def test_a_phase_is_idle_from_the_end_of_its_last_call(agent: Agent) -> None:
    """Not from its beginning."""
    plan, _ = await agent.reserve("PLAN")
    agent.at(1_050_000)
    await agent.store.settle(settlement(plan, 1))
    await agent.call("THINK", tokens=1)
    agent.at(1_109_999)
    assert (await agent.call("PLAN", tokens=1)).execution == 1


async def test_how_long_an_idle_phase_stays_open_is_a_setting(agent: Agent) -> None:
    """`phase_idle_close_ms`."""
    quick = replace(agent, store=RedisStore(agent.store.connection, phase_idle_close_ms=100))
    quick.at(1_000_000)
    await quick.call("PLAN", tokens=1)
    await quick.call("THINK", tokens=1)
    quick.at(1_000_099)
    assert (await quick.call("PLAN", tokens=1)).execution == 1
    await quick.call("THINK", tokens=1)
    quick.at(1_000_199)
    assert (await quick.call("PLAN", tokens=1)).execution == 2


async def test_late_usage_belongs_to_the_execution_that_admitted_it(
    agent: Agent, look: Look
) -> None:
    """A call that was expired and settled late is credited where it began."""
    plan, _ = await agent.reserve("PLAN")
    agent.at(1_040_000)
    await agent.store.expire_due(agent.tenant)
    await agent.call("REVIEW", tokens=1)
    agent.at(1_200_000)
    assert (await agent.call("PLAN", tokens=7)).execution == 2
    await agent.store.settle(settlement(plan, 100))
    assert (look.number("x.PLAN.1.tokens"), look.number("x.PLAN.2.tokens")) == (100, 7)


# The stop-loss ---------------------------------------------------------------------------------


async def test_an_ancestor_that_is_exceeded_trips_itself(agent: Agent, look: Look) -> None:
    """The receipt names the ancestor and its episode; the task is not tripped."""
    up = replace(agent, task="up")
    await up.spend(50_000)
    child = replace(agent, facts=replace(FACTS, parents=("up",)))
    receipt = await child.call("VERIFY")
    assert receipt.stop_scope is not None
    assert (receipt.stop_scope.kind, receipt.stop_scope.name) == (ScopeKind.PARENT, "up")
    assert (receipt.tripped_now, receipt.episode) == (True, 1)
    assert look.task("up")["trip"] == "tokens"
    assert "trip" not in look.task()
    again = await child.call("VERIFY")
    assert (again.tripped_now, again.episode) == (False, 1)


async def test_eight_scopes_at_most_are_one_act(agent: Agent, look: Look) -> None:
    """A refusal by the last ancestor holds nothing anywhere."""
    await replace(agent, task="a4").spend(99_999)
    facts = replace(FACTS, parents=("a1", "a2", "a3", "a4"))
    _, receipt = await agent.reserve("VERIFY", facts=facts)
    assert receipt.stop_scope is not None
    assert receipt.stop_scope.name == "a4"
    for task in ("T", "a1", "a2", "a3", "a4"):
        assert look.held(task) == NOTHING_HELD


async def test_a_breached_phase_refuses_without_tripping(agent: Agent, look: Look) -> None:
    """The stop-loss is the task's; other phases go on."""
    strict = replace(agent, effects=STRICT)
    await strict.spend(3_601, phase="PLAN")
    receipt = await strict.call("PLAN")
    assert (receipt.verdict, receipt.stop_code) == (Verdict.REFUSED, "phase_budget_exceeded")
    assert not receipt.tripped_now
    assert "trip" not in look.task()
    assert (await strict.call("THINK")).verdict is Verdict.HELD


@pytest.mark.parametrize("state", ["killed", "blocked"])
async def test_a_stopped_task_is_refused_in_any_mode(agent: Agent, look: Look, state: str) -> None:
    """Killed and blocked are no figures; nothing trips."""
    await agent.call("PLAN", tokens=1)
    look.client.hset(look.keys.task("T"), "state", state)
    _, receipt = await agent.reserve("PLAN", effects=OBSERVE)
    assert (receipt.verdict, receipt.stop_code) == (Verdict.REFUSED, f"task_{state}")
    assert (receipt.stop_dimension, receipt.tripped_now) == (None, False)


async def test_killed_is_told_before_blocked(agent: Agent, look: Look) -> None:
    """Though the one is an ancestor's and the other the task's own."""
    facts = replace(FACTS, parents=("up",))
    await agent.reserve("PLAN", facts=facts)
    look.client.hset(look.keys.task("T"), "state", "blocked")
    look.client.hset(look.keys.task("up"), "state", "killed")
    _, receipt = await agent.reserve("PLAN", facts=facts)
    assert receipt.stop_code == "task_killed"
    assert receipt.stop_scope is not None
    assert receipt.stop_scope.name == "up"


async def test_an_open_latency_interval_counts_already(agent: Agent) -> None:
    """A task is as late as it is, not as it was when its last call ended."""
    strict = replace(agent, effects=STRICT)
    await strict.reserve("VERIFY", need=Need(1, 1, 0, 0, 0, 0))
    agent.at(1_000_000 + 687_600)
    _, receipt = await strict.reserve("PR", need=Need(1, 1, 0, 0, 0, 0))
    assert receipt.verdict is Verdict.HELD
    assert receipt.scopes[0].balances[LATENCY].settled == 687_600
    agent.at(1_000_000 + 687_601)
    _, receipt = await strict.reserve("PR", need=Need(1, 1, 0, 0, 0, 0))
    assert (receipt.verdict, receipt.stop_dimension) == (Verdict.REFUSED, LATENCY)
    assert receipt.tripped_now


# Idempotency, clock, numbers -------------------------------------------------------------------


async def test_the_same_call_is_held_once(agent: Agent, look: Look) -> None:
    """A reserve that comes twice is no second call."""
    plan, _ = await agent.reserve("PLAN")
    with pytest.raises(StoreError, match="seen this call"):
        await agent.store.reserve(plan)
    assert look.held() == (17_048, 0, 1, 1)


@pytest.mark.parametrize("end", ["settle", "release"])
async def test_a_reserve_that_comes_after_its_end_holds_nothing(
    agent: Agent, look: Look, end: str
) -> None:
    """It was still on its way when the gateway gave up on it."""
    await agent.call("PLAN", tokens=10)
    plan = agent.plan("PLAN")
    if end == "settle":
        await agent.store.settle(settlement(plan, 100))
    else:
        await agent.store.release(plan)
    with pytest.raises(StoreError, match="seen this call"):
        await agent.store.reserve(plan)
    assert look.held() == NOTHING_HELD
    assert look.settled() == (110 if end == "settle" else 10)


async def test_time_never_runs_back(agent: Agent, look: Look) -> None:
    """A store whose clock is behind goes on from the latest time that a script has seen."""
    await agent.reserve("PLAN")
    agent.at(500_000)
    plan, receipt = await agent.reserve("PLAN")
    assert receipt.now_ms == 1_000_000
    assert look.leases()[plan.call_id] == 1_030_000
    agent.at(1_000_001)
    assert (await agent.reserve("PLAN"))[1].now_ms == 1_000_001
    assert int(look.client.get(look.keys.clock) or 0) // 1000 == 1_000_001


async def test_the_time_is_the_server_s(agent: Agent, look: Look) -> None:
    """Unless a test gives it."""
    agent.store.now_ms = ""
    seconds, micros = look.client.time()
    _, receipt = await agent.reserve("PLAN")
    assert 0 <= receipt.now_ms - (seconds * 1000 + micros // 1000) < 5_000


async def test_totals_are_exact_up_to_two_to_the_53(agent: Agent, look: Look) -> None:
    """Lua counts in doubles: up to 9,007,199,254,740,992 (some 9.0 million dollars in
    nano-dollars) every unit counts. Beyond, units are lost: that is the documented ceiling.
    """
    await agent.call("PLAN", tokens=1)
    near = 2**53 - 100_000
    for scope in ("", "PLAN."):
        look.client.hset(look.keys.task("T"), f"{scope}nano_usd.S", near)
        look.client.hset(look.keys.task("T"), f"{scope}tokens.S", near)
    plan, receipt = await agent.reserve("PLAN", effects=OBSERVE)
    assert receipt.scopes[0].balances[TOKENS].settled == near
    settled = await agent.store.settle(settlement(plan, 99_999, 99_999))
    assert (settled.tokens_before, settled.tokens_after) == (near, 2**53 - 1)
    for scope in ("", "PLAN."):
        assert look.settled(scope=scope) == look.number(f"{scope}nano_usd.S") == 2**53 - 1
    await agent.spend(1, nano_usd=1)
    assert look.settled() == look.number("nano_usd.S") == 2**53
    await agent.spend(1)
    assert look.settled() == 2**53  # one unit lost: not 2**53 + 1


async def test_a_status_can_be_told_from_a_receipt(agent: Agent) -> None:
    """What the answer's headers say comes from the figures before the call."""
    await agent.spend(23_401)
    _, receipt = await agent.reserve("PLAN")
    tokens = receipt.scopes[0].balances[TOKENS]
    status = breach_status(tokens.settled, tokens.allowed, tokens.cumulative)
    assert status is BreachStatus.WARNING
