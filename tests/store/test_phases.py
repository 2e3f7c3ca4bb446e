"""Explicit starts and ends of phases: executions in order, whatever calls do beside them."""

from dataclasses import replace
from typing import Literal

import pytest
from msgspec.structs import replace as replace_fields

from gateway.core.acts import Act
from gateway.core.budget import Dimension
from gateway.core.phases import WorkPhase
from gateway.core.policy import ReserveKind
from gateway.store.limits import UnknownTask
from gateway.store.phases import PhaseChange, mark_phase
from gateway.store.tasks import read_task
from tests.store.agent import LIMITS, Agent, Look, settlement


async def mark(
    agent: Agent, what: Literal["start", "end"], phase: str = "PLAN", task: str = "T"
) -> PhaseChange:
    store = agent.store
    return await mark_phase(
        *(store.connection, store.keys(agent.tenant), task, WorkPhase(phase), what),
        Act(f"phase.{what}", "ada", "", {"phase": phase}),
        now_ms=store.now_ms,
    )


async def test_start_and_end_are_idempotent(agent: Agent, look: Look) -> None:
    """The first call's execution goes on, as a started one; after an end the next one opens."""
    await agent.call("PLAN", tokens=1)
    assert await mark(agent, "start") == PhaseChange(1, changed=True)
    assert await mark(agent, "start") == PhaseChange(1, changed=False)
    assert await mark(agent, "end") == PhaseChange(1, changed=True)
    assert await mark(agent, "end") == PhaseChange(1, changed=False)
    assert await mark(agent, "start") == PhaseChange(2, changed=True)
    assert await mark(agent, "start") == PhaseChange(2, changed=False)
    assert (await agent.call("PLAN", tokens=1)).execution == 2
    acts = [fields["e"] for _, fields in look.client.xrange(look.keys.ledger)]
    assert sum(words.startswith("act ") for words in acts) == 3
    assert sum(words.startswith("execution ") for words in acts) == 2


async def test_EC9_backtracking(agent: Agent, look: Look) -> None:
    """A phase that is started again adds its usage, and never an allowance."""
    await agent.call("PLAN", tokens=10)
    limit = look.task()["tokens.L"]
    await agent.call("THINK", tokens=20)
    assert await mark(agent, "start", "PLAN") == PhaseChange(2, changed=True)
    await agent.call("", tokens=30)  # counted in the current phase
    assert [look.number(f"x.PLAN.{n}.tokens") for n in (1, 2)] == [10, 30]
    assert (look.settled(scope="PLAN."), look.settled()) == (40, 60)
    assert look.task()["tokens.L"] == limit


async def test_usage_that_comes_late_is_of_the_execution_that_admitted_it(
    agent: Agent, look: Look
) -> None:
    late, _ = await agent.reserve("PLAN")
    await mark(agent, "end")
    await mark(agent, "start")
    await agent.store.settle(settlement(late, tokens=9))
    assert (look.number("x.PLAN.1.tokens"), look.number("x.PLAN.2.tokens")) == (9, 0)


async def test_EC10_parallel_phases_are_counted(agent: Agent, look: Look) -> None:
    """By a start as by a call; nothing is refused."""
    agent.need = replace_fields(agent.need, input_low=1, input_high=1, output=1)
    await agent.reserve("PLAN")
    assert await mark(agent, "start", "THINK") == PhaseChange(1, True, WorkPhase.PLAN)
    assert look.number("parallel") == 1
    assert (await agent.reserve("PLAN"))[1].verdict.value == "held"
    assert look.number("parallel") == 1  # THINK has no call open
    assert (await agent.reserve("THINK"))[1].verdict.value == "held"
    assert look.number("parallel") == 2


async def test_EC10_one_phase_at_a_time_where_a_policy_says_so(agent: Agent, look: Look) -> None:
    """Whatever phase is the current one; nothing is held or counted, and later it passes."""
    agent.need = replace_fields(agent.need, input_low=1, input_high=1, output=1)
    begun, _ = await agent.reserve("PLAN", one_phase=True)
    await mark(agent, "start", "THINK")  # counted as ever, and current from now on
    before = look.everything()
    _, receipt = await agent.reserve("THINK", one_phase=True)
    assert (receipt.verdict.value, receipt.stop_code) == ("in_flight", "budget_in_flight")
    assert (receipt.parallel_phase, receipt.stop_dimension) == (WorkPhase.PLAN, None)
    assert receipt.stop_scope is not None
    assert receipt.stop_scope.name == "THINK"
    changed = {name for name, kept in look.everything().items() if before.get(name) != kept}
    assert changed == {look.keys.ledger}, "that it was put off is told, and that is all"
    refused = look.client.xrevrange(look.keys.ledger, count=1)[0][1]["s"]
    assert refused == "budget_in_flight 0 0 phase THINK"
    for kind in ReserveKind:
        assert (await agent.reserve("PLAN", one_phase=True, kind=kind))[1].verdict.value == "held"
        _, other = await agent.reserve("VERIFY", one_phase=True, kind=kind)
        assert other.verdict.value == "in_flight"
    assert (await agent.reserve("IMPLEMENT"))[1].verdict.value == "held", "another policy"
    _, other = await agent.reserve("THINK", one_phase=True)
    assert other.parallel_phase is WorkPhase.PLAN, "the first in working order"
    for call_id in list(look.leases()):
        await agent.store.release(agent.plan(call_id=call_id))
    assert begun.call_id not in look.leases()
    assert (await agent.reserve("THINK", one_phase=True))[1].verdict.value == "held"
    assert (await agent.reserve("", one_phase=True))[1].verdict.value == "held"


