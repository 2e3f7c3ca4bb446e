"""Scenarios by requirement id: an agent before a real store, with the decisions it gets."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis

from gateway.core.admission import Need
from gateway.core.budget import BreachStatus, Dimension, StopLoss, TaskProfile, task_limits
from gateway.core.configuration import DataPlane, Rules
from gateway.core.decision import Decision, decide, effects_of
from gateway.core.estimate import LearnedOutput
from gateway.core.overrides import Override, OverrideKind
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase
from gateway.core.policy import Effect, Mode, PolicySet, ReserveKind, StopLossPolicy
from gateway.core.prices import PriceTable
from gateway.planner import Planner
from gateway.ports import TaskFacts
from gateway.rule_files import load_policies
from gateway.store.task_view import StopState, TaskView
from gateway.store.tasks import list_tasks, read_task
from tests.store.agent import NOTHING_HELD, OBSERVE, STRICT, Agent, Look, budgets, settlement
from tests.store.test_phases import mark
from tests.store.test_worked_example import grant

ROLLOUT = Path(__file__).parents[2] / "policies/rollout"
ENFORCING = StopLossPolicy(mode=Mode.ENFORCE)


async def decided(
    agent: Agent, phase: str = "VERIFY", policy: StopLossPolicy = ENFORCING, tokens: int = 1_000
) -> Decision:
    """Make a call under a policy; return its decision."""
    agent = replace(agent, effects=effects_of(policy, policy.mode))
    plan, receipt = await agent.reserve(phase)
    decision = decide(receipt, policy, policy.mode, 2_048)
    if not decision.refuses:
        await agent.store.settle(settlement(plan, tokens))
    return decision


async def view(agent: Agent) -> TaskView:
    store = agent.store
    keys = store.keys(agent.tenant)
    return await read_task(store.connection, keys, agent.task, int(store.now_ms))


# Stop-loss ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("threshold", "line"), [("1.2", 28_080), ("1.7", 39_780)])
async def test_SL1_above_the_threshold_of_the_file_a_task_is_stopped(
    agent: Agent, look: Look, threshold: str, line: int
) -> None:
    """Strictly above: the line itself is within; no threshold is a literal."""
    config = replace(budgets(), stop_loss=StopLoss(cumulative_token_threshold=Decimal(threshold)))
    agent = replace(agent, limits=task_limits(config, TaskProfile()))
    await agent.spend(line, "VERIFY")
    assert not (await decided(agent, tokens=1)).refuses
    stopped = await decided(agent)
    assert (stopped.refuses, stopped.code) == (True, "task_budget_exceeded")
    assert look.task()["trip"] == "tokens"


async def test_SL2_latency_above_its_threshold_is_flagged(agent: Agent) -> None:
    plan, _ = await agent.reserve("PLAN")
    agent.at(1_000_000 + 687_601)
    await agent.store.settle(settlement(plan, 10))
    decision = await decided(agent)
    assert not decision.refuses
    assert [breach.dimension for breach in decision.breaches] == [Dimension.LATENCY_MS]
    assert (await view(agent)).summary.stop_loss.state is StopState.OK


async def test_SL3_a_phase_above_its_threshold_is_flagged(agent: Agent) -> None:
    """VERIFY has 2,000; 3,000 are within its line, 3,001 are not."""
    await agent.spend(3_000, "VERIFY")
    assert (await decided(agent, tokens=1)).breaches == ()
    decision = await decided(agent)
    assert not decision.refuses
    assert [(breach.name, breach.used) for breach in decision.breaches] == [("VERIFY", 3_001)]


async def test_SL10_the_reason_of_a_stop_is_kept(agent: Agent, look: Look) -> None:
    """With the task, and told to the ledger (SL-3b: also that calls were refused)."""
    await agent.spend(28_081)
    await decided(agent)
    await decided(agent)
    stop = (await view(agent)).summary.stop_loss
    assert (stop.state, stop.code, stop.dimension, stop.since_ms, stop.episode) == (
        *(StopState.TRIPPED, "task_budget_exceeded", Dimension.TOKENS, 1_000_000, 1),
    )
    refusals = [
        fields["s"].split()[:2]
        for _, fields in look.client.xrange(look.keys.ledger)
        if fields["e"].startswith("refused ")
    ]
    assert refusals == [["task_budget_exceeded", "1"], ["task_budget_exceeded", "0"]]
    assert (await view(agent)).refused == 2


async def test_SL12_only_an_override_frees_and_says_who_and_why(agent: Agent) -> None:
    """Time alone does not."""
    await agent.spend(28_081)
    await decided(agent)
    agent.at(9_000_000_000)
    assert (await decided(agent)).refuses
    await agent.override(grant(5_000))
    assert not (await decided(agent)).refuses
    (override,) = (await view(agent)).overrides
    assert (override.approver, override.reason, override.created_ms) == (
        *("ann", "nearly done", 1_000_000),
    )


# Tracking -----------------------------------------------------------------------------------------


async def test_TRK1_an_execution_is_recorded_with_its_limits_and_factors(agent: Agent) -> None:
    facts = TaskFacts(Complexity.LARGE, ImportanceTier.HIGH)
    limits = task_limits(budgets(), TaskProfile(facts.complexity, facts.importance))
    agent = replace(agent, facts=facts, limits=limits)
    plan, _ = await agent.reserve("THINK")
    agent.at(1_004_000)
    await agent.store.settle(settlement(plan, 500))
    seen = await view(agent)
    phase = seen.phases[WorkPhase.THINK]
    (execution,) = phase.executions
    assert (execution.number, execution.started_ms, execution.ended_ms) == (1, 1_000_000, 1_004_000)
    assert (execution.tokens, execution.latency_ms) == (500, 4_000)
    assert phase.standings[Dimension.TOKENS].limit == 13_500
    factors = phase.budget.multipliers
    assert (factors.complexity, factors.importance, factors.phase_weight) == (
        *(Decimal("1.5"), Decimal("1.5"), Decimal("1.5")),
    )
    assert seen.snapshot.config_hash == limits.config_hash


@pytest.mark.parametrize(
    ("used", "status"),
    [
        (2_000, BreachStatus.WITHIN),
        (2_001, BreachStatus.WARNING),
        (3_000, BreachStatus.WARNING),
        (3_001, BreachStatus.EXCEEDED),
    ],
)
async def test_TRK2_boundaries_of_a_phase_are_exact(
    agent: Agent, used: int, status: BreachStatus
) -> None:
    await agent.spend(used, "VERIFY")
    assert (await view(agent)).phases[WorkPhase.VERIFY].status is status


async def test_TRK3_both_times_of_a_phase_are_kept(agent: Agent) -> None:
    """The union of its calls, and from an explicit start to an explicit end."""
    await agent.call("PLAN", tokens=1)
    await mark(agent, "end")
    await mark(agent, "start")
    agent.at(1_010_000)
    one, _ = await agent.reserve("PLAN")
    agent.at(1_012_000)
    other, _ = await agent.reserve("PLAN")
    agent.at(1_015_000)
    await agent.store.settle(settlement(one, 1))
    agent.at(1_016_000)
    await agent.store.settle(settlement(other, 1))
    agent.at(1_030_000)
    await mark(agent, "end")
    execution = (await view(agent)).phases[WorkPhase.PLAN].executions[1]
    assert (execution.latency_ms, execution.wall_ms) == (6_000, 30_000)


async def test_TRK4_tasks_are_found_by_their_status(agent: Agent) -> None:
    await replace(agent, task="GOOD").spend(1)
    await replace(agent, task="BAD").spend(28_081)
    store = agent.store
    for status, task in ((BreachStatus.EXCEEDED, "BAD"), (BreachStatus.WITHIN, "GOOD")):
        page = await list_tasks(
            store.connection,
            store.keys(agent.tenant),
            10,
            wanted=lambda summary, status=status: summary.status is status,  # type: ignore[misc]
        )
        assert [summary.id for summary in page.tasks] == [task]


async def test_TRK5_totals_are_the_sum_of_all_executions(agent: Agent, look: Look) -> None:
    for number, phase in enumerate(("PLAN", "THINK", "PLAN", "THINK"), 1):
        if number > 2:
            await mark(agent, "start", phase)
        await agent.call(phase, tokens=number * 10)
    assert [
        look.number(f"x.{phase}.{n}.tokens") for phase in ("PLAN", "THINK") for n in (1, 2)
    ] == [
        *(10, 30, 20, 40),
    ]
    assert look.settled() == 100


async def test_TRK6_EC6_what_was_used_is_recorded_whatever_was_held(
    agent: Agent, look: Look
) -> None:
    """Nothing is capped, no open call is cut; the next one is decided by what was used."""
    plan, _ = await agent.reserve("VERIFY")
    await agent.store.settle(settlement(plan, 90_000))
    assert look.settled() == look.number("x.VERIFY.1.tokens") == 90_000
    assert (await decided(agent)).code == "runaway_task"


async def test_TRK7_PM4_a_call_is_counted_once_however_often_it_is_settled(
    agent: Agent, look: Look
) -> None:
    plan, _ = await agent.reserve("PLAN")
    done = settlement(plan, 700)
    settled = await asyncio.gather(*(agent.store.settle(done) for _ in range(5)))
    assert sum(not each.duplicate for each in settled) == 1
    assert (look.settled(), look.held()) == (700, NOTHING_HELD)


# Edge cases ---------------------------------------------------------------------------------------


async def test_EC8_time_never_runs_back_and_none_is_no_error(agent: Agent, look: Look) -> None:
    """A call in no time has 0 ms; one whose clock ran back as well."""
    await agent.call("PLAN", tokens=5)
    plan, _ = await agent.reserve("PLAN")
    agent.at(400_000)
    await agent.store.settle(settlement(plan, 5))
    assert 0 <= look.number("latency_ms.S") <= 1
    assert (await view(agent)).phases[WorkPhase.PLAN].status is BreachStatus.WITHIN


async def test_EC8_a_latency_of_more_than_a_day_is_none(agent: Agent, look: Look) -> None:
    """A clock was set, or something hung: nothing is held to it, and the settling tells."""
    day = 86_400_000
    agent = replace(agent, effects=STRICT, need=Need(1, 1, 0, 1, 0, 0))
    at_a_day, _ = await agent.reserve("PLAN")
    agent.at(1_000_000 + day)
    assert (await agent.reserve("PLAN"))[1].stop_code == "runaway_task"  # as far as a day is legal
    agent.at(1_000_001 + day)
    seen = await view(agent)
    assert seen.summary.totals[Dimension.LATENCY_MS].used == 0
    assert (await agent.call("PLAN", tokens=1)).verdict.value == "held"
    settled = await agent.store.settle(settlement(at_a_day, 5))
    assert settled.left_out_ms == day + 1
    assert look.number("latency_ms.S") == look.number("PLAN.latency_ms.S") == 0
    again, _ = await agent.reserve("PLAN")
    agent.at(1_000_051 + day)
    assert (await agent.store.settle(settlement(again, 5))).left_out_ms == 0
    assert look.number("latency_ms.S") == 50


async def test_EC13_EC16_tasks_keep_the_configuration_that_they_started_with(agent: Agent) -> None:
    """Two of them side by side; what is reloaded is for new tasks."""
    other = replace(
        budgets(), config_hash="changed", stop_loss=StopLoss(runaway_threshold=Decimal(9))
    )
    new = replace(agent, task="NEW", limits=task_limits(other, TaskProfile()))
    await agent.call("PLAN", tokens=1)
    await new.call("PLAN", tokens=1)
    await replace(agent, limits=new.limits).call("PLAN", tokens=1)
    lines = [
        (seen.snapshot.config_hash, seen.summary.totals[Dimension.TOKENS].runaway_line)
        for seen in (await view(agent), await view(new))
    ]
    assert lines == [(budgets().config_hash, 46_800), ("changed", 210_600)]


async def test_EC20_snapshot_and_totals_are_read_in_one_round_trip(
    agent: Agent, redis_client: redis.Redis
) -> None:
    """One script before a call, one after."""

    def ran() -> list[int]:
        stats: Any = redis_client.info("commandstats")
        return [stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval")]

    await agent.call("PLAN", tokens=1)
    scripts, sources = ran()
    await agent.call("PLAN", tokens=1)
    assert ran() == [scripts + 2, sources]


async def test_EC22_usage_is_of_the_phase_that_the_call_names(agent: Agent, look: Look) -> None:
    """Whatever the task's current one is; a call that names none is of that."""
    await mark_first(agent)
    await agent.call("PLAN", tokens=7)
    assert look.number("x.PLAN.1.tokens") == 7
    assert look.task()["phase"] == "PLAN"
    await agent.call("", tokens=2)
    assert (look.settled(scope="PLAN."), look.settled(scope="IMPLEMENT.")) == (9, 1)


