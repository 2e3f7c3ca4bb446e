"""What is in force: computed from the snapshot and the overrides that have not run out."""

from decimal import Decimal

import pytest

from gateway.core.budget import (
    Amounts,
    BaseBudget,
    Dimension,
    Lines,
    PhaseBudgetConfig,
    TaskBudgetOverrides,
    TaskLimits,
    TaskProfile,
    completion_lines,
    task_limits,
)
from gateway.core.overrides import LimitsInForce, Override, OverrideKind, limits_in_force
from gateway.core.phases import Complexity, ImportanceTier, WorkPhase

TOKENS, LATENCY, MONEY, CALLS = Dimension
PLAN, THINK = WorkPhase.PLAN, WorkPhase.THINK


def snapshot(
    cost_usd: str | None = None, overrides: TaskBudgetOverrides | None = None
) -> TaskLimits:
    """Nine phases of 1,000 tokens and 10,000 ms each, THINK weighs double."""
    cost = None if cost_usd is None else Decimal(cost_usd)
    config = PhaseBudgetConfig(
        {phase: BaseBudget(1_000, 10_000, cost) for phase in WorkPhase},
        {tier: Decimal(1) for tier in Complexity},
        {tier: Decimal(1) for tier in ImportanceTier},
        {phase: Decimal(2 if phase is THINK else 1) for phase in WorkPhase},
    )
    return task_limits(config, TaskProfile(overrides=overrides or TaskBudgetOverrides()))


def grant(tokens: int, *, at: int = 0, until: int | None = None) -> Override:
    return Override(OverrideKind.GRANT, "ann", "spike", at, until, Amounts(tokens=tokens))


def multiplier(factor: str, *, at: int = 0, until: int | None = None) -> Override:
    kind = OverrideKind.MULTIPLIER
    return Override(kind, "ann", "larger than it looked", at, until, factor=Decimal(factor))


def phase_limit(phase: WorkPhase, until: int | None = None, **amounts: int) -> Override:
    kind, made = OverrideKind.PHASE_LIMIT, Amounts(**amounts)
    return Override(kind, "ann", "hard to plan", 0, until, made, phase)


def tokens_of(in_force: LimitsInForce, phase: WorkPhase) -> int:
    return in_force.phases[phase][TOKENS].limit


def test_without_overrides_the_snapshot_is_in_force() -> None:
    """Same lines, no grants, no end."""
    taken = snapshot("0.5")
    in_force = limits_in_force(taken, (), 0)
    assert in_force == LimitsInForce(
        *(taken.task_lines, taken.phase_lines, {}, None),
        completion_lines(taken.budgets, taken.stop_loss),
    )
    assert in_force.task[TOKENS] == Lines(10_000, 12_000, 20_000)


def test_an_override_ends_at_its_time() -> None:
    """It is in force up to the millisecond before; one without an end for ever."""
    assert grant(1, until=100).in_force(99)
    assert not grant(1, until=100).in_force(100)
    assert grant(1).in_force(10**15)


def test_grants_add_up_and_leave_the_lines_alone() -> None:
    """Grants of one dimension are summed; those that ran out are not."""
    history = [grant(100, until=500), grant(20), grant(3, until=400), grant(7, until=50)]
    in_force = limits_in_force(snapshot(), history, 50)
    assert in_force.granted[TOKENS] == 123
    assert in_force.granted.get(LATENCY, 0) == 0
    assert in_force.task == snapshot().task_lines
    assert in_force.expires_ms == 400


def test_the_latest_multiplier_holds_and_scales_every_limit() -> None:
    """Several are not multiplied with each other; grants are not multiplied at all."""
    history = [multiplier("3"), grant(100), multiplier("1.5"), multiplier("9", until=10)]
    in_force = limits_in_force(snapshot("0.5"), history, 10)
    assert tokens_of(in_force, PLAN) == 1_500
    assert tokens_of(in_force, THINK) == 3_000
    assert in_force.task[TOKENS].limit == 15_000
    assert in_force.task[LATENCY].limit == 150_000
    assert in_force.task[MONEY].limit == 7_500_000_000
    assert in_force.granted[TOKENS] == 100


def test_a_multiplied_limit_is_rounded_up_once() -> None:
    """It is computed from the base again, not from the rounded limit."""
    config = PhaseBudgetConfig(
        {phase: BaseBudget(1, 1) for phase in WorkPhase},
        {tier: Decimal("0.5") for tier in Complexity},
        {tier: Decimal(1) for tier in ImportanceTier},
        {phase: Decimal(1) for phase in WorkPhase},
    )
    taken = task_limits(config, TaskProfile())
    assert taken.budgets[PLAN].token_limit == 1
    in_force = limits_in_force(taken, [multiplier("2")], 0)
    assert tokens_of(in_force, PLAN) == 1