async def test_wall_time_from_start_to_end(agent: Agent) -> None:
    """G-7: both are kept; the snapshot's basis says which a phase is shown with."""
    agent.limits = replace(LIMITS, stop_loss=replace(LIMITS.stop_loss, latency_basis="wall"))
    await agent.call("SPEC")
    await mark(agent, "start")
    plan, _ = await agent.reserve("PLAN")
    agent.at(1_004_000)
    await agent.store.settle(settlement(plan, tokens=1))
    agent.at(1_010_000)
    seen = await latency(agent, 1_010_000)
    assert seen == ((4_000, 10_000, None), 10_000)
    await mark(agent, "end")
    assert await latency(agent, 1_020_000) == ((4_000, 10_000, 1_010_000), 10_000)
    agent.limits = LIMITS
    agent.task = "active"
    await agent.call("SPEC")
    await mark(agent, "start", task="active")
    assert await latency(agent, 1_020_000) == ((0, 10_000, None), 0)


async def test_G7_a_start_behind_the_first_call(agent: Agent) -> None:
    """Wall time counts from there on, beside what calls took before, one that is open among them."""
    agent.limits = replace(LIMITS, stop_loss=replace(LIMITS.stop_loss, latency_basis="wall"))
    first, _ = await agent.reserve("PLAN")
    agent.at(1_004_000)
    await agent.store.settle(settlement(first, tokens=1))
    agent.at(1_100_000)
    late, _ = await agent.reserve("PLAN")
    agent.at(1_101_000)
    assert await mark(agent, "start") == PhaseChange(1, changed=True)
    agent.at(1_103_000)
    await agent.store.settle(settlement(late, tokens=1))
    assert await latency(agent, 1_111_000) == ((7_000, 15_000, None), 15_000)
    agent.at(1_111_000)
    decided = await agent.store.look(agent.plan("PLAN"))
    assert decided.scopes[-1].balances[Dimension.LATENCY_MS].settled == 15_000
    await mark(agent, "end")
    assert await latency(agent, 1_120_000) == ((7_000, 15_000, 1_111_000), 15_000)


async def test_a_start_of_what_no_call_began(agent: Agent, look: Look) -> None:
    """A settlement whose reserve never arrived opens an execution, and nobody knows since when."""
    await agent.spend(5, "PLAN")
    agent.at(1_010_000)
    assert await mark(agent, "start") == PhaseChange(1, changed=True)
    assert await latency(agent, 1_013_000) == ((0, 3_000, None), 0)


async def test_G7_an_explicit_start_ends_by_word_alone(agent: Agent, look: Look) -> None:
    """However long it is idle while another phase is active, and whoever was the current one."""
    await mark(await began(agent), "start", "PLAN")
    agent.at(1_010_000)
    await agent.call("THINK", tokens=1)
    agent.at(2_000_000)
    assert (await agent.call("PLAN", tokens=1)).execution == 1
    await mark(agent, "start", "THINK")
    assert await mark(agent, "start", "PLAN") == PhaseChange(1, changed=True)  # current again
    assert look.task()["phase"] == "PLAN"
    await mark(agent, "end", "PLAN")
    assert (await agent.call("PLAN", tokens=1)).execution == 2


async def began(agent: Agent) -> Agent:
    """The same, with a task that has had a call."""
    await agent.call("SPEC", tokens=1)
    return agent


async def latency(agent: Agent, now_ms: int) -> tuple[tuple[int, int | None, int | None], int]:
    """Active and wall time and the end of PLAN's execution, and what PLAN is shown with."""
    names = agent.store.keys(agent.tenant)
    view = await read_task(agent.store.connection, names, agent.task, now_ms)
    (one,) = view.phases[WorkPhase.PLAN].executions
    standings = view.phases[WorkPhase.PLAN].standings
    used = next(s.used for dimension, s in standings.items() if dimension.value == "latency_ms")
    return (one.latency_ms, one.wall_ms, one.ended_ms), used