async def mark_first(agent: Agent) -> None:
    """Leave the task in IMPLEMENT."""
    await agent.call("IMPLEMENT", tokens=1)


# Rollout and rollback -----------------------------------------------------------------------------

RECORDED = (("IMPLEMENT", 20_000), ("VERIFY", 9_000), ("VERIFY", 1_000), ("REVIEW", 1_000))
LETTERS = {"allow": "a", "flag": "f", "refuse": "R"}


async def replay(agent: Agent, policies: PolicySet, importance: ImportanceTier) -> str:
    """Run the recorded calls, scaled to the tier's limits: `a`, `f` or `R` each, w for would."""
    facts = TaskFacts(Complexity.MEDIUM, importance)
    limits = task_limits(budgets(), TaskProfile(facts.complexity, importance))
    own = replace(agent, task=importance.value, facts=facts, limits=limits)
    policy = policies.stop_loss_for(facts.complexity, importance)
    scale = limits.task_lines[Dimension.TOKENS].limit
    seen = ""
    for phase, tokens in RECORDED:
        decision = await decided(own, phase, policy, tokens * scale // 23_400)
        seen += LETTERS[decision.outcome.value] + ("w" if decision.would_refuse else "")
    return seen


@pytest.mark.parametrize(
    ("week", "expected"),
    [
        ("week1", ["aafwfw"] * 4),
        ("week2", ["aaRR", "aaRR", "aafwfw", "aafwfw"]),
        ("week3", ["aaRR"] * 4),
    ],
)
async def test_ROL1_the_same_run_under_the_three_presets(
    agent: Agent, week: str, expected: Sequence[str]
) -> None:
    """Week 1 records what would be refused; 2 enforces low and medium; 3 all."""
    policies = load_policies(ROLLOUT / week)
    assert [await replay(agent, policies, tier) for tier in ImportanceTier] == expected


@pytest.mark.parametrize("by_environment", [True, False])
async def test_RBK2_step_1_frees_a_blocked_task_and_tracking_goes_on(
    agent: Agent, look: Look, by_environment: bool
) -> None:
    """Neither switch is part of the task's snapshot."""
    await agent.spend(28_081)
    assert (await decided(agent)).refuses
    config = replace(budgets(), stop_loss=StopLoss(enabled=by_environment))
    plane = DataPlane("unix:///s", enforcement_disabled=by_environment)
    planner = Planner(plane, Rules(config, PolicySet(), PriceTable({})), LearnedOutput())
    mode = planner.mode_of(ENFORCING)
    assert mode is Mode.OBSERVE
    freed = await decided(agent, policy=replace(ENFORCING, mode=mode), tokens=500)
    assert (freed.refuses, freed.would_refuse) == (False, True)
    assert look.settled() == 28_581
    assert (await decided(agent)).refuses


async def test_OVR2_a_multiplier_holds_with_the_next_call(agent: Agent) -> None:
    """The escape hatch of PM1, for a task that runs."""
    await agent.spend(28_081)
    assert (await decided(agent)).refuses
    twice = Override(OverrideKind.MULTIPLIER, "ann", "big", 1_000_000, factor=Decimal(2))
    await agent.override(twice)
    assert not (await decided(agent)).refuses


async def test_PM3_eight_callers_at_once_hold_what_they_may_use(agent: Agent, look: Look) -> None:
    """Held for all that run, and nothing left when they are done; observing never refuses."""
    own = replace(agent, effects=OBSERVE, kind=ReserveKind.EXPECTED)
    plans = [plan for plan, _ in await asyncio.gather(*(own.reserve("PLAN") for _ in range(8)))]
    assert look.held()[0] == 8 * 17_048
    await asyncio.gather(*(own.store.settle(settlement(plan, 10)) for plan in plans))
    assert (look.settled(), look.held()) == (80, NOTHING_HELD)


async def test_G7_phases_with_an_explicit_start_are_held_to_wall_time(agent: Agent) -> None:
    """From start to end, or to now, as the task's view shows it; others to the time of calls."""
    config = replace(budgets(), stop_loss=StopLoss(latency_basis="wall"))
    agent = replace(agent, limits=task_limits(config, TaskProfile()))
    strict = replace(ENFORCING, phase_action=Effect.REFUSE, latency_action=Effect.REFUSE)
    await agent.call("PLAN", tokens=1)
    agent.at(2_000_000)
    assert not (await decided(agent, "PLAN", strict)).refuses
    await mark(agent, "end")
    await mark(agent, "start")
    agent.at(2_090_000)
    assert not (await decided(agent, "PLAN", strict)).refuses  # at its line, 60,000 x 1.5
    open_call, _ = await agent.reserve("PLAN")
    agent.at(2_090_001)
    late = await decided(agent, "PLAN", strict)
    assert (late.code, [breach.used for breach in late.breaches]) == (
        *("phase_budget_exceeded", [90_001]),
    )
    seen = (await view(agent)).phases[WorkPhase.PLAN]
    assert seen.standings[Dimension.LATENCY_MS].used == 90_001
    await agent.store.settle(settlement(open_call, 1))
    await mark(agent, "end")
    agent.at(2_500_000)
    assert (await decided(agent, "PLAN", strict)).breaches[0].used == 90_001