def test_an_absolute_limit_is_never_multiplied() -> None:
    """Neither one set at run time nor one that the snapshot came with (OVR-1)."""
    own = TaskBudgetOverrides({THINK: Amounts(tokens=10_000)})
    in_force = limits_in_force(
        snapshot(overrides=own), [multiplier("2"), phase_limit(PLAN, tokens=50)], 0
    )
    assert tokens_of(in_force, THINK) == 10_000
    assert in_force.phases[THINK][LATENCY].limit == 40_000
    assert tokens_of(in_force, PLAN) == 50
    assert in_force.phases[PLAN][LATENCY].limit == 20_000
    assert in_force.task[TOKENS].limit == 10_000 + 50 + 7 * 2_000


def test_an_absolute_limit_that_looks_calculated_is_not_multiplied_either() -> None:
    """What the snapshot was told counts, not whether the figure differs."""
    own = TaskBudgetOverrides({THINK: Amounts(tokens=2_000)})
    in_force = limits_in_force(snapshot(overrides=own), [multiplier("2")], 0)
    assert tokens_of(in_force, THINK) == 2_000
    assert tokens_of(in_force, PLAN) == 2_000


def test_a_new_generation_has_everything_beyond_what_was_used() -> None:
    """On top of limits and lines, also of those that are absolute; a factor does not scale it."""
    past = [
        Override(
            *(OverrideKind.GENERATION, "ann", "anew", 0),
            amounts=Amounts(tokens=70),
            used={PLAN: Amounts(tokens=used), THINK: Amounts(latency_ms=5)},
        )
        for used in (30, 10)
    ]
    in_force = limits_in_force(
        snapshot(), [*past, multiplier("2"), phase_limit(THINK, tokens=9)], 0
    )
    assert in_force.granted[TOKENS] == 140
    plan, think = in_force.phases[PLAN], in_force.phases[THINK]
    assert plan[TOKENS] == Lines(2_040, 3_040, 3_040)
    assert (think[TOKENS].limit, think[LATENCY].limit) == (9, 40_010)


def test_a_task_s_own_factor_and_a_multiplier_both_count() -> None:
    """OVR-2 made the snapshot; the override scales what it made."""
    own = TaskBudgetOverrides(budget_multiplier=Decimal("1.5"))
    in_force = limits_in_force(snapshot(overrides=own), [multiplier("2")], 0)
    assert tokens_of(in_force, PLAN) == 3_000


def test_the_latest_limit_of_a_phase_holds() -> None:
    """A later one replaces an earlier one whole; when it runs out the earlier one is back."""
    history = [
        phase_limit(PLAN, tokens=5_000, latency_ms=7),
        phase_limit(PLAN, tokens=600, until=100),
    ]
    now = limits_in_force(snapshot(), history, 0)
    assert tokens_of(now, PLAN) == 600
    assert now.phases[PLAN][LATENCY].limit == 10_000
    assert now.expires_ms == 100
    later = limits_in_force(snapshot(), history, 100)
    assert tokens_of(later, PLAN) == 5_000
    assert later.phases[PLAN][LATENCY].limit == 7
    assert later.expires_ms is None


def test_a_phase_may_get_a_money_limit_of_its_own() -> None:
    """Also where budgets have none; then the task as a whole still has none."""
    in_force = limits_in_force(snapshot(), [phase_limit(PLAN, nano_usd=100)], 0)
    assert in_force.phases[PLAN][MONEY] == Lines(100, 150, 150)
    assert MONEY not in in_force.task
    assert MONEY not in in_force.phases[THINK]


def test_money_limits_are_replaced_and_kept_like_the_others() -> None:
    """An absolute one holds, one of the snapshot's own is not multiplied."""
    own = TaskBudgetOverrides({THINK: Amounts(nano_usd=77)})
    history = [multiplier("2"), phase_limit(PLAN, nano_usd=5)]
    in_force = limits_in_force(snapshot("0.000000001", own), history, 0)
    assert in_force.phases[PLAN][MONEY].limit == 5
    assert in_force.phases[THINK][MONEY].limit == 77
    assert in_force.phases[WorkPhase.PR][MONEY].limit == 2
    assert in_force.task[MONEY].limit == 5 + 77 + 7 * 2
    without_base = limits_in_force(snapshot(overrides=own), history[:1], 0)
    assert without_base.phases[THINK][MONEY].limit == 77


@pytest.mark.parametrize(
    "empty",
    [
        Override(OverrideKind.RESUME, "ann", "looked at it", 0),
        Override(OverrideKind.MULTIPLIER, "ann", "no factor", 0),
        Override(OverrideKind.PHASE_LIMIT, "ann", "no phase", 0),
    ],
)
def test_a_resume_or_an_empty_override_changes_no_limit(empty: Override) -> None:
    """A resume ends a trip; that is the store's part."""
    assert limits_in_force(snapshot(), [empty], 0) == limits_in_force(snapshot(), (), 0)