async def test_a_start_reopens_a_completed_task(agent: Agent, look: Look) -> None:
    await agent.call("PLAN")
    look.client.hset(look.keys.task("T"), "state", "completed")
    await mark(agent, "start", "VERIFY")
    assert look.task()["state"] == "reopened"


async def test_EC8_a_phase_of_more_than_a_day_has_no_wall_time(agent: Agent, look: Look) -> None:
    await agent.call("PLAN", tokens=1)
    await mark(agent, "start", "THINK")
    agent.at(1_000_001 + 86_400_000)
    names = agent.store.keys(agent.tenant)
    view = await read_task(agent.store.connection, names, "T", int(agent.store.now_ms))
    (execution,) = view.phases[WorkPhase.THINK].executions
    assert execution.wall_ms == 0
    await mark(agent, "end", "THINK")
    assert look.number("x.THINK.1.wall_ms") == 0


async def test_EC10_EC22_what_a_call_begins_beside_is_told(agent: Agent, look: Look) -> None:
    """A phase beside another's calls; one that was begun in words stays the task's current one."""
    open_plan, _ = await agent.reserve("PLAN")
    beside = await agent.call("IMPLEMENT", tokens=1)
    assert (beside.parallel_phase, beside.unended_phase) == (WorkPhase.PLAN, None)
    await agent.store.settle(settlement(open_plan, 1))
    await mark(agent, "start", "THINK")
    astray = await agent.call("PLAN", tokens=7)
    assert (astray.phase, astray.parallel_phase, astray.unended_phase) == (
        *(WorkPhase.PLAN, None, WorkPhase.THINK),
    )
    assert look.settled(scope="PLAN.") == 8
    assert (await agent.call("", tokens=2)).phase is WorkPhase.THINK
    await mark(agent, "end", "THINK")
    assert (await agent.call("PLAN", tokens=7)).unended_phase is None
    assert (await agent.call("", tokens=2)).phase is WorkPhase.PLAN


async def test_an_unknown_task(agent: Agent, look: Look) -> None:
    with pytest.raises(UnknownTask):
        await mark(agent, "start", task="nobody")
    assert look.task("nobody") == {}


# Completion (SL-9, G-5) ---------------------------------------------------------------------------


async def test_SL9_a_task_that_is_nearly_done_goes_on(agent: Agent, look: Look) -> None:
    """Above the cumulative line its PR and MONITOR calls are let through; the ledger is told once."""
    await agent.spend(25_000, "IMPLEMENT")
    await agent.call("REVIEW", tokens=739)
    assert (await agent.call("PR", tokens=0)).scopes[0].exempt is False  # REVIEW is not closed
    await mark(agent, "end", "REVIEW")
    receipt = await agent.call("PR", tokens=5_000)
    assert (receipt.verdict.value, receipt.scopes[0].exempt) == ("held", True)
    assert look.task()["completion"] == "1"
    assert look.settled() > 28_080
    assert (await agent.call("MONITOR", tokens=1)).verdict.value == "held"
    told = [
        fields["d"]
        for _, fields in look.client.xrange(look.keys.ledger)
        if "completion.allow" in fields.get("d", "")
    ]
    assert len(told) == 1
    refused = await agent.call("VERIFY")
    assert refused.stop_code == "task_budget_exceeded"
    assert (await agent.call("PR")).stop_code == "task_budget_exceeded"  # tripped in VERIFY


async def test_SL9_REVIEW_that_was_started_is_closed_by_its_end_alone(
    agent: Agent, look: Look
) -> None:
    """Idle time closes only what a call began."""
    await agent.spend(25_000, "IMPLEMENT")
    await mark(agent, "start", "REVIEW")
    await agent.call("REVIEW", tokens=739)
    agent.at(9_000_000)
    assert (await agent.call("PR", tokens=0)).scopes[0].exempt is False
    await mark(agent, "end", "REVIEW")
    assert (await agent.call("PR", tokens=0)).scopes[0].exempt is True


async def test_SL9_never_beyond_the_runaway_line(agent: Agent) -> None:
    await agent.spend(25_000, "REVIEW")
    await mark(agent, "end", "REVIEW")
    assert (await agent.call("PR", tokens=21_801)).verdict.value == "held"
    assert (await agent.call("PR")).stop_code == "runaway_task"


async def test_EC11_a_task_at_125_percent_is_always_stopped(agent: Agent, look: Look) -> None:
    """As is one that is a token above where it may complete, once it crosses its line."""
    await agent.spend(25_740, "REVIEW")
    await mark(agent, "end", "REVIEW")
    assert (await agent.call("PR", tokens=3_510)).scopes[0].exempt is False
    assert look.settled() * 100 == 125 * 23_400
    assert (await agent.call("PR")).stop_code == "task_budget_exceeded"
